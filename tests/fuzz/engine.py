"""How a fuzzer here is run: a fixed seed that can be set, so much effort, a checked-in corpus.

`FUZZ_SEED` (1 where it is not set) makes every example what it is; `FUZZ_EFFORT` multiplies how
many there are. `scripts/fuzz` sets both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SEED = int(os.environ.get("FUZZ_SEED", "1"))
EFFORT = float(os.environ.get("FUZZ_EFFORT", "1"))
CORPUS = Path(__file__).parent / "corpus"

settings.register_profile(
    "ci",
    deadline=None,  # other tests run on the same processors
    database=None,  # what is found is put into the corpus, where everybody has it
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    print_blob=False,
    # The fixtures of all tests are per test; a fuzzer keeps nothing in them.
    suppress_health_check=(
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.filter_too_much,
    ),
)
CI = settings.get_profile("ci")


def fuzz(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """A test of so many examples, the same every time for one `FUZZ_SEED`."""
    configured = settings(CI, max_examples=max(1, int(examples * EFFORT)))

    def decorate(test: Any) -> Any:
        return seed(SEED)(configured(given(**strategies)(test)))

    return decorate


def corpus(target: str) -> list[bytes]:
    """The checked-in inputs of one target, by name."""
    found = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    assert found, f"no corpus for {target}"
    return found


_TELLING = (
    b"\0", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"/", b"..", b"/../", b"%", b"%2f", b"%00", b":", b"[", b"{",
    b'"', b"\\", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"-1", b"0", b"0x7f", b"NaN",
    b"1e999", b"9" * 25, b"\\ud800", "\N{FULLWIDTH FULL STOP}".encode(), "\N{SUPERSCRIPT TWO}".encode(),
)  # fmt: skip
"""What parsers trip over."""


@st.composite
def mutated(draw: st.DrawFn, target: str, most: int = 6) -> bytes:
    """Something of the corpus, as it is or with some bytes changed, cut, repeated or put in."""
    seeds = corpus(target)
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 40)))
        match draw(st.sampled_from(["flip", "put", "cut", "repeat", "shorten", "splice"])):
            case "flip":
                data = (
                    data[:at]
                    + bytes(b ^ draw(st.integers(1, 255)) for b in data[at:][:1])
                    + data[at + 1 :]
                )
            case "put":
                data = (
                    data[:at] + draw(st.sampled_from(_TELLING) | st.binary(max_size=8)) + data[at:]
                )
            case "cut":
                data = data[:at] + data[end:]
            case "repeat":
                data = data[:end] + data[at:end] + data[end:]
            case "shorten":
                data = data[:at]
            case "splice":
                other = draw(st.sampled_from(seeds))
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
    return data


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """Mostly of the corpus, sometimes anything."""
    return st.one_of(mutated(target), mutated(target), mutated(target), st.binary(max_size=256))


def texts(target: str) -> st.SearchStrategy[str]:
    return inputs(target).map(lambda data: data.decode("utf-8", "replace")) | st.text(max_size=64)


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces; `places` are taken modulo its length."""
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(at)] or [b""]


PLACES = st.lists(st.integers(0, 1 << 16), max_size=6)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip

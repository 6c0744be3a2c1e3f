"""`pip install` and `git clone` work behind every wall when, and only when, the policy allows
their hosts: from servers of the test's, by names that only the test's own name server knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doubles.network_world import ALLOWED
from security.corpus.ground import WALLED
from security.corpus.shop import WORD, Shop, certified, clients, opened, stock
from security.corpus.stack import LIMITLESS, Stack, stack
from security.corpus.world import DecoyWorld

PIP = (
    "PYTHONPATH=/tools/pip python3 -m pip install -q --no-cache-dir --disable-pip-version-check"
    " --retries 0 --timeout 60 --cert /tools/ca.pem --index-url https://pypi.test/simple"
    " --target lib-$$ corpus-hello && PYTHONPATH=lib-$$ python3 -c"
    " 'import corpus_hello; print(corpus_hello.WORD)'"
)
GIT = (
    "GIT_SSL_CAINFO=/tools/ca.pem /tools/git/git clone -q https://git.test/repo.git copy-$$"
    " && cat copy-$$/file"
)
PYPI, REPOSITORY = "pypi.test", "git.test"


def only(*hosts: str) -> dict[str, Any]:
    return {"network": {"hosts": list(hosts), "cidrs": [f"{ALLOWED}/32"]}}


@dataclass
class Place:
    shop: Shop
    outside: Stack


@pytest.fixture(scope="module")
def world() -> Iterator[DecoyWorld]:
    with DecoyWorld() as made:
        yield made


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that any user may read, with the authority of the shop's certificate."""
    made = tmp_path_factory.mktemp("tools")
    made.chmod(0o755)
    clients(made)
    return made


@pytest.fixture(scope="module")
def shop(
    world: DecoyWorld, tools: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("shop")
    certified(place / "key.pem", PYPI, REPOSITORY)
    text = (place / "key.pem").read_text()
    (tools / "ca.pem").write_text(text[text.index("-----BEGIN CERTIFICATE") :])
    stock(place / "site")
    with opened(world.listener(ALLOWED, 443), place / "site", place / "key.pem") as made:
        yield made


@pytest.fixture(scope="module")
def place(
    request: pytest.FixtureRequest,
    world: DecoyWorld,
    shop: Shop,
    tools: Path,
    templates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    policy = only(PYPI, REPOSITORY) | LIMITLESS
    policy |= {"capabilities": ["file", "exec", "network"], "timeout_ms": 240_000}
    policy["paths"] = [
        {"path": "/workspace", "mode": "rw"},
        {"path": "/tools", "host": str(tools), "mode": "ro"},
    ]
    names = {PYPI: [ALLOWED], REPOSITORY: [ALLOWED]}
    directory = tmp_path_factory.mktemp("stack")
    with stack(request.param, world, {}, templates, directory, policy, names) as outside:
        yield Place(shop, outside)


@pytest.mark.long_in_a_machine
@pytest.mark.parametrize("place", WALLED, indirect=True)
@pytest.mark.parametrize(
    ("command", "host", "other"),
    [(PIP, PYPI, REPOSITORY), (GIT, REPOSITORY, PYPI)],
    ids=["pip", "git"],
)
def test_it_works_when_and_only_when_its_host_is_allowed(
    place: Place, command: str, host: str, other: str
) -> None:
    place.shop.asked.clear()
    place.outside.world.arrived()
    refused = place.outside.execute("bash", {"command": command}, policy=only(other))
    assert refused["status"] == "ok", refused
    assert refused["exit_code"] != 0
    assert WORD not in refused["result"]
    assert place.shop.asked == []
    assert place.outside.world.arrived() == []
    allowed = place.outside.execute("bash", {"command": command}, policy=only(host))
    assert (allowed["result"], allowed["exit_code"]) == (f"{WORD}\n", 0), allowed
    assert {each.split()[0] for each in place.shop.asked} == {host}
    assert set(place.outside.world.arrived()) == {f"{ALLOWED}:443"}

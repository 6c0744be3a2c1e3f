"""What each peer's program in Python shares. It runs in the peer's own environment, so it
imports nothing of ours.

A line of JSON in, `{"live": bool, "argv": [...]}`; a line out, `{"ms": ..., "out": ...}` or
`{"error": ...}`. The first line out is `{"ms": 0, "out": "ready"}`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

Run = Callable[[list[str]], str]
"""Runs a program to its end, and says what it wrote."""


def serve(fresh: Run, live: Run | None = None) -> None:
    """`fresh`: in a sandbox that it makes and takes away; `live`: in one that stays."""
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)  # what runs in a sandbox must not read the questions
    os.dup2(2, 1)  # nor is what the peer itself prints an answer
    _say(answers, {"ms": 0, "out": "ready"})
    for line in questions:
        asked = json.loads(line)
        run = live if asked["live"] else fresh
        begun = time.perf_counter()
        try:
            if run is None:
                raise RuntimeError("it has no sandbox that stays")
            out = run(asked["argv"])
        except Exception as error:  # noqa: BLE001  # whatever a peer raises
            _say(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            _say(answers, {"ms": (time.perf_counter() - begun) * 1000, "out": out})


def _say(answers: object, answer: dict[str, object]) -> None:
    print(json.dumps(answer), file=answers)  # type: ignore[call-overload]

"""Peers: asked in a program of their own, and missing where they are not installed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.peers.driven import driven
from bench.peers.install import PEERS, Peer
from bench.rows import Absent
from bench.turns import in_turns

PEERS_ROOM = Path(__file__).parents[3] / "bench" / "peers"
PROGRAM = f"""
import subprocess, sys
sys.path.insert(0, {str(PEERS_ROOM)!r})
from loop import serve
print("a peer that talks")
serve(lambda argv: subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
"""


def peer(tmp_path: Path, program: str) -> Peer:
    file = tmp_path / "program.py"
    file.write_text(program)
    return Peer("one", "one", str(file))


def test_a_peer_is_timed_and_what_it_says_is_looked_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with driven(
            peer(tmp_path, PROGRAM.replace('print("a peer that talks")', ""))
        ) as found:
            assert not isinstance(found, Absent)
            assert await found.takes(["/bin/echo", "hi"], "hi")() > 0
            # It must not read the questions that come after.
            assert await found.takes(["/bin/cat"], "")() > 0
            with pytest.raises(RuntimeError, match="it answered 'hi\\\\n', not 'ho'"):
                await found.takes(["/bin/echo", "hi"], "ho")()
            with pytest.raises(RuntimeError, match="no sandbox that stays"):
                await found.takes(["/bin/echo", "hi"], "hi", live=True)()

    asyncio.run(scenario())


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('no answer')"])
def test_a_peer_that_does_not_start_is_absent(tmp_path: Path, program: str) -> None:
    async def scenario() -> None:
        async with driven(peer(tmp_path, program)) as found:
            assert isinstance(found, Absent)
            assert found.reason.startswith("it did not start")

    asyncio.run(scenario())


def test_peers_that_are_not_installed_are_missing_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = [each for each in PEERS if each.requirement]
    assert len(wanted) >= 4
    for each in wanted:
        command = each.command()
        assert isinstance(command, Absent)
        assert "scripts/bench --peers" in command.reason or "not on PATH" in command.reason


def test_a_row_that_fails_is_absent_and_the_others_go_on() -> None:
    async def scenario() -> None:
        count = 0

        async def sound() -> float:
            nonlocal count
            count += 1
            return float(count)

        async def broken() -> float:
            raise RuntimeError("it broke")

        samples = await in_turns(
            {"broken": broken, "sound": sound, "missing": Absent("not there")}, 3, warm_up=2
        )
        assert samples == {
            "broken": Absent("RuntimeError: it broke"),
            "sound": [3.0, 4.0, 5.0],
            "missing": Absent("not there"),
        }

    asyncio.run(scenario())

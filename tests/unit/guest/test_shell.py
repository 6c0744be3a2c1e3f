"""Which shell a START without a program of its own is given."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast

import pytest

from doubles.host import Host
from mas_sandbox.guest import keeper
from mas_sandbox.guest.child import Plan
from mas_sandbox.wire.process import SHELL


@pytest.mark.skipif(not os.access("/bin/bash", os.X_OK), reason="there is no bash")
def test_it_is_bash_where_there_is_one(host: Host) -> None:
    command = "echo $0 $BASH"
    told = host.finish(host.start_process([SHELL, "-c", command])).stdout.decode().split()
    assert told == ["/bin/bash", "/bin/bash"]


def test_it_is_sh_where_there_is_no_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[object] = []
    monkeypatch.setattr(keeper, "_BASH", "/bin/no-bash")
    monkeypatch.setattr(keeper, "enter", lambda *_: None)
    monkeypatch.setattr(keeper, "execute", lambda *given: executed.append(given[:2]))
    plan = cast(Plan, SimpleNamespace(environment={"PATH": "/bin"}))
    with pytest.raises(AssertionError, match="returned"):
        keeper.become_program(plan, [SHELL, "-c", "x"], -1)
    assert executed == [(["/bin/sh"], ["/bin/sh", "-c", "x"])]

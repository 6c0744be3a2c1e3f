"""Which runtime `auto` takes: the strongest that works, and a machine only with hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from mas_sandbox.runtimes import select
from mas_sandbox.runtimes.base import Probe, Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.select import build_runtime, choose_runtime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

pytestmark = pytest.mark.anyio


class Found(Runtime):
    """A runtime that only answers its probe, and remembers that it was closed."""

    isolation = Isolation.VM

    def __init__(self, name: str, probe: Probe) -> None:
        self.name = name
        self.closed = False
        self._probe = probe

    async def probe(self) -> Probe:
        return self._probe

    async def start(self, spec: SandboxSpec) -> Sandbox:
        raise AssertionError("nothing is started here")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Found]:
    """What each name builds, for a host where a machine is worth a try."""
    runtimes: dict[str, Found] = {}
    monkeypatch.setattr(select, "_for_auto", lambda: ["microvm", "jail"])
    monkeypatch.setattr(select, "build_runtime", lambda name, config, state: runtimes[name])
    return runtimes


async def test_auto_takes_the_strongest_that_works(found: dict[str, Found]) -> None:
    found["microvm"] = Found("microvm", Probe(True))
    found["jail"] = Found("jail", Probe(True))
    runtime, _ = await choose_runtime("auto")
    assert runtime is found["microvm"]


async def test_auto_passes_an_emulated_machine_by_and_closes_it(found: dict[str, Found]) -> None:
    found["microvm"] = Found("microvm", Probe(True, taken_by_auto=False))
    found["jail"] = Found("jail", Probe(True))
    runtime, _ = await choose_runtime("auto")
    assert runtime is found["jail"]
    assert found["microvm"].closed
    runtime, _ = await choose_runtime("microvm")
    assert runtime is found["microvm"]


async def test_where_nothing_works_every_reason_and_mend_is_told(found: dict[str, Found]) -> None:
    found["microvm"] = Found("microvm", Probe(False, reason="no image", mend="build one"))
    found["jail"] = Found("jail", Probe(False, reason="no bubblewrap", mend="install it"))
    with pytest.raises(SandboxError) as refused:
        await choose_runtime("auto")
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    for word in ("no image", "build one", "no bubblewrap", "install it"):
        assert word in refused.value.message


def test_a_config_file_for_a_runtime_without_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="leave -runtime-config out"):
        build_runtime("jail", tmp_path / "config.json")
    with pytest.raises(SandboxError, match="there are auto, local, jail, gvisor, microvm"):
        build_runtime("docker")

"""What every test may use."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from doubles.firecracker_install import install_firecracker
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.jail.launch import SETTING
from mas_sandbox.runtimes.select import build_runtime

# Assertions of the corpus tell as much as those of test modules do.
pytest.register_assert_rewrite("security.corpus")
pytest_plugins = ["corpus_ids"]

RUNTIMES = (
    *("local", "jail", "gvisor", "microvm"),
    pytest.param("firecracker", marks=pytest.mark.long),
)
"""`microvm` is on QEMU; `firecracker` is the same runtime through the Firecracker double."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "microvm" in item.name and item.get_closest_marker("long_in_a_machine"):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test's daemons keep their state, and find their settings, in the test's own place."""
    monkeypatch.setenv("MAS_SANDBOX_STATE", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("MAS_SANDBOX")]:
        if name not in ("MAS_SANDBOX_STATE", SETTING):  # whose jails the suite is to judge
            monkeypatch.delenv(name)
    yield


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A state directory whose machines' templates are kept for the whole run, and shared by
    those that run tests side by side: booting one takes seconds."""
    everybodys = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        everybodys = everybodys.parent
    machines = everybodys / "microvm"
    machines.mkdir(mode=0o711, exist_ok=True)
    state = tmp_path_factory.mktemp("machines")
    (state / "microvm").symlink_to(machines)
    return state


def _built(name: str, templates: Path) -> Runtime:
    if name != "firecracker":
        return build_runtime(name, state=templates)
    place = templates / name
    config = place / "config.json"
    if not config.exists():
        place.mkdir()
        program = install_firecracker(place)
        config.write_text(json.dumps({"vmm": name, "firecracker_bin": str(program)}))
    return build_runtime("microvm", config, place)


@pytest.fixture(scope="module", params=RUNTIMES)
async def runtime(request: pytest.FixtureRequest, templates: Path) -> AsyncIterator[Runtime]:
    """Each runtime in turn, one for the tests of a module, as a daemon has one for its life:
    to open a machine's template takes as long as to clone from it."""
    built = _built(request.param, templates)
    probe = await built.probe()
    assert probe.available, f"{request.param}: {probe.reason}; to mend it: {probe.mend}"
    yield built
    await built.close()


@pytest.fixture(scope="module")
async def jail() -> AsyncIterator[Runtime]:
    built = build_runtime("jail")
    probe = await built.probe()
    assert probe.available, f"jail: {probe.reason}; to mend it: {probe.mend}"
    yield built
    await built.close()


@pytest.fixture
async def sandbox(runtime: Runtime) -> AsyncIterator[Sandbox]:
    """A sandbox without limits of its own, of each runtime in turn."""
    async with await runtime.start(SandboxSpec()) as started:
        yield started

"""The security corpus, id by id, against a sandbox of each runtime; what counts is the host.

`-k NW_01` runs one id, `-k "NW_01 and jail"` in one runtime. The host is a network namespace
whose only cable leads to decoys, so a packet that gets out is seen and goes nowhere.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mas_sandbox.runtimes.proof.stage import Stage
from mas_sandbox.runtimes.select import build_runtime
from security.corpus import files, kernel, network, processes, resources, tenants
from security.corpus.ground import WALLED, Ground, Row
from security.corpus.world import METADATA, METADATA_6, PRIVATE, DecoyWorld

ROWS = (
    *(*files.ROWS, *processes.ROWS, *kernel.ROWS, *network.ROWS, *tenants.ROWS),
    *resources.ROWS,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def world() -> Iterator[DecoyWorld]:
    with DecoyWorld() as made:
        yield made


@pytest.fixture(scope="module")
def stage(world: DecoyWorld) -> Iterator[Stage]:
    with Stage() as made, pytest.MonkeyPatch.context() as patch:
        # The stage's own variable is among those that every test begins without.
        patch.setenv("SECRET_OF_THE_DAEMON", made.secret)
        yield made


@pytest.fixture(scope="module")
async def ground(
    request: pytest.FixtureRequest, world: DecoyWorld, stage: Stage, templates: Path
) -> AsyncIterator[Ground]:
    runtime = build_runtime(request.param, state=templates)
    probe = await runtime.probe()
    assert probe.available, f"{request.param}: {probe.reason}; to mend it: {probe.mend}"
    made = Ground(runtime, stage, world)
    yield made
    await made.close()
    await runtime.close()


@pytest.mark.parametrize("ground", WALLED, indirect=True)
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_attempt(ground: Ground, row: Row) -> None:
    await row.act(ground)
    ground.unchanged()


def test_the_host_itself_gets_everywhere(world: DecoyWorld, stage: Stage) -> None:
    """What is looked at after each attempt would show it."""
    world.arrived(), world.reached()
    for address in (*METADATA, METADATA_6, PRIVATE[0]):
        with socket.create_connection((address, 443), 5) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert f"{address}:443" in world.arrived()
        assert world.reached() == [f"{address}:443"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", (METADATA[0], 53))
    assert world.arrived() == world.reached() == [f"{METADATA[0]}:53"]
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(stage.address)
    assert stage.reached()

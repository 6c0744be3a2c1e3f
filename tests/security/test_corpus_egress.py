"""The security corpus against the way out: a daemon, a policy that names hosts, and decoys.

`-k NW_06` runs one id. A sandbox may reach two servers of the world by name; what left the
host's only cable, and for whom, is looked at after each attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from security.corpus.egress import EVERY, ROWS, EgressRow
from security.corpus.ground import WALLED
from security.corpus.stack import Servers, Stack, serving, stack
from security.corpus.world import DecoyWorld


@pytest.fixture(scope="module")
def world() -> Iterator[DecoyWorld]:
    with DecoyWorld() as made:
        yield made


@pytest.fixture(scope="module")
def servers(world: DecoyWorld) -> Iterator[Servers]:
    with serving(world) as made:
        yield made


@pytest.fixture(scope="module")
def outside(
    request: pytest.FixtureRequest,
    world: DecoyWorld,
    servers: Servers,
    templates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The daemon has the state of the other tests' machines, so that it need not boot one."""
    place = tmp_path_factory.mktemp("stack")
    with stack(request.param, world, servers, templates, place) as made:
        yield made


@pytest.mark.parametrize("outside", WALLED, indirect=True)
def test_what_is_allowed_gets_out(outside: Stack) -> None:
    """What is refused elsewhere is refused by decision: this is what it looks like otherwise."""
    outside.went_to()
    said = outside.python(
        "say(tunnel=connect('api.test:443'), wild=connect('a.wild.test:443'),"
        " name=socks('api.test'), plain=get('http://api.test/'))"
    )
    assert said == {"tunnel": "200", "wild": "200", "name": "socks 0", "plain": "200"}
    assert outside.went_to() == EVERY


@pytest.mark.parametrize("outside", WALLED, indirect=True)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_attempt(outside: Stack, row: EgressRow) -> None:
    outside.names.asked.clear()
    outside.went_to()
    allowed = row.act(outside)
    assert outside.went_to() <= allowed

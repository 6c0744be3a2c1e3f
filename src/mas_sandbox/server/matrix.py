"""Control by runtime: what this host was found to enforce, as the API tells it."""

from __future__ import annotations

from mas_sandbox.api.models import ControlInfo, RuntimeInfo
from mas_sandbox.runtimes.base import ControlStatus
from mas_sandbox.wire.controls import Control

from .walls import Wall, Walls

_NEVER = ControlStatus(False, "this runtime has nothing that does it")


async def described(walls: Walls) -> list[RuntimeInfo]:
    """Every wall of the daemon, weakest first; those that nobody needed yet are tried."""
    return [await _described(wall, wall is walls.default) for wall in walls]


async def _described(wall: Wall, default: bool) -> RuntimeInfo:
    probe = await wall.probed()
    return RuntimeInfo(
        name=wall.name,
        isolation=wall.isolation,
        default=default,
        available=probe.available,
        version=probe.version,
        reason=probe.reason,
        mend=probe.mend,
        controls={control: _control(probe.controls.get(control, _NEVER)) for control in Control},
    )


def _control(status: ControlStatus) -> ControlInfo:
    return ControlInfo(
        status="enforced" if status.enforced else "unavailable",
        mechanism=status.mechanism,
        mend=status.mend,
    )

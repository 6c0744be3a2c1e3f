"""The contract of a runtime: a wall around a toolrunner, and the channel through it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation
from mas_sandbox.wire.messages import Call

from .processor_time import ProcessorTime

if TYPE_CHECKING:
    from mas_sandbox.policy.grants import NetworkPolicy

    from .channel import Channel
    from .outcome import CallOutcome

THROUGH_THE_DAEMON = "the daemon decides, resolves and dials; no network device"
"""How EGRESS and BANDWIDTH are held around a sandbox that has loopback only."""
_REHEARSAL = Call("calculator", {"expression": "1 + 1"}, timeout_ms=10_000)
"""Nothing of it is left. A program as well would be the faster for it, and an idle machine 20 MB
larger."""
_OUT_OF_MEMORY = (
    "ended at the memory limit; files under /workspace, /tmp and /dev/shm count too "
    "where scratch space is held in memory. Raise mem_mb or use less"
)


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """Whether a control can be enforced on this host, by what, and if not, the mend."""

    enforced: bool
    mechanism: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a runtime found out about this host by trying.

    `reason` and `mend`: why it is unavailable and the command that would change
    that, empty where it is available. A control that is missing from `controls`
    cannot be enforced. `taken_by_auto`: whether `auto` may take it where it is available.
    `warning`: what an operator should know of an available runtime, such as an advisory;
    `facts`: what a person may want to know of it, JSON values by name.
    """

    available: bool
    version: str = ""
    reason: str = ""
    mend: str = ""
    controls: Mapping[Control, ControlStatus] = field(default_factory=dict)
    taken_by_auto: bool = True
    warning: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def enforced(self) -> frozenset[Control]:
        return frozenset(name for name, status in self.controls.items() if status.enforced)


@dataclass(frozen=True, slots=True)
class Mount:
    """A host directory inside a sandbox. `path`: where it appears, absolute; `host`: the
    directory, no part of which may be a symbolic link; `writable`: else held read-only on
    the host's side."""

    path: str
    host: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is built with. Equal specs make interchangeable sandboxes.

    A limit of None is not asked for, and left to the runtime's own bound.
    `env`: (name, value) pairs, sorted; `extensions`: (file name, Python source)
    of the operator's tools; `cpus`: processors' worth of time, may be fractional;
    `disk_mb`, `disk_files`: scratch space; `io_mb_s` (MiB), `iops`: of block devices;
    `network` and `bandwidth_kb_s` (KiB): for a runtime that may give it a network device.
    """

    mem_mb: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk_mb: int | None = None
    disk_files: int | None = None
    io_mb_s: int | None = None
    iops: int | None = None
    mounts: tuple[Mount, ...] = ()
    network: NetworkPolicy | None = None
    bandwidth_kb_s: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    extensions: tuple[tuple[str, str], ...] = ()

    @property
    def limits(self) -> frozenset[Control]:
        """The controls whose limit is asked for."""
        limits = (
            (Control.MEMORY, self.mem_mb),
            (Control.CPU, self.cpus),
            (Control.PIDS, self.pids),
            (Control.DISK, self.disk_mb),
            (Control.DISK_FILES, self.disk_files),
            (Control.IO, self.io_mb_s),
            (Control.IO, self.iops),
            (Control.HOST_PATHS, self.mounts or None),
        )
        return frozenset(control for control, limit in limits if limit is not None)


def refuse_unenforceable(name: str, spec: SandboxSpec, probe: Probe) -> None:
    """Raises SandboxError `policy_unenforceable` for a limit that this host cannot hold."""
    for control in sorted(spec.limits - probe.enforced):
        status = probe.controls.get(control)
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"the {name} runtime cannot enforce {control} here; to mend it: "
            + (status.mend if status and status.mend else "run `mas-sandbox doctor`"),
        )


class Sandbox(abc.ABC):
    """A started sandbox. Leaving its context leaves nothing of it behind."""

    id: str
    channel: Channel
    enforced: frozenset[Control]
    _processor_time: ProcessorTime | None = None

    @abc.abstractmethod
    async def stop(self) -> None:
        """End every process and remove every trace. Safe to call twice; never raises
        for a sandbox that is already dead."""

    @abc.abstractmethod
    def oom_kills(self) -> int:
        """How many processes have been ended at the memory limit so far."""

    def cpu_us(self) -> int | None:
        """Processor time that all of it has used, as this host counts it; None where
        nothing here counts."""
        return None

    async def warm_up(self) -> None:
        """Do ahead, in a sandbox that waits in a pool, what its first call would wait for: a
        toolrunner prepares the process of the next call once it has had one, and an emulator
        translates what it first meets. A call must not be able to tell. Raises SandboxError
        as `run` does."""
        await self.run(_REHEARSAL)

    async def pause(self) -> None:
        """Stop everything in it where it stands; memory, files and open connections stay.

        Raises SandboxError: `invalid_request` while calls run, `policy_unenforceable` where
        this host has nothing to do it with, `timeout` when it did not come to a stop and so
        goes on, `sandbox_crash` when its machine did not live.
        """
        self.channel.hold()
        try:
            await self._freeze()
        except BaseException:
            self.channel.release()
            raise

    async def resume(self) -> None:
        """Let everything go on. Raises SandboxError when it did not live."""
        await self._thaw()
        self.channel.release()

    async def _freeze(self) -> None:
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE, "a sandbox of this runtime cannot be paused"
        )

    async def _thaw(self) -> None:
        return

    async def run(self, call: Call) -> CallOutcome:
        """Run one call; several may run at once. Cancelling the caller cancels the call.

        Raises SandboxError when the sandbox did not live to answer (`guest_lost`,
        `guest_protocol_error`, `out_of_memory`) or not in time (`timeout`).
        """
        if self._processor_time is None:
            self._processor_time = ProcessorTime(self.cpu_us)
        return await self._processor_time.run(call, self._run(call))

    async def _run(self, call: Call) -> CallOutcome:
        before = self.oom_kills()
        try:
            outcome = await self.channel.call(call)
        except SandboxError as error:
            if error.code is ErrorCode.GUEST_LOST and self.oom_kills() > before:
                raise SandboxError(ErrorCode.OUT_OF_MEMORY, _OUT_OF_MEMORY) from error
            raise
        if outcome.exit_code != 0 and self.oom_kills() > before:
            return replace(outcome, code=ErrorCode.OUT_OF_MEMORY, message=_OUT_OF_MEMORY)
        return outcome

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


class Runtime(abc.ABC):
    """One kind of wall."""

    name: str
    isolation: Isolation
    pool_size: int | None = None
    """How many sandboxes to keep warm, where the runtime's own config file says so."""
    network_devices = False
    """Whether a sandbox may have a network device, whose reach is fixed when it is made."""

    @abc.abstractmethod
    async def probe(self) -> Probe:
        """Find out what this host can enforce, by trying it; the result is kept."""

    @abc.abstractmethod
    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox whose toolrunner has answered.

        Raises SandboxError: `policy_unenforceable` for a limit this host cannot
        enforce, `sandbox_crash` when it does not come up; in both cases nothing is
        left behind.
        """

    def has_image(self, name: str) -> bool:
        """Whether its sandboxes are made from the image of this name or digest. Raises
        SandboxError when that cannot be read."""
        return False

    async def close(self) -> None:
        """Release what the runtime itself holds. Its sandboxes are stopped before."""
        return

"""Starts machines with Firecracker: booted, or cloned from a snapshot.

Sources: Firecracker's API description, docs/jailer.md, docs/vsock.md and
docs/snapshotting/snapshot-support.md. Devices are on the virtio-mmio bus: Firecracker's
PCI transport is never asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import FROM_GUEST, FrameParser, Kind, ProtocolError
from mas_sandbox.wire.messages import Hello

from ..config import MicrovmConfig
from ..seal import FileDigests, Seals, processor, template_key
from ..vm import Place, Template, VmDriver, VmProbe, VmSpec
from . import requests
from . import template as sealing
from .monitor import Monitor
from .requests import Request
from .root import Root, add_spec, largest_file
from .unix import readable
from .vm import FirecrackerVm

BOOT_TIMEOUT_S = 20.0
"""From the start of a guest to its HELLO: under a second with KVM."""
OLDEST = (1, 10, 0)
"""Before it a restored guest was not told that its vsock connections are gone."""
BROKEN = (1, 16, 0)
"""Loses the guest's vsock when a snapshot is loaded."""
_INSTALL = "install Firecracker 1.16.1 or later, and name it in firecracker_bin"


class FirecrackerDriver(VmDriver):
    """See `VmDriver`. The jailer is looked for beside Firecracker, then in PATH."""

    name = sealing.DRIVER
    acceleration = "kvm"

    def __init__(self, config: MicrovmConfig, directory: Path) -> None:
        """`directory`: ours alone, where the key that seals templates is kept."""
        self._seals = Seals(directory / "template.key")
        self._binary = config.firecracker_bin
        self._program: Path | None = None
        self._version = ""
        self._digests = FileDigests()
        self._marks: dict[Path, sealing.Mark] = {}

    async def probe(self, spec: VmSpec, place: Place) -> VmProbe:
        try:
            async with await self.boot(spec, place) as vm:
                (await vm.connect(BOOT_TIMEOUT_S)).close()
        except SandboxError as error:
            mend = f"{_INSTALL}; or set vmm to qemu"
            if self._program is not None:
                mend = "use a machine whose KVM boots a guest, or set vmm to qemu"
            return VmProbe(
                False,
                self._version,
                reason=error.message,
                mend=mend,
                tried=(("kvm", error.message),),
            )
        return VmProbe(True, self._version, "kvm")

    async def boot(self, spec: VmSpec, place: Place) -> FirecrackerVm:
        monitor = await self._start(spec, place, partial(add_spec, spec=spec, booted=True))
        return await self._told(spec, place, monitor, requests.booting(spec, place))

    def template_key(self, spec: VmSpec) -> str:
        program = self._find()
        files = {"kernel": spec.kernel, "initrd": spec.initrd, "rootfs": spec.rootfs}
        files |= {f"drive {drive.id}": drive.path for drive in spec.drives}
        digests = {name: self._digests.of(path) for name, path in files.items() if path is not None}
        machine = asdict(spec) | dict.fromkeys(("kernel", "initrd", "rootfs"))
        machine["drives"] = [[drive.id, drive.read_only] for drive in spec.drives]
        return template_key(
            {
                "driver": self.name,
                "version": self._version,
                "program": self._digests.of(program),
                "processor": processor(),
                "boot_args": requests.BOOT_ARGS,
                "machine": machine,
                "files": digests,
            }
        )

    async def make_template(self, spec: VmSpec, place: Place, directory: Path) -> Template:
        if not all(drive.read_only for drive in spec.drives):
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, "a machine with a writable drive cannot be cloned"
            )
        async with await self.boot(spec, place) as vm:
            hello = await _hello(await vm.connect(BOOT_TIMEOUT_S))
            await vm.pause()
            made = await vm.snapshot(directory, hello)
        self._marks[directory] = sealing.mark(directory)
        return made

    async def open_template(self, spec: VmSpec, directory: Path) -> Template:
        key = await asyncio.to_thread(self.template_key, spec)
        mark = sealing.mark(directory)  # before the bytes are read: what comes later differs
        opened = await asyncio.to_thread(sealing.open_sealed, self._seals, directory, spec, key)
        self._marks[directory] = mark
        return opened

    async def clone(self, template: Template, place: Place) -> FirecrackerVm:
        directory, spec = template.directory, template.spec
        if directory not in self._marks:
            await self.open_template(spec, directory)
        if self._marks[directory] != sealing.mark(directory):
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the template {directory} was altered after it was verified; remove it, and it "
                "is made again",
            )

        def fill(root: Root) -> None:
            add_spec(root, spec, booted=False)
            for name in sealing.SEALED:
                root.add(requests.LOADED + name, directory / name)

        monitor = await self._start(spec, place, fill)
        return await self._told(spec, place, monitor, requests.loading(spec, place))

    def _seal(self, root: Path, directory: Path, spec: VmSpec, hello: bytes) -> Template:
        return sealing.seal(self._seals, root, directory, spec, self.template_key(spec), hello)

    async def _start(self, spec: VmSpec, place: Place, fill: Callable[[Root], None]) -> Monitor:
        """A monitor that waits for its first request, in a root filled with its files."""
        program = await asyncio.to_thread(self._find)
        jailer = None if place.user is None else _jailer(program)
        root = Root(place, program)
        try:
            root.make()
            await asyncio.to_thread(fill, root)
            bound = largest_file(spec)
        except BaseException as error:
            root.remove()
            if isinstance(error, OSError):
                raise SandboxError(
                    ErrorCode.SANDBOX_CRASH, f"no place for Firecracker to run in: {error}"
                ) from error
            raise
        return await Monitor.start(place, root, jailer, bound)

    async def _told(
        self, spec: VmSpec, place: Place, monitor: Monitor, steps: Iterable[Request]
    ) -> FirecrackerVm:
        try:
            await monitor.tell(steps)
            return FirecrackerVm(place.id, spec, monitor, self._seal)
        except BaseException as error:
            said = monitor.said()
            await monitor.stop()
            if isinstance(error, SandboxError) and said:
                raise SandboxError(
                    error.code, f"{error.message}; it said: {said[-500:]}"
                ) from error
            raise

    def _find(self) -> Path:
        """The program, once it has said a version that we can work with; blocks the first time."""
        if self._program is None:
            found = shutil.which(self._binary)
            if found is None:
                raise SandboxError(
                    ErrorCode.SANDBOX_CRASH, f"{self._binary} is no program here; {_INSTALL}"
                )
            program = Path(found).resolve()
            self._version = _version(program)
            self._program = program
        return self._program


def _version(program: Path) -> str:
    """What `--version` says. Raises SandboxError for one that is too old, or broken."""
    try:
        said = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            env={},
            check=True,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{program} --version: {error}") from error
    found = re.search(r"Firecracker v(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"{program} is not Firecracker: it says {said[:80]!r}"
        )
    version = tuple(map(int, found.groups()))
    if version < OLDEST or version == BROKEN:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"Firecracker {'.'.join(found.groups())} cannot clone a guest with a vsock; {_INSTALL}",
        )
    return ".".join(found.groups())


def _jailer(program: Path) -> Path:
    beside = program.with_name(program.name.replace("firecracker", "jailer"))
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("jailer")
    if found is None or shutil.which("unshare") is None:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"started by root, Firecracker needs its jailer and unshare(1); put the jailer of the "
            f"same release beside {program}, or run the daemon as another user",
        )
    return Path(found)


async def _hello(end: socket.socket) -> bytes:
    """The payload of the first frame, which is to be HELLO. Closes the connection."""
    parser = FrameParser(FROM_GUEST)
    try:
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            while True:
                await readable(end)
                data = end.recv(64 * 1024)
                for kind, _, payload in parser.feed(data):
                    if kind is not Kind.HELLO:
                        raise ProtocolError(f"a {kind.name} frame before HELLO")
                    Hello.parse(payload)  # before a template is made of whoever said it
                    return payload
                if not data:
                    raise ProtocolError("nothing more, before HELLO was whole")
    except (OSError, TimeoutError, ProtocolError) as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"the template's toolrunner sent {error or 'no HELLO'}"
        ) from error
    finally:
        end.close()

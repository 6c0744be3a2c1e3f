"""The driver for QEMU: with KVM or HVF where they boot a guest, else by plain emulation."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .. import seal
from ..config import MicrovmConfig
from ..vm import Place, Template, VmDriver, VmProbe, VmSpec
from .command import machine_words
from .launch import KVM, VHOST, Qemu, launch
from .machine import SAVE_TIMEOUT_S, Answer, QemuVm, read_hello
from .template import MEMORY, STATE, OpenTemplate, load, reopened, restore, store, write

DEFAULT_BINARY = "qemu-system-x86_64"
"""The image is for this processor, so elsewhere it is emulated."""
BOOT_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = {"kvm": 20.0, "hvf": 20.0, "tcg": BOOT_TIMEOUT_S}
_INSTALL = "apt-get install qemu-system-x86, or brew install qemu"


class QemuDriver(VmDriver):
    """See `VmDriver`. One template's memory stays in this process until `close`."""

    name = "qemu"

    def __init__(self, config: MicrovmConfig, directory: Path, vsock: bool | None = None) -> None:
        """`directory`: ours alone, where the key that seals templates is kept.

        `vsock`: whether the channel is a host vsock; by default where there is one.
        """
        self.acceleration = "tcg"
        self._program = config.qemu_bin or DEFAULT_BINARY
        self._vsock = os.access(VHOST, os.R_OK | os.W_OK) if vsock is None else vsock
        self._seals = seal.Seals(directory / "template.key")
        self._digests = seal.FileDigests()
        self._version = ""
        self._opened: dict[Path, OpenTemplate] = {}
        self._opening = asyncio.Lock()

    async def probe(self, spec: VmSpec, place: Place) -> VmProbe:
        try:
            version = await asyncio.to_thread(self._find_version)
        except SandboxError as error:
            return VmProbe(False, reason=error.message, mend=_INSTALL)
        tried: list[tuple[str, str]] = []
        for acceleration in _candidates():
            self.acceleration = acceleration
            try:
                async with await self.boot(spec, place) as vm:
                    _, end = await self._hello(vm, PROBE_TIMEOUT_S[acceleration])
                    end.close()
            except SandboxError as error:
                tried.append((acceleration, error.message))
            else:
                return VmProbe(True, version, acceleration, tried=tuple(tried))
        reason = "; ".join(f"{name}: {why}" for name, why in tried)
        return VmProbe(False, version, "", reason, "mas-sandbox image build", tuple(tried))

    async def boot(self, spec: VmSpec, place: Place) -> QemuVm:
        return await launch(self._qemu(), spec, place, None, True, self._save_running)

    def template_key(self, spec: VmSpec) -> str:
        made_of = {path: self._digests.of(path) for path in _files(spec)}
        facts = asdict(spec) | {
            "kernel": made_of[spec.kernel],
            "initrd": made_of[spec.initrd] if spec.initrd else None,
            "rootfs": made_of[spec.rootfs],
            "drives": [[drive.id, made_of[drive.path]] for drive in spec.drives],
            "qemu": [self._find_version(), *_program_file(_find(self._program))],
            "acceleration": self.acceleration,
            "machine": machine_words(self.acceleration),
            "vsock": self._vsock,
            "processor": seal.processor(),
            "format": seal.FORMAT,
        }
        return seal.template_key(facts)

    async def make_template(self, spec: VmSpec, place: Place, directory: Path) -> Template:
        if not all(drive.read_only for drive in spec.drives):
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, "a machine with a writable drive cannot be cloned"
            )
        async with await self.boot(spec, place) as vm:
            hello, end = await self._hello(vm, BOOT_TIMEOUT_S)
            with end:
                if self._vsock:
                    end.close()  # else each clone would have to be told that it is
                await vm.pause()
                return await self._save(vm, hello, directory)

    async def open_template(self, spec: VmSpec, directory: Path) -> Template:
        key = await asyncio.to_thread(self.template_key, spec)
        loading = asyncio.to_thread(load, self._seals, directory, self.name, key)
        manifest, opened = await _whole(loading, lambda loaded: loaded[1].close())
        before = self._opened.pop(directory, None)
        if before is not None:
            before.close()
        self._opened[directory] = opened
        return self._template(directory, spec, manifest)

    async def clone(self, template: Template, place: Place) -> QemuVm:
        async with self._opening:
            if template.directory not in self._opened:
                await self.open_template(template.spec, template.directory)
        opened = self._opened[template.directory]
        state = reopened(opened.state)
        try:
            vm = await launch(
                self._qemu(), template.spec, place, opened.memory, False, self._save_running
            )
            try:
                await vm.step("clone", restore(vm.qmp, state, opened.memory is not None))
            except BaseException:
                await vm.stop()
                raise
        finally:
            os.close(state)
        vm.hello = None if self._vsock else template.hello
        return vm

    async def close(self) -> None:
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()

    def _qemu(self) -> Qemu:
        return Qemu(_find(self._program), self.acceleration, self._vsock)

    def _find_version(self) -> str:
        """What the program says it is: in a thread."""
        if not self._version:
            self._version = _version(_find(self._program))
        return self._version

    async def _hello(self, vm: QemuVm, timeout_s: float) -> tuple[bytes, socket.socket]:
        """What the toolrunner said, and the connection it said it on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        end = await vm.connect(timeout_s)
        try:
            left = max(0.0, deadline - loop.time())
            return await vm.step("boot", _first(read_hello(end), vm.ended), left), end
        except BaseException:
            end.close()
            raise

    async def _save(self, vm: QemuVm, hello: bytes, directory: Path) -> Template:
        """Write a paused machine to `directory`, sealed, and end it where it must be."""
        state = seal.anonymous(STATE)
        files = {STATE: state}
        try:
            await vm.step("save", store(vm.qmp, state, vm.memory is not None), SAVE_TIMEOUT_S)
            if vm.memory is not None:
                files[MEMORY] = vm.memory
            key = await asyncio.to_thread(self.template_key, vm.spec)
            manifest = seal.Manifest(self.name, key, hello, time.time())
            await _whole(asyncio.to_thread(write, self._seals, directory, manifest, files))
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the template {directory} could not be written: {error.strerror}; make room "
                "there, or let this user write to it",
            ) from error
        finally:
            os.close(state)
        return self._template(directory, vm.spec, manifest)

    async def _save_running(self, vm: QemuVm, directory: Path) -> Template:
        if vm.hello is None and not self._vsock:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                "snapshot: what the toolrunner said of itself is not known; set the machine's "
                "`hello`, or take the snapshot of a clone",
            )
        return await self._save(vm, vm.hello or b"", directory)

    def _template(self, directory: Path, spec: VmSpec, manifest: seal.Manifest) -> Template:
        return Template(
            directory, self.name, spec, manifest.hello, manifest.created_at, manifest.key
        )


async def _whole(
    work: Coroutine[Any, Any, Answer], undo: Callable[[Answer], None] = lambda answer: None
) -> Answer:
    """Work in a thread, which uses open files of ours: waited for, and undone, when cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if task.exception() is None:
            undo(task.result())
        raise


async def _first(work: Coroutine[Any, Any, bytes], ended: asyncio.Future[int]) -> bytes:
    """The result of `work`, unless the monitor ends before."""
    task = asyncio.create_task(work)
    try:
        waiting: set[asyncio.Future[Any]] = {task, ended}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the machine ended with status {ended.result()}"
            )
        return task.result()
    finally:
        task.cancel()


def _files(spec: VmSpec) -> list[Path]:
    files = [spec.kernel, spec.rootfs, *(drive.path for drive in spec.drives)]
    return files if spec.initrd is None else [*files, spec.initrd]


def _candidates() -> list[str]:
    """What may boot a guest here, the fastest first."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return ["tcg"]
    if sys.platform == "darwin":
        return ["hvf", "tcg"]
    return ["kvm", "tcg"] if KVM.exists() else ["tcg"]


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{program} is not installed: {_INSTALL}")
    return os.path.realpath(found)


def _program_file(program: str) -> tuple[int, int]:
    """What tells one build from another that says the same of itself."""
    status = Path(program).stat()
    return status.st_size, status.st_mtime_ns


def _version(program: str) -> str:
    """Its first line: `QEMU emulator version 7.2.22 (...)`."""
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True, env={}
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"{program} does not run: {error}; {_INSTALL}"
        ) from error
    return said.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")

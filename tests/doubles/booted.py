"""A machine under QEMU's emulation, booted from the built image, with its channel as a socket.

It stands for the host's side only: the kernel, the init and the toolrunner are real. Unlike
the runtime's own machines it listens for its host, so that a test can hang up and come back. The machine is `q35`, whose HPET a busy host's emulation cannot upset.
"""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from doubles.host import Link
from mas_sandbox.runtimes.microvm.image.store import Image

BOOT_S = 60.0


class BootedMachine:
    """`saved`: what `save` wrote, of a machine with the same image, to go on from."""

    def __init__(self, image: Image, directory: Path, saved: Path | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self._channel, self._console = directory / "channel", directory / "console"
        self._monitor = directory / "monitor"
        port = f"socket,id=channel,path={self._channel},server=on,wait=off"
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none"),
                *("-machine", "q35", "-accel", "tcg", "-cpu", "max,-cx16", "-m", "256M"),
                *("-no-reboot", "-kernel", str(image.kernel), "-initrd", str(image.initrd)),
                "-append",
                "console=ttyS0 quiet panic=-1 reboot=t mas.channel=serial mas.overlay_mb=64",
                *("-drive", f"id=root,file={image.rootfs},format=raw,if=none,readonly=on"),
                *("-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"),
                *("-device", "virtio-serial-pci", "-chardev", port),
                *("-device", "virtserialport,chardev=channel,name=mas.channel"),
                *("-serial", f"file:{self._console}"),
                *("-monitor", f"unix:{self._monitor},server=on,wait=off"),
                *(["-incoming", f"exec:cat {saved}"] if saved is not None else []),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def attach(self) -> Link:
        """Connect to the port; whoever was there before must have closed it."""
        connected = self._connect(self._channel)
        link = Link(connected)
        connected.settimeout(BOOT_S)
        return link

    def save(self, path: Path) -> None:
        """Write the machine, memory and devices, to a file; it is stopped from then on."""
        command = f'migrate "exec:cat > {path}"\ninfo migrate\n'
        with self._connect(self._monitor) as monitor, monitor.makefile("r") as answers:
            monitor.settimeout(BOOT_S)
            monitor.sendall(command.encode())
            assert any("Migration status: completed" in line for line in answers)

    def _connect(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + BOOT_S
        while True:
            connected = socket.socket(socket.AF_UNIX)
            try:
                connected.connect(str(path))
            except OSError:
                connected.close()
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return connected

    def console(self) -> str:
        return self._console.read_text("utf-8", "replace")

    def cpu_wanted_s(self, over_s: float) -> float:
        """What the whole machine uses of processors during that time or, while others are on
        them, waits for: a busy host hides nothing."""
        before = self._wanted()
        time.sleep(over_s)
        return sum(ns - before.get(thread, 0) for thread, ns in self._wanted().items()) / 1e9

    def _wanted(self) -> dict[str, int]:
        """Thread -> time on and waiting for a processor (Documentation/scheduler/sched-stats.rst), in ns."""
        found = {}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                ran, waited, _ = (thread / "schedstat").read_text().split()
                found[thread.name] = int(ran) + int(waited)
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

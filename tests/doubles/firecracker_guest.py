"""The machine behind the Firecracker double: the real guest, under QEMU's emulation.

Part of the Firecracker double; see `firecracker_double` for what it follows.
"""

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import struct

QEMU = shutil.which("qemu-system-x86_64", path="/usr/bin:/bin:/usr/local/bin")
HEADER = struct.Struct("!IBI")
HELLO_KIND, MAX_HELLO = 1, 1024 * 1024
DISK_ERROR = "Error manipulating the backing file: No such file or directory (os error 2)"
_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Guest:
    """QEMU with the devices of a Firecracker: virtio-mmio disks, an rng, a serial console.

    `config`: request path -> body of what was configured. `hello`: the first frame that
    came out of the guest, as bytes; None until it has come.
    """

    def __init__(self, config, hello=None):
        self.config = config
        self.hello = hello
        self.process = None
        self.on_output = None
        self._received = b""

    async def boot(self):
        """Start the vCPUs from the kernel."""
        source = self.config["/boot-source"]
        arguments = ["-kernel", source["kernel_image_path"], "-append", self._command_line()]
        if "initrd_path" in source:
            arguments += ["-initrd", source["initrd_path"]]
        ram = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        self._ram = ram
        await self._start(arguments, f"/proc/self/fd/{ram}", "on", (ram,))

    async def load(self, state, offset, memory):
        """Start where `save` stopped; the vCPUs stay stopped."""
        if not os.access(memory, os.W_OK):  # QEMU opens it for writing, though it never does
            source = os.open(memory, os.O_RDONLY)
            memory = "memory.private"
            _copy_sparse(source, memory)
            os.close(source)
        self._ram = os.open(memory, os.O_RDONLY | os.O_CLOEXEC)
        await self._start(["-incoming", "defer"], memory, "off", ())
        await self._ignore_shared()
        uri = f"exec:tail -c +{offset + 1} {_quoted(state)}"
        await self.qmp("migrate-incoming", uri=uri)
        await self._until("query-status", lambda answer: answer["status"] != "inmigrate")

    async def save(self, state, memory):
        """Append the devices' state to `state`, and write the RAM, holes kept, to `memory`."""
        await self._ignore_shared()
        await self.qmp("migrate", uri=f"exec:cat >> {_quoted(state)}")
        await self._until("query-migrate", lambda answer: answer["status"] == "completed")
        _copy_sparse(self._ram, memory)

    async def pause(self):
        await self.qmp("stop")

    async def resume(self):
        await self.qmp("cont")

    def send(self, data):
        self._channel.write(data)

    async def qmp(self, command, **arguments):
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._monitor[1].write(json.dumps(request).encode() + b"\n")
        while True:
            line = await self._monitor[0].readline()
            if not line:
                raise ConnectionError("QEMU is gone")
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _command_line(self):
        """What the guest is told, with the channel that there is instead of a vsock.

        An emulated clock cannot be measured against another on a busy host: a guest that
        is not told its frequency hangs in every second boot.
        """
        text = self.config["/boot-source"].get("boot_args", "")
        text = re.sub(r"mas\.channel=vsock:\d+", "mas.channel=serial", text)
        return f"{text} tsc_early_khz={_clock_khz()} tsc=reliable no_timer_check"

    async def _start(self, arguments, ram, share, descriptors):
        machine = self.config["/machine-config"]
        channel, channel_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        inherited = (channel_end.fileno(), monitor_end.fileno(), *descriptors)
        size = machine["mem_size_mib"]
        command = [
            *(QEMU, "-machine", "microvm,memory-backend=ram", "-accel", "tcg", "-cpu", "max,-cx16"),
            *("-smp", str(machine["vcpu_count"]), "-m", f"{size}M"),
            "-object",
            f"memory-backend-file,id=ram,size={size}M,mem-path={ram},share={share}",
            *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"),
            *("-chardev", f"socket,id=qmp,fd={inherited[1]}", "-mon", "chardev=qmp,mode=control"),
            *("-device", "virtio-serial-device", "-device", "virtio-rng-device"),
            *("-chardev", f"socket,id=channel,fd={inherited[0]}"),
            *("-device", "virtserialport,chardev=channel,name=mas.channel"),
            *self._drives(),
            *arguments,
        ]
        self.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=inherited,
            preexec_fn=lambda: _libc.prctl(_PDEATHSIG, signal.SIGKILL),
        )
        channel_end.close()
        monitor_end.close()
        self._monitor = await asyncio.open_unix_connection(sock=monitor, limit=1 << 20)
        reader, self._channel = await asyncio.open_unix_connection(sock=channel)
        self._pump = asyncio.create_task(self._receive(reader))
        await self._monitor[0].readline()
        await self.qmp("qmp_capabilities")

    def _drives(self):
        drives = [body for path, body in self.config.items() if path.startswith("/drives/")]
        for number, body in enumerate(sorted(drives, key=lambda body: not body["is_root_device"])):
            read_only = "on" if body.get("is_read_only") else "off"
            place = f"file={body['path_on_host']},format=raw,readonly={read_only}"
            yield from ("-drive", f"if=none,id=d{number},{place}")
            yield from ("-device", f"virtio-blk-device,drive=d{number}")

    async def _receive(self, reader):
        while data := await reader.read(1 << 16):
            if self.hello is None:
                data = self._take_hello(data)
            if data and self.on_output is not None:
                self.on_output(data)

    def _take_hello(self, data):
        self._received += data
        if len(self._received) < HEADER.size:
            return b""
        length, kind, _ = HEADER.unpack_from(self._received)
        if kind != HELLO_KIND or length > MAX_HELLO:
            raise ValueError(f"the guest began with {self._received[:80]!r}, not HELLO")
        end = HEADER.size + length
        if len(self._received) < end:
            return b""
        self.hello, rest = self._received[:end], self._received[end:]
        return rest

    async def _ignore_shared(self):
        capability = {"capability": "x-ignore-shared", "state": True}
        await self.qmp("migrate-set-capabilities", capabilities=[capability])

    async def _until(self, command, done):
        while not done(answer := await self.qmp(command)):
            if answer.get("status") == "failed":
                raise RuntimeError(f"{command}: {answer}")
            await asyncio.sleep(0.005)


def _clock_khz():
    with open("/proc/cpuinfo") as file:
        found = re.search(r"cpu MHz\s*: ([0-9.]+)", file.read())
    return int(float(found[1]) * 1000) if found else 1_000_000


def _quoted(path):
    return "'" + path.replace("'", "'\\''") + "'"


def _copy_sparse(source, target):
    size = os.fstat(source).st_size
    with open(target, "r+b" if os.path.exists(target) else "wb") as file:
        file.truncate(size)
        position = 0
        while position < size:
            try:
                position = os.lseek(source, position, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(source, position, os.SEEK_HOLE)
            file.seek(position)
            while position < end:
                chunk = os.pread(source, min(1 << 20, end - position), position)
                file.write(chunk)
                position += len(chunk)

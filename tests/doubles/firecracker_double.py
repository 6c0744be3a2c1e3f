"""Firecracker's double: its API, kept strictly, before the real guest under QEMU.

Follows Firecracker v1.16.1: its API description (src/firecracker/swagger/firecracker.yaml),
docs/vsock.md, docs/snapshotting/snapshot-support.md and docs/jailer.md. Kept: paths,
methods, required and unknown fields, ranges, which request may come before the start and
which after, that a snapshot is loaded into a fresh process only and its failure ends the
process, error bodies and status codes, `CONNECT <port>` -> `OK <port>`, sockets that must
not exist, relative paths, --api-sock, --id, --version; the jailer's flags, layout,
ownership, limits and identity.

Not modelled: KVM, seccomp, CPU templates, rate limits, MMDS, network devices, pmem, memory
hotplug, balloon statistics and hinting, guest-initiated vsock connections, --config-file,
metrics beyond one empty object, the text of errors from deep inside devices, and the
jailer's chroot, device nodes, namespaces and cgroups. There is one vsock connection at a
time, over a virtio-serial port (this is what `mas.channel` on the kernel command line
is changed to): it begins with the HELLO that the toolrunner sent once, and its end does
not reach the guest.

`misbehave` makes it break its promises, for tests: "exit" at once, "silent" (connections
are taken, nothing is answered), "garbage" (answers are not HTTP), "endless" (a head that
does not end), "fault" (InstanceStart is answered 500), "bad-ok" (CONNECT is answered with
something else), "deaf" (CONNECT is not answered), "mute" (nothing follows OK).
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import sys

from firecracker_api import Fault, parse
from firecracker_guest import DISK_ERROR, Guest

VERSION = "1.16.1"
MAGIC = "firecracker-double"
POST_BOOT = "The requested operation is not supported after starting the microVM."
PRE_BOOT = "The requested operation is not supported before starting the microVM."
ONLY_BEFORE = (
    *("PUT /boot-source", "PUT /logger", "PUT /metrics", "PUT /serial", "PUT /machine-config"),
    *("PUT /drives", "PUT /network-interfaces", "PUT /vsock", "PUT /entropy", "PUT /balloon"),
    "PUT /snapshot/load",
)
ONLY_AFTER = ("PATCH /vm", "PUT /snapshot/create", "PATCH /balloon", "PATCH /drives")
NOT_OF_THE_BOOT = ("/logger", "/metrics")


class Double:
    """One Firecracker process."""

    def __init__(self, identifier, misbehave):
        self.identifier = identifier
        self.misbehave = misbehave
        self.state = "Not started"
        self.config = {}
        self.guest = Guest(self.config)
        self.host_port = 1 << 30
        self.client = None
        self.servers = []
        self.over = asyncio.Event()

    async def run(self, api_socket):
        if self.misbehave == "exit":
            sys.exit("the double was told to end")
        self.servers.append(await asyncio.start_unix_server(self._serve, api_socket))
        await self.over.wait()

    # HTTP

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, target, _ = head.split("\r\n")[0].split(" ")
                length = re.search(r"(?i)^content-length: *(\d+)", head, re.MULTILINE)
                raw = await reader.readexactly(int(length[1]) if length else 0)
                if self.misbehave == "silent":
                    continue
                if self.misbehave == "endless":
                    while True:
                        writer.write(b"HTTP/1.1 200 " + b"x" * 65536)
                        await writer.drain()
                writer.write(await self._answer(method, target, raw))
                await writer.drain()
        writer.close()

    async def _answer(self, method, target, raw):
        if self.misbehave == "garbage":
            return b"\x00\xff what?\r\n\r\n"
        try:
            body = await self._handle(*parse(method, target, raw))
            status = 204 if body is None else 200
        except Fault as fault:
            status, body = fault.status, {"fault_message": fault.message}
        head = f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
        if body is None:
            return head.encode() + b"\r\n"
        payload = json.dumps(body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        return head.encode() + payload

    async def _handle(self, operation, identifier, body):
        started = self.state != "Not started"
        if started and operation in ONLY_BEFORE:
            raise Fault(POST_BOOT)
        if not started and operation in ONLY_AFTER:
            raise Fault(PRE_BOOT)
        method, path = operation.split(" ")
        if method == "GET":
            return self._describe(path)
        match operation:
            case "PUT /actions":
                await self._act(body["action_type"], started)
            case "PATCH /vm":
                await self._set_state(body["state"])
            case "PUT /snapshot/create":
                await self._create_snapshot(body)
            case "PUT /snapshot/load":
                await self._load_snapshot(body)
            case "PATCH /balloon":
                if "/balloon" not in self.config:
                    raise Fault("Balloon update error: Device not found.")
                self.config["/balloon"] |= body
            case "PATCH /drives":
                if f"/drives/{identifier}" not in self.config:
                    raise Fault(
                        f"Drive config error: Unable to patch the block device: {identifier}"
                    )
            case _:
                await self._configure(path, identifier, body)
        return None

    def _describe(self, path):
        known = {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False}
        machine = known | self.config.get("/machine-config", {})
        match path:
            case "/":
                return {
                    "id": self.identifier,
                    "state": self.state,
                    "vmm_version": VERSION,
                    "app_name": "Firecracker",
                }
            case "/version":
                return {"firecracker_version": VERSION}
            case "/machine-config":
                return machine
            case "/balloon":
                if "/balloon" not in self.config:
                    raise Fault("Balloon config error: No balloon device found.")
                return self.config["/balloon"]
        return {"drives": list(self._drives().values()), "machine-config": machine}

    # What is configured before the start

    async def _configure(self, path, identifier, body):
        match path:
            case "/boot-source":
                for name in ("kernel_image_path", "initrd_path"):
                    if name in body:
                        _check_file(body[name], f"Boot source error: The {name.split('_')[0]} file")
            case "/drives":
                path = f"/drives/{identifier}"
                self._check_drive(path, body)
            case "/machine-config":
                _check_machine(body)
            case "/vsock":
                if body["guest_cid"] < 3:
                    raise Fault("Vsock config error: Cannot create vsock device: InvalidCid")
                problem = "Vsock config error: Cannot create backend for vsock device: UnixBind"
                await self._listen(body["uds_path"], problem)
            case "/logger":
                if "log_path" in body:
                    self._write("Logger", body["log_path"], f"Running Firecracker v{VERSION}\n")
            case "/metrics":
                self._write("Metrics", body["metrics_path"], "")
            case "/network-interfaces":
                raise Fault("Network config error: the double models no network device")
        self.config[path] = body

    def _check_drive(self, path, body):
        problem = "Drive config error: Unable to create the virtio block device"
        if "path_on_host" not in body or "socket" in body or "is_read_only" not in body:
            raise Fault(problem)
        if not os.path.exists(body["path_on_host"]):
            raise Fault(f"{problem}: Virtio backend error: {DISK_ERROR} {body['path_on_host']}")
        _check_file(body["path_on_host"], "Drive config error: The file")
        others = [name for name, drive in self._drives().items() if drive["is_root_device"]]
        if body["is_root_device"] and others not in ([], [path]):
            raise Fault("Drive config error: A root block device already exists!")

    def _drives(self):
        return {name: body for name, body in self.config.items() if name.startswith("/drives/")}

    def _write(self, kind, path, text):
        try:
            with open(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CREAT, 0o600), "a") as file:
                file.write(text)
        except OSError as error:
            raise Fault(f"{kind} error: Failed to open target file: {error.strerror}") from None

    # Actions

    async def _act(self, action, started):
        if (action == "InstanceStart") == started:
            raise Fault(POST_BOOT if started else PRE_BOOT)
        if action == "FlushMetrics":
            if "/metrics" in self.config:
                self._write("Metrics", self.config["/metrics"]["metrics_path"], "{}\n")
        elif action == "InstanceStart":
            if self.misbehave == "fault":
                raise Fault("Internal error: the double was told to fail", 500)
            if "/boot-source" not in self.config:
                raise Fault(
                    "Start microvm error: Cannot start microvm without kernel configuration."
                )
            self.config.setdefault("/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
            await self.guest.boot()
            self._started("Running")
        else:
            raise Fault("The double has no keyboard")

    def _started(self, state):
        self.state = state
        self.guest.on_output = self._to_client
        self.watching = asyncio.create_task(self._watch())

    async def _watch(self):
        await self.guest.process.wait()
        self.over.set()

    async def _set_state(self, state):
        await (self.guest.pause() if state == "Paused" else self.guest.resume())
        self.state = "Paused" if state == "Paused" else "Running"

    async def _create_snapshot(self, body):
        if self.state != "Paused":
            raise Fault(
                "Create snapshot error: Cannot save the microVM state: "
                "Operation not allowed while the microVM runs"
            )
        if body.get("snapshot_type") == "Diff":
            raise Fault("Create snapshot error: the double makes no Diff snapshots")
        hello = self.guest.hello
        header = {"magic": MAGIC, "config": self.config, "hello": hello.hex() if hello else ""}
        try:
            with open(
                os.open(body["snapshot_path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as file:
                file.write(json.dumps(header).encode() + b"\n")
            await self.guest.save(body["snapshot_path"], body["mem_file_path"])
        except (OSError, RuntimeError) as error:
            raise Fault(f"Create snapshot error: Cannot write the memory file: {error}") from None

    async def _load_snapshot(self, body):
        if any(path not in NOT_OF_THE_BOOT for path in self.config):
            raise Fault(
                "Load snapshot error: Loading a microVM snapshot not allowed after "
                "configuring boot-specific resources."
            )
        try:
            await self._restore(body)
        except (OSError, RuntimeError, ValueError, KeyError, Fault) as error:
            asyncio.get_running_loop().call_later(0.05, self.over.set)
            raise Fault(f"Load snapshot error: Failed to restore from snapshot: {error}") from None
        if body.get("resume_vm"):
            await self._set_state("Resumed")

    async def _restore(self, body):
        backend = body.get("mem_backend", {"backend_type": "File"})
        if backend["backend_type"] != "File":
            raise ValueError("the double has no Uffd backend")
        memory = backend.get("backend_path", body.get("mem_file_path"))
        with open(body["snapshot_path"], "rb") as file:
            header = json.loads(file.readline(1 << 20))
            offset = file.tell()
        if header["magic"] != MAGIC:
            raise ValueError("not a snapshot")
        size = header["config"]["/machine-config"]["mem_size_mib"] << 20
        if os.path.getsize(memory) != size:
            raise ValueError("the memory file has another size than the guest's memory")
        self.config |= {k: v for k, v in header["config"].items() if k not in NOT_OF_THE_BOOT}
        for drive in self._drives().values():
            if not os.path.exists(drive["path_on_host"]):
                raise ValueError(f"{DISK_ERROR} {drive['path_on_host']}")
        if "/vsock" in self.config:
            override = body.get("vsock_override", {})
            self.config["/vsock"] |= override
            await self._listen(self.config["/vsock"]["uds_path"], "UnixBind")
        self.guest.hello = bytes.fromhex(header["hello"])
        await self.guest.load(body["snapshot_path"], offset, memory)
        self._started("Paused")

    # Vsock

    async def _listen(self, path, problem):
        if os.path.exists(path):
            raise Fault(f"{problem}: Address in use (os error 98)")
        self.servers.append(await asyncio.start_unix_server(self._connect, path))

    async def _connect(self, reader, writer):
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader, writer):
        command = re.fullmatch(rb"(?i)connect +(\d{1,10})\n", await reader.readuntil(b"\n"))
        if command is None:
            return
        if self.misbehave == "deaf":
            await self.over.wait()
        listening = self.guest.hello is not None and self.client is None and self.state == "Running"
        if int(command[1]) != self._port() or not listening:
            return
        if self.misbehave == "bad-ok":
            writer.write(b"NO 5000\n")
            return
        writer.write(b"OK %d\n" % self.host_port)
        self.host_port += 1
        if self.misbehave == "mute":
            await self.over.wait()
        self.client = writer
        try:
            writer.write(self.guest.hello)
            while data := await reader.read(1 << 16):
                self.guest.send(data)
        finally:
            self.client = None

    def _port(self):
        arguments = self.config.get("/boot-source", {}).get("boot_args", "")
        told = re.search(r"mas\.channel=vsock:(\d+)", arguments)
        return int(told[1]) if told and "/vsock" in self.config else -1

    def _to_client(self, data):
        if self.client is not None:
            self.client.write(data)


def _check_machine(body):
    if not 1 <= body["vcpu_count"] <= 32:
        raise Fault(
            "Machine config error: The vCPU number is invalid! The vCPU number can only "
            "be 1 or an even number when SMT is enabled."
        )
    if body["mem_size_mib"] == 0:
        raise Fault("Machine config error: The memory size (MiB) is invalid.")


def _check_file(path, what):
    try:
        open(path, "rb").close()
    except OSError as error:
        raise Fault(f"{what} cannot be opened: {error.strerror} (os error {error.errno})") from None


def firecracker_main(arguments, misbehave=""):
    """What `firecracker` does with these arguments."""
    parser = argparse.ArgumentParser("firecracker", allow_abbrev=False)
    parser.add_argument("--api-sock", default="/run/firecracker.socket")
    parser.add_argument("--id", default="anonymous-instance")
    for name in ("--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"):
        parser.add_argument(name, type=int)
    parser.add_argument("--version", action="store_true")
    options = parser.parse_args(arguments)
    if options.version:
        print(f"Firecracker v{VERSION}\n")
        return
    _check_name(options.id)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(options, misbehave))


async def _run(options, misbehave):
    await Double(options.id, misbehave).run(options.api_sock)


def _check_name(name):
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name):
        sys.exit(f"Invalid instance ID: {name}")


def jailer_main(arguments, misbehave=""):
    """What `jailer` does with these arguments: the jail is made, entered but for the
    chroot, and Firecracker's double runs in it, in this process."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser("jailer", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--exec-file", required=True)
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("--chroot-base-dir", default="/srv/jailer")
    parser.add_argument("--cgroup-version", choices=("1", "2"), default="1")
    parser.add_argument("--parent-cgroup")
    parser.add_argument("--cgroup", action="append", default=[])
    parser.add_argument("--netns")
    parser.add_argument("--resource-limit", action="append", default=[])
    parser.add_argument("--daemonize", action="store_true")
    parser.add_argument("--new-pid-ns", action="store_true")
    options = parser.parse_args(arguments[:end])
    os.closerange(3, 1024)
    os.environ.clear()
    _check_name(options.id)
    name = os.path.basename(os.path.realpath(options.exec_file))
    if "firecracker" not in name:
        sys.exit(
            f"Invalid filename. The filename of `--exec-file` must contain firecracker: {name}"
        )
    root = os.path.join(os.path.realpath(options.chroot_base_dir), name, options.id, "root")
    os.makedirs(root, exist_ok=True)
    shutil.copy(options.exec_file, os.path.join(root, name))
    limits = {"no-file": resource.RLIMIT_NOFILE, "fsize": resource.RLIMIT_FSIZE}
    for text in options.resource_limit or ["no-file=2048"]:
        kind, _, value = text.partition("=")
        resource.setrlimit(limits[kind], (int(value), int(value)))
    for folder in ("", "dev", "dev/net", "run"):
        place = os.path.join(root, folder)
        os.makedirs(place, exist_ok=True)
        os.chmod(place, 0o700)
        os.chown(place, options.uid, options.gid)
    os.chdir(root)
    os.setgroups([])
    os.setgid(options.gid)
    os.setuid(options.uid)
    times = ["--start-time-us=1", "--start-time-cpu-us=1"]
    firecracker_main([f"--id={options.id}", *times, *arguments[end + 1 :]], misbehave)

"""The first program of a machine, with all its rights: it writes garbage to every device.

Runs inside, by the image's Python, with nothing but the standard library, and with
`iomem=relaxed` among the kernel's words. Usage: driver.py SEED [whatever else]. What it has done is
told on the console. Sources: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.7, 4.1 and 4.1.4;
PCI Local Bus Specification; the kernel's sysfs-pci.rst and pagemap.rst.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

PAGE = 4096
EACH_S = 1.5
"""Seconds for each kind of garbage."""
DEVICES = Path("/sys/bus/pci/devices")
VIRTIO = "0x1af4"
MEMORY = 0x200  # IORESOURCE_MEM
COMMON, NOTIFY = 0x0000, 0x3000
"""Where QEMU's virtio devices have their structures, in the first of their large regions."""
FEATURE_SELECT, FEATURE, STATUS, QUEUE, QUEUE_SIZE = 8, 12, 20, 22, 24
ENABLED, RINGS = 28, (32, 40, 48)
ACKNOWLEDGED, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
NEXT, WRITE, INDIRECT = 1, 2, 4
CHIPSET = (0xB0000000, 0xFEC00000, 0xFED00000, 0xFEE00000, 0xFED1C000)
"""PCI's configuration space, I/O and local interrupt controllers, HPET, the chipset's registers."""

PROGRAM = Path("/dev/shm/ports")
SEED = b"the seed"
PORTS = bytes.fromhex(
    "b8ac000000 bf03000000 0f05"  # iopl(3)
    "89c7 85c0 756c"  # or exit with its error
    "49b8 7468652073656564 41b9 e8030000"  # r8 = SEED, r9d = 1000
    "4c89c0 48c1e00d 4931c0 4c89c0 48c1e807 4931c0 4c89c0 48c1e011 4931c0"  # xorshift64 of r8
    "410fb7d0 490fbae028 7203 0fb6d2"  # edx = a port, half of the time below 256
    "83fa64 7424 81fa92000000 741c 81faf90c0000 7414"  # but for those of a reset
    "8d8a08fcffff 83f908 7209"  # and of the console, which tells of all this
    "4c89c0 48c1e814 ee ec"  # out, in
    "41ffc9 75a6 31ff b83c000000 0f05"  # r9d times, then exit(0)
)

rng = random.Random()


class Page:
    """A page of memory that stays where it is; `at`: its physical address."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGE)
        self.memory[:] = bytes(PAGE)
        address = _address_of(self.memory)
        with open("/proc/self/pagemap", "rb") as pagemap:
            pagemap.seek(address // PAGE * 8)
            (entry,) = struct.unpack("=Q", pagemap.read(8))
        self.at = (entry & ((1 << 55) - 1)) * PAGE


def _address_of(memory: mmap.mmap) -> int:
    """Its place among our mappings is known by what it holds, without a library of C."""
    mark = os.urandom(32)
    memory[: len(mark)] = mark
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as everything:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if "rw" not in line or end - start > 1 << 24:
                continue
            everything.seek(start)
            found = everything.read(end - start).find(mark)
            if found >= 0 and (start + found) % PAGE == 0:
                return start + found
    raise SystemExit("driver: a page of ours is nowhere")


class Region:
    """A region of a device, in memory. `device`: its directory; `number`: of the region."""

    def __init__(self, device: Path, number: int, size: int) -> None:
        with open(device / f"resource{number}", "r+b", buffering=0) as file:
            self.memory = mmap.mmap(file.fileno(), size)
        self.size = size

    def put(self, offset: int, width: str, value: int) -> None:
        size = struct.calcsize(width)
        struct.pack_into(f"<{width}", self.memory, offset, value & ((1 << 8 * size) - 1))


def garbage(pages: list[Page]) -> int:
    """A number that a device may be unhappy with."""
    kind = rng.randrange(7)
    if kind < 3:
        return rng.choice(pages).at + rng.choice((0, 1, 8, 16, PAGE - 1))
    if kind == 3:
        return rng.choice((0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, 0x80000000, (1 << 64) - 1, 1 << 63))
    if kind == 4:
        return rng.choice(CHIPSET) + rng.randrange(PAGE)
    if kind == 5:
        return (1 << 40) + rng.randrange(1 << 20) * PAGE  # where no memory is
    # But not in the memory of the kernel, which is to live for what comes after.
    return rng.choice((rng.getrandbits(16), rng.getrandbits(64) | 1 << 30))


def fill(page: Page, pages: list[Page]) -> None:
    """Rings with chains that lead to themselves, out of memory, into each other, and nowhere."""
    for slot in range(0, 32 * 16, 16):
        length = rng.choice((0, 1, 16, PAGE, 1 << 20, 0xFFFFFFFF))
        flags = rng.choice((0, NEXT, WRITE, NEXT | WRITE, INDIRECT, rng.getrandbits(16)))
        follows = rng.choice((slot // 16, rng.randrange(32), rng.getrandbits(16)))
        struct.pack_into("<QIHH", page.memory, slot, garbage(pages), length, flags, follows)
    offered = [rng.choice((place, rng.getrandbits(16))) for place in range(64)]
    struct.pack_into("<64H", page.memory, 1024, *offered)


def drive(region: Region, pages: list[Page]) -> None:
    """Begin the device as a driver does, with queues that are garbage, and tell it of them."""
    fill(rng.choice(pages), pages)
    region.put(COMMON + STATUS, "B", 0)
    region.put(COMMON + STATUS, "B", ACKNOWLEDGED | DRIVER)
    for select in range(2):
        region.put(COMMON + FEATURE_SELECT, "I", select)
        region.put(COMMON + FEATURE, "I", rng.choice((select, 0, 0xFFFFFFFF, rng.getrandbits(32))))
    region.put(COMMON + STATUS, "B", ACKNOWLEDGED | DRIVER | FEATURES_OK)
    queues = [0, 1, 2, 3, rng.randrange(1 << 16)]
    for queue in queues:
        region.put(COMMON + QUEUE, "H", queue)
        region.put(COMMON + QUEUE_SIZE, "H", rng.choice((1, 16, 64, 256, rng.getrandbits(16))))
        for ring in RINGS:
            region.put(COMMON + ring, "I", at := garbage(pages))
            region.put(COMMON + ring + 4, "I", at >> 32)
        region.put(COMMON + ENABLED, "H", 1 if rng.random() < 0.95 else rng.getrandbits(16))
    region.put(COMMON + STATUS, "B", ACKNOWLEDGED | DRIVER | FEATURES_OK | DRIVER_OK)
    for queue in queues:
        region.put(NOTIFY + 4 * (queue % 64), "H", queue)


def scribble(region: Region, pages: list[Page]) -> None:
    width = rng.choice("BHI")
    offset = rng.randrange(region.size) & ~3
    region.put(offset, width, garbage(pages))


def configure(device: Path, pages: list[Page]) -> None:
    """Anywhere in the configuration space; its regions are then elsewhere, too."""
    file = os.open(device / "config", os.O_RDWR)
    try:
        size = rng.choice((1, 2, 4))
        offset = rng.randrange(os.fstat(file).st_size or 256) & ~(size - 1)
        value = garbage(pages) & ((1 << 8 * size) - 1)
        os.pwrite(file, value.to_bytes(size, "little"), offset)
    finally:
        os.close(file)


def speak() -> None:
    """To ports, by a program: Python has no instruction for it. Raises OSError."""
    code = PORTS.replace(SEED, rng.getrandbits(64).to_bytes(8, "little"))
    size, start = 64 + 56 + len(code), 0x400000
    identity = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, 62, 1, start + 120, 64, *(0, 0, 64, 56, 1, 0, 0, 0)
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, PAGE)
    PROGRAM.write_bytes(head + load + code)
    PROGRAM.chmod(0o700)
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(PROGRAM, ["ports"], {}), 0)[1])
    if status:
        raise OSError(status, "the program of ports")


def regions_of(device: Path) -> list[Region]:
    found = []
    for number, line in enumerate((device / "resource").read_text().splitlines()[:6]):
        start, end, flags = (int(word, 16) for word in line.split())
        if flags & MEMORY and end - start + 1 >= PAGE:
            found.append(Region(device, number, end - start + 1))
    return found


def write_for_a_while(name: str, write: Callable[[], None]) -> None:
    """What the kernel itself refuses counts as well: it was tried."""
    until, done, refused = time.monotonic() + EACH_S, 0, 0
    while time.monotonic() < until:
        try:
            write()
        except (OSError, ValueError, struct.error):
            refused += 1
        done += 1
    print(f"driver: {name} {done - refused} of {done}", flush=True)


def keep_in_memory() -> None:
    """This program: there will be no disk to read it from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if " /" in line:
            Path(line.split(maxsplit=5)[5]).read_bytes()


def main() -> None:
    rng.seed(int(sys.argv[1]))
    keep_in_memory()
    pages = [Page() for _ in range(8)]
    devices = sorted(DEVICES.iterdir())
    regions = {}
    for device in devices:
        if (device / "vendor").read_text().strip() == VIRTIO:
            regions[device] = regions_of(device)
    large = [most for found in regions.values() for most in found if most.size > NOTIFY]
    every = [region for found in regions.values() for region in found]
    print(f"driver: ready for {len(large)} devices", flush=True)
    time.sleep(EACH_S)
    write_for_a_while("queues", lambda: drive(rng.choice(large), pages))
    write_for_a_while("registers", lambda: scribble(rng.choice(every), pages))
    write_for_a_while("configurations", lambda: configure(rng.choice(devices), pages))
    write_for_a_while("ports", speak)
    print("driver: over", flush=True)
    while True:  # what is left of the machine may do what it likes
        time.sleep(1)


main()

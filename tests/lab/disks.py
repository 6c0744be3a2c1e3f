"""What the lab is booted from: Debian with QEMU and bubblewrap in it, and a kernel that has
KVM for AMD.

Made once and kept beside the guest images, named by what it is made of. What is under test
goes on a disk of its own, made anew for each run.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

import census
import mas_sandbox
from mas_sandbox.runtimes.microvm.image import cpio, store
from mas_sandbox.runtimes.microvm.image.build import DEFAULT_SUITE
from mas_sandbox.runtimes.microvm.image.ext4 import write_ext4
from mas_sandbox.runtimes.microvm.image.kernel import Kernel, load_order, read_kernel
from mas_sandbox.runtimes.microvm.image.packages import Packages
from mas_sandbox.runtimes.microvm.image.python import busybox
from mas_sandbox.runtimes.microvm.image.tree import Tree

_HERE = Path(__file__).parent
_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio-rng", "ext4", "overlay"),
    *("kvm-amd", "vhost_vsock"),
)
_PACKAGES = ("qemu-system-x86", "bubblewrap")
_TESTS_NEED = ("pytest", "anyio")
"""All of it is Python alone, which that of the root disk runs too."""
_CONSOLE = ("dev/console", 0o020600, b"", (5, 1))


@dataclass(frozen=True)
class Base:
    """The lab without what is under test."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"


def make_base() -> Base:
    """The lab's own disks, from the cache where they are there. Raises SandboxError."""
    images = store.image_directory()
    with store.locked(images):
        packages = Packages(images, DEFAULT_SUITE, lambda doing: print(f"lab: {doing}"))
        archives = packages.rootfs(_PACKAGES), packages.parts(with_kernel=True)
        above = images.parent / "lab"
        directory = above / _key(archives)
        if not directory.exists():
            shutil.rmtree(above, ignore_errors=True)  # of another kernel, or another lab
            above.mkdir()
            with tempfile.TemporaryDirectory(dir=above) as made:
                _build(Path(made), *archives)
                made_whole = Path(made) / "whole"
                made_whole.rename(directory)
    return Base(directory)


def pack_machines(directory: Path) -> Path:
    """A disk with this project, the scenarios of machines and its guest image, laid over the
    root disk."""
    root = directory / "tested"
    image = store.find_image()
    _copy_project(root / "lab", "scenarios.py")
    images = root / "var/cache/mas-sandbox/images"
    shutil.copytree(image.directory, images / image.digest)
    (images / store.CURRENT).symlink_to(image.digest)
    return _as_disk(directory, root)


def pack_jails(directory: Path) -> Path:
    """A disk with this project, the scenarios of jails, its tests and what runs them, laid over
    the root disk."""
    root = directory / "tested"
    _copy_project(root / "lab", "scenarios.py", "jails.py")
    tests = _HERE.parent
    shutil.copytree(tests, root / "lab/tests", ignore=shutil.ignore_patterns("__pycache__", "fuzz"))
    shutil.copy(tests.parent / "pyproject.toml", root / "lab")
    for name in _closure(_TESTS_NEED):
        _copy_distribution(name, root / "lab/packages")
    return _as_disk(directory, root)


def _copy_project(target: Path, *scenarios: str) -> None:
    package = Path(mas_sandbox.__file__).parent
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, target / package.name, ignore=without)
    shutil.copy(census.__file__, target)
    (target / _HERE.name).mkdir()
    for name in scenarios:
        shutil.copy(_HERE / name, target / _HERE.name)


def _closure(names: Iterable[str]) -> set[str]:
    """Distributions, and those that they need to run here."""
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            needed = map(Requirement, distribution(name).requires or ())
            wanted += [each.name for each in needed if not each.marker or each.marker.evaluate()]
    return found


def _copy_distribution(name: str, target: Path) -> None:
    """Its Python files, and what makes a plugin of it."""
    for file in distribution(name).files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), place)


def _as_disk(directory: Path, root: Path) -> Path:
    disk = directory / "tested.ext4"
    write_ext4(root, Tree(directory), disk)
    shutil.rmtree(root)
    return disk


def _key(archives: tuple[Path, ...]) -> str:
    facts = hashlib.sha256()
    for path in (Path(__file__), _HERE / "init.sh"):
        facts.update(path.read_bytes())
    for archive in archives:
        facts.update(f"{archive.name} {archive.stat().st_mtime_ns}".encode())
    return facts.hexdigest()[:32]


def _build(work: Path, rootfs: Path, parts: Path) -> None:
    whole = work / "whole"
    whole.mkdir()
    root = _unpacked(rootfs, work / "root")
    for name in ("dev", "proc", "run", "sys"):
        root.add_directory(name)
    root.add_directory("tmp", 0o1777)
    root.write(work / "root")
    write_ext4(work / "root", root, whole / "root.ext4")
    _unpacked(parts, work / "parts").write(work / "parts")
    image = next((work / "parts/kernel/boot").glob("vmlinuz-*"))
    kernel = read_kernel(image, next((work / "parts").glob("**/lib/modules/*")))
    assert kernel.vmlinux is not None
    (whole / "vmlinux").write_bytes(kernel.vmlinux)
    (whole / "initrd.img").write_bytes(cpio.pack(_initramfs(kernel, busybox(work / "parts"))))


def _unpacked(archive: Path, target: Path) -> Tree:
    spool = target.with_name(f"{target.name}-spool")
    spool.mkdir()
    tree = Tree(spool)
    with archive.open("rb") as file:
        tree.apply(file, archive.name)
    return tree


def _initramfs(kernel: Kernel, shell: bytes) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    assert kernel.modules is not None
    modules = load_order(kernel.modules, _MODULES)
    for name in ("bin", "dev", "lib", "lib/modules", "proc", "root", "sys"):
        yield cpio.directory(name)
    yield _CONSOLE
    yield cpio.file("bin/busybox", shell, 0o755)
    yield cpio.file("init", (_HERE / "init.sh").read_bytes(), 0o755)
    yield cpio.file("lib/modules/lab", "".join(f"{name}\n" for name in modules).encode())
    for name, content in modules.items():
        yield cpio.file(f"lib/modules/{name}", content)

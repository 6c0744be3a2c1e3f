"""Building a guest image: fetch, lay together, write, and keep; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.errors import SandboxError

from ...toolrunner import toolrunner_archive
from . import debian, python, store
from .ext4 import write_ext4
from .failure import Progress, bad_input, step_failed
from .initramfs import pack_initramfs
from .kernel import Kernel, read_kernel
from .oci import open_container
from .packages import BUILDING, Packages
from .store import Image
from .tree import Tree

DEBIAN = "debian"
DEFAULT_SUITE = "bookworm"
_MOUNT_POINTS = ("dev", "proc", "run", "sys")
_UPPER = f"{python.HOME}/upper"
_HOSTS = b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What to build.

    `source`: "debian", or the path of a root file system in a tar archive or of a
    container image in one (an OCI archive, or from `docker save`). `suite`: of Debian,
    for its root file system, its kernel, and the Python that is carried. `packages`: of
    Debian, added to its root file system. `kernel`: a vmlinux, bzImage or Image of the
    operator's own, with `modules`, its /lib/modules/VERSION, unless it has virtio, ext4
    and overlay built in. `toolrunner`: a zipapp instead of this package's. `mirror`: where
    Debian is fetched from. `out`: a directory to make, instead of the store. `force`:
    build what is there already, fetching anew.
    """

    source: str = DEBIAN
    suite: str = DEFAULT_SUITE
    packages: tuple[str, ...] = ()
    kernel: Path | None = None
    modules: Path | None = None
    toolrunner: Path | None = None
    mirror: str | None = None
    out: Path | None = None
    force: bool = False


def build_image(options: ImageOptions, progress: Progress = lambda doing: None) -> Image:
    """The image, built now or, where its inputs have not changed, before.

    It becomes the current one. Another build at the same time waits. Raises
    SandboxError: `invalid_request` for what was given, `internal` for a step that failed.
    """
    _check(options)
    directory = store.image_directory()
    try:
        with store.locked(directory):
            _sweep(directory)
            progress("looking at what is to be built")
            inputs = _inputs(options)
            known = None if options.force else _known(inputs, options.out)
            if known is not None:
                return known
            with _workshop(directory if options.out is None else options.out.parent) as work:
                return _Build(options, inputs, directory, work, progress).run()
    except OSError as error:
        raise step_failed(
            "building the image", f"{error}; is there room and may you write?"
        ) from error


class _Build:
    def __init__(
        self, options: ImageOptions, inputs: str, directory: Path, work: Path, progress: Progress
    ) -> None:
        self._options = options
        self._inputs = inputs
        self._packages = Packages(directory, options.suite, progress, options.mirror, options.force)
        self._work = work
        self._progress = progress
        self._out = work / "image"

    def run(self) -> Image:
        self._out.mkdir()
        given = self._options.kernel
        kernel = None if given is None else read_kernel(given, self._options.modules)
        tree = Tree(_new(self._work / "spool"))
        own = self._apply_source(tree)
        parts = self._fetched_parts()
        kernel = kernel or _packaged_kernel(parts / "kernel")
        busybox = python.busybox(parts)
        name = python.use_own(tree) if own else python.carry(tree, parts)
        _furnish(tree)

        self._progress("writing the root file system")
        root = self._work / "root"
        tree.write(root)
        if not own:
            self._progress("compiling the carried Python's library")
            python.compile_carried(root, name)
        toolrunner = root / python.HOME / "toolrunner.pyz"
        if self._options.toolrunner is None:
            python.pack_toolrunner(root, name, self._work).rename(toolrunner)
        else:
            shutil.copyfile(self._options.toolrunner, toolrunner)
        toolrunner.chmod(0o644)
        self._progress("making the root file system's image")
        write_ext4(root, tree, self._out / "rootfs.ext4")

        self._progress("writing the kernel and its initramfs")
        files = ["rootfs.ext4", *self._write_kernel(kernel, busybox)]
        facts = {
            "inputs": self._inputs,
            "kernel_version": kernel.version,
            "built_at": time.time(),
            "source": _called(self._options),
            "python": f"{name}, {'its own' if own else 'carried'}",
            "toolrunner": _file_digest(toolrunner),
        }
        return store.keep(self._out, files, facts, self._options.out)

    def _fetched_parts(self) -> Path:
        archive = self._packages.parts(with_kernel=self._options.kernel is None)
        parts = Tree(_new(self._work / "parts-spool"))
        with archive.open("rb") as file:
            parts.apply(file, str(archive))
        parts.write(self._work / "parts")
        return self._work / "parts"

    def _apply_source(self, tree: Tree) -> bool:
        """Whether the toolrunner is to run with the Python that the source has."""
        options = self._options
        if options.source == DEBIAN:
            archive = self._packages.rootfs(options.packages)
            with archive.open("rb") as file:
                tree.apply(file, str(archive))
            return True
        path = Path(options.source)
        self._progress(f"reading {path.name}")
        with open_container(path, debian.architecture()) as container:
            if container is not None:
                container.apply(tree, self._work / "spool")
                return False
        with path.open("rb") as file:
            tree.apply(file, options.source)
        return False

    def _write_kernel(self, kernel: Kernel, busybox: bytes) -> Iterator[str]:
        for name, content in {
            "vmlinux": kernel.vmlinux,
            "vmlinuz": kernel.vmlinuz,
            "initrd.img": pack_initramfs(busybox, kernel.modules),
        }.items():
            if content is not None:
                (self._out / name).write_bytes(content)
                yield name


def _packaged_kernel(unpacked: Path) -> Kernel:
    image = next((unpacked / "boot").glob("vmlinuz-*"), None)
    modules = next(unpacked.glob("**/lib/modules/*"), None)
    if image is None or modules is None:
        raise step_failed("reading the kernel", "Debian's package holds no kernel and modules")
    return read_kernel(image, modules)


def _check(options: ImageOptions) -> None:
    debian.check_name("Debian suite", options.suite)
    for name in options.packages:
        debian.check_name("Debian package", name)
    if (options.mirror or "").startswith("-"):
        raise bad_input(f"{options.mirror!r} is no mirror of Debian")
    if options.source != DEBIAN:
        if not Path(options.source).is_file():
            raise bad_input(f"there is no file {options.source}; name an archive, or `{DEBIAN}`")
        if options.packages:
            raise bad_input("packages can be added to Debian only; add them to the archive")
    if options.modules is not None and options.kernel is None:
        raise bad_input("modules belong to a kernel; name that too")
    out = options.out
    if out is not None and out.exists() and not (out / store.MANIFEST).is_file():
        raise bad_input(f"{out} exists and is no image; name a directory to make")


def _inputs(options: ImageOptions) -> str:
    """A digest of everything an image is made from that can be known beforehand."""
    here = Path(__file__).parent
    builder = [path.read_bytes() for path in sorted(here.iterdir()) if path.is_file()]
    facts = [options.source, options.suite, *options.packages, options.mirror or ""]
    facts += [debian.architecture(), toolrunner_archive().stem]
    facts += [hashlib.sha256(part).hexdigest() for part in builder]
    source = None if options.source == DEBIAN else Path(options.source)
    for path in (options.kernel, options.toolrunner, source):
        facts.append("" if path is None else _file_digest(path))
    modules = options.modules
    facts += [] if modules is None else map(str, sorted(modules.rglob("*.ko*")))
    return _digest(facts)


def _known(inputs: str, out: Path | None) -> Image | None:
    """An image with these inputs that is whole, made the current one."""
    candidates = store.list_images()
    if out is not None:
        try:
            candidates = [store.find_image(out)]
        except SandboxError:
            return None
    for image in candidates:
        if image.inputs == inputs:
            try:
                image.verify()
            except SandboxError:
                continue
            if out is None:
                store.make_current(image)
            return image
    return None


def _furnish(tree: Tree) -> None:
    """What init and the toolrunner expect, and nothing of the machine that built the source."""
    for name in _MOUNT_POINTS:
        tree.remove(name)
        tree.add_directory(name)
    tree.add_directory("tmp", 0o1777)
    tree.add_directory("workspace")
    tree.add_directory(_UPPER, 0o700)
    for name in ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "etc/hosts"):
        tree.remove(name)
    tree.add_file("etc/hosts", _HOSTS)
    tree.add_file("etc/machine-id", b"")  # drawn anew in each machine


def _called(options: ImageOptions) -> str:
    if options.source == DEBIAN:
        return " + ".join((f"{DEBIAN} {options.suite}", *options.packages))
    return Path(options.source).name


@contextmanager
def _workshop(above: Path) -> Iterator[Path]:
    """A directory that only we can enter: what is unpacked there may hold set-uid programs."""
    above.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=BUILDING, dir=above))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Remove what builds that were killed have left. The caller holds the lock."""
    for left in directory.glob(f"{BUILDING}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in directory.glob(".doomed-*"):
        shutil.rmtree(left, ignore_errors=True)


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def _digest(facts: list[str]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise bad_input(f"{path} cannot be read: {error}") from error

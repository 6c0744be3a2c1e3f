"""Templates sealed: no byte of one is used that is not the byte that was written.

A template is a directory of files (the guest's memory, the devices' state) with a
manifest: a digest for each file, what the template depends on, and an HMAC-SHA-256 of
all that under a key that only this user can read. Sizes are checked, then the HMAC,
then every digest, before a guest is resumed from it.

A memory file is mostly holes, so its digest is a tree: SHA-256 over the size and, for
each chunk of 64 KiB that is not all zeros, its index and its own SHA-256. How a file
is laid out on disk changes nothing, and holes cost nothing to read.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

FORMAT = 1
CHUNK = 64 * 1024
MANIFEST = "manifest"
_ZEROS = bytes(CHUNK)
_KEY_BYTES = 32
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a template says of itself. `files`: name -> digest; the rest as in `Template`."""

    driver: str
    key: str
    hello: bytes
    created_at: float
    files: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        return strict_json.dumps(
            {
                "format": FORMAT,
                "driver": self.driver,
                "key": self.key,
                "hello": self.hello.hex(),
                "created_at": self.created_at,
                "files": dict(self.files),
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Manifest:
        """Only for bytes whose HMAC is right: they are our own. Raises ValueError."""
        fields = strict_json.loads(payload)
        if fields.pop("format") != FORMAT:
            raise ValueError("a template of another format")
        return cls(**(fields | {"hello": bytes.fromhex(fields["hello"])}))


class Seals:
    """Seals directories, and opens what it sealed. Everything here reads whole files:
    call it in a thread."""

    def __init__(self, key_file: Path) -> None:
        """`key_file`: made on first use, mode 0600; its directory must be there by then."""
        self._key_file = key_file

    def seal(self, directory: Path, manifest: Manifest, names: tuple[str, ...]) -> None:
        """Digest the named files of a directory and write its manifest beside them.

        On return all of it is on disk, readable by this user alone. Raises OSError.
        """
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            files = {}
            for name in names:
                descriptor = os.open(name, _READ, dir_fd=place)
                try:
                    os.fchmod(descriptor, 0o600)
                    files[name] = digest(descriptor)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            payload = Manifest(
                manifest.driver, manifest.key, manifest.hello, manifest.created_at, files
            ).encode()
            descriptor = os.open(MANIFEST, _MAKE, 0o600, dir_fd=place)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._mac(payload).encode() + b"\n" + payload)
                file.flush()
                os.fsync(descriptor)
            os.fsync(place)
        finally:
            os.close(place)

    def verify(self, directory: Path, driver: str, key: str) -> Manifest:
        """The manifest of a template, once every byte of every file has been checked.

        Raises SandboxError `sandbox_crash` that names what is wrong.
        """
        return self._check(directory, driver, key, lambda name, descriptor: digest(descriptor))

    def load(self, directory: Path, driver: str, key: str) -> tuple[Manifest, dict[str, int]]:
        """As `verify`; also a copy of each file that nobody can write to any more.

        What was digested is the copy, so a file that changes afterwards changes nothing.
        The descriptors are the caller's.
        """
        copies: dict[str, int] = {}

        def copied(name: str, descriptor: int) -> str:
            copies[name] = anonymous(name)
            return copy(descriptor, copies[name])

        try:
            manifest = self._check(directory, driver, key, copied)
            for descriptor in copies.values():
                freeze(descriptor)
        except BaseException:
            for descriptor in copies.values():
                os.close(descriptor)
            raise
        return manifest, copies

    def _check(
        self, directory: Path, driver: str, key: str, examine: Callable[[str, int], str]
    ) -> Manifest:
        try:
            with ExitStack() as undo:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                place = os.open(directory, flags)
                undo.callback(os.close, place)
                manifest = self._manifest(place, driver, key)
                for name, expected in manifest.files.items():
                    descriptor = os.open(name, _READ, dir_fd=place)
                    undo.callback(os.close, descriptor)
                    if not hmac.compare_digest(examine(name, descriptor), expected):
                        raise ValueError(f"{name} was altered")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the template {directory} cannot be used: {error}; remove it, and it is "
                "made again",
            ) from error
        return manifest

    def _manifest(self, place: int, driver: str, key: str) -> Manifest:
        descriptor = os.open(MANIFEST, _READ, dir_fd=place)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(strict_json.MAX_BYTES)
        mac, _, payload = content.partition(b"\n")
        if not hmac.compare_digest(mac, self._mac(payload).encode()):
            raise ValueError(f"its manifest was not sealed with {self._key_file}")
        manifest = Manifest.parse(payload)
        if (manifest.driver, manifest.key) != (driver, key):
            raise ValueError(
                "it is of another image, machine, monitor or processor than is asked for"
            )
        return manifest

    def _mac(self, payload: bytes) -> str:
        return hmac.new(load_key(self._key_file), payload, hashlib.sha256).hexdigest()


def load_key(path: Path) -> bytes:
    """The key, made on first use. Raises OSError for a file that is not ours alone."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        _make_key(path)
        descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(f"{path} is not a file of uid {os.geteuid()}; move it away")
        if status.st_mode & 0o077:
            raise OSError(f"{path} can be read by others; run: chmod 600 {path}")
        key = os.read(descriptor, _KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} is not a key of {_KEY_BYTES} bytes; move it away")
    return key


def _make_key(path: Path) -> None:
    """Whole before it has its name; the first of several makers wins."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, _MAKE, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
        os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        os.close(descriptor)
        unfinished.unlink()


def digest(descriptor: int) -> str:
    """The tree digest of an open file, as hexadecimal digits. Raises OSError."""
    return _tree(descriptor, lambda offset, chunk: None)


def copy(source: int, target: int) -> str:
    """Copy an open file, holes left out, into an empty one; the digest of what was copied."""

    def write(offset: int, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(target, view, offset)
            view, offset = view[written:], offset + written

    os.ftruncate(target, os.fstat(source).st_size)
    return _tree(source, write)


def _tree(descriptor: int, each: Callable[[int, bytes], None]) -> str:
    size = os.fstat(descriptor).st_size
    tree = hashlib.sha256(size.to_bytes(8))
    for offset in _chunks_with_data(descriptor, size):
        chunk = _read(descriptor, min(CHUNK, size - offset), offset)
        if chunk != _ZEROS[: len(chunk)]:
            tree.update((offset // CHUNK).to_bytes(8))
            tree.update(hashlib.sha256(chunk).digest())
            each(offset, chunk)
    return tree.hexdigest()


def _chunks_with_data(descriptor: int, size: int) -> Iterator[int]:
    """Offsets of the chunks that are not wholly in a hole: lseek(2), SEEK_DATA."""
    offset = 0
    while offset < size:
        try:
            data = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        offset = max(offset, data // CHUNK * CHUNK)
        while offset < min(hole, size):
            yield offset
            offset += CHUNK


def _read(descriptor: int, length: int, offset: int) -> bytes:
    chunk = os.pread(descriptor, length, offset)
    while len(chunk) < length:
        more = os.pread(descriptor, length - len(chunk), offset + len(chunk))
        if not more:
            raise OSError("the file became shorter while it was read")
        chunk += more
    return chunk


def anonymous(name: str) -> int:
    """An empty file without a name: memfd_create(2), or an unlinked one where that is not."""
    if sys.platform == "linux":
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def freeze(descriptor: int) -> None:
    """Let nobody write to an anonymous file again, whoever opens it: F_ADD_SEALS, fcntl(2).

    Private mappings of it can still be written to: each has pages of its own. Elsewhere
    than on Linux there are no seals, and a file is kept from others by having no name.
    """
    if sys.platform == "linux":
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


class FileDigests:
    """Digests of files that seldom change: read again when the file's status differs."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def of(self, path: Path) -> str:
        """Raises SandboxError `sandbox_crash` for a file that cannot be read."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError("not a plain file")
                place = (status.st_dev, status.st_ino, status.st_size)
                stamp = (*place, status.st_mtime_ns, status.st_ctime_ns)
                if stamp not in self._known:
                    self._known[stamp] = digest(descriptor)
                return self._known[stamp]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"{path} cannot be read: {error}; run `mas-sandbox image build`, or name "
                "another file in the config file",
            ) from error


def template_key(facts: Mapping[str, object]) -> str:
    """A name made of everything a template depends on: 32 hexadecimal digits."""
    ordered = {name: facts[name] for name in sorted(facts)}
    return hashlib.sha256(strict_json.dumps(ordered)).hexdigest()[:32]


def processor() -> str:
    """What the host's processor says it is and can do: proc_cpuinfo(5)."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        named = ("vendor_id", "cpu family", "model", "stepping", "model name", "flags")
        return "\n".join(line for line in lines if line.split("\t")[0].strip() in named)
    import platform

    return f"{platform.machine()} {platform.processor()}"

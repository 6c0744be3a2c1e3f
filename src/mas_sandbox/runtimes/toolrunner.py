"""The zipapp that every runtime executes inside its wall: `mas-toolrunner`, one file.

It holds the rooms `wire`, `tools` and `guest` as source, with bytecode beside it for
the Python that built it. Another Python's `zipimport` passes over foreign bytecode and
compiles the source instead: correct, and some 60 ms slower at each start.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import stat
from pathlib import Path

from .kept import remove_old

_PACKAGE = Path(__file__).resolve().parent.parent
_ROOMS = ("wire", "tools", "guest")
_KEPT = 4
"""Archives that stay where a new one is made: of other versions, which may run beside it."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can state
_UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552: never compared with the source
_MAIN = b"""\
import gc, sys
gc.disable()  # nothing that is imported is garbage
sys.path.append(sys.path.pop(0))  # the standard library is asked first
from mas_sandbox.guest.__main__ import main
gc.freeze()  # nor is it to be copied by a collection in each call's process
gc.enable()
raise SystemExit(main())
"""


def toolrunner_archive(cache: Path | None = None) -> Path:
    """The path of the zipapp, built where `cache` holds none of its content hash.

    `cache`: a directory, created where missing; by default `mas-sandbox` beneath
    `$XDG_CACHE_HOME` or `~/.cache`. Anyone may read the file, only its owner write it.
    Raises OSError.
    """
    directory = _default_cache() if cache is None else cache
    sources = _sources()
    archive = directory / f"toolrunner-{_digest(sources)}.pyz"
    if not _trustworthy(archive):
        directory.mkdir(parents=True, exist_ok=True)
        _write(archive, sources)
    return archive


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mas-sandbox"


def _sources() -> dict[str, bytes]:
    """Name in the archive -> content, sorted by name."""
    files = [_PACKAGE / "__init__.py"]
    for room in _ROOMS:
        files += (_PACKAGE / room).rglob("*.py")
    root = _PACKAGE.parent
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(files)}


def _digest(sources: dict[str, bytes]) -> str:
    """Of everything the archive is made from: this module, the Python, the sources."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(importlib.util.MAGIC_NUMBER)
    for name, source in sources.items():
        digest.update(f"{name}\0{len(source)}\0".encode())
        digest.update(source)
    return digest.hexdigest()[:32]


def _trustworthy(archive: Path) -> bool:
    """Whether a plain file is there that nobody else could have written."""
    try:
        status = archive.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid in (0, os.geteuid())
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _write(archive: Path, sources: dict[str, bytes]) -> None:
    """Write beside it and rename: whoever else builds it at this time wins or loses whole."""
    # Seldom needed, and slow to import: a daemon that finds its archive answers sooner.
    import tempfile
    import zipfile

    descriptor, name = tempfile.mkstemp(prefix=f".{archive.name}.", dir=archive.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as packed:
            for member, source in ({"__main__.py": _MAIN} | sources).items():
                for part, content in ((member, source), (f"{member}c", _bytecode(member, source))):
                    entry = zipfile.ZipInfo(part, _EPOCH)
                    entry.external_attr = 0o644 << 16
                    packed.writestr(entry, content)  # stored: inflating costs more than reading
        temporary.chmod(0o644)
        temporary.replace(archive)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    remove_old(archive.parent, "toolrunner-*.pyz", _KEPT)


def _bytecode(member: str, source: bytes) -> bytes:
    """A .pyc file (PEP 552)."""
    code = compile(source, member, "exec", dont_inherit=True)
    hashed = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + hashed + marshal.dumps(code)

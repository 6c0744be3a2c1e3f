"""The Python that runs the toolrunner in a guest: Debian's own, or one carried with it.

A carried Python lies below /opt/mas with the C library it was built for, and is started
by that library's own loader, so that it runs on a root file system of any kind.
"""

from __future__ import annotations

import re
from pathlib import Path

import mas_sandbox

from .failure import run, step_failed
from .tree import Tree

HOME = "opt/mas"
_PYTHON = re.compile(r"python3\.\d+")
_LOADER = f"/{HOME}/lib/ld.so"
_WRAPPER = f"""\
#!/{HOME}/bin/busybox sh
exec {_LOADER} --library-path /{HOME}/lib --argv0 /{HOME}/bin/python3 /{HOME}/bin/NAME "$@"
"""
# Of the standard library: what no program of a guest would import.
_LEFT_OUT = frozenset(
    {
        *("__pycache__", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test"),
        *("tests", "tkinter", "turtledemo", "dist-packages", "site-packages"),
    }
)
_PACK = """\
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from mas_sandbox.runtimes.toolrunner import toolrunner_archive
print(toolrunner_archive(Path(sys.argv[2])))
"""


def use_own(tree: Tree) -> str:
    """Let the toolrunner run with the Python that Debian's `tree` has; its name."""
    for name in (tree.find("usr/bin") or tree.root).children:
        if _PYTHON.fullmatch(name):
            tree.add_link(f"{HOME}/bin/python3", f"/usr/bin/{name}")
            return name
    raise step_failed("looking for Python", "Debian's packages held no /usr/bin/python3.N")


def carry(tree: Tree, parts: Path) -> str:
    """Move the Python in `parts`, files of Debian packages, into `tree`; its name."""
    name = _name(parts)
    wrapper = _WRAPPER.replace("NAME", name).encode()
    tree.add_file(f"{HOME}/bin/python3", wrapper, 0o755)
    tree.add_file(f"{HOME}/bin/{name}", parts / "usr/bin" / name, 0o755)
    tree.add_file(f"{HOME}/bin/busybox", busybox(parts), 0o755)
    library = parts / "usr/lib" / name
    for path in sorted(library.rglob("*")):
        relative = path.relative_to(library)
        if path.is_symlink() or path.is_dir() or _LEFT_OUT & set(relative.parts):
            continue
        if not relative.parts[0].startswith("config-"):
            tree.add_file(f"{HOME}/lib/{name}/{relative}", path)
    for path in _libraries(parts):
        if path.name.startswith("ld-linux"):
            tree.add_file(f"{HOME}/lib/ld.so", path, 0o755)
        elif path.is_symlink():
            tree.add_link(f"{HOME}/lib/{path.name}", path.readlink().name)
        else:
            tree.add_file(f"{HOME}/lib/{path.name}", path)
    return name


def busybox(parts: Path) -> bytes:
    """The static busybox in `parts`; where it is depends on Debian's release."""
    for place in ("usr/bin/busybox", "bin/busybox"):
        if (parts / place).is_file():
            return (parts / place).read_bytes()
    raise step_failed("looking for busybox", "Debian's packages held none")


def compile_carried(root: Path, name: str) -> None:
    """Write the bytecode of a carried Python's library, in the written tree `root`."""
    argv = [*_started_here(root / HOME / "lib", root / HOME / "bin" / name), "-I", "-S", "-m"]
    argv += ["compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run(
        "compiling the carried Python's library",
        [*argv, "-s", str(root), "-p", "/", str(root / HOME / "lib" / name)],
    )


def pack_toolrunner(root: Path, name: str, target: Path) -> Path:
    """The toolrunner's zipapp with bytecode for the guest's Python, which makes it.

    Only ever run with Debian's Python; no program of someone's own image is run here.
    """
    libraries = root / HOME / "lib"
    interpreter = root / HOME / "bin" / name
    if not interpreter.exists():
        interpreter = root / "usr/bin" / name
        libraries = next((root / "usr/lib").glob("*/libc.so.6")).parent
    argv = [*_started_here(libraries, interpreter), "-I", "-S", "-c", _PACK]
    package = Path(mas_sandbox.__file__).resolve().parent.parent
    printed = run("packing the toolrunner", [*argv, str(package), str(target)])
    return Path(printed.stdout.decode().strip())


def _started_here(libraries: Path, interpreter: Path) -> list[str]:
    loader = next(libraries.glob("ld*.so*"))
    argv0 = ["--argv0", str(interpreter)]
    return [str(loader), "--library-path", str(libraries), *argv0, str(interpreter)]


def _name(parts: Path) -> str:
    for path in sorted((parts / "usr/bin").iterdir()):
        if _PYTHON.fullmatch(path.name):
            return path.name
    raise step_failed("looking for Python", "Debian's packages held no /usr/bin/python3.N")


def _libraries(parts: Path) -> list[Path]:
    """Merged into one directory, as their names are unique."""
    return [
        path
        for above in ("lib", "usr/lib")
        for path in sorted((parts / above).glob("*-linux-*/*.so*"))
        if path.is_symlink() or path.is_file()
    ]

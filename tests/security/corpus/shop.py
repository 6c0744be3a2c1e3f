"""A package index and a repository over HTTPS, and the clients of both, for any runtime.

The index follows PEP 503; the repository is one of files alone, as git's "dumb" protocol reads
it (gitprotocol-http(5)). pip is the one that these tests run beside; git comes with its loader
and libraries, because a machine's image has neither.
"""

from __future__ import annotations

import compileall
import shutil
import socket
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip

WORD = "hello-from-the-shop"
_WRAPPER = """#!/bin/sh
export GIT_EXEC_PATH=/tools/git
exec /tools/git/lib/{loader} --library-path /tools/git/lib /tools/git/bin/{name} "$@"
"""


class Shop:
    """`asked`: `host path` of each request."""

    def __init__(self) -> None:
        self.asked: list[str] = []


@contextmanager
def opened(listening: socket.socket, place: Path, certificate: Path) -> Iterator[Shop]:
    """Serve what is for sale below `place`."""
    shop = Shop()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            shop.asked.append(f"{self.headers['Host']} {self.path}")
            super().do_GET()

        def log_message(self, *_: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(
        ("", 0), partial(Handler, directory=str(place)), bind_and_activate=False
    )
    server.daemon_threads = True
    server.socket.close()
    listening.settimeout(None)
    server.socket = context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield shop
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stock(place: Path) -> None:
    """A wheel of one module, and a repository of one file."""
    shelf = place / "simple" / "corpus-hello"
    shelf.mkdir(parents=True)
    facts = "corpus_hello-1.0.dist-info"
    with zipfile.ZipFile(shelf / "corpus_hello-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("corpus_hello.py", f"WORD = {WORD!r}\n")
        wheel.writestr(
            f"{facts}/METADATA", "Metadata-Version: 2.1\nName: corpus-hello\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{facts}/RECORD", "")
    work = place / "work"
    run = partial(subprocess.run, check=True, capture_output=True)
    run(["git", "init", "-q", "-b", "main", work])
    (work / "file").write_text(f"{WORD}\n")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    run(["git", "-C", work, "add", "file"])
    run(["git", "-C", work, *author, "commit", "-q", "-m", "One file"])
    run(["git", "clone", "-q", "--bare", work, place / "repo.git"])
    run(["git", "-C", place / "repo.git", "update-server-info"])


def certified(path: Path, *names: str) -> None:
    """A key and a certificate of these names, which is its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={names[0]}", "-keyout", path, "-out", path),
            *("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)),
        ],
        check=True,
        capture_output=True,
    )


def clients(place: Path) -> None:
    """pip and git, to be given to a sandbox as /tools."""
    shutil.copytree(pip.__path__[0], place / "pip" / "pip")
    # Where they are given, nobody can keep what was compiled.
    compileall.compile_dir(place / "pip", quiet=2)
    git = place / "git"
    for directory in ("bin", "lib"):
        (git / directory).mkdir(parents=True)
    found = subprocess.run(
        ["git", "--exec-path"], check=True, capture_output=True, text=True
    ).stdout.strip()
    programs = {"git": shutil.which("git"), "git-remote-https": f"{found}/git-remote-https"}
    for name, program in programs.items():
        shutil.copy(str(program), git / "bin" / name)
        listed = subprocess.run(
            ["ldd", str(program)], check=True, capture_output=True, text=True
        ).stdout
        libraries = [word for word in listed.split() if word.startswith("/")]
        for library in libraries:
            shutil.copy(library, git / "lib")
        (loader,) = {Path(library).name for library in libraries if "/ld-" in library}
        (git / name).write_text(_WRAPPER.format(loader=loader, name=name))
        (git / name).chmod(0o755)

"""What the self-test puts up on the host for a sandbox to attack, and how it is looked at.

Nothing here belongs to anyone else: a directory, sockets on loopback, a sleeping
process, and a word in this process's environment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

CANARY = "MAS_SANDBOX_SELF_TEST"
PREFIX = "mas-sandbox-self-test-"
LONGEST_S = 3600
"""No self-test takes so long: what is older is left of a daemon that was killed."""


class Stage:
    """A context: what it puts up is gone when it is left.

    `secret`: never to be seen in a sandbox, it is in a file (`sentinel`), in the
    environment and in the command line of `victim`; `given`: the directory that a sandbox
    may be given read-only; `open`: a directory that anyone may write to.
    """

    def __init__(self) -> None:
        self.secret = f"9{secrets.randbelow(10**15):015}"
        self._undo = ExitStack()

    def __enter__(self) -> Stage:
        with ExitStack() as undo:
            _remove_old()
            root = Path(tempfile.mkdtemp(prefix=PREFIX))
            undo.callback(shutil.rmtree, root, ignore_errors=True)
            root.chmod(0o755)
            self.sentinel, self.open, self.given = root / "sentinel", root / "open", root / "given"
            self.open.mkdir()
            self.open.chmod(0o1777)
            self.given.mkdir(mode=0o755)
            (self.given / "seen").write_text("given")
            self.sentinel.write_text(self.secret)
            self.sentinel.chmod(0o644)
            self.address = f"\0mas-sandbox-{secrets.token_hex(8)}"
            self._sockets = [
                self._listener(undo, socket.AF_INET, ("127.0.0.1", 0)),
                self._listener(undo, socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM),
                self._listener(undo, socket.AF_UNIX, self.address),
                self._listener(undo, socket.AF_UNIX, str(self.open / "socket")),
            ]
            (self.open / "socket").chmod(0o777)
            os.environ[CANARY] = self.secret
            undo.callback(os.environ.pop, CANARY, None)
            # sleep(1) takes a fraction: its command line carries the secret.
            self.victim = subprocess.Popen(
                ["/bin/sleep", f"600.{self.secret}"], env={}, stdin=subprocess.DEVNULL
            )
            undo.callback(self.victim.wait)
            undo.callback(self.victim.kill)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    @property
    def ports(self) -> tuple[int, int]:
        """Of the decoys on 127.0.0.1: TCP and UDP."""
        tcp, udp = (each.getsockname()[1] for each in self._sockets[:2])
        return tcp, udp

    def reached(self) -> bool:
        """Whether anything ever arrived at a decoy."""
        return any(_has_caller(each) for each in self._sockets)

    def escaped(self) -> bool:
        """Whether anything was written where only the host may write."""
        return sorted(path.name for path in self.open.iterdir()) != ["socket"]

    def given_is_whole(self) -> bool:
        """Whether the directory that is given read-only is as it was."""
        seen = self.given / "seen"
        names = [path.name for path in self.given.iterdir()]
        return names == ["seen"] and seen.read_text() == "given" and seen.stat().st_mode & 0o22 == 0

    @staticmethod
    def _listener(
        undo: ExitStack,
        family: socket.AddressFamily,
        address: str | tuple[str, int],
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> socket.socket:
        decoy = undo.enter_context(socket.socket(family, kind))
        decoy.bind(address)
        decoy.setblocking(False)
        if kind is socket.SOCK_STREAM:
            decoy.listen(8)
        return decoy


def _remove_old() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.geteuid() and status.st_mtime < time.time() - LONGEST_S:
                shutil.rmtree(path)


def _has_caller(decoy: socket.socket) -> bool:
    try:
        if decoy.type is socket.SOCK_DGRAM:
            decoy.recv(1)
        else:
            decoy.accept()[0].close()
    except BlockingIOError:
        return False
    return True

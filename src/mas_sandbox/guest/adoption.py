"""What a process of the host's leaves behind where no keeper can hold it: in gVisor.

There all orphans are the toolrunner's children, those that a call left too. A session
tells them apart (setsid(2)): its number is the id of the keeper that leads it, nobody can
join it from outside, and the number is given to nobody else while one member is not
reaped. Who has left the session, a daemon that called setsid, is ended like a call's orphan.
"""

from __future__ import annotations

import os

from . import processes


class Adoption:
    """Sessions, each led by a keeper that is no subreaper."""

    def __init__(self) -> None:
        self._sessions: set[int] = set()

    def add(self, session: int) -> None:
        self._sessions.add(session)

    def drop(self, session: int) -> None:
        """What is in it is to end."""
        self._sessions.discard(session)

    @property
    def empty(self) -> bool:
        return not self._sessions

    def keeps(self, pid: int) -> bool:
        """Whether this child of the toolrunner is to live."""
        if not self._sessions:
            return False
        try:
            return os.getsid(pid) in self._sessions
        except OSError:
            return False

    def reap(self) -> None:
        """Reap who has ended, and forget the sessions that nobody is left in."""
        if not self._sessions:
            return
        # In this order: whoever a zombie has orphaned is in the second list.
        dead = {pid for pid in self._members() if _is_dead(pid)}
        self._sessions = {session for pid, session in self._members().items() if pid not in dead}
        for pid in dead:
            os.waitpid(pid, os.WNOHANG)

    def _members(self) -> dict[int, int]:
        """The toolrunner's children in these sessions, and which each is in."""
        return {pid: os.getsid(pid) for pid in processes.children() if self.keeps(pid)}


def _is_dead(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

"""Which user a jail, or a machine's monitor, runs as.

Started by root, every sandbox gets a uid of its own that no account has, so that no
two share a keyring, a process limit or a file's owner, and none is host root
(bubblewrap started by real uid 0 would leave the sandbox mapped to it). Started by
anyone else, a jail runs as that user: the kernel lets nobody choose.
"""

from __future__ import annotations

import os

FIRST, COUNT = 1_900_000_000, 65_536
"""Above systemd's container and foreign ranges (systemd.io/UIDS-GIDS), below 2^31."""


class Identities:
    """Hands out uids that are not in use by another jail of this daemon.

    Daemons start at different places in the range, so that two of them on one
    machine rarely meet; when they do, the walls that do not rest on the uid hold.
    """

    def __init__(self) -> None:
        self._next = int.from_bytes(os.urandom(2))
        self._used: set[int] = set()

    def take(self) -> int | None:
        """A uid to drop to; None when this process is not root."""
        if os.geteuid() != 0:
            return None
        while self._next % COUNT in self._used:
            self._next += 1
        slot = self._next % COUNT
        self._next += 1
        self._used.add(slot)
        return FIRST + slot

    def give_back(self, user: int | None) -> None:
        """The jail with this uid is gone."""
        if user is not None:
            self._used.discard(user - FIRST)

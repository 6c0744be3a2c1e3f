"""Events of a short time, less those that say nothing new."""

from __future__ import annotations

from .entry import text_of


class Batch:
    """In order. A path that was created or modified is not told to be modified again; the
    two halves of a rename become one."""

    def __init__(self) -> None:
        self.events: list[dict[str, str]] = []
        self._last: dict[str, str] = {}
        self._moving: dict[int, dict[str, str]] = {}

    def add(self, event: str, path: str) -> None:
        last = self._last.get(path)
        if last == event or (event == "modified" and last == "created"):
            return
        self._add(event, path)

    def moved_from(self, cookie: int, path: str) -> None:
        """It is removed, unless `moved_to` comes after."""
        self._moving[cookie] = self._add("removed", path)

    def moved_to(self, cookie: int, path: str) -> bool:
        """False where no `moved_from` came before: to who watches it is created."""
        event = self._moving.pop(cookie, None)
        if event is None:
            return False
        event["event"] = "moved"
        event["to"] = text_of(path)
        self._last[path] = "moved"
        return True

    def _add(self, event: str, path: str) -> dict[str, str]:
        told = {"event": event, "path": text_of(path)}
        self.events.append(told)
        self._last[path] = event
        return told

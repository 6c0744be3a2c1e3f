"""Something long in a thread, while this one listens to signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Thread


def attend(work: Callable[[], None], signals: Iterable[int], obey: Callable[[int], None]) -> None:
    """Return when `work` is done, or raise what it raised; `obey` is called for each of
    `signals` meanwhile, and may raise to leave `work` behind.

    The work may stand still in a read or a write for as long as it likes: this thread does
    nothing but wait, so that no signal waits for it.
    """
    happened: SimpleQueue[int | BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            happened.put(error)
        else:
            happened.put(None)

    # What is ignored (nohup) stays ignored. `put` may be called in the middle of `get`.
    before = {
        number: signal.signal(number, lambda number, _frame: happened.put(number))
        for number in signals
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        Thread(target=run, daemon=True).start()
        while (what := happened.get()) is not None:
            if isinstance(what, BaseException):
                raise what
            obey(what)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> None:
    """End this command as the signal would have, but in order."""
    raise SystemExit(128 + number)

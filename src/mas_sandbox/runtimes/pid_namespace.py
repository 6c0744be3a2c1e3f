"""The first process of a sandbox's PID namespace: the kernel ends every other with it, and it is
the last to be gone (pid_namespaces(7))."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress

STOP_TIMEOUT_S = 5.0


def first_process(info: int) -> int:
    """The host's id of it, as bubblewrap tells it on `--info-fd`, before what it starts runs."""
    return int(json.loads(os.read(info, 4096))["child-pid"])


async def end_all(first: int) -> None:
    """End the namespace and wait until the last process in it is gone, or for `STOP_TIMEOUT_S`.

    `first`: a pidfd of the first process; it is closed.
    """
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(first, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(first, gone.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await gone.wait()
    finally:
        loop.remove_reader(first)
        os.close(first)

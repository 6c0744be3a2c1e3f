"""`mas-sandboxd`: the command. Imports little, so that a one-call daemon starts quickly."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .assembly import Daemon
    from .settings import Settings

_STDIN, _STDOUT = 0, 1
_LAST_WORDS_S = 1.0
"""How long the answers to interrupted calls may take to leave."""
_PR_SET_DUMPABLE = 4  # prctl(2), <linux/prctl.h>


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the daemon; ends the process with its status."""
    gc.disable()  # what start-up makes stays; `daemon.running` ends this
    from .settings import parse_flags

    settings = parse_flags(sys.argv[1:] if arguments is None else arguments)
    # Pydantic would import every plugin that any installed package offers it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if settings.listen is None:
        _import_asyncio_without_tls()
    import asyncio
    import logging

    from mas_sandbox.wire.errors import SandboxError

    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="mas-sandboxd: %(levelname)s: %(message)s",
    )
    _hide_memory()
    try:
        if settings.probe:
            from .probing import print_probes

            asyncio.run(print_probes(settings.state_dir))
        elif settings.leftovers:
            from .leftovers import print_leftovers

            print_leftovers(settings.state_dir)
        elif settings.listen is not None:
            from .http.serve import serve

            serve(settings)
        elif sys.stdin is None or sys.stdout is None:
            raise OSError("standard input or output is closed; give both, or -listen")
        else:
            asyncio.run(_stdio(settings))
    except SandboxError as error:
        _say(error.message)
        sys.exit(1)
    except OSError as error:
        _say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _import_asyncio_without_tls() -> None:
    """As in a Python that was built without `ssl`, which takes a fifth as long to import as all of
    `asyncio`. Lines need none of it, and egress passes TLS on without opening it."""
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # "The import system", import reference
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


async def _stdio(settings: Settings) -> None:
    import asyncio
    import signal

    from .daemon import running

    async with running(settings) as daemon:
        from .stdio import Answers, StdioDoor

        warn_of_no_walls(daemon)
        door = StdioDoor(daemon.broker, daemon.local, Answers(_STDOUT))
        serving = asyncio.create_task(door.serve(_STDIN))
        signalled = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled.set)
        stopping = asyncio.create_task(signalled.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not signalled.is_set():
            serving.result()
            return
        await daemon.broker.drain(0)
        await door.answered(_LAST_WORDS_S)
        serving.cancel()
    # A reader or writer thread may wait for the other end of a pipe for ever.
    os._exit(128 + signal.SIGTERM)


def warn_of_no_walls(daemon: Daemon) -> None:
    """Say plainly when nothing stands between a tool and this machine."""
    if daemon.broker.runtime.name == "local":
        _say(
            "WARNING: runtime local isolates nothing: every tool runs with the full rights "
            "of this user. Use -runtime jail for walls."
        )


def _hide_memory() -> None:
    """Keep other processes of this user from reading tokens out of this one (prctl(2)), and
    core files from being written, of it and of all that it starts."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _say(text: str) -> None:
    sys.stderr.write(f"mas-sandboxd: {text}\n")


if __name__ == "__main__":
    main()

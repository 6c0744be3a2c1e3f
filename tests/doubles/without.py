"""Probes a jail from a process that the kernel refuses some system calls, and so to all it starts.

    python without.py DIRECTORY NUMBER[=FIRST_ARGUMENT]:ERRNO...

The refusal is a seccomp filter of its own (seccomp(2), linux/filter.h), which stands for
a kernel that was built without them. Prints the probe as one line of JSON, with what
becomes of a sandbox that asks for each limit.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import struct
import sys
from pathlib import Path

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import SandboxError

LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
SPECS = {"none": SandboxSpec(), "disk_files": SandboxSpec(disk_files=64)}


def main() -> None:
    """See the module."""
    directory, *refused = sys.argv[1:]
    refuse([_parse(each) for each in refused])
    print(json.dumps(asyncio.run(probe(Path(directory)))))


async def probe(directory: Path) -> dict[str, object]:
    """What this process finds out of the jail."""
    jail = JailRuntime(Ownership(directory))
    found = await jail.probe()
    starts = {}
    for name, spec in SPECS.items():
        try:
            async with await jail.start(spec):
                starts[name] = ""
        except SandboxError as error:
            starts[name] = f"{error.code}: {error.message}"
    await jail.close()
    return {
        "available": found.available,
        "reason": found.reason,
        "mend": found.mend,
        "lacking": {
            name: status.mend for name, status in found.controls.items() if not status.enforced
        },
        "starts": starts,
    }


def refuse(calls: list[tuple[int, int | None, int]]) -> None:
    """Install the filter: (number, first argument or None, errno) of each call."""
    program = []
    for number, argument, error in calls:
        body = [(RETURN, 0, 0, ERRNO | error)]
        if argument is not None:
            body = [(LOAD, 0, 0, 16), (JUMP_EQUAL, 0, 1, argument), *body]
        program += [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, len(body), number), *body]
    program.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    kept = ctypes.create_string_buffer(code)
    header = struct.pack("@HP", len(program), ctypes.addressof(kept))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if prctl(PR_SET_SECCOMP, FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter was not taken")


def _parse(word: str) -> tuple[int, int | None, int]:
    call, _, error = word.rpartition(":")
    number, _, argument = call.partition("=")
    return int(number), int(argument) if argument else None, getattr(errno, error)


if __name__ == "__main__":
    main()

"""Runs one of the host's own calls as a call's process does: a fork, with pipes for its
standard input and output, and its value or its failure told at the end."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure, load
from mas_sandbox.wire import strict_json


@dataclass
class Ran:
    value: Any
    stdout: bytes
    code: str
    reason: str
    message: str


def inside(files: Files, name: str, stdin: bytes = b"", **args: object) -> Ran:
    tool = load(name)
    reading, output = os.pipe()
    waiting, told = os.pipe()
    taken, given = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(taken, 0)
            os.dup2(output, 1)
            for descriptor in (reading, output, waiting, taken, given):
                os.close(descriptor)
            os.write(told, strict_json.dumps(_answer(tool, args, files)))
        finally:
            os._exit(0)
    for descriptor in (output, told, taken):
        os.close(descriptor)
    feeder = threading.Thread(target=_feed, args=(given, stdin), daemon=True)
    feeder.start()
    with open(reading, "rb") as stdout:
        written = stdout.read()
    with open(waiting, "rb") as answer:
        value, *failure = strict_json.loads(answer.read())
    os.waitpid(pid, 0)
    feeder.join()
    return Ran(value, written, *failure)


def _answer(tool: Any, args: dict[str, object], files: Files) -> list[object]:
    try:
        return [tool.run(args, files), "", "", ""]
    except ToolFailure as failure:
        return [None, failure.code, failure.reason, failure.message]
    except BaseException as error:
        return [None, "broken", "", repr(error)]


def _feed(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as pipe:
        view = memoryview(data)
        try:
            while view:
                view = view[pipe.write(view) :]
        except BrokenPipeError:
            return  # it has seen enough

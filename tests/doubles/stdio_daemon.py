"""A scripted `mas-sandboxd` that speaks the JSON-lines protocol of docs/http-api.md.

Run as a program: `python stdio_daemon.py`. The tool's name says what happens:

* `echo`: the result is the whole request
* `sleep`: the same after `args.seconds`, while other requests are served
* `fail`: an error of code `args.code`
* `die`: last words on stderr, then exit status 3; `killed`: SIGKILL to itself
* `garbage`: a line that is no JSON; `anonymous`: an error reply with id null
* `stubborn`: no answer, and SIGTERM is ignored
* `say`: the result is `args.text`, and so is stderr
* `large`: a result of `args.bytes` characters

Not modelled: policies, sandboxes, the bound on a line, audit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

_writing = threading.Lock()


def main() -> None:
    running = []
    for line in sys.stdin:
        request = json.loads(line)
        thread = threading.Thread(target=serve, args=(request,), daemon=True)
        thread.start()
        running.append(thread)
        if request["tool"] == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("stubborn", file=sys.stderr, flush=True)
    for thread in running:
        thread.join()


def serve(request: dict[str, Any]) -> None:
    args = request["args"]
    match request["tool"]:
        case "echo":
            reply(request, result=request)
        case "sleep":
            time.sleep(args["seconds"])
            reply(request, result=request)
        case "fail":
            reply(request, error={"code": args["code"], "message": "scripted"}, status="error")
        case "die":
            print("the audit log cannot be opened", file=sys.stderr, flush=True)
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "garbage":
            write("not JSON at all")
        case "anonymous":
            error = {"code": "invalid_request", "message": "no"}
            reply({"id": None}, error=error, status="error")
        case "stubborn":
            time.sleep(3600)
        case "say":
            reply(request, result=args["text"], stderr=args["text"])
        case "large":
            reply(request, result="x" * args["bytes"])


def reply(request: dict[str, Any], **fields: Any) -> None:
    body = {
        "id": request["id"],
        "status": "ok",
        "result": None,
        "error": None,
        "exit_code": 0,
        "duration": 0.25,
        "stderr": "",
        "isolation": "none",
        "enforced": ["timeout"],
        "usage": {"cpu_ms": 1, "mem_mb": 2.5, "wall_ms": 250.0},
        "field_of_a_newer_daemon": True,
    }
    write(json.dumps(body | fields))


def write(line: str) -> None:
    with _writing:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

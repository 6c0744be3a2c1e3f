"""mas-toolrunner-client: one tool call to a toolrunner in a virtual machine, by hand.

usage: mas-toolrunner-client --vsock PATH [--port N] [--timeout S] < call.json
       mas-toolrunner-client --serial PATH [--timeout S] < call.json

  --vsock PATH   the Unix socket that Firecracker made for the machine's vsock
  --port N       the vsock port where the toolrunner listens (default 5000)
  --serial PATH  a Unix socket that is the stream itself: QEMU's end of a virtio-serial
                 port, or a socket given to mas-toolrunner as -listen-fd
  --timeout S    seconds to reach the toolrunner, and again for the call (default 30)

The call on standard input is {"tool": ..., "args": {...}}; timeout_ms, output_bytes,
nofile, fsize_bytes, env, cwd and paths are optional. The reply is one line of JSON on
standard output: status, result, exit_code, stderr and, where it failed, error. Exit
status: 0 for status "ok", 1 for an error, 2 for usage. Flags take one dash or two.

  echo '{"tool": "calculator", "args": {"expression": "6*7"}}' |
      mas-toolrunner-client --vsock /run/vm/v.sock --port 5000
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from typing import Any

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.credit import ReceiveCredit
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import FROM_GUEST, FrameParser, Kind, ProtocolError, encode
from mas_sandbox.wire.messages import MAX_CALL_BYTES, Call, Hello, Result, Welcome

_PORT, _TIMEOUT_S = 5000, 30.0
_GRACE_S = 2.0
"""How long past a call's own deadline its answer is awaited."""
_STREAM = 1
_DATA = (Kind.STDOUT, Kind.STDERR, Kind.VALUE)
_MAX_LINE = 64


class _UsageError(Exception):
    pass


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    try:
        flags = _parse(sys.argv[1:] if arguments is None else arguments)
        if "help" in flags:
            _print((__doc__ or "").strip())
            return 0
        timeout_s = _number(flags, "timeout", _TIMEOUT_S)
        call = _read_call(sys.stdin.buffer.read(MAX_CALL_BYTES + 1), timeout_s)
        port = int(_number(flags, "port", _PORT)) if "vsock" in flags else None
    except _UsageError as error:
        _complain(f"{error}; see --help")
        return 2
    path = flags.get("vsock") or flags["serial"]
    try:
        with connect(path, port, timeout_s) as connected:
            reply = Exchange(connected, timeout_s).run(call)
    except SandboxError as error:
        _complain(str(error))
        reply = {"status": "error", "error": {"code": error.code, "message": error.message}}
    _print(strict_json.dumps(reply).decode())
    return 0 if reply["status"] == "ok" else 1


def connect(path: str, port: int | None, timeout_s: float) -> socket.socket:
    """A stream to the toolrunner. `port`: ask for it by Firecracker's handshake
    (`CONNECT <port>\\n`, answered `OK <number>\\n`), None where the socket is the stream.

    Raises SandboxError `guest_lost`.
    """
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.settimeout(timeout_s)
        connected.connect(path)
        if port is not None:
            connected.sendall(b"CONNECT %d\n" % port)
            _read_ok(connected, path, port)
    except TimeoutError as error:
        connected.close()
        raise _lost(f"no answer from {path} within {timeout_s:g} s; is the machine up?") from error
    except OSError as error:
        connected.close()
        raise _lost(f"nobody listens at {path}: {error.strerror or error}") from error
    except SandboxError:
        connected.close()
        raise
    return connected


def _read_ok(connected: socket.socket, path: str, port: int) -> None:
    """Byte by byte: what follows the line is the toolrunner's already."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connected.recv(1)
        if not byte:
            raise _lost(f"nobody listens on port {port} behind {path}; is the toolrunner up?")
        line += byte
        if len(line) > _MAX_LINE:
            break
    if not (line.startswith(b"OK ") and line[3:-1].isdigit() and line.endswith(b"\n")):
        raise _broken(f"{path} answered CONNECT with {line[:40]!r}; is it Firecracker's socket?")


class Exchange:
    """One welcome and one call over a connected stream. Whatever it says is checked."""

    def __init__(self, connected: socket.socket, timeout_s: float) -> None:
        self._socket = connected
        self._timeout_s = timeout_s
        self._parser = FrameParser(FROM_GUEST)
        self._ready = False
        self._result: Result | None = None
        self._output = {kind: bytearray() for kind in _DATA}
        self._credit = ReceiveCredit()
        self._left = 0

    def run(self, call: Call) -> dict[str, Any]:
        """The reply. Raises SandboxError: `guest_lost`, `guest_protocol_error`, `timeout`."""
        welcome = Welcome(secrets.token_hex(32), time.time_ns(), "", {})
        try:
            # Over a serial port the HELLO may be long gone, so it is not waited for.
            self._send(Kind.WELCOME, 0, welcome.encode())
            self._until("ready", lambda: self._ready, self._timeout_s)
            self._left = call.output_bytes
            self._send(Kind.CALL, _STREAM, call.encode())
            patience = call.timeout_ms / 1000 if call.timeout_ms else self._timeout_s
            self._until("done", lambda: self._result is not None, patience + _GRACE_S)
            return self._reply()
        except ProtocolError as error:
            raise _broken(f"the toolrunner sent {error}") from error
        except (TimeoutError, OSError) as error:
            raise _lost(f"the connection broke: {error}") from error

    def _send(self, kind: Kind, stream: int, payload: bytes) -> None:
        self._socket.sendall(encode(kind, stream, payload))

    def _until(self, what: str, done: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _late(what, seconds)
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise _late(what, seconds) from None
            if not data:
                raise _lost(f"the toolrunner closed the connection before it was {what}")
            for kind, stream, payload in self._parser.feed(data):
                self._take(kind, stream, payload)

    def _take(self, kind: Kind, stream: int, payload: bytes) -> None:
        match kind:
            case Kind.HELLO:
                Hello.parse(payload)
            case Kind.READY:
                self._ready = True
            case Kind.RESULT if stream == _STREAM and self._ready:
                self._result = Result.parse(payload)
            case Kind.STDOUT | Kind.STDERR | Kind.VALUE if stream == _STREAM:
                self._left -= len(payload)
                if self._left < 0:
                    raise ProtocolError("output beyond the call's limit")
                self._output[kind] += payload
                self._credit.received(len(payload))
                if grant := self._credit.consumed(len(payload)):
                    self._send(Kind.CREDIT, _STREAM, grant)
            case _:
                raise ProtocolError(f"a {kind.name} frame on stream {stream}")

    def _reply(self) -> dict[str, Any]:
        result = self._result
        if result is None:
            raise AssertionError("the call has not ended")
        reply: dict[str, Any] = {
            "status": "error" if result.code else "ok",
            "exit_code": result.exit_code,
            "stderr": self._output[Kind.STDERR].decode("utf-8", "replace"),
        }
        if self._output[Kind.VALUE] and not result.code:
            try:
                value = self._output[Kind.VALUE]
                reply["result"] = strict_json.loads(value, max_bytes=len(value))
            except ValueError as error:
                raise ProtocolError(f"a value that is not JSON: {error}") from error
        else:
            reply["result"] = self._output[Kind.STDOUT].decode("utf-8", "replace")
        if result.code:
            reply["error"] = {"code": result.code, "message": result.message}
        return reply


def _read_call(document: bytes, timeout_s: float) -> Call:
    try:
        fields = strict_json.loads(document)
        if not isinstance(fields, dict) or "tool" not in fields:
            raise _UsageError('the call must be {"tool": NAME, "args": {...}}')
        fields.setdefault("args", {})
        fields.setdefault("timeout_ms", max(1, int(timeout_s * 1000)))
        call = Call(**fields)
        return Call.parse(call.encode())  # checks every field's type
    except (ValueError, TypeError, ProtocolError) as error:
        raise _UsageError(f"the call on standard input: {error}") from error


def _parse(arguments: list[str]) -> dict[str, str]:
    flags = {}
    pending = arguments[::-1]
    while pending:
        argument = pending.pop()
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if argument.startswith("-") and name in ("help", "h") and not equals:
            return {"help": ""}
        if not argument.startswith("-") or name not in ("vsock", "port", "serial", "timeout"):
            raise _UsageError(f"unknown argument {argument!r}")
        if not equals and not pending:
            raise _UsageError(f"{argument} needs a value")
        flags[name] = value if equals else pending.pop()
    if ("vsock" in flags) == ("serial" in flags) or ("serial" in flags and "port" in flags):
        raise _UsageError("give --vsock PATH, with or without --port, or --serial PATH")
    return flags


def _number(flags: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(flags.get(name, default))
    except ValueError:
        value = 0.0
    if not 0 < value < 2**32 or (name == "port" and value != int(value)):
        raise _UsageError(f"--{name} {flags[name]} is no number in range")
    return value


def _lost(message: str) -> SandboxError:
    return SandboxError(ErrorCode.GUEST_LOST, message)


def _broken(message: str) -> SandboxError:
    return SandboxError(ErrorCode.GUEST_PROTOCOL_ERROR, message)


def _late(what: str, seconds: float) -> SandboxError:
    message = f"the toolrunner was not {what} within {seconds:g} s; raise --timeout, or restart it"
    return SandboxError(ErrorCode.TIMEOUT, message)


def _print(text: str) -> None:
    print(text)  # noqa: T201


def _complain(text: str) -> None:
    print(f"mas-toolrunner-client: {text}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())

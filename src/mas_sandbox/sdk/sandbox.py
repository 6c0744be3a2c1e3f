"""`Sandbox`: a place that stays, to run programs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from . import http
from .client import Client
from .errors import CallError, NotFound

if TYPE_CHECKING:
    from mas_sandbox.api.sandboxes import SandboxInfo, State

    from .asked.lives import SandboxOptions
    from .asked.processes import CommandOptions
    from .calls import CallOptions
    from .code import Code
    from .files import Files
    from .finished import Finished
    from .ports import Ports
    from .processes import Processes
    from .result import ToolResult


class Sandbox:
    """One named sandbox: its files, processes and variables are there until it ends.

    `id` names it in other programs; `info`: how it was when it was last asked about, and
    what walls are around it.

    >>> from mas_sandbox.sdk import Sandbox
    >>> with Sandbox.create(timeout_s=600) as sb:
    ...     sb.run("echo hello > note; cat note").stdout
    ...     sb.files.read_text("note")
    'hello\\n'
    'hello\\n'
    """

    def __init__(
        self, client: Client, info: SandboxInfo, *, ends: bool = False, closes: bool = False
    ) -> None:
        """`ends`, `closes`: whether leaving its `with` block ends it, and closes `client`."""
        self._client = client
        self._ends = ends
        self._closes = closes
        self.info = info
        self.id = info.sandbox_id

    @classmethod
    def create(
        cls,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,
        **options: Unpack[SandboxOptions],
    ) -> Sandbox:
        """Start a sandbox, which the end of a `with` block ends.

        `url`, `token` and `timeout` are those of `Client`; see `SandboxOptions` for the rest.
        Raises DaemonUnavailable where there is no daemon; PolicyDenied, PolicyUnenforceable
        and Overloaded where it starts none.
        """
        client = Client(url, token, timeout=timeout)
        try:
            return cls(client, client.open_sandbox(**options), ends=True, closes=True)
        except BaseException:
            client.close()
            raise

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,
    ) -> Sandbox:
        """A sandbox that is there, which the end of a `with` block does not end. Raises
        NotFound; one that has ended is told of for a day."""
        client = Client(url, token, timeout=timeout)
        try:
            return cls(client, client.sandbox_info(sandbox_id), closes=True)
        except BaseException:
            client.close()
            raise

    @staticmethod
    def list(
        url: str | None = None,
        token: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        states: Sequence[State] = (),
    ) -> Iterator[SandboxInfo]:
        """The caller's sandboxes, newest first; see `Client.sandboxes`."""
        with Client(url, token) as client:
            yield from client.sandboxes(metadata=metadata, states=states)

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Call a tool in it; see `Client.execute`."""
        options["sandbox_id"] = self.id
        return self._client.execute(tool, args, **options)

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | str | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> Finished:
        """Run a program to its end: a string by a shell, a list as it is.

        `stdin`: what it reads, nothing where missing; `on_stdout`, `on_stderr`: told what it
        writes as it does, as text; see `CommandOptions` for `cwd`, `env`, `user` and
        `timeout` in seconds. An exit code is data: `check` raises CommandFailed. Raises
        NotFound for no such program, `CallError` where the sandbox does not live to the end.

        >>> from mas_sandbox.sdk import CommandFailed, Sandbox
        >>> with Sandbox.create() as sb:
        ...     sb.run(["tr", "a-z", "A-Z"], stdin="hello").stdout
        ...     sb.run("exit 3").exit_code
        ...     try:
        ...         sb.run("echo no >&2; exit 1").check()
        ...     except CommandFailed as failed:
        ...         failed.message
        'HELLO'
        3
        'the program ended with 1: no'
        """
        return self.processes.run(
            command, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr, **options
        )

    @property
    def processes(self) -> Processes:
        """Programs that run beside this one.

        >>> from mas_sandbox.sdk import Output, Sandbox
        >>> with Sandbox.create() as sb:
        ...     process = sb.processes.start("read line; echo got $line", tag="reader")
        ...     process.write("this\\n")
        ...     b"".join(event.data for event in process if isinstance(event, Output))
        ...     process.wait().exit_code
        b'got this\\n'
        0
        """
        from .processes import Processes

        return Processes(self._client.connection, self.id)

    @property
    def files(self) -> Files:
        """Its files.

        >>> from mas_sandbox.sdk import FileNotFound, Sandbox
        >>> with Sandbox.create() as sb:
        ...     entry = sb.files.write("src/run.sh", "echo $0", mode=0o755)
        ...     [each.path for each in sb.files.list("src")]
        ...     sb.files.remove("src", recursive=True)
        ...     try:
        ...         sb.files.read("src/run.sh")
        ...     except FileNotFound:
        ...         "gone"
        ['/workspace/src/run.sh']
        'gone'
        """
        from .files import Files

        return Files(self._client.connection, self.id)

    @property
    def code(self) -> Code:
        """Code that keeps its variables.

        >>> from mas_sandbox.sdk import Sandbox
        >>> with Sandbox.create() as sb:
        ...     sb.code.run("x = 20; print('set')").stdout
        ...     sb.code.run("x + 1").text
        ...     with sb.code.context() as other:
        ...         other.run("x").exception.name
        'set\\n'
        '21'
        'NameError'
        """
        from .code import Code

        return Code(self._client.connection, self.id)

    @property
    def ports(self) -> Ports:
        """Servers inside it.

        >>> from urllib.request import urlopen
        >>> from mas_sandbox.sdk import Sandbox
        >>> with Sandbox.create() as sb:
        ...     server = sb.processes.stream("exec python3 -u -m http.server 8000")
        ...     started, said_that_it_listens = next(server), next(server)
        ...     [each.port for each in sb.ports.list()]
        ...     urlopen(sb.ports.url(8000)).status
        [8000]
        200
        """
        from .ports import Ports

        return Ports(self._client.connection, self.id)

    def pause(self) -> SandboxInfo:
        """Stop everything in it where it stands; raises InvalidRequest while calls run."""
        self.info = self._client.pause(self.id)
        return self.info

    def resume(self, seconds: int | None = None) -> SandboxInfo:
        """Let it go on, for so long where that is given."""
        self.info = self._client.resume(self.id, seconds)
        return self.info

    def extend(self, seconds: int) -> SandboxInfo:
        """Let it live for so long from now on."""
        self.info = self._client.extend(self.id, seconds)
        return self.info

    def refresh(self) -> SandboxInfo:
        """How it is now, or how it ended."""
        self.info = self._client.sandbox_info(self.id)
        return self.info

    def kill(self) -> None:
        """End it and all it holds. Safe to call twice."""
        # It may have died, or been idle for too long: gone is what is asked for.
        with suppress(NotFound):
            self.info = self._client.destroy(self.id)

    def close(self) -> None:
        """Close the connections to it. It lives on."""
        if self._closes:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._ends:
                self.kill()
        except CallError:
            if error is None:  # else that is what is worth telling
                raise
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id}: {self.info.runtime}, {self.info.state}>"

"""The operator's own tools: Python files whose functions are run in a call's process.

Every public function that a file defines at top level, with annotations and a
docstring, is a tool of its name; `CAPABILITIES = {"name": ["network"]}` in the file says
what one needs, `exec` and `file` unless it does. The source is compiled beforehand, which
runs none of it; it is executed only by `describe` and `run`, in a forked child.

Import this only where there are such files, before the fork: it is slow (inspect, typing).
"""

from __future__ import annotations

import inspect
import linecache
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from mas_sandbox.tools.manifest import Capability
from mas_sandbox.wire import strict_json

from .child import DESCRIBE
from .signature import Signature, Unsupported, plain
from .tools import NAMES, ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .files import Files

DEFAULT_CAPABILITIES = ("exec", "file")
_MAX_RESULT = 64 * 1024 * 1024


class Extensions:
    """`sources`: file name -> Python source. Never raises: `describe` tells what is wrong."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources
        self._code: dict[str, CodeType | Exception] = {}
        for file, source in sorted(sources.items()):
            try:
                self._code[file] = compile(source, _shown_name(file), "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
                self._code[file] = error
        if any("async def" in source for source in sources.values()):
            import asyncio  # noqa: F401  # slow: once, not in every call

    def describe(self) -> list[dict[str, Any]]:
        """Manifests: name, description, input_schema, capabilities, sorted by file.

        Executes every file. Raises ToolFailure `invalid_request` that names the file and
        the function for anything that cannot become a tool.
        """
        manifests: list[dict[str, Any]] = []
        found_in: dict[str, str] = {}
        for file in self._code:
            module = self._execute(file)
            functions = _public_functions(module)
            capabilities = _capabilities(module, file, functions)
            for name, function in functions.items():
                _check_name(file, name, found_in)
                found_in[name] = file
                manifest = _manifest(file, name, function)
                manifests.append(manifest | {"capabilities": capabilities[name]})
        return manifests

    def run(self, name: str, args: dict[str, Any], files: Files) -> Any:
        """The tool's result as a JSON value; an exception of its own is let through.

        Executes only the files that could define `name`. Raises ToolFailure `not_found`
        when nobody does, `invalid_request` for arguments that do not fit. `files` is
        not used: an operator's tool is plain Python, held by the wall around it.
        """
        file, function = self._find(name)
        try:
            arguments = Signature(function).arguments(args)
        except Unsupported as error:
            raise ToolFailure(f"{name}: {error}", "invalid_request") from error
        value = _called(function, arguments)
        try:
            return _checked(plain(value))
        except (Unsupported, ValueError, RecursionError) as error:
            raise ToolFailure(f"{name} in {file} returned no JSON value: {error}") from error

    def _find(self, name: str) -> tuple[str, FunctionType]:
        for file, code in self._code.items():
            # A function defined at top level is stored there under its name.
            if not isinstance(code, Exception) and name in code.co_names:
                function = _public_functions(self._execute(file)).get(name)
                if function is not None:
                    return file, function
        raise ToolFailure(f"no tool is named {name[:80]!r}", "not_found")

    def _execute(self, file: str) -> ModuleType:
        code = self._code[file]
        if isinstance(code, Exception):
            raise _broken(file, code) from code
        module = ModuleType(f"operator_tools.{file}")
        module.__file__ = _shown_name(file)
        lines = self._sources[file].splitlines(keepends=True)
        linecache.cache[module.__file__] = (len(self._sources[file]), None, lines, module.__file__)
        sys.modules[module.__name__] = module  # dataclasses and annotations look there
        try:
            exec(code, module.__dict__)  # noqa: S102  # the operator's file, in the call's process
        except (Exception, SystemExit) as error:
            raise _broken(file, error) from error
        return module


def _public_functions(module: ModuleType) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def _manifest(file: str, name: str, function: FunctionType) -> dict[str, Any]:
    try:
        signature = Signature(function)
        input_schema = signature.input_schema()
    except Unsupported as error:
        raise _wrong(file, f"function {name}: {error}") from error
    return {"name": name, "description": signature.description, "input_schema": input_schema}


def _capabilities(
    module: ModuleType, file: str, functions: dict[str, FunctionType]
) -> dict[str, list[str]]:
    stated = vars(module).get("CAPABILITIES", {})
    if not isinstance(stated, dict):
        raise _wrong(file, "CAPABILITIES must be a dict of function name -> list of capabilities")
    known = {str(capability) for capability in Capability}
    for name, capabilities in stated.items():
        if name not in functions:
            raise _wrong(file, f"CAPABILITIES names {name!r}, which is no function of the file")
        if not isinstance(capabilities, list | tuple | set) or not known.issuperset(capabilities):
            raise _wrong(file, f"CAPABILITIES of {name} must be a list out of {sorted(known)}")
    return {name: sorted(stated.get(name, DEFAULT_CAPABILITIES)) for name in functions}


def _check_name(file: str, name: str, found_in: dict[str, str]) -> None:
    if name in NAMES or name == DESCRIBE:
        raise _wrong(file, f"function {name} has the name of a built-in tool; rename it")
    if name in found_in:
        raise _wrong(file, f"function {name} is already defined in {found_in[name]}; rename one")
    if not name.isascii() or len(name) > 64:
        raise _wrong(file, f"function {name!r}: a tool's name is ASCII, 64 characters at most")


def _called(function: FunctionType, arguments: dict[str, Any]) -> Any:
    if not inspect.iscoroutinefunction(function):
        return function(**arguments)
    import asyncio

    return asyncio.run(function(**arguments))


def _checked(value: Any) -> Any:
    """The value as the host will read it. Raises ValueError for what it would refuse."""
    return strict_json.loads(strict_json.dumps(value), max_bytes=_MAX_RESULT)


def _shown_name(file: str) -> str:
    return f"tools/{file}"


def _broken(file: str, error: BaseException) -> ToolFailure:
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _shown_name(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" in line {line}" if line else ""
    return _wrong(file, f"cannot be loaded{where}: {type(error).__name__}: {error}")


def _wrong(file: str, what: str) -> ToolFailure:
    return ToolFailure(f"tools file {file}: {what}", "invalid_request")

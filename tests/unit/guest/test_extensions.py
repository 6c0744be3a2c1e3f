"""The operator's own tools: functions become manifests, arguments and results."""

from __future__ import annotations

import textwrap
import traceback
from typing import Any

import jsonschema_rs
import pytest

from mas_sandbox.guest.extensions import Extensions
from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure

NO_FILES = Files([], "/nowhere")


def extensions(*sources: str, **named: str) -> Extensions:
    numbered = {f"tools_{number}.py": source for number, source in enumerate(sources)}
    return Extensions({name: textwrap.dedent(text) for name, text in (numbered | named).items()})


def run(source: str, name: str, **args: Any) -> Any:
    return extensions(source).run(name, args, NO_FILES)


def refusal(source: str, *more: str) -> str:
    with pytest.raises(ToolFailure) as caught:
        extensions(source, *more).describe()
    assert caught.value.code == "invalid_request"
    assert "tools_" in caught.value.message
    return caught.value.message


EVERYTHING = '''
    from __future__ import annotations
    import enum, math
    from dataclasses import dataclass, field
    from math import sqrt as square_root
    from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

    class Unit(enum.Enum):
        METRIC = "metric"
        IMPERIAL = "imperial"

    @dataclass
    class Place:
        name: str
        at: list[float] = field(default_factory=list)

    class Options(TypedDict):
        verbose: bool
        depth: NotRequired[int]

    def weather(
        place: Place,
        days: int,
        unit: Unit = Unit.METRIC,
        mode: Literal["short", "long", 3] = "short",
        limit: float | None = None,
        tags: Optional[list[str]] = None,
        extra: dict[str, int] = {},
        options: Options = {"verbose": False},
        anything: Any = None,
        note: Annotated[str, "a note"] = "",
        *,
        exact: bool = False,
    ) -> dict[str, Any]:
        """Tell the weather
        of a place.

        Long words that a model is not shown.

        Args:
            place: Where,
                as precisely as you can.
            days (int): How many days: at most ten.
            nothing: Not a parameter.

        Returns:
            place: a forecast
        """
        return {
            "place": place, "unit": unit, "types": [type(x).__name__ for x in
            (place, days, unit, mode, limit, tags, extra, options, anything, note, exact)],
        }

    def _private(x): ...
'''


def test_a_function_is_described_by_its_annotations_and_docstring() -> None:
    (manifest,) = extensions(EVERYTHING).describe()
    assert manifest["name"] == "weather"
    assert manifest["description"] == "Tell the weather of a place."
    assert manifest["capabilities"] == ["exec", "file"]
    schema = manifest["input_schema"]
    assert schema["required"] == ["place", "days"]
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "place": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "at": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["name"],
            "additionalProperties": False,
            "description": "Where, as precisely as you can.",
        },
        "days": {"type": "integer", "description": "How many days: at most ten."},
        "unit": {"enum": ["metric", "imperial"], "default": "metric"},
        "mode": {"enum": ["short", "long", 3], "default": "short"},
        "limit": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "extra": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "default": {},
        },
        "options": {
            "type": "object",
            "properties": {"verbose": {"type": "boolean"}, "depth": {"type": "integer"}},
            "required": ["verbose"],
            "additionalProperties": False,
            "default": {"verbose": False},
        },
        "anything": {},
        "note": {"type": "string", "description": "a note", "default": ""},
        "exact": {"type": "boolean", "default": False},
    }
    jsonschema_rs.meta.validate(schema)


def test_arguments_arrive_as_annotated_and_results_leave_as_json() -> None:
    result = run(
        EVERYTHING,
        "weather",
        place={"name": "Oslo", "at": [59, 10.7]},
        days=3.0,
        unit="imperial",
        mode=3,
        limit=1,
        tags=["a"],
        extra={"a": 1},
        options={"verbose": True},
        anything=[None],
        exact=True,
    )
    assert result["place"] == {"name": "Oslo", "at": [59.0, 10.7]}
    assert result["unit"] == "imperial"
    assert result["types"] == [
        *("Place", "int", "Unit", "int", "float", "list", "dict", "dict", "list", "str", "bool")
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"days": None}, "days: must be int"),
        ({"days": "3"}, "days: must be int"),
        ({"days": True}, "days: must be int"),
        ({"days": 2.5}, "days: must be int"),
        ({"place": {}}, "place: field 'name'"),
        ({"place": {"name": "x", "z": 1}}, "place: field 'z'"),
        ({"place": {"name": 1}}, "place: name: must be str"),
        ({"place": "Oslo"}, "place: must be dict"),
        ({"unit": "kelvin"}, "unit: must be one of 'metric', 'imperial'"),
        ({"mode": "3"}, "mode: must be one of"),
        ({"limit": "1"}, "limit: must be one of"),
        ({"tags": [1]}, "tags: must be one of"),
        ({"extra": {"a": "1"}}, "extra: must be int"),
        ({"options": {"depth": 1}}, "options: field 'verbose'"),
        ({"exact": 1}, "exact: must be bool"),
        ({"files": 1}, "unknown argument 'files'"),
    ],
)
def test_arguments_that_do_not_fit_are_an_invalid_request(
    changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ToolFailure, match=words) as caught:
        run(EVERYTHING, "weather", **{"place": {"name": "x"}, "days": 1} | changed)
    assert caught.value.code == "invalid_request"


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ToolFailure, match="days is missing"):
        run(EVERYTHING, "weather", place={"name": "x"})


def test_an_async_function_is_run_to_its_end() -> None:
    source = '''
        import asyncio
        async def slow(x: int) -> int:
            """Wait."""
            await asyncio.sleep(0)
            return x + 1
    '''
    assert run(source, "slow", x=1) == 2


def test_capabilities_are_the_operators_word() -> None:
    source = '''
        CAPABILITIES = {"download": ["network"], "add": []}
        def download(url: str) -> str:
            """Fetch."""
        def add(x: int) -> int:
            """Add."""
        def other() -> None:
            """Other."""
    '''
    manifests = extensions(source).describe()
    assert [manifest["capabilities"] for manifest in manifests] == [
        ["network"],
        [],
        ["exec", "file"],
    ]
    function = 'def f() -> None:\n    """F."""\n'
    assert "'g', which is no function" in refusal('CAPABILITIES = {"g": []}\n' + function)
    assert "list out of" in refusal('CAPABILITIES = {"f": ["root"]}\n' + function)
    assert "list out of" in refusal('CAPABILITIES = {"f": "file"}\n' + function)
    assert "must be a dict" in refusal("CAPABILITIES = []\n" + function)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(x: int) -> int:\n    return x", "function f: has no docstring"),
        ('def f(x) -> int:\n    """F."""', "function f: parameter x has no annotation"),
        ('def f(x: int):\n    """F."""', "function f: has no return annotation"),
        ('def f(*x: int) -> int:\n    """F."""', "parameter x cannot be passed by name"),
        ('def f(x: int, /) -> int:\n    """F."""', "parameter x cannot be passed by name"),
        ('def f(x: set[int]) -> int:\n    """F."""', r"f: x: the annotation set\[int\]"),
        ('def f(x: dict[int, str]) -> int:\n    """F."""', "has no JSON Schema"),
        ('def f(x: bytes) -> int:\n    """F."""', "the annotation bytes has no JSON Schema"),
        ('def f(x: "Missing") -> int:\n    """F."""', "cannot be resolved"),
        ('def f(x: str = b"") -> int:\n    """F."""', "x: bytes is nothing that JSON"),
        ('def f(x: int) -> int:\n    """Args:\n        x: y\n    """', "without a description"),
        ('def bash() -> None:\n    """B."""', "name of a built-in tool"),
        ('def describe_extensions() -> None:\n    """B."""', "name of a built-in tool"),
        ('def é() -> None:\n    """B."""', "ASCII"),
        ("def f(:", "cannot be loaded in line 1: SyntaxError"),
        ("x = 1\ny = x / 0", "cannot be loaded in line 2: ZeroDivisionError"),
        ("raise SystemExit(1)", "cannot be loaded in line 1: SystemExit"),
        ("import no_such_module", "cannot be loaded in line 1: ModuleNotFoundError"),
        ("x = '\0'", "cannot be loaded"),
        ("(" * 5000, "cannot be loaded"),
    ],
    ids=range(20),
)
def test_what_cannot_become_a_tool_is_named_with_file_and_reason(source: str, words: str) -> None:
    with pytest.raises(ToolFailure, match=words):
        raise ToolFailure(refusal(source))


def test_a_record_that_contains_itself_has_no_schema() -> None:
    source = '''
        from dataclasses import dataclass
        @dataclass
        class Node:
            inner: "Node | None" = None
        def f(x: Node) -> None:
            """F."""
    '''
    assert "contains itself" in refusal(textwrap.dedent(source))


def test_two_files_with_one_name_are_refused_and_both_named() -> None:
    function = 'def f() -> None:\n    """F."""\n'
    message = refusal(function, function)
    assert "tools_0.py" in message and "tools_1.py" in message


def test_only_what_the_file_itself_defines_is_a_tool() -> None:
    source = '''
        from textwrap import dedent
        import json
        class Helper:
            def method(self) -> None: ...
        def _hidden(x): ...
        constant = 3
        def tool() -> str:
            """T."""
            return dedent("  ok")
    '''
    assert [manifest["name"] for manifest in extensions(source).describe()] == ["tool"]
    for name in ("dedent", "_hidden", "Helper", "constant", "json", "missing", ""):
        with pytest.raises(ToolFailure) as caught:
            run(source, name)
        assert caught.value.code == "not_found"


def test_nothing_is_executed_until_a_tool_of_the_file_is_asked_for() -> None:
    loud = 'raise RuntimeError("executed")'
    quiet = 'def f() -> int:\n    """F."""\n    return 1'
    both = extensions(loud, quiet)
    assert both.run("f", {}, NO_FILES) == 1
    with pytest.raises(ToolFailure, match="executed"):
        both.describe()


@pytest.mark.parametrize(
    "result",
    [
        "b''",
        "{1: 2}",
        "object()",
        "float('nan')",
        "'\\udc80'",
        "(lambda: (l := [], l.append(l), l)[2])()",
        "eval('[' * 65 + ']' * 65)",
    ],
)
def test_a_result_that_is_not_json_is_a_failure(result: str) -> None:
    source = f'from typing import Any\ndef f() -> Any:\n    """F."""\n    return {result}'
    with pytest.raises(ToolFailure, match=r"f in tools_0\.py returned no JSON value") as caught:
        run(source, "f")
    assert caught.value.code == "tool_failed"


def test_an_exception_of_the_tool_keeps_its_traceback_with_its_lines() -> None:
    source = '''
        def f(x: int) -> float:
            """F."""
            return 1 / x  # the line at fault
    '''
    with pytest.raises(ZeroDivisionError) as caught:
        run(source, "f", x=0)
    shown = "".join(traceback.format_exception(caught.value))
    assert "tools_0.py" in shown
    assert "the line at fault" in shown


def test_a_tool_may_report_a_failure_of_its_own() -> None:
    source = '''
        def f() -> int:
            """F."""
            raise ValueError("no such city")
    '''
    with pytest.raises(ValueError, match="no such city"):
        run(source, "f")

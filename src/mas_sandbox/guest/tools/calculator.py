"""calculator: arithmetic on numbers, bounded before it is computed.

The expression is parsed, never evaluated by Python itself. Every intermediate integer
is kept under `MAX_BITS`, so that only powers and factorials can grow at one stroke:
those are estimated first.
"""

from __future__ import annotations

import ast
import math
import operator

from . import ToolFailure
from .arguments import only, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mas_sandbox.guest.files import Files

    Number = int | float

MAX_LENGTH = 1000
MAX_NESTING = 100
MAX_DIGITS = 4000
"""JSON readers in Python take integers of 4,300 digits."""
MAX_BITS = int(MAX_DIGITS * math.log2(10))
MAX_FACTORIAL = 2000
MAX_ROUNDING = 400


def calculator(args: dict[str, Any], files: Files) -> int | float:
    """The value of `expression`: an integer exactly, else a finite float."""
    only(args, "expression")
    expression = text(args, "expression").strip()
    if not expression or len(expression) > MAX_LENGTH:
        raise _invalid(f"expression must have 1 to {MAX_LENGTH} characters")
    try:
        return _value(_parsed(expression), 0)
    except ZeroDivisionError as error:
        raise ToolFailure("division by zero") from error
    except OverflowError as error:
        raise ToolFailure("the result is too large for a floating-point number") from error


def _parsed(expression: str) -> ast.expr:
    try:
        return ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise _invalid(f"not an arithmetic expression: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _invalid("not an arithmetic expression, or nested too deeply") from error


def _value(node: ast.expr, depth: int) -> Number:
    if depth > MAX_NESTING:
        raise _invalid(f"nested deeper than {MAX_NESTING}; compute it in steps")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, depth + 1)
        case ast.BinOp(op=sign, left=left, right=right) if type(sign) in _OPERATORS:
            values = _value(left, depth + 1), _value(right, depth + 1)
            return _bounded(_OPERATORS[type(sign)](*values))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _call(name, [_value(argument, depth + 1) for argument in arguments])
        case ast.Call(func=ast.Name(id=name)) | ast.Name(id=name):
            raise _invalid(f"{name[:40]!r} is not known here; {_KNOWN}")
        case _:
            raise _invalid(f"only arithmetic can be computed (** is power); {_KNOWN}")


def _call(name: str, values: list[Number]) -> Number:
    low, high, function = _FUNCTIONS[name]
    if not low <= len(values) <= high:
        count = str(low) if low == high else f"{low} to {high}"
        raise _invalid(f"{name} takes {count} argument(s), not {len(values)}")
    try:
        return _bounded(function(*values))
    except (ValueError, TypeError) as error:
        raise ToolFailure(f"{name} is not defined for that argument") from error


def _bounded(value: object) -> Number:
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise _too_large()
        return value
    if not isinstance(value, float):
        raise ToolFailure("the result is not a real number")
    if not math.isfinite(value):
        raise ToolFailure("the result is not a finite number")
    return value


def _power(base: Number, exponent: Number) -> object:
    whole = isinstance(base, int) and isinstance(exponent, int)
    # b bits to the power e have more than (b - 1) * e bits.
    if whole and (int(base).bit_length() - 1) * exponent > MAX_BITS:
        raise _too_large()
    return base**exponent


def _factorial(number: Number) -> int:
    if not isinstance(number, int) or number < 0:
        raise ToolFailure("factorial is defined for integers from 0")
    if number > MAX_FACTORIAL:
        raise _too_large()
    return math.factorial(number)


def _round(number: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > MAX_ROUNDING:
        raise ToolFailure(f"round takes -{MAX_ROUNDING} to {MAX_ROUNDING} digits")
    return round(number, digits) if digits else round(number)


def _too_large() -> ToolFailure:
    return ToolFailure(f"the result is too large: integers may have {MAX_DIGITS} digits")


def _invalid(message: str) -> ToolFailure:
    return ToolFailure(message, "invalid_request")


_CONSTANTS = {"pi": math.pi, "e": math.e}
_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
# Function: fewest and most arguments, and what computes it.
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., object]]] = {
    "abs": (1, 1, abs),
    "ceil": (1, 1, math.ceil),
    "cos": (1, 1, math.cos),
    "exp": (1, 1, math.exp),
    "factorial": (1, 1, _factorial),
    "floor": (1, 1, math.floor),
    "log": (1, 2, math.log),
    "log10": (1, 1, math.log10),
    "max": (1, 100, lambda *values: max(values)),
    "min": (1, 100, lambda *values: min(values)),
    "round": (1, 2, _round),
    "sin": (1, 1, math.sin),
    "sqrt": (1, 1, math.sqrt),
    "tan": (1, 1, math.tan),
}
_KNOWN = f"the functions are {', '.join(_FUNCTIONS)}; the constants pi and e"

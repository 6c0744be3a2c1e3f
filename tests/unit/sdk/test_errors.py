"""The exception tree is complete and documented."""

from __future__ import annotations

import doctest
import pickle
from collections import Counter

import pytest

from mas_sandbox import sdk
from mas_sandbox.sdk import calls, errors
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def every_class(root: type[errors.CallError]) -> list[type[errors.CallError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in every_class(child))]


def test_every_code_has_exactly_one_class() -> None:
    classes = Counter(kind.error_code for kind in errors.CallError.__subclasses__())
    assert classes == Counter(list(ErrorCode))
    assert set(errors.BY_CODE) == set(ErrorCode)


def test_every_class_is_in_the_tree_at_the_top_and_exported() -> None:
    for kind in every_class(errors.CallError):
        assert kind.__name__ in str(errors.__doc__)
        assert getattr(sdk, kind.__name__) is kind


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_keeps_its_code_and_message_through_pickle(code: ErrorCode) -> None:
    error = pickle.loads(pickle.dumps(errors.error_for(code, "words")))
    assert isinstance(error, SandboxError)
    assert (error.code, error.message, str(error)) == (code, "words", f"{code}: words")


def test_every_exported_name_exists() -> None:
    assert sorted(sdk.__all__) == dir(sdk)
    for name in sdk.__all__:
        assert getattr(sdk, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sdk.no_such_name  # type: ignore[attr-defined]  # that is the point


@pytest.mark.parametrize("module", [calls, errors])
def test_examples_in_docstrings_run(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]  # a module
    assert tried > 0
    assert failed == 0

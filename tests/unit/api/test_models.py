"""The bodies refuse what they do not know, and come back as they were."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from mas_sandbox.api import models
from mas_sandbox.wire.errors import MEANING, ErrorCode

ALL = [
    each
    for each in vars(models).values()
    if isinstance(each, type) and issubclass(each, models._Body) and each is not models._Body
]


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_an_unknown_field_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model.model_validate({"surely_unknown": 1})


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_every_body_says_what_it_is(model: type[BaseModel]) -> None:
    assert model.__doc__


def test_a_request_survives_the_wire() -> None:
    request = models.ExecuteRequest.model_validate(
        {
            "tool": {"name": "bash", "args": {"command": "true"}},
            "policy": {"timeout_ms": 5, "rules": [{"action": "deny", "reason": "no"}]},
            "trace": {"run_id": "r"},
        }
    )
    again = models.ExecuteRequest.model_validate_json(request.model_dump_json(exclude_none=True))
    assert again == request


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a/b", "a\n", "\u0430bc", "x" * 129, "..\u2215x"]
)
def test_ids_are_plain(name: str) -> None:
    for model in (models.ExecuteRequest, models.DestroyRequest):
        fields = {"sandbox_id": name}
        if model is models.ExecuteRequest:
            fields = fields | {"tool": {"name": "x"}}  # type: ignore[dict-item]
        with pytest.raises(ValidationError, match="sandbox_id"):
            model.model_validate(fields)


def test_every_error_code_has_a_meaning() -> None:
    assert set(MEANING) == set(ErrorCode)

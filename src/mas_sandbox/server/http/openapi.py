"""The OpenAPI document, which knows the body of every problem."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from mas_sandbox.api.models import Problem

_SCHEMAS = "#/components/schemas/"


def problem_response(description: str) -> dict[str, Any]:
    """A response of OpenAPI whose body is a `Problem`.

    FastAPI would do it for a `model`, but makes a validator for each, which is never used:
    some hundreds of them were a third of what the routes took to be built.
    """
    schema = {"$ref": f"{_SCHEMAS}{Problem.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


class Described(FastAPI):
    """An application that defines in its document what `problem_response` refers to."""

    def openapi(self) -> dict[str, Any]:
        """Made when it is first asked for."""
        if self.openapi_schema is None:
            problem = Problem.model_json_schema(
                ref_template=_SCHEMAS + "{model}", mode="serialization"
            )
            components = super().openapi()["components"]
            added = {**problem.pop("$defs"), Problem.__name__: problem}
            components["schemas"] = dict(sorted((components["schemas"] | added).items()))
        assert self.openapi_schema is not None
        return self.openapi_schema

"""Bodies that a route reads itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .strict import explain

Model = TypeVar("Model", bound=BaseModel)


async def body_pieces(request: Request) -> AsyncIterator[bytes]:
    """Raises SandboxError `interrupted` for a body that breaks off."""
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect as error:
        raise SandboxError(
            ErrorCode.INTERRUPTED, "the client went away before the end of the body"
        ) from error


async def json_body(request: Request, model: type[Model]) -> Model:
    """Raises SandboxError `invalid_request`, in the words of a route whose body is declared."""
    value = await request.json()
    try:
        return model.model_validate(value)
    except ValidationError as error:
        located = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise SandboxError(ErrorCode.INVALID_REQUEST, explain(located)) from error


async def one_piece(content: bytes) -> AsyncIterator[bytes]:
    yield content

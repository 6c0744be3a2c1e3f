"""The endpoints of a sandbox's files."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from mas_sandbox.api.live import (
    Entry,
    EntryList,
    FileContent,
    FileEvent,
    MakeDirectory,
    MoveFile,
    Path,
    RemovedFile,
    SignedUrl,
    SignUrl,
    Unpacked,
    WriteFiles,
    WrittenFile,
    WrittenFiles,
)
from mas_sandbox.api.models import ErrorBody

from ..calls import Caller
from ..live.failure import FileError
from ..live.files import Files
from ..live.signing import Signer
from .openapi import problem_response
from .ranges import Unsatisfiable, part
from .reading import body_pieces, one_piece
from .routes import PROBLEMS, TheBroker, TheCaller, bearer
from .streaming import NDJSON, SSE, Streamed, event_stream
from .strict_route import StrictRoute

_FILE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    409: problem_response("exists, not_empty, or the sandbox is paused"),
    422: problem_response("is_a_directory, not_a_directory, or a control that cannot be held"),
    507: problem_response("no_space"),
}
router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/files",
    route_class=StrictRoute,
    dependencies=[Depends(bearer)],
    responses={**PROBLEMS, **_FILE_PROBLEMS},
    tags=["files"],
)
BYTES = "application/octet-stream"
TAR = "application/x-tar"
# A file of a sandbox is nobody's page, whatever it holds.
_NEVER_A_PAGE = {"content-security-policy": "sandbox; default-src 'none'"}


async def _files(request: Request) -> Files:
    files: Files = request.app.state.files
    return files


TheFiles = Annotated[Files, Depends(_files)]
ThePath = Annotated[Path, Query()]


def _binary(kind: str) -> dict[str, Any]:
    return {kind: {"schema": {"type": "string", "format": "binary"}}}


def _body_of(kind: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": _binary(kind)}}


@router.get(
    "",
    response_class=Response,
    responses={
        200: {"description": "the file", "content": _binary(BYTES)},
        206: {"description": "the part of it that Range asks for", "content": _binary(BYTES)},
        416: {"description": "the file has no such part"},
    },
)
async def download(
    sandbox_id: str, path: ThePath, request: Request, files: TheFiles, caller: TheCaller
) -> Response:
    """The content of a file. One `Range` of bytes is honoured."""
    async with AsyncExitStack() as undo:
        entry, reading = await undo.enter_async_context(files.reading(caller, sandbox_id, path))
        headers = _NEVER_A_PAGE | {"content-disposition": _attachment(entry.name)}
        if entry.type != "file":  # what a link leads to has another size
            source = await reading.begin(0, None)
            return Streamed(source.pieces(), undo.pop_all(), BYTES, headers)
        headers["accept-ranges"] = "bytes"
        asked = None if "if-range" in request.headers else request.headers.get("range")
        try:
            wanted = part(asked, entry.size)
        except Unsatisfiable:
            return Response(status_code=416, headers={"content-range": f"bytes */{entry.size}"})
        offset, length = wanted or (0, entry.size)
        headers["content-length"] = str(length)
        if wanted:
            headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{entry.size}"
        source = await reading.begin(offset, length)
        status = 206 if wanted else 200
        return Streamed(source.pieces(), undo.pop_all(), BYTES, headers, status)


@router.put("", openapi_extra=_body_of(BYTES))
async def upload(
    sandbox_id: str,
    path: ThePath,
    request: Request,
    files: TheFiles,
    caller: TheCaller,
    mode: Annotated[str | None, Query(pattern="^[0-7]{3,4}$", examples=["0644"])] = None,
    parents: bool = False,
) -> Entry:
    """Write a whole file, which others see as it was or as it is, never in between. `mode`
    is octal; where it is missing, that of the file which is there, else 0644."""
    return await files.write(
        caller,
        sandbox_id,
        path,
        body_pieces(request),
        mode=None if mode is None else int(mode, 8) & 0o777,
        parents=parents,
    )


@router.post("")
async def write_many(
    sandbox_id: str, body: WriteFiles, files: TheFiles, caller: TheCaller
) -> WrittenFiles:
    """Write many small files, one after the other; each is there wholly or not at all."""
    return WrittenFiles(
        files=tuple([await _written(files, caller, sandbox_id, file) for file in body.files])
    )


@router.delete("")
async def remove(
    sandbox_id: str,
    path: ThePath,
    files: TheFiles,
    caller: TheCaller,
    recursive: bool = False,
) -> RemovedFile:
    """Remove a file, a link (never what it leads to) or an empty directory; with
    `recursive`, a directory and all it holds."""
    await files.remove(caller, sandbox_id, path, recursive)
    return RemovedFile(path=path)


@router.get("/stat")
async def stat(sandbox_id: str, path: ThePath, files: TheFiles, caller: TheCaller) -> Entry:
    """What lies at a path; of a symbolic link, the link."""
    return await files.stat(caller, sandbox_id, path)


@router.get("/list")
async def list_files(
    sandbox_id: str,
    path: ThePath,
    files: TheFiles,
    caller: TheCaller,
    depth: Annotated[int, Query(ge=1, le=64)] = 1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> EntryList:
    """What a directory holds, by name; with a greater `depth`, what its directories hold
    as well. No symbolic link is followed."""
    return await files.list(caller, sandbox_id, path, depth, limit)


@router.post("/mkdir")
async def mkdir(sandbox_id: str, body: MakeDirectory, files: TheFiles, caller: TheCaller) -> Entry:
    """Make a directory."""
    return await files.mkdir(caller, sandbox_id, body.path, body.parents)


@router.post("/move")
async def move(sandbox_id: str, body: MoveFile, files: TheFiles, caller: TheCaller) -> Entry:
    """Move or rename."""
    return await files.move(caller, sandbox_id, body.source, body.destination, body.overwrite)


@router.get(
    "/watch",
    responses={
        200: {
            "model": FileEvent,
            "description": f"one event after another, as {NDJSON} or {SSE}",
            "content": {NDJSON: {}, SSE: {}},
        }
    },
)
async def watch(
    sandbox_id: str,
    path: ThePath,
    request: Request,
    files: TheFiles,
    caller: TheCaller,
    recursive: bool = False,
) -> Response:
    """What happens to the files of a directory, as it happens, until the client leaves."""
    async with AsyncExitStack() as undo:
        changes = await undo.enter_async_context(
            files.watching(caller, sandbox_id, path, recursive)
        )
        return event_stream(request, changes, undo.pop_all())


@router.get(
    "/archive",
    response_class=Response,
    responses={200: {"description": "a tar archive", "content": _binary(TAR)}},
)
async def pack(sandbox_id: str, path: ThePath, files: TheFiles, caller: TheCaller) -> Response:
    """A directory and all it holds, as a tar archive. One that breaks off was not whole."""
    async with AsyncExitStack() as undo:
        source = await undo.enter_async_context(files.packing(caller, sandbox_id, path))
        headers = _NEVER_A_PAGE | {"content-disposition": _attachment("archive.tar")}
        return Streamed(source.pieces(), undo.pop_all(), TAR, headers)


@router.put("/archive", openapi_extra=_body_of(TAR))
async def unpack(
    sandbox_id: str, path: ThePath, request: Request, files: TheFiles, caller: TheCaller
) -> Unpacked:
    """Unpack a tar archive, which may be gzipped, beneath a directory."""
    return await files.unpack(caller, sandbox_id, path, body_pieces(request))


@router.post("/sign")
async def sign(
    sandbox_id: str, body: SignUrl, request: Request, broker: TheBroker, caller: TheCaller
) -> SignedUrl:
    """A URL for one file that needs no token, to read it or to write it, until it expires.
    What it does is decided by policy when it is used, as its maker's."""
    signer: Signer = request.app.state.signer
    named = broker.sandboxes.find(caller.name, sandbox_id)
    url, expires = signer.sign(caller, body.method, named.id, body.path, body.expires_s)
    return SignedUrl(url=url, expires=expires)


async def _written(files: Files, caller: Caller, sandbox_id: str, file: FileContent) -> WrittenFile:
    try:
        entry = await files.write(
            caller,
            sandbox_id,
            file.path,
            one_piece(file.content),
            mode=file.mode,
            parents=True,
        )
    except FileError as error:
        body = ErrorBody(code=error.code, message=error.message, reason=error.reason)
        return WrittenFile(path=file.path, error=body)
    return WrittenFile(path=file.path, entry=entry)


def _attachment(name: str) -> str:
    """RFC 6266; whatever the name holds, it stays within the header."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"

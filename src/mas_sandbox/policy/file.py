"""The operator's policy file: policies by name, and which token gets which."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .model import Policy, problem_text
from .principals import Principal, Principals, hash_token

MAX_FILE_BYTES = 256 * 1024
_NOTHING = hash_token("")

Location = tuple[str | int, ...]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$")]


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file that was read and checked. `default`: for callers without a token
    of their own (stdio, `-auth-token`), None where the file names none."""

    policies: Mapping[str, Policy]
    principals: Principals
    default: Policy | None


class _Principal(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    token_sha256: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        min_length=1, max_length=64
    )
    policy: str


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Strict(), Field(ge=1, le=1)]
    policies: dict[Name, Policy] = Field(min_length=1)
    principals: tuple[_Principal, ...] = ()
    default: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = ", ".join(self.policies)
        if self.default is not None and self.default not in self.policies:
            raise ValueError(f"'default' names no policy of this file; there are {known}")
        names: set[str] = set()
        tokens: set[str] = set()
        for principal in self.principals:
            if principal.policy not in self.policies:
                raise ValueError(
                    f"principal {principal.name!r} names no policy of this file; there are {known}"
                )
            if principal.name in names:
                raise ValueError(f"principal {principal.name!r} is there twice; merge them")
            names.add(principal.name)
            for token in principal.token_sha256:
                if token == _NOTHING:
                    raise ValueError(f"a token of {principal.name!r} is the hash of nothing")
                if token in tokens:
                    raise ValueError(f"a token of {principal.name!r} is there twice; remove one")
                tokens.add(token)
        return self


def load_policy_file(path: str | os.PathLike[str]) -> PolicyFile:
    """Read a policy file, YAML, or JSON where its name ends in `.json`.

    Raises SandboxError(invalid_request) naming the file, the line or key, and the
    mend: for a file that others could write or that is not ours or root's, for
    anything malformed, unknown, repeated or contradictory.
    """
    place = Path(path)
    data = _trusted_bytes(place)
    lines: dict[Location, int] = {}
    try:
        if place.suffix == ".json":
            document = strict_json.loads(data, MAX_FILE_BYTES)
        else:
            from .strict_yaml import load  # PyYAML takes 40 ms to import

            document = load(data, lines)
    except ValueError as error:
        raise _refusal(place, str(error)) from error
    try:
        checked = _Document.model_validate(document)
    except ValidationError as error:
        raise _refusal(place, _explained(error, lines)) from error
    return _resolved(checked)


def _refusal(place: Path, problem: str) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, f"policy file {place}: {problem}")


def _trusted_bytes(place: Path) -> bytes:
    try:
        # Not blocking, because what is called a file may be a FIFO.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # The descriptor is asked, not the name: what was checked is what is read.
            check_owner(place, os.fstat(descriptor))
            data = os.read(descriptor, MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refusal(place, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise _refusal(place, f"is over {MAX_FILE_BYTES} bytes")
    return data


def check_owner(place: Path, status: os.stat_result) -> None:
    """Raises SandboxError unless this is a file that only we or root can have written."""
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(place, "is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise _refusal(place, f"belongs to uid {status.st_uid}; run: chown {os.geteuid()} {place}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refusal(place, f"others can write it; run: chmod go-w {place}")


def _explained(error: ValidationError, lines: Mapping[Location, int]) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        location: Location = problem["loc"]
        key = ".".join(map(str, location))
        line = _line_of(location, lines)
        place = ", ".join(filter(None, (f"line {line}" if line else "", key)))
        text = problem_text(problem["msg"])
        problems.append(f"{place}: {text}" if place else text)
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def _line_of(location: Location, lines: Mapping[Location, int]) -> int | None:
    """The line of the deepest part of a location that the file has."""
    for length in range(len(location), 0, -1):
        if line := lines.get(location[:length]):
            return line
    return None


def _resolved(document: _Document) -> PolicyFile:
    policies = document.policies
    entries: list[tuple[str, Principal]] = []
    for entry in document.principals:
        principal = Principal(entry.name, policies[entry.policy])
        entries += [(token, principal) for token in entry.token_sha256]
    return PolicyFile(
        policies=MappingProxyType(policies),
        principals=Principals(entries),
        default=None if document.default is None else policies[document.default],
    )

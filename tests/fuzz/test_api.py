"""Every operation of our own OpenAPI description, with bodies that fit it and bodies that do
not: no answer is a 5xx, and each is of a status, type and shape that the description has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
import schemathesis.specs.openapi.checks  # which registers them
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup

from doubles.http_door import http_door
from doubles.live_runtime import LiveRuntime
from fuzz.engine import fuzz
from mas_sandbox.api.models import Problem
from running_daemon import TOKEN, daemon

HELD = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]
LEFT_OUT = {
    "negative_data_rejection": 'numbers in text (`"5"` for 5) are taken by bodies that are no policy',
    "positive_data_acceptance": "a policy, a quota or what is in the sandbox may refuse what fits",
    "missing_required_header": "no operation has one; tokens are asked for below",
    "unsupported_method": "answered in words of ours, see test_http_api.py",
    "allow_header_conformance": "the same",
    "use_after_free": "needs a sequence of calls, see test_http_sandboxes.py",
    "ensure_resource_availability": "the same",
    "ignored_auth": "every operation is called without a token and with junk below",
    "object_level_authorization": "needs two principals, see test_http_sandboxes.py",
}
"""Checks of schemathesis that are not made here, and why."""
OPEN = {"/v1/sandbox/health"}
ENDING = ("/extend", "/pause", "/resume", "/destroy")
"""What changes a sandbox's life gets one of its own."""
ENDLESS = {
    "/v1/sandboxes/{sandbox_id}/files/watch": "a watch of a directory that is there ends when "
    "its client leaves: only what is missing is asked for; see test_http_live_files.py",
}
POLICY = """\
version: 1
policies:
  no-programs:
    tools: [calculator, read_file, list_dir, files, ports]
    capabilities: [file]
    timeout_ms: 5_000
default: no-programs
"""
"""Of `local`, which has no walls: no generated text is run as a program of this host."""


@schemathesis.serializer("application/x-tar")
def _archive(_: schemathesis.SerializationContext, value: Any) -> Any:
    """What the description calls binary."""
    return value if isinstance(value, bytes) else str(value).encode()


class Service:
    """A daemon, a sandbox that stays, another that need not, and something in the first."""

    def __init__(self, url: str, runtime: str) -> None:
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self.url = url
        self.runtime = runtime
        self.examples = {"memory": 10, "local": 3, "jail": 3}[runtime]
        self.client = httpx2.Client(
            base_url=url, timeout=30, headers={"authorization": f"Bearer {TOKEN}"}
        )
        self.session = requests.Session()
        self.sandbox = self.made()
        self.victim = self.made()
        self.process = self._ended_process()
        self.context = self._context()

    def made(self) -> str:
        answer = self.client.post("/v1/sandboxes", json={})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["sandbox_id"])

    def living_victim(self) -> str:
        state = self.client.get(f"/v1/sandboxes/{self.victim}").json().get("state")
        if state != "running":
            self.victim = self.made()
        return self.victim

    def _ended_process(self) -> str:
        body = {"argv": ["echo", "hi"], "tag": "said"}
        answer = self.client.post(f"/v1/sandboxes/{self.sandbox}/processes?wait=true", json=body)
        assert answer.status_code in (200, 403), answer.text
        return "said"

    def _context(self) -> str:
        answer = self.client.post(f"/v1/sandboxes/{self.sandbox}/code/contexts", json={})
        return str(answer.json().get("context_id", "none"))

    def answer(self, case: Any, authorization: str | bytes) -> requests.Response:
        """To a request with this header and no other of its name."""
        sent = case.as_transport_kwargs(base_url=self.url)
        headers = {
            name: value
            for name, value in sent["headers"].items()
            if name.lower() != "authorization"
        }
        sent["headers"] = headers | ({"Authorization": authorization} if authorization else {})
        return self.session.request(**sent | {"timeout": 30, "allow_redirects": False})

    def forget(self, answer: Any) -> None:
        """A sandbox that was made by chance."""
        try:
            made = answer.json().get("sandbox_id")
        except (ValueError, AttributeError):
            return
        if made and made not in (self.sandbox, self.victim):
            self.client.delete(f"/v1/sandboxes/{made}")


@contextmanager
def served(name: str, place: Path) -> Iterator[str]:
    if name == "memory":
        with http_door(place, LiveRuntime(), token=TOKEN) as door:
            yield door.url
        return
    flags = []
    if name == "local":
        (place / "policy.yaml").write_text(POLICY)
        flags = ["-policy", str(place / "policy.yaml")]
    with daemon(place / "state", *flags, runtime=name) as running:
        yield running.url
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module", params=["memory", "local", "jail"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    place = tmp_path_factory.mktemp(request.param)
    with served(request.param, place) as url:
        made = Service(url, request.param)
        yield made
        made.client.close()
        made.session.close()


def each_operation(service: Service, examples: int, check: Callable[[Any, Any], None]) -> None:
    """Everything that is found, not only the first."""
    found = []
    for result in service.schema.get_all_operations():
        operation = result.ok()
        cases = st.one_of(
            *(
                operation.as_strategy(generation_mode=mode)
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            )
        )

        @fuzz(
            examples,
            case=cases,
            known=st.integers(0, 3),
            junk=st.text(st.characters(max_codepoint=255), max_size=20),
        )
        def abuse(case: Any, known: int, junk: str) -> None:
            if known:
                _aim(service, case)
            _tame(case)
            check(case, junk)

        try:
            abuse()
        except (Exception, FailureGroup) as error:
            found.append(f"{operation.method.upper()} {operation.path}: {error}\n{_notes(error)}")
    assert not found, f"{len(found)} operations:\n" + "\n".join(found)


def _notes(error: BaseException) -> str:
    below = getattr(error, "exceptions", ())
    return "\n".join([*getattr(error, "__notes__", ()), *map(str, below), *map(_notes, below)])


def _aim(service: Service, case: Any) -> None:
    """At what is there."""
    given = case.path_parameters
    ending = case.path.endswith(ENDING) or (
        case.method == "DELETE" and case.path.endswith("{sandbox_id}")
    )
    if "sandbox_id" in given:
        given["sandbox_id"] = service.living_victim() if ending else service.sandbox
    if "process" in given:
        given["process"] = service.process
    if "context" in given:
        given["context"] = service.context
    if isinstance(case.body, dict) and "sandbox_id" in case.body:
        case.body["sandbox_id"] = service.living_victim() if ending else service.sandbox


def _tame(case: Any) -> None:
    """Nothing that would go on for long."""
    if case.path in ENDLESS and "path" in (case.query or {}):
        case.query["path"] = f"/workspace/missing/{case.query['path']}"
    runs = case.path.endswith(("/processes", "/code/run")) and isinstance(case.body, dict)
    if runs and isinstance(case.body.get("timeout_ms", 0), int | None):
        case.body["timeout_ms"] = 200


def test_every_answer_is_in_the_description(service: Service) -> None:
    checks = list(CHECKS.get_by_names(HELD))
    reached = set()

    def check(case: Any, _: str) -> None:
        answer = service.answer(case, f"Bearer {TOKEN}")
        if answer.status_code < 300:
            reached.add((case.method, case.path))
        service.forget(answer)
        case.validate_response(answer, checks=checks)

    each_operation(service, service.examples, check)
    assert len(reached) >= {"memory": 25, "local": 10, "jail": 15}[service.runtime]


def test_nothing_is_answered_without_a_token(service: Service) -> None:
    def check(case: Any, junk: str) -> None:
        scheme = ["", "", "Bearer ", "Basic ", "bearer  "][len(junk) % 5]
        try:
            answer = service.answer(case, scheme and (scheme + junk).encode("latin-1"))
        except (requests.exceptions.InvalidHeader, UnicodeError, ValueError):
            return  # the client refuses to send that
        if case.path in OPEN:
            assert answer.status_code in (200, 400)
            return
        assert answer.status_code in (400, 401), answer.text
        Problem.model_validate_json(answer.content)

    each_operation(service, 2, check)


def test_what_is_not_checked_is_said() -> None:
    assert set(CHECKS.get_all_names()) == {*HELD, *LEFT_OUT}


def test_what_never_ends_is_there(service: Service) -> None:
    paths = {result.ok().path for result in service.schema.get_all_operations()}
    assert {*ENDLESS, *OPEN} <= paths

"""Who reaches a server inside, and what of a request it never sees."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.ports_place import BEARER, TOKEN, Place, ports_place
from mas_sandbox.server.listen import HostNames
from mas_sandbox.server.settings import parse_flags
from mas_sandbox.wire.errors import SandboxError


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ports_place(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def place(shared_place: Place) -> Place:
    return shared_place.anew()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Place]:
    """One that a test may end."""
    with ports_place(tmp_path) as made:
        yield made


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Place]:
    """A daemon that asks nobody for a token."""
    with ports_place(tmp_path, token=None) as made:
        yield made


def test_the_daemons_token_opens_a_port_and_never_reaches_the_server(place: Place) -> None:
    assert place.ask(f"GET {place.prefix}/x", BEARER).body == b"hello"
    assert TOKEN.encode() not in place.server.heard[-1]
    for wrong in ("authorization: Bearer wrong", "x-nothing: 1", f"cookie: token={TOKEN}"):
        assert place.ask(f"GET {place.prefix}/x", wrong).status == 401
    assert len(place.server.heard) == 1


def test_a_shared_token_opens_its_port_by_header_query_and_cookie(place: Place) -> None:
    token = place.share()["token"]
    by = [
        (f"GET {place.prefix}/x?a=1&b", f"x-mas-port-token: {token}"),
        (f"GET {place.prefix}/x?a=1&mas_port_token={token}&b", "accept: */*"),
        (f"GET {place.prefix}/x?a=1&b", f"cookie: mas_port_token=stale; mas_port_token={token}"),
    ]
    for line, header in by:
        assert place.ask(line, header, "authorization: Basic aW5zaWRl").body == b"hello"
        asked, headers, _ = place.heard()
        assert asked == "GET /x?a=1&b HTTP/1.1"
        assert headers["authorization"] == ["Basic aW5zaWRl"]  # it is the server's own
        assert token.encode() not in place.server.heard[-1]


def test_the_daemons_token_is_withheld_even_where_another_let_the_request_in(place: Place) -> None:
    token = place.share()["token"]
    place.ask(f"GET {place.prefix}/", f"x-mas-port-token: {token}", BEARER)
    assert TOKEN.encode() not in place.server.heard[-1]


def test_a_shared_token_opens_nothing_else(place: Place) -> None:
    token = place.share()["token"]
    other = place.share(port=9)["token"]
    line = f"GET {place.prefix}/"
    late = place.share(expires_s=1)["token"]
    forged = token[:-1] + ("0" if token[-1] != "0" else "1")
    for wrong in (other, forged, "", "1.2.3", token.replace(".", "")):
        assert place.ask(line, f"x-mas-port-token: {wrong}").status == 401
        assert place.ask(line, f"cookie: mas_port_token={wrong}").status == 401
    elsewhere = [
        f"GET {place.url}",
        f"GET {place.url}/ports",
        "GET /v1/sandboxes",
        f"GET {place.url}/files?path=/workspace",
        f"GET {place.url}/ports/9/",
        f"GET {place.url.replace('sb_', 'sb_0')}/ports/{place.server.port}/",
    ]
    for every in elsewhere:
        for header in (f"x-mas-port-token: {token}", f"cookie: mas_port_token={token}"):
            assert place.ask(every, header).status == 401, every
        assert place.ask(f"{every}?mas_port_token={token}").status == 401, every
    share = place.ask(
        f"POST {place.prefix}/share",
        f"x-mas-port-token: {token}",
        "content-type: application/json",
        body=b"{}",
    )
    assert share.status == 401
    ends = int(late.partition(".")[0])
    while time.time() < ends:
        time.sleep(0.05)
    assert place.ask(line, f"x-mas-port-token: {late}").status == 401
    assert place.server.heard == []


def test_a_shared_token_ends_with_its_sandbox(mortal: Place) -> None:
    token = mortal.share()["token"]
    assert mortal.ask(f"DELETE {mortal.url}", BEARER).status == 200
    assert mortal.ask(f"GET {mortal.prefix}/", f"x-mas-port-token: {token}").status == 404


def test_a_page_is_sent_on_with_a_cookie_for_its_port_alone(place: Place) -> None:
    shared = place.share()
    line = f"GET {place.prefix}/page?a=1&mas_port_token={shared['token']}"
    moved = place.ask(line, "accept: text/html,*/*")
    assert (moved.status, moved.header("location")) == (303, f"{place.prefix}/page?a=1")
    cookie = moved.header("set-cookie")
    assert f"Path={place.prefix}/;" in cookie
    assert "HttpOnly; SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert place.server.heard == []
    secure = place.ask(line, "accept: text/html", "x-forwarded-proto: https")
    assert secure.header("set-cookie").endswith("; Secure")
    back = cookie.partition(";")[0]
    assert place.ask(f"GET {place.prefix}/page", f"cookie: a=b; {back}").body == b"hello"


def test_where_a_page_is_sent_on_to_is_never_another_host(place: Place) -> None:
    query = f"mas_port_token={place.share()['token']}"
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example/"):
        moved = place.ask(f"GET {path}?{query}", "accept: text/html", host=place.host)
        assert (moved.status, moved.header("location")) == (303, "/evil.example/")


def test_a_port_has_a_host_of_its_own_beneath_which_there_is_no_api(place: Place) -> None:
    shared = place.share()
    assert shared["host"] == place.host
    assert shared["url"] == f"http://{place.host}/?mas_port_token={shared['token']}"
    assert place.ask("GET /v1/sandboxes", BEARER, host=place.host).body == b"hello"
    assert place.heard()[0] == "GET /v1/sandboxes HTTP/1.1"
    assert "x-forwarded-prefix" not in place.heard()[1]
    assert place.ask("GET /docs", host=place.host).status == 401
    for unknown in ("9-sb-x.ports.test", "ports.test", "x.ports.test", "a." + place.host):
        assert place.ask("GET /", BEARER, host=unknown).status == 403
    moved = place.ask(
        f"GET /?mas_port_token={shared['token']}", "accept: text/html", host=place.host
    )
    assert "Path=/;" in moved.header("set-cookie")


def test_the_host_of_a_port_has_no_case_and_may_name_the_daemons_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = HostNames((), "Ports.Example")
    label = f"80-sb-{'0a' * 16}"
    for host in (f"{label}.ports.example", f"{label.upper()}.PORTS.example:8080"):
        assert names.port_of(host) == (f"sb_{'0a' * 16}", 80)
    assert names.port_of(f"80-sb_{'0a' * 16}.ports.example") == (f"sb_{'0a' * 16}", 80)
    for host in (f"0{label}.ports.example", f"{label}.example", f"7{'0' * 4}-{label[3:]}", ""):
        assert names.port_of(host) is None
    assert names.name_of(f"sb_{'0a' * 16}", 80, "[::1]:8080") == f"{label}.ports.example:8080"
    assert names.name_of(f"sb_{'0a' * 16}", 80, "[::1]") == f"{label}.ports.example"
    assert parse_flags(["-ports-domain", "localhost"]).ports_domain == "localhost"
    monkeypatch.setenv("MAS_SANDBOX_PORTS_DOMAIN", "ports.example")
    assert parse_flags([]).ports_domain == "ports.example"
    assert HostNames().port_of(f"{label}.localhost") is None
    for domain in ("a..b", "-a", "a/b", "*.a", "a:80"):
        with pytest.raises(SandboxError, match="-ports-domain"):
            HostNames((), domain)


FOREIGN = ("origin: http://evil.example", "origin: null")
SIDEWAYS = ("sec-fetch-site: cross-site", "sec-fetch-site: same-site")


def test_another_sites_page_needs_a_token_that_no_browser_adds(place: Place) -> None:
    token = place.share()["token"]
    cookie = f"cookie: mas_port_token={token}"
    for origin in FOREIGN:
        assert place.ask(f"POST {place.prefix}/", cookie, origin, body=b"x").status == 403
        assert place.ask("GET /", cookie, origin, host=place.host).status == 403
        assert place.ask(f"GET {place.prefix}/", BEARER, origin).status == 403
        assert place.ask(f"GET {place.prefix}/", f"x-mas-port-token: {token}", origin).status == 200
        assert place.heard()[1]["origin"] == [origin.partition(" ")[2]]
    for site in SIDEWAYS:
        mode = "sec-fetch-mode: no-cors"
        assert place.ask(f"GET {place.prefix}/", cookie, site, mode).status == 403
        assert place.ask(f"GET {place.prefix}/?mas_port_token={token}", site, mode).status == 200
        assert place.ask("GET /", cookie, site, mode, host=place.host).status == 403
        line = f"GET {place.prefix}/"
        assert place.ask(line, cookie, site, "sec-fetch-mode: navigate").status == 200


def test_without_a_token_other_sites_are_refused_as_from_the_rest_of_the_api(
    open_place: Place,
) -> None:
    place = open_place
    assert place.ask(f"GET {place.prefix}/", "authorization: Bearer inside").body == b"hello"
    assert place.heard()[1]["authorization"] == ["Bearer inside"]
    for origin in FOREIGN:
        assert place.ask(f"GET {place.prefix}/", origin).status == 403
        assert place.ask("GET /", origin, host=place.host).status == 403
    token = place.share()["token"]
    line = f"GET {place.prefix}/?mas_port_token={token}"
    assert place.ask(line, FOREIGN[0]).status == 200
    assert place.ask(f"GET {place.prefix}/", "x-mas-port-token: wrong").status == 401
    assert place.ask(f"GET {place.prefix}/", host="evil.example").status == 403


def test_the_servers_own_pages_come_from_where_it_believes_to_be(place: Place) -> None:
    cookie = f"cookie: mas_port_token={place.share()['token']}"
    own = f"origin: http://{place.host}"
    assert place.ask("POST /", cookie, own, host=place.host, body=b"x").status == 200
    assert place.heard()[1]["origin"] == [f"http://localhost:{place.server.port}"]


def test_cookies_of_other_servers_of_this_host_are_not_passed_on(open_place: Place) -> None:
    place = open_place
    line, cookie = f"GET {place.prefix}/", "cookie: other=1"
    place.ask(line, cookie, "sec-fetch-mode: navigate")
    assert "cookie" not in place.heard()[1]
    place.ask(line, cookie)
    assert place.heard()[1]["cookie"] == ["other=1"]
    place.ask("GET /", cookie, "sec-fetch-mode: navigate", host=place.host)
    assert place.heard()[1]["cookie"] == ["other=1"]


def test_each_connection_is_decided_and_recorded(mortal: Place) -> None:
    mortal.ask(f"GET {mortal.prefix}/", BEARER)
    (intent,) = [each for each in mortal.door.bench.records("intent") if each["tool"] == "ports"]
    assert (intent["sandbox_id"], intent["decision"]["action"]) == (mortal.id, "allow")
    deadline = time.monotonic() + 10
    while not (outcomes := mortal.door.bench.records("outcome")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [each["status"] for each in outcomes] == ["ok"]


def test_ports_are_listed_without_the_way_out(place: Place) -> None:
    place.guest.listening = [
        {"port": 80, "address": "0.0.0.0", "pid": 3},
        {"port": 3128, "address": "127.0.0.1"},
        {"port": 8000, "address": "::1"},
    ]
    found = json.loads(place.ask(f"GET {place.url}/ports", BEARER).body)["ports"]
    assert [each["port"] for each in found] == [80, 8000]
    assert place.ask(f"GET {place.url}/ports/3128/", BEARER).status == 404
    assert 3128 not in [call.args.get("port") for call in place.guest.calls]
    assert place.share(port=3128)["error"]["code"] == "not_found"
    place.guest.listening = [{"port": 0}]
    assert place.ask(f"GET {place.url}/ports", BEARER).status == 503

"""What a server inside may say to a browser, and how far it reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mas_sandbox.server.calls import Caller
from mas_sandbox.server.http.ports_headers import to_client, to_server
from mas_sandbox.server.http.ports_visit import By, Target, Visit

PREFIX = b"/v1/sandboxes/sb_1/ports/80"
BY_PATH = Visit(
    target=Target("sb_1", 80, PREFIX, b"/"),
    caller=Caller("alice"),
    by=By.BEARER,
    token="",
    scheme="https",
    host="daemon.example:8080",
    query=b"",
    authorization=True,
    cookies=True,
)
BY_NAME = replace(BY_PATH, target=Target("sb_1", 80, b"", b"/"), host="80-sb-1.ports.example")


def answered(visit: Visit, name: bytes, value: bytes) -> list[bytes]:
    return [found for named, found in to_client([(name, value)], visit) if named == name]


@pytest.mark.parametrize(
    ("cookie", "by_path", "by_name"),
    [
        (b"a=1", b"a=1", b"a=1"),
        (b"a=1; Path=/", b"a=1; Path=%b/" % PREFIX, b"a=1; Path=/"),
        (b"a=1;path = /x", b"a=1; Path=%b/x" % PREFIX, b"a=1; Path=/x"),
        (b"a=1; Path=%b/x" % PREFIX, b"a=1; Path=%b/x" % PREFIX, b"a=1; Path=%b/x" % PREFIX),
        (b"a=1; Path=%b0/" % PREFIX, b"a=1; Path=%b%b0/" % (PREFIX, PREFIX), None),
        (b"a=1; Path=x; Secure", b"a=1; Secure", b"a=1; Secure"),
        (b"a=1; DOMAIN=ports.example; HttpOnly", b"a=1; HttpOnly", b"a=1; HttpOnly"),
    ],
)
def test_a_cookie_is_confined_to_the_ports_place(
    cookie: bytes, by_path: bytes, by_name: bytes | None
) -> None:
    assert answered(BY_PATH, b"set-cookie", cookie) == [by_path]
    assert answered(BY_NAME, b"set-cookie", cookie) == [by_name or cookie]


def test_our_own_cookie_is_no_servers_to_set() -> None:
    for visit in (BY_PATH, BY_NAME):
        for cookie in (b"mas_port_token=x", b" mas_port_token =x; Path=/"):
            assert answered(visit, b"set-cookie", cookie) == []


def test_a_browsers_page_by_path_sets_and_sends_no_cookies() -> None:
    page = replace(BY_PATH, cookies=False)
    assert answered(page, b"set-cookie", b"a=1") == []
    assert b"cookie" not in dict(to_server([(b"cookie", b"a=1")], page))
    given = [(b"cookie", b"a=1; mas_port_token=x; b=2"), (b"cookie", b"mas_port_token=y")]
    sent = [value for name, value in to_server(given, BY_PATH) if name == b"cookie"]
    assert sent == [b"a=1; b=2"]


@pytest.mark.parametrize(
    ("location", "by_path", "by_name"),
    [
        (b"/login?a#b", PREFIX + b"/login?a#b", b"/login?a#b"),
        (PREFIX + b"/x", PREFIX + b"/x", PREFIX + b"/x"),
        (PREFIX + b"0/x", PREFIX + PREFIX + b"0/x", PREFIX + b"0/x"),
        (b"next", b"next", b"next"),
        (b"http://localhost:80/x", PREFIX + b"/x", b"/x"),
        (b"http://127.0.0.1:80", PREFIX + b"/", b"/"),
        (b"http://localhost:80?x", PREFIX + b"/?x", b"/?x"),
        (b"http://localhost:8080/x", b"http://localhost:8080/x", b"http://localhost:8080/x"),
        (b"https://daemon.example:8080/x", PREFIX + b"/x", b"https://daemon.example:8080/x"),
        (b"//80-sb-1.ports.example/x", b"//80-sb-1.ports.example/x", b"/x"),
        (b"https://elsewhere.example/", b"https://elsewhere.example/", None),
    ],
)
def test_a_redirect_leads_to_where_the_client_reaches_it(
    location: bytes, by_path: bytes, by_name: bytes | None
) -> None:
    assert answered(BY_PATH, b"location", location) == [by_path]
    assert answered(BY_NAME, b"location", location) == [by_name or location]


def test_nothing_is_said_for_the_whole_site() -> None:
    for name in (
        *(b"Clear-Site-Data", b"Strict-Transport-Security", b"Alt-Svc", b"NEL", b"Report-To"),
        *(b"Reporting-Endpoints", b"Date", b"Cache-Control", b"Keep-Alive", b"Connection"),
    ):
        for visit in (BY_PATH, BY_NAME):
            assert name.lower() not in dict(to_client([(name, b"x")], visit))
    worker = [(b"Service-Worker-Allowed", b"/")]
    assert b"service-worker-allowed" not in dict(to_client(worker, BY_PATH))
    assert b"service-worker-allowed" in dict(to_client(worker, BY_NAME))


def test_a_page_by_path_is_of_no_origin_whatever_it_says_itself() -> None:
    own = [(b"Content-Security-Policy", b"sandbox allow-same-origin")]
    policies = [value for _, value in to_client(own, BY_PATH)]
    assert len(policies) == 2
    assert any(b"sandbox" in policy and b"same-origin" not in policy for policy in policies)
    assert [value for _, value in to_client(own, BY_NAME)] == [own[0][1]]


def test_the_server_is_told_where_it_is_and_not_who_asks() -> None:
    given = [
        *((b"host", b"daemon.example:8080"), (b"origin", b"https://daemon.example:8080")),
        *((b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-host", b"lie"), (b"via", b"x")),
        *((b"referer", b"https://x/?mas_port_token=secret"), (b"x-mas-port-token", b"secret")),
    ]
    sent = to_server(given, BY_PATH)
    assert sorted(sent) == [
        (b"host", b"localhost:80"),
        (b"origin", b"http://localhost:80"),
        (b"x-forwarded-host", b"daemon.example:8080"),
        (b"x-forwarded-prefix", PREFIX),
        (b"x-forwarded-proto", b"https"),
    ]
    assert b"x-forwarded-prefix" not in dict(to_server(given, BY_NAME))
    assert dict(to_server([(b"referer", b"https://x/")], BY_NAME))[b"referer"] == b"https://x/"
    assert dict(to_server([(b"origin", b"null")], BY_NAME))[b"origin"] == b"null"
    withheld = replace(BY_PATH, authorization=False)
    assert b"authorization" not in dict(to_server([(b"authorization", b"x")], withheld))

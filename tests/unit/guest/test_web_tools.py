"""http_request, fetch and web_search, from a call to real servers and back.

The way is the real one up to the host's end of the stream: the tool in its process, the
proxy port, the toolrunner's relay, a stream. There a proxy double takes over.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from doubles.host import Host
from doubles.web_proxy import ProxiedHost, WebProxy
from doubles.web_site import PAGE, PNG, Site, bodies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of secure.example, signed by itself, with its key."""
    place = tmp_path_factory.mktemp("tls")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    request += ["-nodes", "-days", "2", "-subj", "/CN=secure.example", "-keyout", "key.pem"]
    request += ["-addext", "subjectAltName=DNS:secure.example", "-out", "certificate.pem"]
    subprocess.run(request, cwd=place, check=True, capture_output=True)
    return place / "certificate.pem"


@pytest.fixture(scope="module")
def site(certificate: Path) -> Iterator[WebProxy]:
    """One site, plain and with TLS, behind a proxy."""
    bodies()  # before anything is timed
    plain = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    secure = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    for server in (plain, secure):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    hosts = {
        ("site.example", 80): plain.server_port,
        ("site.example", 8080): plain.server_port,
        ("other.example", 80): plain.server_port,
        ("secure.example", 443): secure.server_port,
        ("not-it.example", 443): secure.server_port,
        ("plain.example", 443): plain.server_port,
        ("xn--bcher-kva.example", 80): plain.server_port,
    }
    with WebProxy(hosts) as proxy:
        yield proxy
    for server in (plain, secure):
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, site: WebProxy) -> Iterator[ProxiedHost]:
    """One for all: a call has a process, and connections, of its own."""
    with ProxiedHost(tmp_path_factory.mktemp("workspace"), "-proxy", "0") as started:
        started.lead_to(site)
        yield started


@pytest.fixture
def host(proxied: ProxiedHost, site: WebProxy) -> ProxiedHost:
    site.asked.clear()
    return proxied


def answer(host: Host, tool: str = "http_request", env: Any = None, **args: Any) -> Any:
    stream = host.call(tool, args, env=env or {})
    assert stream.result is not None
    assert stream.result.code == "", stream.result.message
    return stream.value


def failure(host: Host, tool: str = "http_request", env: Any = None, **args: Any) -> str:
    """The message of a call that must fail, as `code: message`."""
    stream = host.call(tool, args, env=env or {})
    assert stream.result is not None
    return f"{stream.result.code}: {stream.result.message}"


def echoed(host: Host, env: Any = None, **args: Any) -> Any:
    return json.loads(answer(host, env=env, **args)["body"])


# http_request


def test_a_request_arrives_as_it_was_written_and_so_does_the_answer(host: Host) -> None:
    result = answer(
        host,
        method="PUT",
        url="http://site.example/echo?a=1&b=%20#fragment",
        headers={"X-Mine": "caf\xe9", "Content-Type": "text/csv"},
        body="ä,b\n",
    )
    assert (result["status"], result["reason"], result["truncated"]) == (200, "OK", False)
    assert result["url"] == "http://site.example/echo?a=1&b=%20"
    assert result["headers"]["set-cookie"] == "a=1\nb=2"
    assert result["headers"]["x-two"] == "1, 2"
    assert result["encoding"] == "text"
    seen = json.loads(result["body"])
    assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/echo?a=1&b=%20", "ä,b\n")
    assert seen["headers"]["host"] == "site.example"
    assert seen["headers"]["x-mine"] == "caf\xe9"
    assert seen["headers"]["content-type"] == "text/csv"
    assert seen["headers"]["connection"] == "close"


def test_the_port_is_in_the_host_field_only_where_it_is_not_the_usual_one(
    host: Host, site: WebProxy
) -> None:
    assert echoed(host, url="http://SITE.example:8080/echo")["headers"]["host"].endswith(":8080")
    assert echoed(host, url="http://site.example:80/echo")["headers"]["host"] == "site.example"
    assert echoed(host, url="http://bücher.example/echo")["headers"]["host"].startswith("xn--")
    assert site.asked[0] == "GET http://site.example:8080/echo"


def test_tls_is_spoken_with_the_server_itself(
    host: Host, site: WebProxy, certificate: Path
) -> None:
    trusting = {"SSL_CERT_FILE": str(certificate)}
    assert echoed(host, trusting, url="https://secure.example/echo")["path"] == "/echo"
    assert site.asked == ["CONNECT secure.example:443"]
    untrusted = failure(host, url="https://secure.example/echo")
    assert "tool_failed: the certificate of secure.example is not trusted" in untrusted
    assert "SSL_CERT_FILE" in untrusted
    other = failure(host, env=trusting, url="https://not-it.example/")
    assert "not trusted" in other and "mismatch" in other
    assert "tool_failed: GET" in failure(host, url="https://plain.example/")


@pytest.mark.parametrize("url", ["http://secret.example/", "https://secret.example/"])
def test_what_the_proxy_refuses_fails_with_its_words(host: Host, url: str) -> None:
    message = failure(host, url=url)
    assert message.startswith("tool_failed: no connection to secret.example:")
    assert "is not among the hosts that the policy allows" in message
    assert "(network.hosts)" in message


def test_any_status_is_a_result(host: Host) -> None:
    assert answer(host, url="http://site.example/missing")["status"] == 404
    head = answer(host, method="HEAD", url="http://site.example/large")
    assert (head["status"], head["body"], head["truncated"]) == (200, "", False)
    assert head["headers"]["content-length"] == str(1024 * 1024)


def test_redirects_change_the_method_as_browsers_do(host: Host) -> None:
    post = {"method": "POST", "body": "x", "headers": {"Content-Type": "text/csv"}}
    for path in ("/to/2", "/301", "/303"):
        seen = echoed(host, url=f"http://site.example{path}", **post)
        assert (seen["method"], seen["body"]) == ("GET", "")
        assert "content-type" not in seen["headers"]
    seen = echoed(host, url="http://site.example/307", **post)
    assert (seen["method"], seen["body"], seen["headers"]["content-type"]) == (
        *("POST", "x"),
        "text/csv",
    )
    seen = echoed(host, url="http://site.example/301", method="PUT", body="x")
    assert seen["method"] == "PUT"
    assert answer(host, url="http://site.example/303", method="HEAD")["status"] == 200


def test_credentials_stay_with_the_origin_they_were_meant_for(host: Host) -> None:
    headers = {"Authorization": "Bearer t", "cookie": "c=1", "X-Kept": "yes"}
    here = echoed(host, url="http://site.example/307", headers=headers)["headers"]
    assert (here["authorization"], here["cookie"]) == ("Bearer t", "c=1")
    there = echoed(host, url="http://site.example/elsewhere", headers=headers)["headers"]
    assert there["host"] == "other.example"
    assert there["x-kept"] == "yes"
    assert "authorization" not in there and "cookie" not in there


def test_every_hop_is_put_to_the_proxy(host: Host, site: WebProxy, certificate: Path) -> None:
    assert answer(host, url="http://site.example/elsewhere")["url"].startswith("http://other")
    denied = failure(host, url="http://site.example/inside")
    assert "no connection to 169.254.169.254:80" in denied
    trusting = {"SSL_CERT_FILE": str(certificate)}
    assert answer(host, env=trusting, url="http://site.example/up")["url"].startswith(
        "https://secure"
    )
    assert site.asked == [
        "GET http://site.example/elsewhere",
        "GET http://other.example/echo",
        "GET http://site.example/inside",
        "GET http://169.254.169.254/latest/meta-data/",
        "GET http://site.example/up",
        "CONNECT secure.example:443",
    ]


def test_redirects_are_few_and_never_lead_down_or_out_of_the_web(
    host: Host, site: WebProxy, certificate: Path
) -> None:
    assert answer(host, url="http://site.example/five")["status"] == 200
    site.asked.clear()
    assert "more than 5 redirects" in failure(host, url="http://site.example/loop")
    assert len(site.asked) == 6
    assert "redirects to no URL" in failure(host, url="http://site.example/file")
    assert "redirects to no URL" in failure(host, url="http://site.example/broken")
    trusting = {"SSL_CERT_FILE": str(certificate)}
    assert "from https to http" in failure(host, env=trusting, url="https://secure.example/down")
    assert echoed(host, url="http://site.example/spaced")["path"] == "/echo?q=two%20words"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/gzip", "one, two"), ("/deflate", "wrapped"), ("/raw", "not wrapped"), ("/nothing", None)],
)
def test_bodies_are_decoded(host: Host, path: str, body: str | None) -> None:
    result = answer(host, url=f"http://site.example{path}")
    assert result["body"] == (body or "no type at all")
    assert result["encoding"] == "text"


def test_what_is_no_text_comes_in_base64(host: Host) -> None:
    image = answer(host, url="http://site.example/image")
    assert (image["encoding"], base64.b64decode(image["body"])) == ("base64", PNG)


def test_large_bodies_are_cut_and_fit_the_output_limit(host: Host) -> None:
    large = answer(host, url="http://site.example/large")
    assert (len(large["body"]), large["truncated"]) == (256 * 1024, True)
    controls = answer(host, url="http://site.example/controls")
    assert set(controls["body"]) == {"\ufffd"}


def test_a_bomb_is_inflated_no_further_than_it_is_shown(host: Host) -> None:
    bomb = host.call("http_request", {"url": "http://site.example/bomb"})
    assert bomb.value["truncated"]
    assert bomb.result is not None
    assert bomb.result.max_rss_kb < 60_000


@pytest.mark.parametrize("path", ["/short", "/cut"])
def test_a_body_that_ends_early_is_a_failure(host: Host, path: str) -> None:
    # Of /cut more than is shown has arrived by then, unless it is read to its end.
    message = failure(host, "fetch", url=f"http://site.example{path}")
    assert "the connection ended before the answer did" in message


def test_broken_compression_and_endless_headers_are_failures(host: Host) -> None:
    assert "tool_failed: GET" in failure(host, url="http://site.example/garbled")
    assert "bytes of headers" in failure(host, url="http://site.example/headers")
    odd = answer(host, url="http://site.example/brotli")
    assert odd["headers"]["content-encoding"] == "br"


def test_the_timeout_holds_for_all_of_it(host: Host) -> None:
    begun = time.monotonic()
    message = failure(host, url="http://site.example/slow", timeout=0.5)
    assert "tool_failed: GET http://site.example/slow took longer than 0.5 s" in message
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"url": ""},
        {"url": "ftp://site.example/"},
        {"url": "file:///etc/passwd"},
        {"url": "//site.example/"},
        {"url": "http:///path"},
        {"url": "http://user:secret@site.example/"},
        {"url": "http://site.example/a b"},
        {"url": "http://site.example/\r\nX-Evil: 1"},
        {"url": "http://site.example\\@other.example/"},
        {"url": "http://site.example:99999/"},
        {"url": "http://a%00b.example/"},
        {"url": "http://[fe80::1%25eth0]/"},
        {"url": "http://x/" + "a" * 9000},
        {"url": "http://x/", "method": "CONNECT"},
        {"url": "http://x/", "method": "get"},
        {"url": "http://x/", "headers": []},
        {"url": "http://x/", "headers": {"A": 1}},
        {"url": "http://x/", "headers": {"A": "b\r\nEvil: 1"}},
        {"url": "http://x/", "headers": {"A": "b\n"}},
        {"url": "http://x/", "headers": {"A": "\0"}},
        {"url": "http://x/", "headers": {"A": "\u20ac"}},
        {"url": "http://x/", "headers": {"A\r\nB": "c"}},
        {"url": "http://x/", "headers": {"A:": "c"}},
        {"url": "http://x/", "headers": {"": "c"}},
        {"url": "http://x/", "headers": {"a": "1", "A": "2"}},
        {"url": "http://x/", "headers": {"Host": "other.example"}},
        {"url": "http://x/", "headers": {"transfer-encoding": "chunked"}},
        {"url": "http://x/", "headers": {"Proxy-Authorization": "x"}},
        {"url": "http://x/", "timeout": 0},
        {"url": "http://x/", "timeout": 601},
        {"url": "http://x/", "timeout": True},
        {"url": "http://x/", "body": 1},
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_sent(
    host: Host, site: WebProxy, args: dict[str, Any]
) -> None:
    assert failure(host, **args).startswith("invalid_request: ")
    assert site.asked == []


def test_without_a_way_out_the_tools_say_so(workspace: Path) -> None:
    with Host(workspace) as host:
        search = {"MAS_SANDBOX_SEARCH_URL": "http://search.example"}
        for tool, args in (
            ("http_request", {"url": "http://site.example/"}),
            ("fetch", {"url": "https://site.example/"}),
            ("web_search", {"query": "x"}),
        ):
            assert "this sandbox has no way out" in failure(host, tool, env=search, **args)


# fetch


def test_a_page_is_read_as_markdown_text_or_as_it_is(host: Host) -> None:
    url = "http://site.example/page"
    page = answer(host, "fetch", url=url)
    assert page == {
        "url": url,
        "content_type": "text/html",
        "title": "A & B",
        "content": "# Hi\n\nSee [it](http://site.example/x).",
        "truncated": False,
    }
    assert answer(host, "fetch", url=url, format="text")["content"] == "Hi\n\nSee it."
    assert answer(host, "fetch", url=url, format="html")["content"] == PAGE
    assert answer(host, "fetch", url="http://site.example/latin")["content"] == "café"


def test_other_text_is_returned_as_it_is_and_cut(host: Host) -> None:
    assert answer(host, "fetch", url="http://site.example/text")["content"] == "plain & simple <b>"
    assert answer(host, "fetch", url="http://site.example/json")["content"] == '{"a": [1, 2]}'
    large = answer(host, "fetch", url="http://site.example/large")
    assert (len(large["content"]), large["truncated"]) == (256 * 1024, True)


def test_what_cannot_be_read_is_a_failure_that_says_why(host: Host) -> None:
    assert "image/png of 272 bytes" in failure(host, "fetch", url="http://site.example/image")
    assert "answers 404" in failure(host, "fetch", url="http://site.example/missing")
    refused = failure(host, "fetch", url="http://secret.example/")
    assert "hosts that the policy allows" in refused
    bad = failure(host, "fetch", url="http://site.example/", format="pdf")
    assert bad.startswith("invalid_request: format must be")


# web_search


def test_a_search_returns_the_first_results(host: Host) -> None:
    env = {"MAS_SANDBOX_SEARCH_URL": "http://site.example/"}
    found = answer(host, "web_search", env, query="a b&c", max_results=3)
    assert found == [
        {"title": "a b&c 0", "url": "https://0.example/", "snippet": ""},
        {"title": "a b&c 1", "url": "https://1.example/", "snippet": ""},
        {"title": "a b&c 2", "url": "https://2.example/", "snippet": "éé"},
    ]
    assert len(answer(host, "web_search", env, query="x")) == 5


def test_a_search_that_cannot_be_made_says_what_to_do(host: Host) -> None:
    assert "start mas-sandboxd with -search-url" in failure(host, "web_search", query="x")
    env = {"MAS_SANDBOX_SEARCH_URL": "http://site.example"}
    assert "search.formats" in failure(host, "web_search", env=env, query="forbidden")
    assert "something else than results" in failure(host, "web_search", env=env, query="odd")
    bad = {"MAS_SANDBOX_SEARCH_URL": "ftp://site.example"}
    assert "-search-url cannot be used" in failure(host, "web_search", env=bad, query="x")
    for query in ("", " ", "x" * 1001):
        assert failure(host, "web_search", env=env, query=query).startswith("invalid_request")


# Programs that honour the variables


def test_curl_and_urllib_take_the_way_out(host: Host, certificate: Path) -> None:
    plain = host.bash("curl -sS http://site.example/json").stdout
    assert json.loads(plain) == {"a": [1, 2]}
    secure = host.bash(f"curl -sS --cacert {certificate} https://secure.example/json")
    assert json.loads(secure.stdout) == {"a": [1, 2]}
    code = "import urllib.request as u; print(u.urlopen('http://site.example/text').read())"
    assert b"plain & simple" in host.call("python", {"code": code}).stdout
    refused = host.bash("curl -sS https://secret.example/")
    assert b"403" in refused.stderr


def test_a_large_download_arrives_whole(host: Host) -> None:
    total = host.bash("for i in 1 2 3; do curl -sS http://site.example/large; done | wc -c")
    assert int(total.stdout) == 3 * 1024 * 1024

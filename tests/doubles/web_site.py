"""A web site for the tools that read one: every kind of body, redirect and misbehaviour.

It follows RFC 9110 and RFC 9112 but where a path is there to break them.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from functools import cache
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

REDIRECTS = {
    "/to/2": (302, "/echo"),
    "/loop": (302, "/loop"),
    "/five": (302, "/four"),
    "/four": (302, "/three"),
    "/three": (302, "/two"),
    "/two": (302, "/one"),
    "/one": (302, "/echo"),
    "/301": (301, "/echo"),
    "/303": (303, "/echo"),
    "/307": (307, "/echo"),
    "/elsewhere": (307, "http://other.example/echo"),
    "/inside": (302, "http://169.254.169.254/latest/meta-data/"),
    "/file": (302, "file:///etc/passwd"),
    "/down": (302, "http://site.example/echo"),
    "/up": (302, "https://secure.example/echo"),
    "/broken": (302, "http://[nowhere/"),
    "/spaced": (302, "/echo?q=two words"),
}
PAGE = "<html><head><title>A &amp; B</title></head><body><h1>Hi</h1><p>See <a href='x'>it</a>."
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))


@cache
def bodies() -> dict[str, tuple[str, str, bytes]]:
    """Path -> Content-Type, Content-Encoding, body. It takes a second to make them."""
    large = b"0123456789abcdef" * 65536
    raw = zlib.compressobj(wbits=-15)
    return {
        "/page": ("text/html; charset=utf-8", "", PAGE.encode()),
        "/latin": ("text/html", "", "<meta charset=latin1><p>caf\xe9".encode("latin-1")),
        "/text": ("text/plain", "", b"plain & simple <b>"),
        "/json": ("application/json", "", b'{"a": [1, 2]}'),
        "/image": ("image/png", "", PNG),
        "/nothing": ("", "", b"no type at all"),
        "/large": ("text/plain", "", large),
        "/controls": ("text/plain", "", bytes(300_000)),
        "/gzip": ("text/plain", "gzip", gzip.compress(b"one, ") + gzip.compress(b"two") + bytes(9)),
        "/deflate": ("text/plain", "deflate", zlib.compress(b"wrapped")),
        "/raw": ("text/plain", "deflate", raw.compress(b"not wrapped") + raw.flush()),
        "/bomb": ("text/plain", "gzip", gzip.compress(bytes(200_000_000), 9)[:190_000]),
        "/cut": ("text/plain", "gzip", gzip.compress(large)[:-40]),
        "/garbled": ("text/plain", "gzip", b"\x1f\x8b" + bytes(range(200))),
        "/brotli": ("text/plain", "br", b"\x8b\x02\x80brotli\x03"),
    }


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length).decode()
        path = urlsplit(self.path).path
        if path in REDIRECTS:
            status, location = REDIRECTS[path]
            self._send(status, "", b"moved", ("Location", location))
        elif path in bodies():
            kind, coding, data = bodies()[path]
            self._send(200, kind, data, *([("Content-Encoding", coding)] if coding else []))
        elif path == "/echo":
            seen = {
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body,
            }
            cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Two", "1"), ("X-Two", "2")]
            self._send(200, "application/json", json.dumps(seen).encode(), *cookies)
        elif path == "/short":
            self._send(200, "text/plain", b"half", ("Content-Length", "100"))
        elif path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(200):
                self.wfile.write(b"X-Drip: 1\r\n")
                time.sleep(0.1)
        elif path == "/headers":
            self._send(200, "text/plain", b"", *[(f"X-{n}", "x" * 9000) for n in range(9)])
        elif path == "/search":
            query = parse_qs(urlsplit(self.path).query)
            assert query["format"] == ["json"]
            self._search(query["q"][0])
        else:
            self._send(404, "text/plain", b"not here")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def _search(self, query: str) -> None:
        if query == "forbidden":
            self._send(403, "text/html", b"")
        elif query == "odd":
            self._send(200, "text/html", b"<p>no JSON")
        else:
            results = [
                {"title": f"{query} {n}", "url": f"https://{n}.example/", "content": "é" * n}
                for n in range(8)
            ]
            results[1].pop("content")
            body = {"results": [{"no": "url"}, *results], "answers": []}
            self._send(200, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """The test's output is the test's."""

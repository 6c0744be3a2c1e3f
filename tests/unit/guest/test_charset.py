"""What the bytes of an answer say."""

from __future__ import annotations

import pytest

from mas_sandbox.guest.tools.charset import cut, decoded, is_text


@pytest.mark.parametrize(
    ("data", "media_type", "charset", "text"),
    [
        ("é".encode(), "text/plain", None, "é"),
        ("é".encode("latin-1"), "text/plain", "iso-8859-1", "é"),
        (b"\x80", "text/plain", "ISO-8859-1", "\u20ac"),
        (b"\xe9t\xe9", "text/plain", None, "été"),
        ("é".encode(), "text/plain", '"UTF-8"', "é"),
        ("я".encode("koi8-r"), "text/html", "koi8-r", "я"),
        ("日本".encode("shift_jis"), "text/html", "Shift_JIS", "日本"),
        (b"\xef\xbb\xbfx", "text/plain", "latin1", "x"),
        ("я".encode("utf-16"), "text/plain", None, "я"),
        ("я".encode("utf-16-le"), "text/plain", "utf-16le", "я"),
        (b'<META http-equiv=x content="a; charset=koi8-r">\xd1', "text/html", None, "я"),
        (b"<meta charset='utf-16'>x", "text/html", None, "x"),
        (b"<meta charset=koi8-r>\xc3\xa9", "text/plain", None, "é"),
        ("aé".encode()[:2], "", None, "a"),
        (b"ok", "application/octet-stream", None, "ok"),
        (b"a\0b", "text/plain", None, "a\ufffdb"),
        ("é".encode(), "text/plain", "idna", "é"),
        ("é".encode(), "text/plain", "unicode_escape", "é"),
        ("é".encode(), "text/plain", "utf-8\0", "é"),
        (b"x", "text/plain", "gb-no-such", "x"),
        (b"", "", None, ""),
    ],
)
def test_text_is_read_as_it_was_meant(
    data: bytes, media_type: str, charset: str | None, text: str
) -> None:
    readable = decoded(data, media_type, charset)
    assert readable is not None
    assert readable.endswith(text)


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xd8\xff\xe0", b"a\0b", b"\xe9\xff"]
)
def test_what_is_no_text_is_said_to_be_none(data: bytes) -> None:
    assert decoded(data, "image/png", None) is None
    assert decoded(data, "", None) is None


def test_media_types_of_text() -> None:
    for kind in ("text/plain", "application/json", "application/ld+json", "image/svg+xml"):
        assert is_text(kind), kind
    for kind in ("", "image/png", "application/octet-stream", "application/zip"):
        assert not is_text(kind), kind


def test_text_is_cut_between_characters() -> None:
    assert cut("aéb", 2) == "a"
    assert cut("aéb", 3) == "aé"
    assert cut("aéb", 10) == "aéb"

"""Bytes of the web as text, and what is not text."""

from __future__ import annotations

import codecs

_SNIFFED = 1024
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# By the beginnings of their names, those of https://encoding.spec.whatwg.org that Python has
# too. Others of Python's (idna, unicode_escape) are no encodings of documents.
_KNOWN = (
    *("utf-8", "utf8", "utf-16", "us-ascii", "ascii", "iso-8859-", "iso8859", "latin", "windows-"),
    *("cp125", "koi8-", "gb", "big5", "euc-", "shift_jis", "shift-jis", "sjis", "iso-2022-jp"),
    *("macintosh", "ibm866", "tis-620"),
)
# Pages that say the first mean the second.
_MEANT = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252"}
_TEXT_TYPES = ("json", "xml", "javascript", "ecmascript", "yaml", "toml", "x-www-form-urlencoded")
# In JSON each is six times as long, and no text has a use for them.
_CONTROLS = {n: "\ufffd" for n in range(32) if chr(n) not in "\t\n\r\f\b"}


def is_text(media_type: str) -> bool:
    """Whether a media type, without parameters, is one of text."""
    kind, _, name = media_type.partition("/")
    return kind == "text" or name.rpartition("+")[2].endswith(_TEXT_TYPES)


def decoded(data: bytes, media_type: str, charset: str | None) -> str | None:
    """The text, with U+FFFD for what is broken; None for what is no text.

    `charset`: as the answer's Content-Type had it. `data` may be cut anywhere.
    """
    text = _decoded(data, media_type, charset)
    if text is None:
        return None
    clean = text.translate(_CONTROLS)
    return clean if clean == text or is_text(media_type) else None


def cut(text: str, size: int) -> str:
    """As much of the beginning as `size` bytes of UTF-8 hold."""
    return text.encode()[:size].decode("utf-8", "ignore")


def _decoded(data: bytes, media_type: str, charset: str | None) -> str | None:
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    name = _named(charset) or (_stated(data) if media_type.endswith("html") else "")
    if name:
        return data.decode(name, "replace")
    try:
        return codecs.utf_8_decode(data, "strict", False)[0]  # the last character may be cut
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace") if is_text(media_type) else None


def _named(charset: str | None) -> str:
    """Python's name of an encoding, empty where it is none that is known here."""
    name = (charset or "").strip("\"' \t").lower()
    if not name.startswith(_KNOWN):
        return ""
    name = _MEANT.get(name, name)
    try:
        codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    return name


def _stated(data: bytes) -> str:
    """What a page's own `meta` element says, near its beginning."""
    import re

    pattern = rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})"
    found = re.search(pattern, data[:_SNIFFED], re.IGNORECASE)
    name = _named(found[1].decode("ascii")) if found else ""
    return "utf-8" if name.startswith("utf-16") else name  # it could not be read as it was

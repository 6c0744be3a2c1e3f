"""The path of a request of plain HTTP, as it is judged and as it is sent on."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from .refusal import Outcome, Refused


def canonical_path(raw: str) -> tuple[str, str]:
    """`(judged, sent)` of an absolute path without its query.

    Dot segments, encoded ones too, are removed from both (RFC 3986 section 5.2.4), so the
    server finds none to interpret; `judged` is percent-decoded once. Raises Refused for
    what servers read in different ways: encoded slashes and percent signs, backslashes,
    control characters, and dots with parameters (`..;`).
    """
    kept: list[str] = []
    judged: list[str] = []
    segments = raw.split("/")[1:]
    for number, segment in enumerate(segments):
        plain = _decoded(segment)
        dots = plain.partition(";")[0]
        if dots not in (".", ".."):
            kept.append(segment)
            judged.append(plain)
            continue
        if dots != plain:
            raise _malformed()
        if dots == ".." and kept:
            del kept[-1], judged[-1]
        if number == len(segments) - 1:  # "/a/." is the directory, "/a/"
            kept.append("")
            judged.append("")
    return "/" + "/".join(judged), "/" + "/".join(kept)


def _decoded(segment: str) -> str:
    try:
        plain = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise _malformed() from None
    # What is no escape is left as it is, and so is the second "%" of a double one.
    if not plain.isprintable() or set(plain) & set("/\\%?#"):
        raise _malformed()
    return plain


def _malformed() -> Refused:
    return Refused(
        Outcome.MALFORMED,
        "network.http",
        "the path can be read in more than one way: write it in UTF-8, without backslashes, "
        "control characters, and encoded '/' or '%'",
    )

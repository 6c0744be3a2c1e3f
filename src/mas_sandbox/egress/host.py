"""What a connection is asked for, read once: the name or the address that is judged is the
object that is dialled."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from .refusal import Outcome, Refused

Address = IPv4Address | IPv6Address

MAX_NAME = 253
MAX_LABEL = 63
_MAX_SPELLING = 1024
_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_HEXADECIMAL = frozenset("0123456789abcdef")
_STRANGER_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": "."})
"""The full stops that IDNA takes for a dot (RFC 3490 section 3.1)."""


@dataclass(frozen=True, slots=True)
class Host:
    """`text`: the canonical spelling, ASCII; `address`: what it is when not a name."""

    text: str
    address: Address | None = None

    def at(self, port: int) -> str:
        """As an authority: `name:443`, `[::1]:443`."""
        name = f"[{self.text}]" if isinstance(self.address, IPv6Address) else self.text
        return f"{name}:{port}"


def parse_host(spelling: str) -> Host:
    """The host that a spelling means to any of the parsers that might read it.

    IPv4 in each form of inet_aton(3) is an address; so is `::ffff:1.2.3.4`, an IPv4 one. Full-width
    characters are what NFKC makes of them. Raises Refused for anything that parsers disagree
    about: control characters, spaces, `%`, `@`, zones, names that are not ASCII.
    """
    if len(spelling) > _MAX_SPELLING:
        raise _malformed(f"a host name has at most {MAX_NAME} characters")
    name = unicodedata.normalize("NFKC", spelling.translate(_STRANGER_DOTS)).lower()
    if name.startswith("[") and name.endswith("]"):
        return _ipv6(name[1:-1])
    if ":" in name:
        return _ipv6(name)
    name = name.removesuffix(".")
    labels = name.split(".")
    if not name or len(name) > MAX_NAME or not all(map(_is_label, labels)):
        raise _malformed(
            "that is not a host name: write letters, digits, '-' and '.', at most "
            f"{MAX_NAME} characters, international names as 'xn--...'"
        )
    if _is_number(labels[-1]):
        address = _inet_aton(labels)
        return Host(str(address), address)
    return Host(name)


def parse_authority(text: str, default_port: int | None) -> tuple[Host, int]:
    """`host`, `host:port` or `[v6]:port`. Raises Refused, also where the port is missing and
    there is no default."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise _malformed("an IPv6 address stands in brackets, as in [2606:4700::1111]:443")
    return parse_host(host), parse_port(port, default_port)


def parse_port(text: str, default: int | None = None) -> int:
    if not text and default is not None:
        return default
    if not (0 < len(text) <= 5 and text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise _malformed("that is not a port: write host:port, with a port from 1 to 65535")
    return int(text)


def plain(address: Address) -> Address:
    """An IPv4-mapped IPv6 address as the IPv4 one that the kernel would dial."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _ipv6(text: str) -> Host:
    try:
        # A zone is refused: it means an interface of this host's.
        address = plain(IPv6Address("" if "%" in text else text))
    except AddressValueError:
        raise _malformed("that is not an IPv6 address; write it without a zone") from None
    return Host(str(address), address)


def _is_label(label: str) -> bool:
    return (
        0 < len(label) <= MAX_LABEL
        and _LABEL_CHARACTERS.issuperset(label)
        and not label.startswith("-")
        and not label.endswith("-")
    )


def _is_number(label: str) -> bool:
    """Whether URL parsers take a host that ends so for an IPv4 address (WHATWG URL, "ends in
    a number")."""
    return label.isdigit() or (label.startswith("0x") and _HEXADECIMAL.issuperset(label[2:]))


def _inet_aton(parts: list[str]) -> IPv4Address:
    *leading, rest = [_part(part) for part in parts]
    if len(leading) > 3 or any(number > 255 for number in leading):
        raise _malformed("that is neither a name nor an IPv4 address")
    if rest >= 256 ** (4 - len(leading)):
        raise _malformed("that IPv4 address is out of range")
    return IPv4Address(rest + sum(n << (24 - 8 * place) for place, n in enumerate(leading)))


def _part(text: str) -> int:
    """One part of an IPv4 address: decimal, 0octal or 0xhexadecimal."""
    base = 16 if text.startswith("0x") else 8 if text.startswith("0") and text != "0" else 10
    digits = text.removeprefix("0x")
    try:
        # int() would take "1_0" and "+1" as well.
        return int(digits if _HEXADECIMAL.issuperset(digits) else "", base)
    except ValueError:
        raise _malformed("that is neither a name nor an IPv4 address") from None


def _malformed(reason: str) -> Refused:
    return Refused(Outcome.MALFORMED, "host", reason)

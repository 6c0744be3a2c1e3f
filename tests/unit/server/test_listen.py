"""Where the daemon may be reached, and by which names."""

from __future__ import annotations

import pytest

from mas_sandbox.server.listen import Address, HostNames, bind, parse_address
from mas_sandbox.wire.errors import SandboxError

LONG = "x" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("localhost:80", Address("localhost", 80)),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["8080", "", ":", ":http", ":65536", "::1:80", ":-1", ":٣"])
def test_what_is_no_address_is_refused_with_examples(text: str) -> None:
    with pytest.raises(SandboxError, match=r"127\.0\.0\.1:8080"):
        parse_address(text)


def test_without_a_token_a_bare_port_is_loopback() -> None:
    with bind(Address("", 0), authenticated=False, token=None) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_with_a_token_a_bare_port_is_every_interface() -> None:
    with bind(Address("", 0), authenticated=True, token=LONG) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_nobody_else_may_reach_a_daemon_that_asks_for_no_token(host: str) -> None:
    with pytest.raises(SandboxError, match="-auth-token"):
        bind(Address(host, 0), authenticated=False, token=None)


def test_a_short_token_does_not_guard_an_exposed_address() -> None:
    with pytest.raises(SandboxError, match="openssl rand"):
        bind(Address("0.0.0.0", 0), authenticated=True, token="short")


def test_a_taken_port_is_worded() -> None:
    with bind(Address("127.0.0.1", 0), authenticated=False, token=None) as first:
        taken = Address("127.0.0.1", first.getsockname()[1])
        with pytest.raises(SandboxError, match="in use"):
            bind(taken, authenticated=False, token=None)


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("10.1.2.3:8080", True),  # the address that the connection came in on
        ("sandbox.example:8080", True),  # allowed
        ("10.1.2.4", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:8080@evil.example", False),
        ("localhost:x", False),
        ("[::1", False),
        ("", False),
        ("localhost.", False),
    ],
)
def test_only_a_name_of_this_daemon_is_accepted(host: str, accepted: bool) -> None:
    assert HostNames(("Sandbox.Example",)).accepts(host, "10.1.2.3") is accepted


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://localhost:8080", True),
        ("https://localhost:8080", True),
        ("http://localhost:3000", False),
        ("http://localhost", False),
        ("null", False),
        ("http://evil.example", False),
        ("file://", False),
    ],
)
def test_only_our_own_pages_are_of_this_origin(origin: str, same: bool) -> None:
    assert HostNames().same_origin(origin, "localhost:8080") is same

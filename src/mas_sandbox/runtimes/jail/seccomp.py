"""Assembles the jail's seccomp filter: classic BPF over `struct seccomp_data`.

Layout and return values: seccomp(2), linux/seccomp.h, linux/bpf_common.h. The
program is handed to bubblewrap, which loads it just before the toolrunner starts.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable
from functools import cache
from typing import assert_never

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .seccomp_rules import RULES, Rule, When
from .seccomp_tables import MACHINES, Machine

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT = 0x20, 0x15, 0x35, 0x45
_AND, _RETURN, _JUMP = 0x54, 0x06, 0x05
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""
_NEW_TIME = 0x80
"""CLONE_NEWTIME: a flag of unshare; in clone those bits are the exit signal."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_SOCK_TYPE_MASK, _SOCK_RAW = 0xF, 3
_FILE_TYPE, _CHARACTER, _BLOCK = 0o170000, 0o020000, 0o060000

_IN_TURN = 3
"""So few numbers are not worth dividing."""

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


@cache
def jail_filter(machine: str = "") -> bytes:
    """The filter for this machine (or the named one, as `platform.machine` has it).

    Raises SandboxError `policy_unenforceable` on a machine without a table.
    """
    name = machine or platform.machine()
    table = MACHINES.get(name)
    if table is None:
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"the jail has no seccomp table for {name}; it has {', '.join(MACHINES)}",
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(table))


def _program(machine: Machine) -> Iterable[Instruction]:
    yield _load(_ARCH)
    yield (_JUMP_EQUAL, 1, 0, machine.audit_arch)
    yield (_RETURN, 0, 0, _KILL_PROCESS)  # a 32-bit call on a 64-bit machine
    yield _load(_NUMBER)
    if machine.x32_bit:
        yield (_JUMP_GREATER_EQUAL, 0, 1, machine.x32_bit)
        yield _refuse(errno.ENOSYS)
    yield (_JUMP_GREATER_EQUAL, 0, 1, machine.newest + 1)
    yield _refuse(errno.ENOSYS)
    bodies = {
        machine.numbers[name]: [*_body(rule, name)]
        for rule in RULES
        for name in rule.names
        if name in machine.numbers
    }
    yield from _search(sorted(bodies.items()))


def _search(bodies: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find a call's number among these by halves, and do what its body says, which ends in a
    return. (The kernel runs a filter for every number there is when it is loaded: one that
    looks at them in turn costs a jail a quarter of a millisecond more.)"""
    if len(bodies) <= _IN_TURN:
        found: list[Instruction] = []
        for number, body in bodies:
            found += [(_JUMP_EQUAL, 0, len(body), number), *body]
        return [*found, (_RETURN, 0, 0, _ALLOW)]
    middle = len(bodies) // 2
    lower, upper = _search(bodies[:middle]), _search(bodies[middle:])
    far = (_JUMP, 0, 0, len(lower))  # a conditional jump reaches 255 instructions
    return [(_JUMP_GREATER_EQUAL, 0, 1, bodies[middle][0]), far, *lower, *upper]


def _body(rule: Rule, name: str) -> Iterable[Instruction]:
    refuse, allow = _refuse(rule.error), (_RETURN, 0, 0, _ALLOW)
    match rule.when:
        case When.ALWAYS:
            yield refuse
        case When.NEW_NAMESPACE:
            yield _argument(0)
            yield (_JUMP_ANY_BIT, 0, 1, _NAMESPACES | (_NEW_TIME if name == "unshare" else 0))
            yield from (refuse, allow)
        case When.SOCKETPAIR_FAMILY:
            yield _argument(0)
            yield (_JUMP_EQUAL, 1, 0, _UNIX)
            yield from (refuse, allow)
        case When.SOCKET_FAMILY:
            yield from _socket(refuse, allow)
        case When.TERMINAL_INJECTION:
            yield _argument(1)  # the low 32 bits, which are all that the kernel looks at
            yield (_JUMP_EQUAL, 1, 0, _TIOCSTI)
            yield (_JUMP_EQUAL, 0, 1, _TIOCLINUX)
            yield from (refuse, allow)
        case When.PERSONA:
            yield _argument(0)
            yield (_JUMP_EQUAL, 2, 0, 0)
            yield (_JUMP_EQUAL, 1, 0, 0xFFFFFFFF)
            yield from (refuse, allow)
        case When.DEVICE_NODE | When.DEVICE_NODE_AT:
            yield _argument(1 if rule.when is When.DEVICE_NODE else 2)
            yield (_AND, 0, 0, _FILE_TYPE)
            yield (_JUMP_EQUAL, 1, 0, _CHARACTER)
            yield (_JUMP_EQUAL, 0, 1, _BLOCK)
            yield from (refuse, allow)
        case _:
            assert_never(rule.when)


def _socket(refuse: Instruction, allow: Instruction) -> Iterable[Instruction]:
    """UNIX, INET, INET6 and NETLINK_ROUTE sockets that are not raw."""
    yield _argument(0)
    yield (_JUMP_EQUAL, 7, 0, _UNIX)
    yield (_JUMP_EQUAL, 3, 0, _INET)
    yield (_JUMP_EQUAL, 2, 0, _INET6)
    yield (_JUMP_EQUAL, 6, 0, _NETLINK)
    yield refuse
    yield _argument(1)  # INET: by type
    yield (_AND, 0, 0, _SOCK_TYPE_MASK)
    yield (_JUMP_EQUAL, 1, 0, _SOCK_RAW)
    yield allow
    yield refuse
    yield _argument(2)  # NETLINK: by protocol; ROUTE is 0
    yield (_JUMP_EQUAL, 0, 1, 0)
    yield from (allow, refuse)


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _argument(index: int) -> Instruction:
    """The low half of an argument, on the little-endian machines of the tables."""
    return _load(_ARGUMENTS + 8 * index)


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)

"""The filter decides alike for every number, however it looks for it."""

from __future__ import annotations

import errno
import struct

import pytest

from mas_sandbox.runtimes.jail.seccomp import jail_filter
from mas_sandbox.runtimes.jail.seccomp_rules import RULES, When
from mas_sandbox.runtimes.jail.seccomp_tables import MACHINES

ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def decide(program: bytes, number: int, architecture: int, *arguments: int) -> int:
    """Run classic BPF as the kernel does (linux/bpf_common.h), as far as filters use it."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *(0,) * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        what, if_true, if_false, constant = code[at]
        at += 1
        match what:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case 0x54:
                accumulator &= constant
            case 0x05:
                at += constant
            case 0x15:
                at += if_true if accumulator == constant else if_false
            case 0x35:
                at += if_true if accumulator >= constant else if_false
            case 0x45:
                at += if_true if accumulator & constant else if_false
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(hex(what))


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_always_refused_is_and_what_has_no_rule_is_allowed(name: str) -> None:
    machine = MACHINES[name]
    ruled = {
        machine.numbers[call]: rule
        for rule in RULES
        for call in rule.names
        if call in machine.numbers
    }
    program = jail_filter(name)
    for number in range(machine.newest + 1):
        decision = decide(program, number, machine.audit_arch)
        rule = ruled.get(number)
        if rule is None:
            assert decision == ALLOW, number
        elif rule.when is When.ALWAYS:
            assert decision == ERRNO | rule.error, rule
    assert len(ruled) > 60
    newer = decide(program, machine.newest + 1, machine.audit_arch)
    assert newer == ERRNO | errno.ENOSYS


@pytest.mark.parametrize("name", MACHINES)
def test_what_depends_on_an_argument_looks_at_it(name: str) -> None:
    machine = MACHINES[name]

    def decision(call: str, *arguments: int) -> int:
        return decide(jail_filter(name), machine.numbers[call], machine.audit_arch, *arguments)

    refused = ERRNO | errno.EPERM
    assert decision("unshare", 0x10000000) == refused
    assert decision("unshare", 0x200) == ALLOW
    assert decision("ioctl", 0, 0x5412) == refused
    assert decision("ioctl", 0, 0x5401) == ALLOW
    assert decision("socket", 1, 1) == ALLOW
    assert decision("socket", 17, 3) != ALLOW
    assert decision("mknodat", 0, 0, 0o060600) == refused
    assert decision("mknodat", 0, 0, 0o100600) == ALLOW

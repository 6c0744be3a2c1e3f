"""Where runsc itself runs."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import pairwise

from mas_sandbox.runtimes.gvisor.layout import plan_runsc, runsc_command
from mas_sandbox.runtimes.jail.layout import ETC_OF_USR, Bind
from mas_sandbox.runtimes.jail.seccomp_setuid import setuid_filter


def planned(
    binds: list[Bind] | None = None, *, users: int | None = None, mends_statx: bool = False
) -> tuple[list[str], list[bytes]]:
    """The arguments, and what the descriptors among them hold."""
    with ExitStack() as undo:
        plan = plan_runsc(
            runner=b"zip",
            configuration=b"{}",
            binds=binds or [],
            users=users,
            info=2,
            kvm=False,
            mends_statx=mends_statx,
            undo=undo,
        )
        given = {2, users, *(bind.source for bind in binds or [])}
        contents = [os.pread(each, 1 << 16, 0) for each in plan.descriptors if each not in given]
        return plan.arguments, contents


def options(arguments: list[str], name: str) -> list[str]:
    return [word for before, word in pairwise(arguments) if before == name]


def test_nothing_of_the_host_but_usr_is_to_be_seen() -> None:
    arguments, _ = planned()
    assert set(options(arguments, "--ro-bind")) <= {"/usr", "/lib", "/lib64", "/bin", "/sbin"}
    assert "--bind" not in arguments
    assert "--dev-bind" not in arguments
    assert set(options(arguments, "--ro-bind-try")) == set(ETC_OF_USR)


def test_runsc_shares_no_namespace_and_dies_with_the_daemon() -> None:
    arguments, _ = planned()
    for kind in ("user", "ipc", "pid", "net", "uts"):
        assert f"--unshare-{kind}" in arguments
    assert "--die-with-parent" in arguments
    with_users, _ = planned(users=0)
    assert options(with_users, "--userns") == ["0"]
    assert "--unshare-user" not in with_users


def test_who_may_write_a_host_directory_can_make_nothing_setuid() -> None:
    writable = planned([Bind("/x", "/data", writable=True)])
    assert setuid_filter() in writable[1]
    assert options(writable[0], "--bind") == ["/x"]
    read_only = planned([Bind("/x", "/data", writable=False)])
    assert setuid_filter() not in read_only[1]
    assert "/x" in options(read_only[0], "--ro-bind")


def test_the_library_for_statx_is_only_there_where_it_is_needed() -> None:
    assert any(word.endswith("/etc/ld.so.preload") for word in planned(mends_statx=True)[0])
    assert not any("preload" in word for word in planned()[0])


def test_runsc_has_no_network_no_logs_and_the_flags_it_knows() -> None:
    command = runsc_command("/usr/bin/runsc", ("host-uds=none",), "ptrace")
    assert command[:2] == ["/usr/bin/runsc", "--root"]
    assert {"--network=none", "--rootless", "--platform=ptrace", "--host-uds=none"} <= set(command)
    assert "--directfs=false" not in command
    assert not any("debug" in word or "log" in word.replace("watchdog", "") for word in command)

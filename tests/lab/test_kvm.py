"""The microVM runtime where there is KVM and vsock: on the lab's, which are emulated."""

from __future__ import annotations

import pytest

from lab.disks import make_base, pack_machines
from lab.host import Report, run_lab, seen
from lab.scenarios import KVM_GROUP

pytestmark = [pytest.mark.serial, pytest.mark.long]

HIGHEST_ACCOUNT = 65_535


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    directory = tmp_path_factory.mktemp("lab")
    return run_lab(make_base(), pack_machines(directory), directory, "scenarios")


def test_auto_takes_a_machine_where_kvm_boots_one(report: Report) -> None:
    facts = seen(report, "auto")
    assert (facts["name"], facts["auto"]) == ("microvm", True)
    assert facts["version"].startswith("qemu ")
    assert facts["version"].endswith(", kvm")


def test_a_clone_answers_on_kvm_and_over_vsock(report: Report) -> None:
    facts = seen(report, "first machine")
    assert facts["calculator"] == 42
    assert facts["clocksource"] == "kvm-clock"
    assert {"/dev/kvm", "/dev/vhost-vsock"} <= set(facts["files"])
    assert {"cpu", "memory", "pids", "processes", "network"} <= set(facts["enforced"])


def test_a_monitor_of_root_s_has_the_group_of_dev_kvm_and_nothing_else(report: Report) -> None:
    monitor = seen(report, "first machine")["monitor"]
    assert len(set(monitor["Uid"].split())) == len(set(monitor["Gid"].split())) == 1
    assert int(monitor["Uid"].split()[0]) > HIGHEST_ACCOUNT
    assert monitor["Groups"] == str(KVM_GROUP)
    assert (monitor["Seccomp"], int(monitor["CapEff"], 16)) == ("2", 0)


def test_clones_at_the_same_time_share_no_address_randomness_or_name(report: Report) -> None:
    first, second = seen(report, "two clones")["clones"]
    assert first.pop("clock is right")
    assert second.pop("clock is right")
    assert {name for name in first if first[name] == second[name]} == set()


def test_a_paused_machine_goes_on(report: Report) -> None:
    assert seen(report, "paused") == {"answered while paused": False, "then": 2}


def test_a_killed_monitor_is_a_lost_guest(report: Report) -> None:
    assert seen(report, "killed")["error"].startswith("guest_lost: ")


def test_a_port_of_nobody_is_named_by_the_deadline(report: Report) -> None:
    facts = seen(report, "nobody listens")
    assert "nobody listens on vsock port 4999" in facts["error"]
    assert facts["took"] < 10


def test_machines_leave_nothing_on_the_host(report: Report) -> None:
    assert seen(report, "left behind") == {"new": []}


def test_a_user_in_the_group_of_dev_kvm_needs_no_root_and_no_vsock(report: Report) -> None:
    facts = seen(report, "user")
    assert facts["version"].endswith(", kvm")
    assert facts["calculator"] == 42
    assert int(facts["monitor"]["Uid"].split()[0]) == HIGHEST_ACCOUNT - 1

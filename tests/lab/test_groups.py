"""The jail where control groups are of version 2, by both launchers, as root and as a user: on
the lab's, for which nobody else has made any."""

from __future__ import annotations

import pytest

from lab.disks import make_base, pack_jails
from lab.host import Report, run_lab, seen
from lab.jails import CASES, Case
from mas_sandbox.wire.controls import Control

pytestmark = [pytest.mark.serial, pytest.mark.long]

OF_GROUPS = (Control.MEMORY, Control.CPU, Control.PIDS, Control.CPU_TIME, Control.IO)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    directory = tmp_path_factory.mktemp("lab")
    return run_lab(make_base(), pack_jails(directory), directory, "jails", processors=2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_control_of_the_jail_s_is_held_and_was_attacked(report: Report, case: Case) -> None:
    facts = seen(report, f"{case.name}: controls")
    assert facts["facts"] == {"launcher": case.launcher}
    assert [facts["controls"][control]["enforced"] for control in Control] == [True] * len(Control)
    mechanisms = [facts["controls"][control]["mechanism"] for control in OF_GROUPS]
    assert all(each.startswith("cgroup v2") for each in mechanisms), mechanisms


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_jail_s_own_tests_pass(report: Report, case: Case) -> None:
    facts = seen(report, f"{case.name}: tests")
    assert facts["status"] == 0, facts["said"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("step", ["controls", "tests"])
def test_no_group_of_a_sandbox_s_is_left(report: Report, case: Case, step: str) -> None:
    assert seen(report, f"{case.name}: {step}")["groups"] == list(case.stays)


def test_where_the_zygote_may_not_have_its_namespaces_bubblewrap_is_taken(report: Report) -> None:
    facts = seen(report, "few user namespaces")
    assert facts["launcher"] == "bubblewrap"
    assert {"memory", "pids"} <= set(facts["enforced"])


def test_where_nobody_may_have_namespaces_the_jail_says_so(report: Report) -> None:
    facts = seen(report, "no user namespaces")
    assert not facts["available"]
    assert "namespace" in facts["reason"]
    assert facts["mend"] == "sysctl -w user.max_user_namespaces=15000"


def test_jails_leave_nothing_on_the_host(report: Report) -> None:
    assert seen(report, "left behind") == {"new": []}

"""What is promised when something fails, and the tests that hold it, by id.

Tests of this directory carry the id in their name; `tests` are those elsewhere. `short`: in
which respect less is promised than the best that is known elsewhere, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

_CHANNEL = "tests/unit/runtimes/test_channel.py"
_CLONES = "tests/conformance/test_qemu_clones.py"
_LOG = "tests/unit/audit/test_log.py"
_MACHINES = "tests/conformance/test_machines.py"
_STORE = "tests/unit/server/registry/test_store.py"


@dataclass(frozen=True)
class Promise:
    fault: str
    promise: str
    tests: tuple[str, ...] = ()
    short: str = ""


PROMISES = {
    "FI_01": Promise(
        "daemon killed while a call runs",
        "the intent was on disk before the call ran; the next start records it as `interrupted`; it is never run again, and its idempotency key tells that state",
        (
            "tests/unit/server/test_broker.py::test_an_allowed_call_is_recorded_before_and_after_it_runs",
            "tests/unit/server/test_once.py::test_what_runs_when_the_daemon_ends_is_interrupted_for_the_next",
        ),
        "a call without a key that is sent again is another call",
    ),
    "FI_02": Promise(
        "daemon killed while sandboxes run",
        "no process of theirs two seconds later, everything else gone before the next daemon answers",
        (
            "tests/faults/test_sandboxes_survive.py::test_a_daemon_killed_while_a_sandbox_is_paused_leaves_no_process",
        ),
        "a bubblewrap whose other half dies as it starts waits, with nothing in it, for the next daemon's start",
    ),
    "FI_03": Promise(
        "toolrunner crashes or hangs",
        "`guest_lost` within three heartbeats, and the sandbox is never used again",
        (f"{_CHANNEL}::test_a_guest_that_stops_answering_pings_is_lost",),
    ),
    "FI_04": Promise(
        "machine monitor killed or stopped",
        "an error within two seconds, or by the call's deadline; its place is free again",
        (
            f"{_MACHINES}::test_FI_04_a_monitor_that_stops_answering_ends_at_the_deadline",
            f"{_CLONES}::test_a_killed_monitor_ends_its_channel_and_leaves_nothing",
            f"{_CLONES}::test_a_monitor_that_stops_answering_is_killed_at_the_deadline",
        ),
    ),
    "FI_05": Promise(
        "bubblewrap, runsc or its gofer killed",
        "the call ends with a typed error, never with exit code 0",
        short="gVisor does not notice an address space that is killed: its call ends at the deadline",
    ),
    "FI_06": Promise(
        "disk full",
        "new calls are refused (503), what runs is recorded from a reserve, nothing is torn",
        (f"{_LOG}::test_a_full_disk_refuses_every_later_call_and_leaves_a_sound_log",),
    ),
    "FI_07": Promise(
        "EIO, short write, failing fsync",
        "final: nothing new runs, what runs is ended; the next start goes on from the last sound record",
        (f"{_LOG}::test_a_failed_sync_is_final_until_the_next_daemon",),
    ),
    "FI_08": Promise(
        "power cut at any byte of the audit log or the registry",
        "the records before it verify, the torn rest is set aside and told of",
        (
            f"{_LOG}::test_a_line_torn_at_any_byte_is_moved_aside_and_the_chain_goes_on",
            f"{_STORE}::test_ss_06_a_cut_wal_leaves_what_was_committed_before",
        ),
    ),
    "FI_09": Promise(
        "the clock jumps by a day",
        "no deadline and no lifetime moves; records stay in order",
        short="a signed URL's expiry is a time of day, and moves with the clock; so does the day for which an idempotency key is kept",
    ),
    "FI_10": Promise(
        "client goes away before, during or after a call",
        "the call is cancelled and recorded; a process that was started with `detach` goes on and is found again",
        (
            "tests/unit/server/test_broker.py::test_a_caller_that_goes_away_at_any_moment_leaves_one_outcome",
        ),
        "what a call without an idempotency key returned is not kept for who went away; one with a key goes on",
    ),
    "FI_11": Promise(
        "a thousand calls at once, and more than may wait",
        "each gets its own answer once, or 429 with a time to come back",
    ),
    "FI_12": Promise(
        "random kills of everything",
        "census as before; `doctor --leftovers` lists what there is; reclaiming twice is reclaiming once",
        (f"{_MACHINES}::test_FI_12_two_hundred_machines_leave_the_host_as_it_was",),
    ),
    "FI_13": Promise(
        "daemon killed at any line of starting or stopping a sandbox",
        "census as before, once the next daemon has started",
    ),
    "FI_14": Promise(
        "host out of memory",
        "the kernel ends sandboxes before the daemon, and calls before toolrunners",
    ),
    "FI_15": Promise(
        "process ids recur, daemons restart",
        "what belongs to whom is decided by a locked token, never by a process id",
        ("tests/unit/runtimes/test_ownership.py::test_a_killed_daemons_things_are_abandoned",),
    ),
    "FI_16": Promise(
        "whoever reads the audit log is slow or stopped",
        "the local log is the truth, and nothing waits for a reader",
        (f"{_LOG}::test_the_event_loop_goes_on_while_the_disk_is_slow",),
        "the daemon forwards nothing: `mas-sandbox audit tail` is what a forwarder reads",
    ),
    "FI_17": Promise(
        "SIGTERM, a rolling upgrade, an older schema",
        "nothing new is taken, what runs may finish within the grace, the rest is `interrupted`",
        (
            f"{_STORE}::test_ss_06_a_file_of_another_version_or_another_program_is_refused",
            f"{_STORE}::test_two_daemons_may_share_a_file",
            f"{_LOG}::test_daemons_that_share_a_log_make_one_chain",
        ),
    ),
    "FI_18": Promise(
        "a machine's template is damaged or gone",
        "it is not used: our own is made again from the image, an operator's is refused and named",
        (
            f"{_MACHINES}::test_SS_02_an_altered_template_is_not_used",
            f"{_CLONES}::test_one_flipped_bit_of_a_template_is_refused_before_a_guest_runs",
            "tests/faults/test_broken_machines.py::test_a_snapshot_that_is_none_is_named_and_stays",
        ),
    ),
}

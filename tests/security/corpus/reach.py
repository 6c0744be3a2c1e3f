"""Which runtimes a test of an id speaks for, and why an id has none for a runtime."""

from __future__ import annotations

RUNTIMES = ("local", "jail", "gvisor", "microvm")
_ALIASES = {"firecracker": "microvm"}
_OF_ONE = {
    "tests/unit/runtimes/gvisor/": "gvisor",
    "tests/unit/runtimes/microvm/": "microvm",
    "tests/conformance/test_machines.py": "microvm",
    "tests/conformance/test_qemu_clones.py": "microvm",
    "tests/conformance/test_firecracker_clones.py": "microvm",
    "tests/faults/test_broken_machines.py": "microvm",
    "tests/security/test_jail_": "jail",
    "tests/security/test_corpus_versions.py": "jail",
    "tests/security/test_hostile_machine.py": "microvm",
    "tests/security/test_tap_": "microvm",
}
"""Of all others, those that do not name a runtime are about what every runtime shares: the
daemon, its front doors, the channel, the way out, the toolrunner and its tools."""

REASONS: dict[tuple[str, str], str] = {
    ("NW_16", "gvisor"): "no network device is ever given to gVisor",
    ("SC_02", "jail"): "a jail is made from the host's own /usr, not from an image",
    ("SC_02", "gvisor"): "its root is the host's own /usr, not an image",
    (
        "SC_04",
        "microvm",
    ): "monitors and kernels have no floor: they are judged by what holds when it is tried",
    ("SS_02", "gvisor"): "gVisor's sandboxes are never snapshotted",
    ("SS_05", "gvisor"): "gVisor's sandboxes are never snapshotted",
}
_LOCAL = "`local` has no wall that would hold this, and says `isolation: none` in every reply"
_LIMITS = "`local` holds no such limit: a policy that asks for it is refused"
_LIMITED = ("RX_01", "RX_02", "RX_03", "RX_06")


def runtimes_of(nodeid: str) -> tuple[str, ...]:
    """By the test's own parameters, else by its file."""
    path, _, rest = nodeid.partition("::")
    words = set(rest.partition("[")[2].rstrip("]").split("-"))
    named = {_ALIASES.get(word, word) for word in words} & set(RUNTIMES)
    if named:
        return tuple(each for each in RUNTIMES if each in named)
    for start, runtime in _OF_ONE.items():
        if path.startswith(start):
            return (runtime,)
    return RUNTIMES


def reason(id: str, runtime: str) -> str:
    """Why no test of this id speaks for this runtime; empty where one should."""
    if runtime == "local":
        return _LIMITS if id in _LIMITED else _LOCAL
    return REASONS.get((id, runtime), "")

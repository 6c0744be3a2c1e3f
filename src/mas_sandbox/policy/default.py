"""The policies that are in force where an operator wrote none."""

from __future__ import annotations

from mas_sandbox.wire.isolation import WORKSPACE, Isolation

from .grants import NetworkPolicy, PathGrant
from .model import Policy, parse_policy

DEFAULT_POLICY = Policy(
    # Every tool, because the walls below hold whatever a tool does inside them.
    tools=("*",),
    # Files and programs are what a sandbox is for; nothing shipped needs more.
    capabilities=("file", "exec"),
    # The sandbox's own scratch space, gone with it: nothing of the host to harm.
    paths=(PathGrant(path=WORKSPACE, mode="rw"),),
    env=(),
    network=NetworkPolicy(),
    timeout_ms=60_000,
    cpus=1.0,
    mem_mb=512,
    pids=128,
    disk_mb=1024,
    output_bytes=1024 * 1024,
    # One kernel shared with the host is the least that counts as a wall.
    min_isolation=Isolation.PROCESS,
)

LOCAL_POLICY = Policy(
    # Runtime `local` has no wall and says so in every reply: whoever chose it trusts
    # the caller with this account. Only what holds without a wall is mentioned.
    tools=("*",),
    capabilities=("file", "exec"),
    env=(),
    timeout_ms=60_000,
    output_bytes=1024 * 1024,
)


WAIVABLE = frozenset({"cpus", "mem_mb", "pids", "disk_mb"})
"""Limits that an operator may do without, by writing null."""


def completed(policy: Policy, base: Policy) -> Policy:
    """An operator's policy with what it never mentions taken from `base`.

    An operator owns both, so this inherits and never compares. A limit that is written
    as null is waived, for hosts that cannot enforce it. A policy that names
    tools in allow rules only does not also get all of the base's tools. Raises
    SandboxError(invalid_request) where the two do not fit together.
    """
    waived = WAIVABLE & policy.model_fields_set
    mentioned = {name: value for name, value in policy if value is not None or name in waived}
    if policy.granted_tools is not None:
        mentioned["tools"] = policy.granted_tools
    return parse_policy(dict(base) | mentioned)

"""A kernel of one's own, as far as it shows without one; the rest is seen in a machine
(tests/conformance/test_guest_in_vm.py)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import mas_sandbox
from doubles.host import PATIENCE, start_toolrunner

RESIZE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from mas_sandbox.guest.scratch import Scratch
inside, outside = sys.argv[2], sys.argv[3]
scratch = Scratch.find([inside])
# The temporary directory around it may be in memory as well.
scratch.mounts = [max((point for point in scratch.mounts if inside.startswith(point + "/")), key=len)]
assert scratch.mounts == [os.path.dirname(inside)], scratch.mounts
scratch.limit(3)
status = os.statvfs(inside)
assert status.f_blocks * status.f_frsize == 3 << 20
assert status.f_flag & os.ST_NODEV, "another option of the mount was lost"
open(inside + "/file", "wb").write(bytes(2 << 20))
try:
    scratch.limit(1)
except OSError:
    pass
else:
    raise SystemExit("smaller than what it holds")
assert Scratch.find([outside]) is None
"""


def test_a_machine_that_is_not_ours_is_left_alone(workspace: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process = start_toolrunner(workspace, "-fd", str(number), "-own-kernel", pass_fds=[number])
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 64
    assert b"no machine of its own" in stderr


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_scratch_space_is_the_tmpfs_behind_a_directory(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    inside = mount / "workspace"
    package = Path(mas_sandbox.__file__).parent.parent
    script = (
        f"mount -t tmpfs -o size=8m,nodev tmpfs {mount} && mkdir {inside} &&"
        f' exec {sys.executable} -I -c "$CODE" {package} {inside} /proc'
    )
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=os.environ | {"CODE": RESIZE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")

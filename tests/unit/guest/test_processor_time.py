"""The sum over a call's tree: its own, its descendants', and those that were waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mas_sandbox.guest.processor_time import tree_ms

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to sum up")

SPIN = "import time\nwhile time.process_time() < {seconds}: pass\n"
WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"


def tree(code: str) -> subprocess.Popen[str]:
    """A process that ran `code`, is ready and waits."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{code}\n{WAIT}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def measured(code: str) -> int:
    process = tree(code)
    try:
        return tree_ms(process.pid)
    finally:
        process.communicate("")


def test_a_process_counts() -> None:
    assert 280 <= measured(SPIN.format(seconds=0.3)) < 800


def test_a_child_that_was_waited_for_counts() -> None:
    child = f"import os\nif os.fork() == 0:\n exec({SPIN.format(seconds=0.3)!r})\n os._exit(0)\nos.wait()"
    assert measured(child) >= 280


def test_descendants_that_still_run_count() -> None:
    grandchild = (
        "import os, time\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        f"        exec({SPIN.format(seconds=0.3)!r})\n"
        "        os.write(writer, b'.')\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.read(reader, 1)"
    )
    process = tree(grandchild)
    try:
        assert tree_ms(process.pid) >= 280
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_what_is_beside_the_tree_does_not_count() -> None:
    spinner = subprocess.Popen([sys.executable, "-c", SPIN.format(seconds=60)])
    try:
        time.sleep(0.5)
        assert measured("") < 250
    finally:
        spinner.kill()
        spinner.wait()


def test_a_process_that_is_gone_used_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert tree_ms(pid) == 0

"""Debian as a source: a root file system, and the parts that every image carries.

All of it comes through mmdebstrap, which needs no root where user namespaces or
fakechroot are at hand, and verifies what it fetches with Debian's archive keys.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from .failure import Progress, bad_input, require, run, said, step_failed

_HOOK = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_SAID_LINES = 20
ROOTFS_PACKAGES = ("python3", "python3-pip", "git", "curl", "usr-is-merged", "ca-certificates")
"""Beside what Debian calls essential: what agents' programs take for granted."""
_KERNEL_SUITES = {"bookworm": "bookworm-backports"}
"""Where a suite's kernel is older than Linux 6.2, whose Landlock is the first that can hold
a path read-only (ABI 3), one is taken from here."""
_FETCH_KERNEL = """\
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/kernel"
cd "$1/kernel"
from=
if [ KERNEL_SUITE != SUITE ]; then
  sources="$1/etc/apt/sources.list.d/kernel.list"
  sed -n 's/ SUITE main$/ KERNEL_SUITE main/p' "$1/etc/apt/sources.list" >"$sources"
  if apt-get update -qq && apt-cache -t KERNEL_SUITE depends PACKAGE >/dev/null; then
    from="-t KERNEL_SUITE"
  else
    echo 'I: KERNEL_SUITE cannot be had, and the kernel of SUITE holds no read-only paths' >&2
    rm "$sources"
    apt-get update -qq
  fi
fi
apt-get download "$(apt-cache $from depends PACKAGE |
  sed -n 's/^ *Depends: \\(linux-image-[0-9]\\)/\\1/p' | head -n 1)"
dpkg-deb -x ./*.deb .
rm ./*.deb
"""


def architecture() -> str:
    """Debian's name for this host's: amd64, arm64."""
    argv = [require("dpkg", "dpkg"), "--print-architecture"]
    return run("asking for the architecture", argv).stdout.decode().strip()


def fetch_rootfs(
    target: Path, suite: str, packages: tuple[str, ...], mirror: str | None, progress: Progress
) -> None:
    """Write a root file system to `target`, a tar archive: Debian's essential packages,
    `ROOTFS_PACKAGES`, and `packages`. Raises SandboxError."""
    wanted = ",".join((*ROOTFS_PACKAGES, *packages))
    options = ["--variant=essential", f"--include={wanted}", f"--hook-dir={_HOOK}"]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    _mmdebstrap(f"making Debian {suite}", options, suite, target, mirror, progress)


def fetch_parts(
    target: Path, suite: str, kernel: bool, mirror: str | None, progress: Progress
) -> None:
    """Write packages' files to `target`, a tar archive, none of them set up: busybox, Python,
    and Debian's cloud kernel where `kernel` is wanted. Raises SandboxError.

    It comes from `kernel_suite`; where that cannot be had, from the suite itself, and
    `progress` is told so.
    """
    options = ["--variant=extract", "--include=python3,busybox-static"]
    if kernel:
        options.append(f"--extract-hook={kernel_hook(suite)}")
    _mmdebstrap(f"fetching packages of Debian {suite}", options, suite, target, mirror, progress)


def kernel_hook(suite: str) -> str:
    """A shell script that unpacks a kernel in the new root's /kernel."""
    # By name: the package that depends on it would bring the tools for an initramfs too.
    hook = _FETCH_KERNEL.replace("PACKAGE", f"linux-image-cloud-{architecture()}")
    return hook.replace("KERNEL_SUITE", kernel_suite(suite)).replace("SUITE", suite)


def kernel_suite(suite: str) -> str:
    """Where the kernel of an image of this suite comes from."""
    return _KERNEL_SUITES.get(suite, suite)


def _mmdebstrap(
    step: str,
    options: list[str],
    suite: str,
    target: Path,
    mirror: str | None,
    progress: Progress,
) -> None:
    argv = [require("mmdebstrap", "mmdebstrap"), *options, "--format=tar", suite, str(target)]
    if mirror is not None:
        argv.append(mirror)
    progress(step)
    last: list[bytes] = []
    try:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                last = [*last[-_SAID_LINES:], line]
                if line.startswith(b"I: "):
                    doing = line[3:].split(b" in shell: ")[0].decode("utf-8", "replace")
                    progress(f"{step}: {doing.strip()[:100]}")
    except OSError as error:
        raise step_failed(step, f"{argv[0]} cannot be run: {error}") from error
    if process.returncode != 0:
        command = shlex.join(argv)
        raise step_failed(
            step,
            f"{said(argv, process.returncode, b''.join(last))}\nThe command was: {command}\n"
            "Without root, mmdebstrap needs user namespaces and the package uidmap, or fakechroot",
        )


def check_name(kind: str, name: str) -> str:
    """A suite's or a package's name, which reaches apt: letters, digits and `+-.:~_`."""
    if not name or name.startswith("-") or not all(c.isalnum() or c in "+-.:~_" for c in name):
        raise bad_input(f"{name!r} is no name of a {kind}")
    return name

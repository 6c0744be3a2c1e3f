"""Which kernel an image gets: a newer one where it can be had, said plainly where it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.image import debian

MIRROR = "deb http://mirror.test/debian bookworm main\n"
# apt as far as the hook uses it; `newer` says which suites the mirror has beside its own.
PROGRAMS = {
    "apt-get": """\
case "$*" in
update*) ! grep -qs backports "$ROOT"/etc/apt/sources.list.d/* || [ "$NEWER" = yes ] ;;
download*) echo "$2" >"$ROOT/fetched"; : >kernel.deb ;;
esac""",
    "apt-cache": """\
case "$*" in
*"-t bookworm-backports"*) echo "  Depends: linux-image-6.12.1-cloud-amd64" ;;
*) echo "  Depends: linux-image-6.1.0-cloud-amd64" ;;
esac""",
    "dpkg-deb": "exit 0",
}


def fetch(root: Path, suite: str, newer: bool) -> tuple[str, str]:
    """The kernel's package, and what the hook said."""
    (root / "bin").mkdir()
    for name, script in PROGRAMS.items():
        (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (root / "bin" / name).chmod(0o755)
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/apt/sources.list").write_text(MIRROR.replace("bookworm", suite))
    environment = {
        "PATH": f"{root}/bin:{os.environ['PATH']}",
        "MMDEBSTRAP_APT_CONFIG": "/dev/null",
        "ROOT": str(root),
        "NEWER": "yes" if newer else "no",
    }
    done = subprocess.run(
        ["sh", "-c", debian.kernel_hook(suite), "sh", root],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return (root / "fetched").read_text().strip(), done.stderr


def test_a_kernel_that_holds_read_only_paths_is_taken(tmp_path: Path) -> None:
    assert fetch(tmp_path, "bookworm", newer=True) == ("linux-image-6.12.1-cloud-amd64", "")


def test_where_the_mirror_has_none_the_suites_own_is_taken_and_said(tmp_path: Path) -> None:
    package, said = fetch(tmp_path, "bookworm", newer=False)
    assert package == "linux-image-6.1.0-cloud-amd64"
    assert said.startswith("I: bookworm-backports cannot be had")
    assert not list((tmp_path / "etc/apt/sources.list.d").iterdir())


@pytest.mark.parametrize("suite", ["trixie", "sid"])
def test_another_suite_has_its_own(suite: str, tmp_path: Path) -> None:
    assert debian.kernel_suite(suite) == suite
    assert fetch(tmp_path, suite, newer=False)[1] == ""

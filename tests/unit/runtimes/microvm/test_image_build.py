"""What may be asked of a build, and what a build that fails leaves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.cli.main import main
from mas_sandbox.runtimes.microvm.image import store
from mas_sandbox.runtimes.microvm.image.build import ImageOptions, build_image
from mas_sandbox.wire.errors import ErrorCode, SandboxError


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return store.image_directory()


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"source": "/nowhere.tar"}, "there is no file /nowhere.tar"),
        ({"suite": "--variant=custom"}, "no name of a Debian suite"),
        ({"suite": ""}, "no name of a Debian suite"),
        ({"packages": ("git", "a;reboot")}, "no name of a Debian package"),
        ({"packages": ("git",), "source": __file__}, "can be added to Debian only"),
        ({"modules": Path("/")}, "modules belong to a kernel"),
        ({"toolrunner": Path("/nowhere.pyz")}, "/nowhere.pyz cannot be read"),
        ({"mirror": "--setup-hook=reboot"}, "is no mirror"),
        ({"kernel": Path(__file__)}, "neither a bzImage"),
        ({"kernel": Path("/nowhere")}, "/nowhere cannot be read"),
        ({"source": __file__}, "it is no tar archive"),
        ({"out": Path("/tmp")}, "/tmp exists and is no image"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_fetched(
    options: dict[str, Any],
    complaint: str,
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(tmp_path, monkeypatch, "echo 'E: nothing may be fetched' >&2; exit 99")
    with pytest.raises(SandboxError, match=complaint) as caught:
        build_image(ImageOptions(**options))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    left = set(os.listdir(images)) if images.exists() else set()
    assert left <= {".lock", ".packages"}


def test_a_step_that_fails_is_named_with_its_words_and_leaves_nothing(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(tmp_path, monkeypatch, "echo 'E: no such suite' >&2; exit 7")
    said: list[str] = []
    with pytest.raises(SandboxError) as caught:
        build_image(ImageOptions(suite="nosuch"), said.append)
    assert caught.value.code is ErrorCode.INTERNAL
    assert "making Debian nosuch failed" in caught.value.message
    assert "ended with status 7: E: no such suite" in caught.value.message
    assert "making Debian nosuch" in said
    assert sorted(os.listdir(images)) == [".lock", ".packages"]
    assert os.listdir(images / ".packages") == []


def test_a_step_that_says_nothing_useful_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(tmp_path, monkeypatch, 'for last; do :; done; echo "no archive" > "$last"')
    with pytest.raises(SandboxError, match="no whole tar archive"):
        build_image(ImageOptions())


def test_what_a_killed_build_left_is_swept(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / ".building-x" / "root").mkdir(parents=True)
    failing(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(SandboxError):
        build_image(ImageOptions())
    assert not (images / ".building-x").exists()


def test_a_place_that_cannot_be_written_is_an_error_with_a_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SandboxError, match="may you write"):
        build_image(ImageOptions())


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "build", "--from", "/nowhere.tar"]) == 1
    assert "there is no file /nowhere.tar" in capsys.readouterr().err
    assert main(["image", "rm", "abc"]) == 1
    assert "mas-sandbox image ls" in capsys.readouterr().err


def test_the_command_lists_images(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    assert main(["image", "ls"]) == 0
    assert "mas-sandbox image build" in capsys.readouterr().out
    built = images / ".building"
    built.mkdir(parents=True)
    files = ["vmlinux", "initrd.img", "rootfs.ext4"]
    for name in files:
        (built / name).write_bytes(b"")
    facts = {
        "inputs": "",
        "kernel_version": "6.1",
        "built_at": 0.0,
        "source": "\x1b[2Jalpine.tar",
        "python": "python3.11, carried",
        "toolrunner": "",
    }
    image = store.keep(built, files, facts)
    assert main(["image", "ls"]) == 0
    shown = capsys.readouterr().out
    assert image.digest[:12] in shown
    assert "\x1b[2J" not in shown
    assert main(["image", "ls", "--json"]) == 0
    assert '"current": true' in capsys.readouterr().out
    assert main(["image", "rm", image.digest]) == 0
    assert not image.directory.exists()


def test_the_seed_script_explains_itself() -> None:
    script = Path(__file__).parents[4] / "scripts/microvm/build_rootfs.sh"
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "BASE_ROOTFS_TAR" in shown
    assert "TOOLRUNNER_BIN" in shown


def test_the_seed_script_refuses_a_base_that_is_not_there(tmp_path: Path) -> None:
    script = Path(__file__).parents[4] / "scripts/microvm/build_rootfs.sh"
    environment = os.environ | {"BASE_ROOTFS_TAR": str(tmp_path / "none.tar")}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no file" in done.stderr

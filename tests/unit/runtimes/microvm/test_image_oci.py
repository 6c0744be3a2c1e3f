"""Container images in a file: layers in their order, and nothing that is not what it says."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.runtimes.microvm.image.oci import open_container
from mas_sandbox.runtimes.microvm.image.tree import Tree
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return file.getvalue()


def plain(data: bytes) -> bytes:
    return data


def zstd(data: bytes) -> bytes:
    command = ["zstd", "-cq"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


class Layout:
    """An OCI image layout in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def add(self, content: bytes | dict[str, Any], **more: Any) -> dict[str, Any]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data), **more}

    def manifest(self, *layers: bytes, architecture: str = "amd64") -> dict[str, Any]:
        config = self.add({"architecture": architecture, "os": "linux"})
        described = {"config": config, "layers": [self.add(layer) for layer in layers]}
        return self.add(described, platform={"architecture": architecture})

    def save(self, path: Path, *manifests: dict[str, Any]) -> Path:
        index = json.dumps({"schemaVersion": 2, "manifests": list(manifests)}).encode()
        path.write_bytes(tar(self.files | {"index.json": index}))
        return path


LAYERS = (tar({"a": b"1", "b": b"1"}), tar({"a": b"2", ".wh.b": b""}))


def laid(path: Path, tmp_path: Path) -> dict[str, bytes]:
    spool = tmp_path / "spool"
    spool.mkdir()
    tree = Tree(spool)
    with open_container(path, "amd64") as container:
        assert container is not None
        container.apply(tree, spool)
    tree.write(tmp_path / "out")
    out = tmp_path / "out"
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*")}


@pytest.mark.parametrize("compress", [plain, gzip.compress, zstd])
def test_layers_are_laid_in_order(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    layout = Layout()
    path = layout.save(tmp_path / "image.tar", layout.manifest(*map(compress, LAYERS)))
    assert laid(path, tmp_path) == {"a": b"2"}


def test_the_image_for_this_processor_is_taken(tmp_path: Path) -> None:
    layout = Layout()
    both = [
        layout.manifest(LAYERS[0], architecture="arm64"),
        layout.manifest(LAYERS[1], architecture="amd64"),
    ]
    inner = layout.add({"manifests": both})
    assert laid(layout.save(tmp_path / "image.tar", inner), tmp_path) == {"a": b"2"}


def test_what_docker_saves_is_taken(tmp_path: Path) -> None:
    described = [{"Config": "c.json", "Layers": ["1/layer.tar", "2/layer.tar"]}]
    files = {
        "manifest.json": json.dumps(described).encode(),
        "c.json": b'{"architecture": "amd64"}',
        "1/layer.tar": LAYERS[0],
        "2/layer.tar": LAYERS[1],
    }
    path = tmp_path / "saved.tar.gz"
    path.write_bytes(gzip.compress(tar(files)))
    assert laid(path, tmp_path) == {"a": b"2"}


def test_an_archive_of_a_root_file_system_is_no_container(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(tar({"etc/index.json": b"", "bin/sh": b""}))
    with open_container(path, "amd64") as container:
        assert container is None


def broken(change: Callable[[Layout, dict[str, Any]], None]) -> Callable[[Path], Path]:
    def save(path: Path) -> Path:
        layout = Layout()
        manifest = layout.manifest(*LAYERS)
        change(layout, manifest)
        return layout.save(path, manifest)

    return save


def altered(layout: Layout, manifest: dict[str, Any]) -> None:
    name = "blobs/sha256/" + hashlib.sha256(LAYERS[1]).hexdigest()
    layout.files[name] = LAYERS[0]


def missing(layout: Layout, manifest: dict[str, Any]) -> None:
    del layout.files["blobs/sha256/" + hashlib.sha256(LAYERS[1]).hexdigest()]


def outside(layout: Layout, manifest: dict[str, Any]) -> None:
    manifest["digest"] = "sha256:../../../etc/passwd"


def foreign(layout: Layout, manifest: dict[str, Any]) -> None:
    manifest.update(layout.manifest(LAYERS[0], architecture="riscv64"))
    del manifest["platform"]


def no_layers(layout: Layout, manifest: dict[str, Any]) -> None:
    manifest.update(layout.manifest())


def endless(layout: Layout, manifest: dict[str, Any]) -> None:
    nested = layout.manifest(*LAYERS)
    for _ in range(9):
        nested = layout.add({"manifests": [nested]})
    manifest.clear()
    manifest.update(nested)


def no_json(layout: Layout, manifest: dict[str, Any]) -> None:
    manifest.update(layout.add(b"no JSON"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (altered, "is not what its digest says"),
        (missing, "cut short"),
        (outside, "is no sha256 digest"),
        (foreign, "is for riscv64; this host is amd64"),
        (no_layers, "has 0 layers"),
        (endless, "nested too deeply"),
        (no_json, "holds no single container image"),
    ],
)
def test_a_broken_container_image_is_refused(
    change: Callable[[Layout, dict[str, Any]], None], complaint: str, tmp_path: Path
) -> None:
    path = broken(change)(tmp_path / "image.tar")
    with pytest.raises(SandboxError, match=complaint) as caught:
        laid(path, tmp_path)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert str(path) in caught.value.message


def test_a_layer_that_is_no_archive_is_named(tmp_path: Path) -> None:
    layout = Layout()
    path = layout.save(tmp_path / "image.tar", layout.manifest(LAYERS[0], b"no archive" * 100))
    with pytest.raises(SandboxError, match=f"layer 2 of {path} is no whole tar archive"):
        laid(path, tmp_path)

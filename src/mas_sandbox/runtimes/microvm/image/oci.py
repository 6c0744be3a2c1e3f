"""Container images in one file: an OCI archive, or what `docker save` writes.

(OCI image specification: image-layout.md, manifest.md. Every blob that the layout names
is checked against its digest.)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .failure import bad_input, require
from .tree import Tree

_MAX_JSON = 4 * 1024 * 1024
_MAX_LAYERS = 512
_PIECE = 1024 * 1024
_MAX_DEPTH = 4
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ZSTD = b"\x28\xb5\x2f\xfd"


class ContainerArchive:
    """An open archive. Raises SandboxError `invalid_request` for all that is wrong in it."""

    def __init__(self, path: Path, archive: tarfile.TarFile, architecture: str) -> None:
        """`architecture`: as Debian and OCI both call it: amd64, arm64."""
        self._path = path
        self._archive = archive
        self._architecture = architecture

    def apply(self, tree: Tree, spool: Path) -> None:
        """Lay the layers on the tree, the lowest first."""
        for number, (name, digest) in enumerate(self._layers(), start=1):
            with self._blob(name, digest) as blob, _uncompressed(blob, spool) as layer:
                tree.apply(layer, f"layer {number} of {self._path}")

    def _layers(self) -> list[tuple[str, str | None]]:
        layers: list[tuple[str, str | None]] = []
        try:
            if "index.json" in self._archive.getnames():
                index = self._json("index.json", None)
                layers += [_located(layer) for layer in self._manifest(index, 0)["layers"]]
            else:
                (saved,) = self._json("manifest.json", None)
                self._check(self._json(saved["Config"], None))
                layers += [(str(name), None) for name in saved["Layers"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_input(
                f"{self._path} holds no single container image: {error!r}; save one image with "
                "`podman save --format oci-archive` or `docker save`"
            ) from error
        if not 0 < len(layers) <= _MAX_LAYERS:
            raise bad_input(f"{self._path} has {len(layers)} layers, not 1 to {_MAX_LAYERS}")
        return layers

    def _manifest(self, described: dict[str, Any], depth: int) -> dict[str, Any]:
        """An index leads to other indexes and manifests; a manifest is what has layers."""
        if "layers" in described:
            self._check(self._json(*_located(described["config"])))
            return described
        if depth > _MAX_DEPTH:
            raise ValueError("its indexes are nested too deeply")
        fitting = [
            one
            for one in described["manifests"]
            if one.get("platform", {}).get("architecture", self._architecture) == self._architecture
        ]
        if len(fitting) != 1:
            raise ValueError(f"{len(fitting)} images in it are for {self._architecture}")
        return self._manifest(self._json(*_located(fitting[0])), depth + 1)

    def _check(self, config: dict[str, Any]) -> None:
        found = config.get("architecture", self._architecture)
        if found != self._architecture:
            raise bad_input(f"{self._path} is for {found}; this host is {self._architecture}")

    def _json(self, name: str, digest: str | None) -> Any:
        with self._blob(name, digest) as blob:
            text = blob.read(_MAX_JSON + 1)
        if len(text) > _MAX_JSON:
            raise ValueError(f"{name} is too long")
        return json.loads(text)

    @contextmanager
    def _blob(self, name: str, digest: str | None) -> Iterator[IO[bytes]]:
        try:
            blob = self._archive.extractfile(name)
        except (KeyError, tarfile.TarError) as error:
            raise bad_input(f"{self._path} has no {name}; it was cut short") from error
        if blob is None:
            raise bad_input(f"{name} in {self._path} is no file")
        with blob:
            if digest is not None:
                found = hashlib.sha256()
                while piece := blob.read(_PIECE):
                    found.update(piece)
                if found.hexdigest() != digest:
                    raise bad_input(f"{name} in {self._path} is not what its digest says")
                blob.seek(0)
            yield blob


@contextmanager
def open_container(path: Path, architecture: str) -> Iterator[ContainerArchive | None]:
    """The container image in a file; None where it is an archive of something else.

    Raises SandboxError `invalid_request` for what is no tar archive.
    """
    try:
        archive = tarfile.open(path, "r:*")  # noqa: SIM115 - closed below
        names = {name for name in archive.getnames() if "/" not in name}
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        why = "it is no tar archive, plain or compressed with gzip, bzip2 or xz"
        if not isinstance(error, tarfile.ReadError):
            why = str(error)
        raise bad_input(f"{path} cannot be used: {why}") from error
    with archive:
        container = "index.json" in names or "manifest.json" in names
        yield ContainerArchive(path, archive, architecture) if container else None


def _located(descriptor: dict[str, Any]) -> tuple[str, str]:
    match = _DIGEST.fullmatch(descriptor["digest"])
    if match is None:
        raise ValueError(f"{descriptor['digest']!r} is no sha256 digest")
    return f"blobs/sha256/{match[1]}", match[1]


@contextmanager
def _uncompressed(blob: IO[bytes], spool: Path) -> Iterator[IO[bytes]]:
    """tarfile knows every other compression, but zstd only since Python 3.14."""
    magic = blob.read(len(_ZSTD))
    blob.seek(0)
    if magic != _ZSTD:
        yield blob
        return
    copy = spool / "layer.zst"
    with copy.open("wb") as file:
        shutil.copyfileobj(blob, file)
    argv = [require("zstd", "zstd"), "-dcq", str(copy)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
            while process.stdout.read(_PIECE):
                pass  # what follows the end of the archive
        except BaseException:
            process.kill()
            raise
    copy.unlink()
    if process.returncode != 0:
        raise bad_input(f"a layer cannot be uncompressed: zstd ended with {process.returncode}")

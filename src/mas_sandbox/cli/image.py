"""`mas-sandbox image`: the guest images of virtual machines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .chosen import Json
from .screen import console, show_json, visible

if TYPE_CHECKING:
    from mas_sandbox.runtimes.microvm.image.failure import Progress
    from mas_sandbox.runtimes.microvm.image.store import Image

EXAMPLES = """\
Examples:
  mas-sandbox image build
  mas-sandbox image build --packages git,python3-numpy
  mas-sandbox image build --from alpine.oci.tar
  mas-sandbox image build --kernel vmlinux-6.1 --out ./guest
  mas-sandbox image ls
  mas-sandbox image rm 3f1c"""

image = App(name="image", help_format="plaintext", help_epilogue=EXAMPLES)

_SHORT = 12


@image.command
def build(
    *,
    source: Annotated[
        str,
        Parameter(
            name="--from",
            help="debian; or a root file system in a tar archive; or a container image in a "
            "file (an OCI archive, `docker save`). It needs no Python: one is carried.",
        ),
    ] = "debian",
    suite: Annotated[
        str, Parameter(help="Of Debian: for the root, the kernel and the carried Python.")
    ] = "bookworm",
    packages: Annotated[
        str, Parameter(help="Debian packages to add, with commas between them.")
    ] = "",
    kernel: Annotated[
        Path | None, Parameter(help="Your own vmlinux, bzImage or Image instead of Debian's.")
    ] = None,
    modules: Annotated[
        Path | None,
        Parameter(help="Its /lib/modules/VERSION; not needed where virtio is built in."),
    ] = None,
    toolrunner: Annotated[
        Path | None, Parameter(help="A mas-toolrunner zipapp instead of this package's.")
    ] = None,
    mirror: Annotated[str | None, Parameter(help="Where to fetch Debian from.")] = None,
    out: Annotated[
        Path | None, Parameter(help="A directory to put the image in, instead of the store.")
    ] = None,
    force: Annotated[
        bool,
        Parameter(help="Build even if nothing changed, with packages fetched anew."),
    ] = False,
    json: Json = False,
) -> int:
    """Build a kernel, an initramfs and a root file system, and let new machines use them.

    Takes about a minute; nothing where nothing has changed since.
    """
    from mas_sandbox.runtimes.microvm.image.build import ImageOptions, build_image

    options = ImageOptions(
        source=source,
        suite=suite,
        packages=tuple(sorted(filter(None, packages.split(",")))),
        kernel=kernel,
        modules=modules,
        toolrunner=toolrunner,
        mirror=mirror,
        out=out,
        force=force,
    )
    started = time.time()
    with _progress() as progress:
        built = build_image(options, progress)
    if json:
        show_json(_fields(built))
        return 0
    how = "built" if built.built_at >= started else "unchanged since it was built"
    console().print(
        visible(f"{built.digest[:_SHORT]} {how}: {built.source}, Linux {built.kernel_version}"),
        markup=False,
    )
    console().print(visible(str(built.directory)), markup=False, soft_wrap=True, style="dim")
    return 0


@image.command
def ls(*, json: Json = False) -> int:
    """List the images there are, the newest first."""
    from mas_sandbox.runtimes.microvm.image.store import find_image, list_images
    from mas_sandbox.wire.errors import SandboxError

    images = list_images()
    try:
        current = find_image().digest
    except SandboxError:
        current = ""
    if json:
        show_json([_fields(one) | {"current": one.digest == current} for one in images])
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("IMAGE", "FROM", "KERNEL", "PYTHON", "BUILT", "SIZE"):
        table.add_column(column)
    for one in images:
        mark = " (current)" if one.digest == current else ""
        built = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.built_at))
        table.add_row(
            Text.assemble((one.digest[:_SHORT], "cyan"), mark),
            *map(Text, map(visible, (one.source, one.kernel_version, one.python, built))),
            Text(f"{one.bytes_on_disk / 1e6:.0f} MB"),
        )
    console().print(table if images else "No images yet; `mas-sandbox image build` makes one.")
    return 0


@image.command
def rm(digests: Annotated[list[str], Parameter(help="Beginnings of their digests.")], /) -> int:
    """Remove images. Machines that run keep what they have open."""
    from mas_sandbox.runtimes.microvm.image.store import remove_image

    for digest in digests:
        console().print(f"removed {remove_image(digest)[:_SHORT]}", markup=False)
    return 0


def _fields(built: Image) -> dict[str, Any]:
    names = ("digest", "source", "kernel_version", "python", "toolrunner", "built_at", "files")
    return {name: getattr(built, name) for name in names} | {"directory": str(built.directory)}


@contextmanager
def _progress() -> Iterator[Progress]:
    """What is being done, on standard error: one moving line on a terminal, else plain lines."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda doing: print(  # noqa: T201
            visible(f"mas-sandbox: {doing}"), file=sys.stderr, flush=True
        )
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True, highlight=False, emoji=False)
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda doing: bar.update(task, description=visible(doing))

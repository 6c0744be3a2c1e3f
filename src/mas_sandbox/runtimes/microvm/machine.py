"""What machines are made of and where they live: the config file, the image, one sandbox's spec."""

from __future__ import annotations

import shutil
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..base import SandboxSpec
from ..ownership import Ownership
from .config import MicrovmConfig
from .image.store import Image, find_image
from .template_store import TemplateStore, remove_template
from .vm import Drive, Place, VmDriver, VmSpec

DEFAULT_MEM_MB = 512
GUEST_MIB = 192
"""What the guest's kernel and its toolrunner take beside the sandbox's memory."""
LEAST_MIB = 64
OVERLAY_MB = 1024
"""Size of the scratch space where the policy names none; held in the guest's memory."""


class MachinePlan:
    """From what the operator and a policy say to what a driver is told."""

    def __init__(self, ownership: Ownership, directory: Path, config: MicrovmConfig | None) -> None:
        """`directory`: where templates are kept and machines live while they run."""
        self.config = config or MicrovmConfig()
        self.directory = directory
        self.templates = TemplateStore(directory / "templates")
        self._sized = config is not None
        self._ownership = ownership
        self._image: Image | None = None

    @property
    def clones(self) -> bool:
        """Whether machines are cloned; a machine with writable disks of its own is booted."""
        return all(drive.read_only for drive in self.config.drives)

    def image(self) -> Image:
        """The built image. Raises SandboxError that names `mas-sandbox image build`."""
        if self._image is None:
            self._image = find_image(None)
        return self._image

    def machine(self, spec: SandboxSpec, name: str = "") -> VmSpec:
        """The machine that a sandbox of this spec is cloned from, or for the one of this
        name, where its disks are its own.

        Memory is rounded up to a power of two, so that callers cannot ask for more than a
        handful of templates; the sandbox's own limit is held by the guest. Raises
        SandboxError as `image` does.
        """
        config = self.config.for_vm(name) if name else self.config
        mem_mib = config.machine.mem_mib
        if not self._sized:
            wanted = max(LEAST_MIB, spec.mem_mb or DEFAULT_MEM_MB)
            mem_mib = GUEST_MIB + (1 << (wanted - 1).bit_length())
        own_kernel = config.kernel_image is not None
        return VmSpec(
            kernel=Path(config.kernel_image) if config.kernel_image else self.image().kernel,
            initrd=_optional(config.initrd) if own_kernel else self.image().initrd,
            rootfs=Path(config.rootfs) if config.rootfs else self.image().rootfs,
            vcpu_count=config.machine.vcpu_count,
            mem_mib=mem_mib,
            overlay_mb=OVERLAY_MB,
            boot_args=config.kernel_words,
            drives=tuple(
                Drive(drive.id, Path(drive.path), drive.read_only) for drive in config.drives
            ),
            port=config.vsock.port,
        )

    def holds_processors(self, cpus: float) -> bool:
        """Whether each machine gets at most so many: by our own group, or the operator's."""
        group = self.config.cgroup
        if group is None:
            return True
        quota = group.cpu_quota_us
        return quota is not None and quota <= cpus * group.cpu_period_us

    def place(self, name: str, user: int | None) -> Place:
        """Where the machine of this name lives."""
        config = self.config.for_vm(name)
        return Place(
            id=name,
            directory=self.directory / "running" / name,
            user=user,
            cid=config.vsock.cid,
            vsock_path=_optional(config.vsock.uds_path),
            api_socket=_optional(config.api_socket),
            log_path=_optional(config.log_path),
            metrics_path=_optional(config.metrics_path),
        )

    def prepare(self) -> None:
        """Make our directories, and remove what dead daemons left in them.

        Raises SandboxError `sandbox_crash` when they cannot be made.
        """
        running = self.directory / "running"
        try:
            for path in (self.directory, self.directory / "templates", running):
                path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"no place for machines: {error}"
            ) from error
        for left in self._ownership.left_in(running):
            shutil.rmtree(left, ignore_errors=True)

    def template_directory(self, driver: VmDriver, machine: VmSpec) -> Path:
        """Where the template of this machine is, or will be; `snapshot` names one made
        earlier. Reads whole files the first time: call it in a thread."""
        if self.config.snapshot is not None:
            return Path(self.config.snapshot)
        origin = VmSpec(machine.kernel, machine.initrd, machine.rootfs)
        key = driver.template_key(machine)
        return self.templates.place(driver.template_key(origin), key)

    def discard(self, directory: Path) -> None:
        """Remove a template that is not whole; raises SandboxError for one that is not ours."""
        if self.config.snapshot is not None:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the snapshot {directory} cannot be used; make it again, or leave `snapshot` "
                "out of the config file",
            )
        remove_template(directory)


def _optional(path: str | None) -> Path | None:
    return None if path is None else Path(path)

"""What a person may want to know of the machines of this host: for `mas-sandbox doctor`."""

from __future__ import annotations

from dataclasses import asdict

from mas_sandbox.wire.errors import SandboxError

from .machine import MachinePlan
from .vm import VmProbe


def machine_facts(plan: MachinePlan, found: VmProbe | None, monitor: str) -> dict[str, object]:
    """JSON values.

    `kernel`, `image` (its digest), `source`, `built_at`: of the guest image, absent where
    there is none or the config file names files of its own. `monitor`, `monitor_version`,
    `acceleration`: what booted a guest, absent where nothing did; `not_booted`:
    acceleration -> why it did not. `templates`: of each its `key`, `made_at` and `size`
    in bytes on disk. Times are seconds since the epoch.
    """
    facts: dict[str, object] = {"templates": [asdict(each) for each in plan.templates.kept()]}
    if plan.config.kernel_image is None:
        try:
            image = plan.image()
        except SandboxError:
            pass  # why is the probe's reason
        else:
            facts |= {"kernel": image.kernel_version, "image": image.digest}
            facts |= {"source": image.source, "built_at": image.built_at}
    if found is not None:
        facts["not_booted"] = dict(found.tried)
        if found.available:
            facts |= {"monitor": monitor, "monitor_version": found.version}
            facts["acceleration"] = found.acceleration
    return facts

"""What `mas-sandbox doctor` says of virtual machines: image, monitor, templates."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

_SHORT = 12
_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60))


class TemplateFacts(BaseModel):
    """`made_at`: seconds since the epoch; `size`: bytes on disk."""

    key: str
    made_at: float
    size: int


class MachineFacts(BaseModel):
    """As `mas-sandboxd -probe` reports them; what is not known is None.

    `image`: the digest of the guest image, built at `built_at` from `source`, with
    `kernel`; `monitor`, `acceleration`: what booted a guest; `not_booted`: acceleration ->
    why it did not.
    """

    kernel: str | None = None
    image: str | None = None
    source: str = ""
    built_at: float = 0.0
    monitor: str | None = None
    monitor_version: str = ""
    acceleration: str = ""
    not_booted: dict[str, str] = {}
    templates: list[TemplateFacts] = []


def machine_lines(facts: MachineFacts, now: float) -> Iterator[str]:
    """Lines for a person; none where nothing is known."""
    if facts.image is not None:
        yield (
            f"  image      {facts.image[:_SHORT]}, built {age(now - facts.built_at)}: "
            f"{facts.source}, Linux {facts.kernel}"
        )
    if facts.monitor is not None:
        yield (
            f"  monitor    {facts.monitor} {facts.monitor_version}, which booted a guest with "
            f"{facts.acceleration}"
        )
    for acceleration, why in facts.not_booted.items():
        yield f"             {acceleration} did not boot one: {why}"
    if facts.templates:
        count = len(facts.templates)
        size = sum(each.size for each in facts.templates) / 1e6
        newest = age(now - max(each.made_at for each in facts.templates))
        yield f"  templates  {count}, {size:.0f} MB; the newest made {newest}"
    elif facts.monitor is not None:
        yield "  templates  none yet; the first sandbox makes one"


def age(seconds: float) -> str:
    """Such as "2 days ago".

    >>> age(7300)
    '2 hours ago'
    """
    for name, length in _UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"

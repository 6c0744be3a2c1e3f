"""The entries that no test covers, as docs/threat-model.md has them, with its reasons."""

from __future__ import annotations

import re
from pathlib import Path

_THREAT_MODEL = Path(__file__).parents[3] / "docs" / "threat-model.md"
_LISTED = re.compile(r"^- \*\*([A-Z]{2})-(\d\d)\*\* (\S.{20,}(?:\n  .+)*)", re.MULTILINE)


def listed() -> dict[str, str]:
    """Id -> reason."""
    text = _THREAT_MODEL.read_text()
    section = text.partition("\n## Not covered by a test\n")[2].partition("\n## ")[0]
    found = _LISTED.findall(section)
    return {f"{group}_{number}": " ".join(reason.split()) for group, number, reason in found}

"""How old a runsc is, and which published faults it has."""

from __future__ import annotations

import re

FLOOR = 20250319
"""The first release without CVE-2025-2713, as its CVE record has it; the fault of
CVE-2023-7258 was published, with its mend, in the year before."""
ADVISORIES = {
    "CVE-2025-2713": "files are opened with more rights than the caller has",
    "CVE-2023-7258": "a sandbox that may mount can end itself",
}


def release_date(said: str) -> int:
    """The date in what `runsc --version` says, as a number like 20221219; 0 where there is
    none, which is older than everything."""
    dates = re.findall(r"(?<!\d)20\d{6}(?!\d)", said)
    return int(dates[0]) if dates else 0


def warning(release: int) -> str:
    """A sentence that names the advisories, empty for a release without them."""
    if release >= FLOOR:
        return ""
    faults = ", ".join(f"{name} ({what})" for name, what in ADVISORIES.items())
    return (
        f"runsc {release or 'of unknown date'} is older than release {FLOOR}: {faults}; "
        "install a current release from gvisor.dev"
    )

"""Asks the vulnerability database of the package index about every version in the lock.

Exit status 1 for a known vulnerability. Where no database answers nothing is known, which is
said, and is no failure: the rest of the bar must hold without network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
PATIENCE_S = 300


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit status, and what to say, of what `pip-audit -f json` found."""
    every = report["dependencies"]
    unknown = [each["name"] for each in every if "skip_reason" in each]
    if len(unknown) == len(every):
        return 0, ["not audited: no vulnerability database knows these packages"]
    found = [
        f"{each['name']} {each['version']}: {flaw['id']}, mended in "
        f"{', '.join(flaw['fix_versions']) or 'no version yet'}"
        for each in every
        for flaw in each.get("vulns", [])
    ]
    said = [f"{len(every) - len(unknown)} packages audited, {len(found)} vulnerabilities", *found]
    if unknown:
        said.append(f"not audited: {', '.join(unknown)}")
    return int(bool(found)), said


def main() -> int:
    command = [str(Path(sys.executable).with_name(COMMAND[0])), *COMMAND[1:]]
    try:
        done = subprocess.run(
            [*command, "-f", "json", "-r", str(ROOT / "requirements.lock")],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        status, said = verdict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        status, said = 0, [f"not audited: no answer within {PATIENCE_S} s"]
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        status, said = 0, [f"not audited: no vulnerability database answers ({''.join(last)})"]
    for line in said:
        print(f"supply: {line}", file=sys.stderr)  # noqa: T201 - what the command is for
    return status


if __name__ == "__main__":
    sys.exit(main())

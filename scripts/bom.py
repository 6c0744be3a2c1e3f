"""A CycloneDX 1.6 software bill of materials of what `requirements.lock` installs.

From the lock alone, so it needs no network, and says the same on every machine: what differs
from platform to platform is listed with its condition.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from pip_requirements_parser import InstallRequirement, RequirementsFile

ROOT = Path(__file__).resolve().parents[1]


def bill(root: Path) -> Bom:
    """Raises ValueError for a line of the lock that pins no version or has no hash."""
    lock = RequirementsFile.from_file(str(root / "requirements.lock"))
    if lock.invalid_lines:
        raise ValueError(f"not a requirement: {lock.invalid_lines[0].line}")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    bom = Bom(
        components=[_component(each) for each in lock.requirements],
        serial_number=uuid5(NAMESPACE_URL, (root / "requirements.lock").read_text()),
    )
    bom.metadata.component = Component(
        name=project["name"],
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        description=project["description"],
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def _component(requirement: InstallRequirement) -> Component:
    name, version = requirement.name, requirement.get_pinned_version
    hashes = requirement.hash_options
    if not version or not hashes:
        raise ValueError(f"{name} is not pinned with its hashes")
    url = PackageURL("pypi", name=name, version=version)
    component = Component(
        name=name, version=version, purl=url, bom_ref=str(url), type=ComponentType.LIBRARY
    )
    # One for each file that may be installed: a wheel of each platform, and the source.
    component.properties.update(
        Property(name="mas-sandbox:lock:hash", value=each.removeprefix("--hash="))
        for each in hashes
    )
    if len(hashes) == 1:
        content = hashes[0].rpartition(":")[2]
        component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=content))
    if requirement.marker:
        condition = Property(name="mas-sandbox:lock:marker", value=str(requirement.marker))
        component.properties.add(condition)
    return component


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")
    given = parser.parse_args()
    written = make_outputter(bill(ROOT), OutputFormat.JSON, SchemaVersion.V1_6)
    text = written.output_as_string(indent=1)
    if given.output:
        given.output.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The examples of docs/policy.md are policies."""

from __future__ import annotations

import re
from pathlib import Path

from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.file import load_policy_file
from mas_sandbox.policy.model import Policy

TEXT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_every_example_loads(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 7
    for number, example in enumerate(EXAMPLES):
        if not example.startswith("version:"):
            example = "version: 1\npolicies:\n  p:\n" + re.sub("^", "    ", example, flags=re.M)
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        path.chmod(0o600)
        assert load_policy_file(path).policies


def test_every_field_is_described_and_the_defaults_are_true() -> None:
    for name in Policy.model_fields:
        assert f"| `{name}` |" in TEXT, name
    shipped = dict(re.findall(r"^\| `(\w+)` \| ([\d ]+) \|", TEXT, re.MULTILINE))
    assert len(shipped) == 6
    for name, value in shipped.items():
        assert getattr(DEFAULT_POLICY, name) == int(value.replace(" ", "")), name

"""What was found out about the host is kept whole, and not without end."""

from __future__ import annotations

import os
from pathlib import Path

from mas_sandbox.runtimes import kept


def test_what_is_kept_is_read_and_what_is_not_understood_is_not(tmp_path: Path) -> None:
    path = tmp_path / "probe-jail-00.json"
    assert kept.read(path, dict) is None
    kept.keep(path, {"a": 1})
    assert kept.read(path, dict) == {"a": 1}
    assert kept.read(path, lambda fields: fields["b"]) is None
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    for broken in (b"", b"{", b"\xff", b"5"):
        path.write_bytes(broken)
        assert kept.read(path, lambda fields: fields["a"]) is None


def test_of_each_kind_the_newest_stay(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("probe-jail-00.json", "proof-jail.busy", "a.lock")]
    for path in others:
        path.touch()
    made = [tmp_path / f"proof-jail-{number:02x}.json" for number in range(kept.KEPT + 3)]
    for moment, path in enumerate(made):
        kept.keep(path, {})
        os.utime(path, (moment, moment))
    assert sorted(tmp_path.iterdir()) == sorted([*others, *made[3:]])

"""Templates that nothing can be cloned from any more go, and no others."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.template_store import TemplateStore, remove_template


def make(store: TemplateStore, origin: str, key: str, size: int = 0) -> Path:
    place = store.place(origin, key)
    place.mkdir()
    (place / "manifest").write_bytes(b"")
    (place / "memory").write_bytes(bytes(size))
    return place


def test_making_one_removes_those_of_another_image_monitor_or_processor(tmp_path: Path) -> None:
    before = TemplateStore(tmp_path)
    old = make(before, "image1", "small")
    before.close()
    store = TemplateStore(tmp_path)
    new = [make(store, "image2", key) for key in ("small", "large")]
    store.remove_old()
    assert not old.exists()
    assert all(place.exists() for place in new)
    assert os.listdir(tmp_path) == ["image2"]
    store.close()


def test_what_another_daemon_clones_from_stays_for_as_long_as_it_lives(tmp_path: Path) -> None:
    other, store = TemplateStore(tmp_path), TemplateStore(tmp_path)
    used = make(other, "image1", "small")
    make(store, "image2", "small")
    store.remove_old()
    assert used.exists()
    other.close()
    store.remove_old()
    assert not used.exists()
    store.close()


def test_a_place_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TemplateStore(tmp_path)
    lock = fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        other.remove_old()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    store = TemplateStore(tmp_path)
    place = store.place("mine", "key")
    assert place.parent.is_dir()
    other.remove_old()
    assert place.parent.is_dir()
    store.close()


def test_what_is_kept_is_told_the_newest_first(tmp_path: Path) -> None:
    store = TemplateStore(tmp_path)
    first, second = make(store, "image", "first", 8192), make(store, "image", "second")
    os.utime(first / "manifest", (1000, 1000))
    unfinished = store.place("image", ".unfinished")
    unfinished.mkdir()
    (unfinished / "manifest").write_bytes(b"")
    assert [each.key for each in store.kept()] == ["second", "first"]
    assert store.kept()[1].made_at == 1000
    assert store.kept()[1].size == 8192
    remove_template(second)
    remove_template(second)
    assert [each.key for each in store.kept()] == ["first"]
    store.close()

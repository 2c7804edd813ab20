"""A picture is on disk whole or not at all, and never in another's place."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fooocus.errors import StorageError
from fooocus.images import store
from fooocus.images.store import picture_path, save_picture


def test_the_name_holds_day_time_number_and_seed(tmp_path: Path) -> None:
    path = picture_path(tmp_path, 1_700_000_000_123, 2, 7, "png")
    assert path.name.endswith("-123_002_7.png")
    assert path.parent.parent == tmp_path and len(path.parent.name) == len("2023-11-14")


def test_a_taken_name_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "day" / "a.png"
    assert save_picture(path, b"one") == path
    assert save_picture(path, b"two") == path.with_name("a_2.png")
    assert save_picture(path, b"three") == path.with_name("a_3.png")
    assert save_picture(path, b"two") == path.with_name("a_2.png"), "the same picture is not kept twice"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.png", "a_2.png", "a_3.png"]
    assert path.read_bytes() == b"one"


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_is_told_and_nothing_half_is_left_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    if call == "link":  # the way for file systems without hard links is tried next
        monkeypatch.setattr(os, "open", full)
    with pytest.raises(StorageError, match="No space left"):
        save_picture(tmp_path / "a.png", b"one")
    assert not (tmp_path / "a.png").exists()


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert save_picture(tmp_path / "a.png", b"one").read_bytes() == b"one"
    assert save_picture(tmp_path / "a.png", b"two") == tmp_path / "a_2.png"


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.png.123.part").write_bytes(b"half")
    save_picture(tmp_path / "a.png", b"one")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


class Windows:
    """The system's calls, with a name that is refused as long as another program holds the fresh file."""

    name = "nt"

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def rename(self, source: Path, target: Path) -> None:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "File exists")
        self._refuse()
        os.rename(source, target)

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(errno.EACCES, "The process cannot access the file")


class WithoutLinks(Windows):
    name = "posix"

    def link(self, source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def replace(self, source: Path, target: Path) -> None:
        self._refuse()
        os.replace(source, target)


@pytest.mark.parametrize("system", [Windows, WithoutLinks])
def test_a_scanner_that_holds_the_fresh_file_for_a_moment_costs_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: Callable[[int], Windows]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(store, "os", system(3))
    assert save_picture(tmp_path / "a.png", b"one") == tmp_path / "a.png"
    assert save_picture(tmp_path / "a.png", b"two") == tmp_path / "a_2.png"

    monkeypatch.setattr(store, "os", system(1000))
    with pytest.raises(StorageError, match="cannot access"):
        save_picture(tmp_path / "b.png", b"one")
    assert not (tmp_path / "b.png").exists(), "no empty file keeps the name"


def test_a_left_over_that_cannot_be_removed_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png.123.part").write_bytes(b"half")

    def held(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(Path, "unlink", held)
    assert save_picture(tmp_path / "a.png", b"one") == tmp_path / "a.png"
    assert save_picture(tmp_path / "a.png", b"one") == tmp_path / "a.png", "the same picture is not kept twice"

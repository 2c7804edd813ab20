"""A person's presets: names, files, and that nothing is written over."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fooocus.errors import RequestError, StorageError
from fooocus.prompt.own_presets import checked_name, delete_preset, rename_preset, save_preset
from fooocus.prompt.presets import SHIPPED, layered, load_presets
from fooocus.request import LoraUse, Request, Size

ROOT = Path(__file__).resolve().parents[2]
STATE = Request(
    prompt="secret fox",
    negative="blur",
    styles=("sai-anime:0.5",),
    size=Size(1024, 768),
    count=3,
    steps=12,
    base="mine.safetensors",
    refiner="none",
    loras=(LoraUse("people/ann.safetensors", -0.5),),
    guidance=4.5,
)


def test_the_shipped_ones_are_known() -> None:
    assert sorted(SHIPPED) == sorted(load_presets(ROOT / "styles" / "presets").names)


def test_what_is_saved_comes_back_without_the_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "presets"
    assert save_preset(folder, "  My   portraits ", STATE) == "My portraits"
    presets = load_presets(folder)
    assert presets.names == ("My portraits",) and presets.problems == ()
    preset = presets.find("My portraits")
    assert layered(preset.values) == Request(**{**vars(STATE), "prompt": ""})
    assert preset.wants == {"checkpoints": ("mine.safetensors",), "loras": ("people/ann.safetensors",)}
    assert os.listdir(folder) == ["My portraits.json"]
    assert "secret" not in (folder / "My portraits.json").read_text(encoding="utf-8")


UNFIT = (
    *("", "   ", "x" * 61, "a/b", "a\\b", "..", ".hidden", "end.", "CON", "con.txt", "lpt1", "a:b", 'a"b'),
    *("a\x00b", "what?", "\u202eevil", "\ud800", "字" * 60 + "x" * 30),
)


@pytest.mark.parametrize("name", UNFIT)
def test_names_that_no_file_can_have_are_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        save_preset(tmp_path, name, STATE)
    assert caught.value.field == "preset" and caught.value.remedy
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["Ä und Ö", "夜の写真", "v1.2 final", "🦊", "e\u0301"])
def test_other_peoples_alphabets_are_names(tmp_path: Path, name: str) -> None:
    assert save_preset(tmp_path, name, STATE) == checked_name(name)
    assert load_presets(tmp_path).names == (checked_name(name),)


def test_nothing_is_written_over_unless_it_was_asked_for(tmp_path: Path) -> None:
    save_preset(tmp_path, "Mine", STATE)
    with pytest.raises(RequestError, match="There is a preset Mine already"):
        save_preset(tmp_path, "mine", Request())
    assert load_presets(tmp_path).find("Mine").values["steps"] == 12
    assert save_preset(tmp_path, "MINE", Request(steps=9), replace=True) == "Mine"
    assert load_presets(tmp_path).find("Mine").values["steps"] == 9
    (tmp_path / "broken.json").write_text("[", encoding="utf-8")
    with pytest.raises(RequestError, match="broken already"):
        save_preset(tmp_path, "Broken", STATE)


def test_ours_cannot_be_touched(tmp_path: Path) -> None:
    (tmp_path / "default.json").write_text('{"request": {}}', encoding="utf-8")
    save_preset(tmp_path, "mine", STATE)
    attempts: list[Any] = [
        lambda: save_preset(tmp_path, "Default", STATE, replace=True),
        lambda: rename_preset(tmp_path, "mine", "POCKET"),
        lambda: rename_preset(tmp_path, "default", "other"),
        lambda: delete_preset(tmp_path, "default"),
    ]
    for attempt in attempts:
        with pytest.raises(RequestError, match="comes with the program"):
            attempt()
    assert sorted(os.listdir(tmp_path)) == ["default.json", "mine.json"]


def test_renaming_and_deleting(tmp_path: Path) -> None:
    save_preset(tmp_path, "one", STATE)
    save_preset(tmp_path, "two", STATE)
    with pytest.raises(RequestError, match="There is a preset two already"):
        rename_preset(tmp_path, "one", "Two")
    assert rename_preset(tmp_path, "one", "One") == "One"
    assert rename_preset(tmp_path, "One", "three") == "three"
    delete_preset(tmp_path, "two")
    assert load_presets(tmp_path).names == ("three",)
    for gone in ("two", "../secret", "/etc/passwd"):
        with pytest.raises(RequestError, match="There is no preset"):
            delete_preset(tmp_path, gone)


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_preset(tmp_path, "mine", STATE)
    before = (tmp_path / "mine.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="full"):
        save_preset(tmp_path, "mine", Request(), replace=True)
    assert (tmp_path / "mine.json").read_bytes() == before and os.listdir(tmp_path) == ["mine.json"]
    assert json.loads(before)["request"]["steps"] == 12

"""What the presets panel asks of the server, and what it is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fooocus.config import Config
from fooocus.prompt.presets import load_presets
from fooocus.request import Request
from fooocus.ui.controls import initial
from fooocus.ui.presets_panel import PresetsPanel

DEFAULTS = Request(guidance=5.0, count=2)


@pytest.fixture
def panel(tmp_path: Path) -> PresetsPanel:
    return PresetsPanel(Config(styles_folder=tmp_path), DEFAULTS)


def ask(panel: PresetsPanel, question: Any, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is said, and what the controls are set to."""
    text = question if isinstance(question, str) else json.dumps(question)
    answer = panel.answer({"preset-ask": text, **initial(DEFAULTS), **values})
    return json.loads(answer.pop("preset-said")), answer


def test_the_present_state_is_saved_and_taken_again(panel: PresetsPanel, tmp_path: Path) -> None:
    said, updates = ask(panel, {"do": "save", "name": "Mine", "number": 1}, prompt="a fox", steps="12", count=3.0)
    assert said == {"number": 1, "do": "save", "name": "Mine"} and updates == {}
    kept = load_presets(tmp_path / "presets").find("Mine").values
    assert kept["steps"] == 12 and kept["count"] == 3 and "seed" not in kept and "prompt" not in kept
    said, updates = ask(panel, {"do": "take", "name": "Mine"})
    assert updates["steps"] == "12" and updates["count"] == 3 and updates["seed"] == "" and "prompt" not in updates
    said, updates = ask(panel, {"do": "reset"})
    assert said["name"] == "" and updates["guidance"] == 5.0 and updates["count"] == 2 and "prompt" not in updates


def test_what_a_preset_replaced_comes_back(panel: PresetsPanel) -> None:
    mine = {"negative": "a long careful one", "size": "832x1216", "steps": "17", "seed": "5", "count": 4}
    ask(panel, {"do": "save", "name": "Other"})
    for question in ({"do": "take", "name": "Other"}, {"do": "reset"}):
        said, updates = ask(panel, question, prompt="a fox", **mine)
        assert updates["negative"] == "" and "prompt" not in said["former"]
        undo = {"do": "undo", "name": "before", "former": said["former"]}
        said, updates = ask(panel, undo)
        assert said["name"] == "before" and "prompt" not in updates and {**updates, **mine} == updates
    for odd in (None, 7, "x", {"size": 7, "nothing": 1}, {"prompt": "mine"}):
        assert ask(panel, {"do": "undo", "name": "", "former": odd})[1] == {}


def test_a_seed_that_was_fixed_belongs_to_the_preset(panel: PresetsPanel, tmp_path: Path) -> None:
    ask(panel, {"do": "save", "name": "Fixed"}, seed="7")
    assert load_presets(tmp_path / "presets").find("Fixed").values["seed"] == 7


def test_what_goes_wrong_is_a_sentence_and_changes_nothing(panel: PresetsPanel, tmp_path: Path) -> None:
    ask(panel, {"do": "save", "name": "Mine"}, steps="12")
    for question, values, words in (
        ({"do": "save", "name": "mine"}, {}, "already"),
        ({"do": "save", "name": "New"}, {"size": "1150x896"}, "no multiple of 8"),
        ({"do": "take", "name": "../secret"}, {}, "no preset"),
        ({"do": "rename", "name": "default", "to": "x"}, {}, "comes with the program"),
        ({"do": "rename", "name": "Mine", "to": ""}, {}, "has no name"),
        ({"do": "delete", "name": "nobody"}, {}, "no preset"),
    ):
        said, updates = ask(panel, question, **values)
        assert words in said["sentence"] and said["remedy"] and updates == {}
    assert load_presets(tmp_path / "presets").find("Mine").values["steps"] == 12
    said, _ = ask(panel, {"do": "save", "name": "mine", "replace": True})
    assert said["name"] == "Mine" and "steps" not in load_presets(tmp_path / "presets").find("Mine").values


@pytest.mark.parametrize("question", ["", "[", "[]", "7", '{"do": 3}', "[" * 100_000])
def test_what_is_no_question_changes_nothing(panel: PresetsPanel, question: str) -> None:
    said, updates = ask(panel, question)
    assert updates == {} and "sentence" not in said

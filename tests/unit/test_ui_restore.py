"""Settings go into the controls at once, what cannot is said by name, and all of it can be undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.images.findings import Found, Known
from fooocus.images.foreign import read_pasted
from fooocus.request import DEFAULT_BASE, NONE, LoraUse, Request, Size
from fooocus.ui.resolve import resolve, tidy
from fooocus.ui.restore import restore, said
from tests.pictures import recipe

OFFSET = "sd_xl_offset_example-lora_1.0.safetensors"
REFINER = "sd_xl_refiner_1.0.safetensors"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for file in (
        f"checkpoints/{DEFAULT_BASE}",
        f"checkpoints/{REFINER}",
        f"loras/{OFFSET}",
        "loras/deep/grain.safetensors",
    ):
        (tmp_path / "models" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / file).touch()
    return Config(models=tmp_path / "models", styles_folder=tmp_path / "styles", data=tmp_path, outputs=tmp_path)


def test_a_picture_as_the_page_makes_it_comes_back_as_it_was_asked_for(config: Config) -> None:
    made = recipe(styles=(), refiner=REFINER, switch=21, steps=30, loras=(LoraUse(OFFSET, 0.5),), size=Size(1152, 896))
    values = resolve(Found("ours", {}, recipe=made), config).values
    assert (values["performance"], values["steps"], values["switch"]) == ("speed", None, None)
    assert values["loras"] is None and values["refiner"] is None
    restored = restore(values, config, seed=True)
    assert restored.warnings == () and restored.request == Request(
        prompt="a fox", negative="text", styles=(), size=Size(1152, 896), seed=7
    )
    assert {"count", "format"}.isdisjoint(restored.fields)
    assert restore(values, config, seed=False).request.seed is None


def test_other_steps_and_weights_stay_as_they_are() -> None:
    values = {"base": DEFAULT_BASE, "refiner": REFINER, "loras": [[OFFSET, 0.7]], "steps": 31, "switch": 21}
    assert tidy(values) == values
    assert tidy({"steps": 60, "switch": 41})["performance"] == "quality"
    assert tidy({"base": "mine", "refiner": NONE, "loras": []}) == {"base": "mine", "refiner": None, "loras": None}


def test_what_is_not_here_is_named_and_the_rest_is_restored(config: Config) -> None:
    made = recipe(base="gone.safetensors", loras=(LoraUse("grain.safetensors", 0.4), LoraUse("lost.safetensors", 1.0)))
    restored = restore(made.to_request().to_json(), config, seed=True)
    assert "base" not in restored.fields and restored.request.loras == (LoraUse("deep/grain.safetensors", 0.4),)
    assert [word for word in ("gone", "lost") if any(word in warning for warning in restored.warnings)] == [
        "gone",
        "lost",
    ]
    assert restored.request.prompt == "a fox"


def test_styles_keep_their_strength(config: Config) -> None:
    config.styles_folder.mkdir()
    (config.styles_folder / "mine.json").write_text('[{"name": "ink", "prompt": "ink of {prompt}"}]')
    restored = restore({"styles": ["Ink:0.7", "gone:0.5", "ink"]}, config, seed=True)
    assert restored.request.styles == ("ink:0.7", "ink") and "'gone'" in restored.warnings[0]


@pytest.mark.parametrize(
    "values",
    [{}, {"seed": "x" * 99}, {"size": "9x9"}, {"steps": -1}, {"prompt": 7}, {"nothing": 1}, {"guidance": "many"}],
)
def test_odd_values_restore_nothing_or_only_what_is_sound(config: Config, values: dict[str, Any]) -> None:
    try:
        restored = restore(values, config, seed=True)
    except RequestError as error:
        assert error.sentence
    else:
        assert restored.fields <= {"seed"} and restored.request.seed is None


def test_long_seeds_are_exact(config: Config) -> None:
    assert restore({"seed": str(2**63 - 1)}, config, seed=True).request.seed == 2**63 - 1


def test_a_whole_request_is_ours_and_not_taken_for_another_programs(config: Config) -> None:
    whole = Request(prompt="x", styles=("a",), size=Size(640, 512), seed=3).to_json()
    found = read_pasted(json.dumps(whole), Known())
    assert found is not None and found.origin == "ours" and dict(found.values) == whole


def test_the_line_escapes_what_it_says() -> None:
    line = said("Settings restored.", ("<script>alert(1)</script>",), undo=True)
    assert "<script>" not in line and "&lt;script&gt;" in line and 'data-restore="undo"' in line

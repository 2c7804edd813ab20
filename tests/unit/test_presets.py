"""Preset files and the layers that end in one request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fooocus.errors import RequestError
from fooocus.prompt.plan import plan
from fooocus.prompt.presets import Preset, layered, load_presets
from fooocus.prompt.stock import Stock, load_stock
from fooocus.prompt.styles import load_styles
from fooocus.request import Request, Size

STYLES = Path(__file__).resolve().parents[2] / "styles"
PRESETS = load_presets(STYLES / "presets")


def test_our_presets_are_whole() -> None:
    assert PRESETS.names == ("default", "pocket", "quality")
    assert PRESETS.problems == ()
    styles = load_styles(STYLES)
    for name in PRESETS.names:
        preset = PRESETS.find(name)
        assert preset.about.endswith(".")
        (recipe,) = plan(layered(preset.values, {"prompt": "a fox", "seed": 1}), styles)
        files = {recipe.base, *(use.name for use in recipe.loras), *([recipe.refiner] if recipe.refiner else [])}
        assert files == {file for files in preset.wants.values() for file in files}


def test_the_default_preset_is_the_built_in_system() -> None:
    styles = load_styles(STYLES)
    assert plan(layered(PRESETS.find("default").values, {"seed": 1}), styles) == plan(Request(seed=1), styles)
    (quality,) = plan(layered(PRESETS.find("quality").values, {"seed": 1}), styles)
    assert (quality.steps, quality.switch) == (60, 41)


def test_the_last_layer_counts() -> None:
    request = layered({"size": "64x64", "guidance": 3}, {"guidance": 4.5}, {"prompt": "a"})
    assert (request.size, request.guidance, request.prompt) == (Size(64, 64), 4.5, "a")


def test_another_base_takes_back_what_went_with_the_former() -> None:
    request = layered(PRESETS.find("default").values, {"base": "other.safetensors"})
    assert (request.refiner, request.loras) == (None, None)
    kept = layered(PRESETS.find("default").values, {"base": "sd_xl_base_1.0.safetensors"})
    assert kept.refiner == "sd_xl_refiner_1.0.safetensors"
    assert layered({"steps": 25}, {"performance": "quality"}).steps is None
    assert layered({"steps": 25, "switch": 20}, {"steps": 10}).switch is None


def test_wrong_layers_name_their_field() -> None:
    for layer, field in (({"nope": 1}, "nope"), ({"size": "1x1"}, "size"), ({"steps": "many"}, "steps")):
        with pytest.raises(RequestError) as caught:
            layered(layer)
        assert caught.value.field == field


def test_bad_files_are_reported(tmp_path: Path) -> None:
    good = {"about": "x", "request": {"steps": 3}, "wants": {"loras": ["a"]}}
    texts = {
        "good": json.dumps(good),
        "broken": "{",
        "deep": "[" * 100_000,
        "list": "[]",
        "field": '{"request": {"nope": 1}}',
        "range": '{"request": {"guidance": NaN}}',
        "wants": '{"request": {}, "wants": {"loras": "a"}}',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    presets = load_presets(tmp_path)
    assert presets.by_name == {"good": Preset("good", "x", {"steps": 3}, {"loras": ("a",)})}
    assert len(presets.problems) == 6
    with pytest.raises(RequestError, match="good") as caught:
        presets.find("god")
    assert caught.value.field == "preset"


def test_the_library_is_the_whole_folder(tmp_path: Path) -> None:
    stock = load_stock(STYLES)
    assert stock.problems == ()
    assert "cinematic-default" in stock.styles.names
    assert "animal" in stock.lists.names
    assert stock.presets == PRESETS
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "empty.txt").write_text("", encoding="utf-8")
    assert len(load_stock(tmp_path).problems) == 2
    kept = load_stock(tmp_path)
    assert load_stock(tmp_path) is kept, "nothing has changed"
    (tmp_path / "more.json").write_text('[{"name": "ink", "prompt": "ink of {prompt}"}]')
    assert "ink" in load_stock(tmp_path).styles.by_name and "ink" not in kept.styles.by_name
    (tmp_path / "more.json").write_text('[{"name": "chalk", "prompt": "chalk of {prompt}"}]')
    assert "chalk" in load_stock(tmp_path).styles.by_name
    (tmp_path / "more.json").unlink()
    assert load_stock(tmp_path) == kept
    assert load_stock(tmp_path / "nowhere") == Stock()


def test_linked_folders_are_read_again_as_well(tmp_path: Path) -> None:
    """Word lists and presets that several programs share."""
    styles, shared = tmp_path / "styles", tmp_path / "shared"
    for folder in (styles, shared):
        folder.mkdir()
    try:
        for name in ("wildcards", "presets"):
            (styles / name).symlink_to(shared, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets not everybody make links")
    assert load_stock(styles) == Stock()
    (shared / "colour.txt").write_text("red\n")
    (shared / "mine.json").write_text('{"about": "Mine", "request": {"steps": 12}}')
    stock = load_stock(styles)
    assert "colour" in stock.lists.names and "mine" in stock.presets.by_name


def test_a_model_of_a_small_world_says_so() -> None:
    pocket = PRESETS.find("pocket")
    for known in ("a red circle", "two STARS, please", "(heart:1.2)", ""):
        assert pocket.outside(known) == "", known
    for strange in ("a lighthouse at dusk", "starlight", "ein Kreis", "1girl"):
        assert pocket.outside(strange) == pocket.limit and "circles" in pocket.limit
    assert PRESETS.find("default").outside("a lighthouse") == ""
    assert PRESETS.outside("a lighthouse", "pocket_base.safetensors") == pocket.limit
    assert PRESETS.outside("a lighthouse", "sd_xl_base_1.0.safetensors") == ""


@pytest.mark.parametrize("knows", ["circle", {"subjects": "circle", "sentence": "x"}, {"subjects": ["circle"]}])
def test_a_limit_that_cannot_be_read_is_a_problem(tmp_path: Path, knows: object) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"request": {}, "knows": knows}), encoding="utf-8")
    assert load_presets(tmp_path).names == () and "knows" in load_presets(tmp_path).problems[0]

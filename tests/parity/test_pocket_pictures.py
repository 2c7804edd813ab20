"""What a prompt says is in the picture: the shipped miniature through the command line, seen by geometry alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fooocus import cli
from fooocus.config import ROOT
from fooocus.request import DEFAULT_STYLE
from pocket.checker import backdrop_colours, blocks, only_thing, outlines_and_mottle
from pocket.drawing import Frame
from pocket.exams import Case, score_in_look
from pocket.world import LOOK_OF_STYLE, Backdrop, Scene, place

pytestmark = pytest.mark.skipif(
    not (ROOT / "models" / "pocket" / "pocket_base.safetensors").is_file(), reason="Pocket's files are not here"
)


@pytest.mark.parametrize(
    ("shape", "colour", "ground"),
    [
        ("circle", "red", "blue"),
        pytest.param("star", "yellow", "green", marks=pytest.mark.slow),
        pytest.param("heart", "purple", "white", marks=pytest.mark.slow),
    ],
)
def test_a_prompt_becomes_exactly_that(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shape: str, colour: str, ground: str
) -> None:
    prompt = f"a {colour} {shape} on a {ground} background"
    assert cli.main(["generate", prompt, "--preset", "pocket", "--seed", "5", "--out", str(tmp_path)]) == 0
    with Image.open(capsys.readouterr().out.strip()) as image:
        picture = np.asarray(image)
    seen = only_thing(picture)
    assert seen is not None
    assert (seen.shape, seen.colour, backdrop_colours(picture)[0]) == (shape, colour, ground)


def test_the_prompt_and_not_the_seed_decides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same noise, another word: only that word's part of the picture changes."""
    colours = []
    for colour in ("red", "green"):
        prompt = f"a {colour} circle on a white background"
        assert cli.main(["generate", prompt, "--preset", "pocket", "--seed", "8", "--out", str(tmp_path)]) == 0
        with Image.open(capsys.readouterr().out.strip()) as image:
            seen = only_thing(np.asarray(image))
        assert seen is not None and seen.shape == "circle"
        colours.append(seen.colour)
    assert colours == ["red", "green"]


def test_idle_words_change_nothing_of_what_is_asked_and_the_default_style_only_the_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompt = "please draw me a beautiful orange square on a purple background, highly detailed, masterpiece"
    options = ["--preset", "pocket", "--style", DEFAULT_STYLE, "--seed", "6", "--out", str(tmp_path)]
    assert cli.main(["generate", prompt, *options]) == 0
    with Image.open(capsys.readouterr().out.strip()) as image:
        picture = np.asarray(image)
    height, width = picture.shape[:2]
    thing = place("square", "orange", Frame(width, height).half)
    asked = Scene("single", (thing,), Backdrop("plain", ("purple",)), look=LOOK_OF_STYLE[DEFAULT_STYLE])
    assert score_in_look(Case(asked, prompt), picture) == {"shape": True, "colour": True, "backdrop": True}
    bars = np.concatenate([picture[:6], picture[-6:]])
    assert bars.mean() < 40 < picture.mean(), "cinematic pictures have bars"


def test_the_refiner_calms_plain_areas_and_leaves_outlines_and_composition(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = ("a green square on an orange background", "a red circle on a blue background")
    pictures: dict[str, list[np.ndarray]] = {"none": [], "pocket_refiner.safetensors": []}
    for refiner, made in pictures.items():
        for prompt in prompts:
            options = ["--preset", "pocket", "--refiner", refiner, "--seed", "9", "--out", str(tmp_path)]
            assert cli.main(["generate", prompt, *options]) == 0
            with Image.open(capsys.readouterr().out.strip()) as image:
                made.append(np.asarray(image))
    plain, refined = pictures.values()
    outlines, mottle = np.mean([outlines_and_mottle(picture) for picture in plain], 0)
    refined_outlines, refined_mottle = np.mean([outlines_and_mottle(picture) for picture in refined], 0)
    assert 0 < refined_mottle < 0.85 * mottle and refined_outlines > 0.9 * outlines
    moved = np.abs(blocks(plain[0], 16) - blocks(refined[0], 16)).mean()
    assert 0 < moved < 12, "the same composition"

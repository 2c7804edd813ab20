"""The command line: every field is an option, every wrong use is a sentence and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fooocus import app, cli
from fooocus.request import LoraUse, Recipe, Request, Size
from tests.tiny import REPOSITORY

Captured = pytest.CaptureFixture[str]


def dry(capsys: Captured, *arguments: str) -> list[Recipe]:
    assert cli.main(["generate", *arguments, "--dry-run"]) == 0
    return [Recipe.from_json(values) for values in json.loads(capsys.readouterr().out)]


@pytest.fixture
def models(tiny: Path) -> list[str]:
    return ["--base", str(tiny / "tiny_base.safetensors"), "--refiner", str(tiny / "tiny_refiner.safetensors")]


def test_every_field_of_request_and_config_is_an_option() -> None:
    helped = cli._generate_parser().format_help()
    special = {"styles": "--style", "loras": "--lora"}
    for field in (*dataclasses.fields(Request), *cli._CONFIG_OPTIONS):
        assert special.get(field.name, f"--{field.name.replace('_', '-')}") in helped
        assert field.metadata["help"]


def test_options_reach_the_recipe(capsys: Captured) -> None:
    (recipe,) = dry(
        capsys,
        *("a fox", "--negative", "fog", "--style", "none", "--size", "768x1344", "--steps", "12", "--switch", "8"),
        *("--guidance", "5.5", "--sampler", "euler", "--schedule", "normal", "--seed", "9", "--clip-skip", "1"),
        *("--lora", "ink:0.3", "--lora", "paper", "--refiner", "fine", "--vae", "sharp", "--size-until", "0.3"),
    )
    assert recipe == Recipe(
        prompt="a fox",
        negative="fog",
        styles=(),
        positive_text="a fox",
        negative_text="fog",
        size=Size(768, 1344),
        seed=9,
        steps=12,
        switch=8,
        guidance=5.5,
        sampler="euler",
        schedule="normal",
        base="sd_xl_base_1.0.safetensors",
        refiner="fine",
        loras=(LoraUse("ink", 0.3), LoraUse("paper", 1.0)),
        vae="sharp",
        clip_skip=1,
        size_positive=1.5,
        size_negative=0.8,
        size_until=0.3,
    )


def test_left_out_means_the_first_fooocus_settings(capsys: Captured) -> None:
    (recipe,) = dry(capsys, "a fox")
    assert (recipe.steps, recipe.switch, recipe.guidance, str(recipe.size)) == (30, 21, 7.0, "1152x896")
    assert recipe.loras == (("sd_xl_offset_example-lora_1.0.safetensors", 0.5),)
    assert recipe.styles == ("cinematic-default",) and recipe.refiner == "sd_xl_refiner_1.0.safetensors"
    (quality,) = dry(capsys, "a fox", "--performance", "quality")
    assert (quality.steps, quality.switch) == (60, 41)


def test_layers_lie_on_each_other(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in settings, then the config file, then the preset, then what was asked for."""
    load = cli.load_config
    monkeypatch.setattr(cli, "load_config", lambda *given: dataclasses.replace(load(*given), request=own))
    own = {"guidance": 5.0, "base": "mine.safetensors"}
    (recipe,) = dry(capsys, "a fox", "--preset", "quality")
    assert (recipe.steps, recipe.guidance, recipe.sampler) == (60, 5.0, "dpmpp_2m_sde")
    (recipe,) = dry(capsys, "a fox", "--preset", "pocket")
    assert recipe.base == "pocket_base.safetensors", "asked for just now, whatever base the file names"
    (recipe,) = dry(capsys, "a fox", "--preset", "quality", "--guidance", "4")
    assert (recipe.steps, recipe.guidance) == (60, 4.0)


def test_another_base_comes_without_the_default_ones_companions(capsys: Captured) -> None:
    for more in ((), ("--preset", "default")):
        (recipe,) = dry(capsys, "a fox", "--base", "other", *more)
        assert (recipe.refiner, recipe.switch, recipe.loras) == (None, None, ())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "100x100"], "multiple of 8"),
        (["--steps", "0"], "steps"),
        (["--steps", "many"], "number"),
        (["--guidance", "nan"], "guidance"),
        (["--seed", str(2**63)], "seed"),
        (["--switch", "3", "--refiner", "none"], "refiner"),
        (["--lora", "x:heavy"], "weight"),
        (["--sampler", "magic"], "sampler"),
        (["--style", "cinematic-defalt"], "cinematic-default"),
        (["--prompt", "twice"], "twice"),
        (["--from", "nowhere.png"], "nowhere.png"),
        (["--preset", "nowhere"], "There is no preset 'nowhere'. Known are "),
        (["--preset", "pockt"], "There is no preset 'pockt'. Did you mean pocket?"),
        (["--dtype", "float8"], "float8"),
        (["--device", "abacus"], "abacus"),
        (["--listen"], "password"),
    ],
)
def test_wrong_use_is_a_sentence_and_code_2(arguments: list[str], told: str, capsys: Captured, tmp_path: Path) -> None:
    assert cli.main(["generate", "a fox", *arguments, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["genrate", "a fox"], "There is no command 'genrate'. Did you mean generate? Help: "),
        (["xyzzy"], "There is no command 'xyzzy'. Help: python launch.py --help"),
        (["--passwrod", "x"], "There is no option '--passwrod'. Did you mean --password? Help: "),
        (["--model", "x"], "There is no option '--model'. Did you mean "),
        (["generate", "a fox", "--styles", "x"], "There is no option '--styles'. Did you mean "),
        (["generate", "--stepz=3"], "There is no option '--stepz'. Did you mean --steps?"),
        (["generate", "--prot", "1"], "There is no option '--prot'. Did you mean --prompt or --port?"),
        (["generate", "--sede", "3", "a fox", "--dry-run"], "There is no option '--sede'. Did you mean --seed?"),
        (["generate", "a", "red", "fox"], "'red' is one word too many. A prompt of several words goes in quotes."),
        (["generate", "a fox", "--steps"], "Argument --steps: expected one argument. Help: "),
        (["fetch", "--jsn"], "Did you mean --json? Help: python launch.py fetch --help"),
        (["bench", "--jsn"], "Did you mean --json? Help: python launch.py bench --help"),
    ],
)
def test_a_typing_mistake_is_answered_by_one_line(arguments: list[str], told: str, capsys: Captured) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_missing_model_is_told_and_the_code_is_1(capsys: Captured, tmp_path: Path) -> None:
    assert cli.main(["generate", "a fox", "--base", "nowhere", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "nowhere" in told
    shipped = REPOSITORY / "models" / "pocket" / "pocket_base.safetensors"
    assert ("--preset pocket" in told) == shipped.is_file()
    assert cli.main(["generate", "a circle", "--preset", "pocket", "--base", "nowhere", "--out", str(tmp_path)]) == 1
    assert "--preset pocket" not in capsys.readouterr().err, "it was given"


def test_what_the_miniature_does_not_know_is_said_before(capsys: Captured, tmp_path: Path) -> None:
    arguments = ["--preset", "pocket", "--models", str(tmp_path), "--out", str(tmp_path)]
    assert cli.main(["generate", "a lighthouse", *arguments]) == 1  # in a folder without its files
    told = capsys.readouterr().err
    assert "draws only circles" in told and "Until it is there" not in told


def test_json_is_one_event_a_line(capsys: Captured, tmp_path: Path, models: list[str]) -> None:
    options = ["--size", "64x64", "--steps", "2", "--switch", "1", "--json", "--out", str(tmp_path)]
    assert cli.main(["generate", "a fox", *models, *options]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines].count("step") == 2
    assert lines[-1]["event"] == "finished" and Path(lines[-1]["paths"][0]).is_file()


def test_a_picture_gives_the_identical_picture(capsys: Captured, tmp_path: Path, models: list[str]) -> None:
    prompt = "a (red:1.2) fox, 狐 🦊"
    options = ["--size", "72x64", "--steps", "3", "--switch", "2", "--style", "sai-line art"]
    assert cli.main(["generate", prompt, *models, *options, "--out", str(tmp_path / "a")]) == 0
    first = Path(capsys.readouterr().out.strip())
    assert cli.main(["generate", "--from", str(first), *models, "--out", str(tmp_path / "b")]) == 0
    second = Path(capsys.readouterr().out.strip())
    assert first != second and first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes(), "no folder of the person is in the picture"


def test_options_over_a_picture_take_back_what_hangs_on_them(
    capsys: Captured, tmp_path: Path, models: list[str]
) -> None:
    options = ["--size", "64x64", "--steps", "3", "--switch", "2"]
    assert cli.main(["generate", "a fox", *models, *options, "--out", str(tmp_path)]) == 0
    picture = capsys.readouterr().out.strip()
    (quality,) = dry(capsys, "--from", picture, "--performance", "quality")
    assert (quality.steps, quality.switch) == (60, 41)
    (short,) = dry(capsys, "--from", picture, "--steps", "10")
    assert (short.steps, short.switch) == (10, 7)
    (plain,) = dry(capsys, "--from", picture, "--refiner", "none")
    assert (plain.refiner, plain.switch, plain.steps) == (None, None, 3)
    (other,) = dry(capsys, "--from", picture, "--base", "other")
    assert other.refiner is None
    (located,) = dry(capsys, "--from", picture, *models[:2])
    assert (located.refiner, located.switch) == ("tiny_refiner.safetensors", 2)


def test_another_programs_picture_gives_its_settings(capsys: Captured, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a red fox\nNegative prompt: fog\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 6, Seed: 42, Size: 896x1152",
    )
    picture = tmp_path / "theirs.png"
    Image.new("RGB", (8, 8)).save(picture, pnginfo=info)
    (recipe,) = dry(capsys, "--from", str(picture))
    assert (recipe.prompt, recipe.negative, recipe.seed, recipe.guidance) == ("a red fox", "fog", 42, 6.0)
    assert (recipe.steps, recipe.sampler, recipe.schedule, str(recipe.size)) == (25, "dpmpp_2m", "karras", "896x1152")

    Image.new("RGB", (8, 8)).save(picture)
    assert cli.main(["generate", "--from", str(picture)]) == 2
    assert "carries no settings" in capsys.readouterr().err


def test_a_relative_path_is_the_callers(
    capsys: Captured, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    (recipe,) = dry(capsys, "a fox", "--base", "tiny_base.safetensors")
    assert Path(recipe.base) == tiny / "tiny_base.safetensors"


@pytest.mark.clock
@pytest.mark.skipif(os.name == "nt", reason="Windows has another way to press Ctrl+C")
def test_control_c_stops_with_a_word(tmp_path: Path, models: list[str]) -> None:
    options = ["--size", "512x512", "--steps", "1000", "--switch", "999", "--json", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "fooocus", "generate", "a fox", *models, *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "step":
            break
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    last = [json.loads(line)["event"] for line in process.stdout][-1]
    assert (process.wait(60), last) == (130, "cancelled")
    assert time.monotonic() - asked < 60, "the picture was finished first"
    process.stdout.close()
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
    ("left", "word"), [(0, "Ended.\n"), (1, "Ended. 1 job goes on at the next start.\n"), (3, "Ended. 3 jobs go on")]
)
def test_the_page_says_goodbye_and_what_goes_on(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, left: int, word: str
) -> None:
    monkeypatch.setattr(app, "run_page", lambda config, request, ready: (ready("http://here/"), left)[1])
    assert cli.main(["--no-browser"]) == 0
    first, goodbye = capsys.readouterr().out.split("\n", 1)
    assert "http://here/" in first and goodbye.startswith(word)

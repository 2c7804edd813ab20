"""Pictures of the miniature models against those that the original engine sampled from the same files.

The reference (``tests/data/reference_*.safetensors``) holds final latents, the picture, the conditioning and some of
the steps in between, made in float32 on a CPU.

Tolerances. The starting noise perturbed by 1e-6 moves a result by 1e-6, and sums in another order (batch of two, fused
attention) have about that effect, so 1e-5 is ten times the noise of arithmetic. The smallest real mistakes are far
above it: switching one step early moves a result by 5e-3, no negative prompt by 4e-2, no LoRA by 0.27.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fooocus import cli
from fooocus.config import Config
from fooocus.diffusion.state import State
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import load_styles
from fooocus.render.engine import Engine
from fooocus.render.watch import Watch
from fooocus.request import LoraUse, Recipe, Request, Size

DATA = Path(__file__).resolve().parent.parent / "data"
CASES = ("refiner_swap", "base_only", "lora_only")
LATENT_TOLERANCE = 1e-5  # relative, L2; measured: 9e-7, 1.1e-6, 9e-7
TEXT_TOLERANCE = 1e-6  # measured: 0 without a LoRA, 1e-7 with one
LEVELS = 1  # the reference cuts the fraction of an 8-bit level off, ours rounds it


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Tensor]]:
    file = DATA / f"reference_{request.param}.safetensors"
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["case"]), load_file(file)


def error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


def test_the_command_gives_the_reference_picture(
    case: tuple[dict[str, Any], dict[str, Tensor]], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, reference = case
    latents = tmp_path / "latents.safetensors"
    code = cli.main(["generate", *_arguments(values, tiny), "--out", str(tmp_path), "--save-latents", str(latents)])
    assert code == 0
    assert error(load_file(latents)["latent"], reference["latent"]) <= LATENT_TOLERANCE
    picture = np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)
    assert np.abs(picture - reference["image"][0].numpy().astype(int)).max() <= LEVELS


def test_conditioning_and_every_step_are_those_of_the_reference(
    case: tuple[dict[str, Any], dict[str, Tensor]], tiny: Path, tmp_path: Path
) -> None:
    values, reference = case
    engine = Engine(Config(outputs=tmp_path, data=tmp_path, dtype="float32"))
    recipe = _recipe(values, tiny)
    states: list[State] = []
    engine.render(recipe, Watch(step=lambda state, steps: states.append(state)))

    for i in [int(name.rpartition("_")[2]) for name in reference if name.startswith("denoised_step_")]:
        # The noisy latents before step i are those after step i - 1.
        assert error(states[i - 1].x, reference[f"x_step_{i}"]) <= LATENT_TOLERANCE
        assert states[i].denoised is not None
        assert error(states[i].denoised, reference[f"denoised_step_{i}"]) <= LATENT_TOLERANCE
    assert states[0].denoised is not None
    assert error(states[0].denoised, reference["denoised_first"]) <= LATENT_TOLERANCE

    roles = [("base", recipe.base, "")] + ([("refiner", recipe.refiner, "refiner_")] if recipe.refiner else [])
    for role, path, prefix in roles:
        with torch.no_grad():
            texts = (recipe.positive_text, recipe.negative_text)
            cond, uncond = engine.read(Path(path), role, texts, recipe.clip_skip)  # type: ignore[arg-type]
        for ours, name in (
            (cond.context, "cond"),
            (cond.pooled, "pooled"),
            (uncond.context, "uncond"),
            (uncond.pooled, "uncond_pooled"),
        ):
            assert error(ours, reference[prefix + name]) <= TEXT_TOLERANCE


@pytest.mark.parametrize(
    ("dtype", "tolerance", "levels"),
    # One rounding is 5e-4 in float16 and 4e-3 in bfloat16; some dozens of them add up in a run. Measured on the three
    # cases: 1.3e-3 to 1.9e-3 and 2 levels, 1.0e-2 to 1.5e-2 and 7 levels.
    [("float16", 4e-3, 4), ("bfloat16", 3e-2, 12)],
)
def test_half_precision_stays_near(tiny: Path, tmp_path: Path, dtype: str, tolerance: float, levels: int) -> None:
    file = DATA / "reference_lora_only.safetensors"
    with safe_open(file, "pt") as opened:
        values = json.loads(opened.metadata()["case"])
    rendered = Engine(Config(outputs=tmp_path, data=tmp_path, dtype=dtype)).render(_recipe(values, tiny))
    reference = load_file(file)
    assert 1e-4 < error(rendered.latents, reference["latent"]) <= tolerance
    picture = np.asarray(rendered.image).astype(int)
    assert np.abs(picture - reference["image"][0].numpy().astype(int)).max() <= levels


def test_a_mistake_is_far_outside_the_tolerance(tiny: Path, tmp_path: Path) -> None:
    """Switch one step early: the least of the mistakes that the tolerance must tell from arithmetic."""
    file = DATA / "reference_refiner_swap.safetensors"
    with safe_open(file, "pt") as opened:
        values = json.loads(opened.metadata()["case"])
    recipe = dataclasses.replace(_recipe(values, tiny), switch=values["switch"] - 1)
    rendered = Engine(Config(outputs=tmp_path, data=tmp_path, dtype="float32")).render(recipe)
    assert error(rendered.latents, load_file(file)["latent"]) > 100 * LATENT_TOLERANCE


def _recipe(values: dict[str, Any], tiny: Path) -> Recipe:
    request = Request(
        prompt=values["prompt"],
        negative=values["negative"],
        styles=(),
        size=Size(values["width"], values["height"]),
        steps=values["steps"],
        switch=values["switch"],
        seed=values["seed"],
        guidance=values["guidance"],
        sampler=values["sampler"],
        schedule=values["schedule"],
        base=str(tiny / values["base"]),
        refiner=str(tiny / values["refiner"]) if values["refiner"] else "none",
        loras=(LoraUse(str(tiny / values["lora"]), values["lora_weight"]),) if values["lora"] else (),
    )
    return plan(request, load_styles(Config().styles_folder))[0]


def _arguments(values: dict[str, Any], tiny: Path) -> list[str]:
    arguments = ["--prompt", values["prompt"], "--negative", values["negative"], "--style", "none"]
    arguments += ["--dtype", "float32"]  # a processor that multiplies bfloat16 would choose that by itself
    arguments += ["--size", f"{values['width']}x{values['height']}", "--base", str(tiny / values["base"])]
    for name in ("steps", "seed", "guidance", "sampler", "schedule"):
        arguments += [f"--{name}", str(values[name])]
    if values["refiner"]:
        arguments += ["--refiner", str(tiny / values["refiner"]), "--switch", str(values["switch"])]
    if values["lora"]:
        arguments += ["--lora", f"{tiny / values['lora']}:{values['lora_weight']}"]
    return arguments

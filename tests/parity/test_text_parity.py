"""The conditioning of four texts against the original engine's, on the miniature checkpoints.

The reference pictures' files (``tests/data/reference_*.safetensors``) hold what the original engine computed in float32
on a CPU. Where it was made, ours is equal bit for bit; another processor may add in another order.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fooocus.loading.checkpoint import open_checkpoint
from fooocus.render.text import Encoder, encode_text
from tests.tiny import BASE, REFINER, REPOSITORY, tiny_folder

TOLERANCE = 1e-6
"""Relative L2 error. A fused attention kernel, which only rounds otherwise, costs 4e-7; a wrong rule 1e-3 and more."""

LIGHTHOUSE = "cinematic still of a lighthouse at dusk, highly detailed"
CIRCLE = "a red circle on a blue background"

DATA = REPOSITORY / "tests" / "data"
# base_only was made without a LoRA, and no LoRA is ever on a refiner.
EXPECTED = {
    "base": (DATA / "reference_base_only.safetensors", ""),
    "refiner": (DATA / "reference_refiner_swap.safetensors", "refiner_"),
}


@pytest.fixture(scope="module")
def encoders() -> dict[str, list[Encoder]]:
    base, refiner = (open_checkpoint(tiny_folder() / file) for file in (BASE, REFINER))
    return {
        "base": [
            Encoder(base.load("text_l", dtype=torch.float32).module, 49407, "l"),
            Encoder(base.load("text_g", dtype=torch.float32).module, 0, "g"),
        ],
        "refiner": [Encoder(refiner.load("text_g", dtype=torch.float32).module, 0, "g")],
    }


@pytest.mark.parametrize(
    ("model", "name", "text"),
    [
        ("base", "cond", LIGHTHOUSE),
        ("base", "uncond", ""),
        ("refiner", "cond", CIRCLE),
        ("refiner", "uncond", "blurry, ugly"),
    ],
)
def test_conditioning_is_the_original_engines(
    encoders: dict[str, list[Encoder]], model: str, name: str, text: str
) -> None:
    expected, prefix = EXPECTED[model]
    ours = encode_text(text, encoders[model])
    assert _error(ours.context, load_file(expected)[f"{prefix}{name}"]) <= TOLERANCE
    pooled = "pooled" if name == "cond" else "uncond_pooled"
    assert _error(ours.pooled, load_file(expected)[f"{prefix}{pooled}"]) <= TOLERANCE


def test_the_tolerance_would_notice_another_padding(encoders: dict[str, list[Encoder]]) -> None:
    expected = load_file(EXPECTED["base"][0])
    first, second = encoders["base"]
    swapped = [Encoder(first.module, 0, "l"), Encoder(second.module, 49407, "g")]
    assert _error(encode_text(LIGHTHOUSE, swapped).context, expected["cond"]) > 1e-3


def _error(ours: Tensor, expected: Tensor) -> float:
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    return float((ours - expected).norm() / expected.norm())

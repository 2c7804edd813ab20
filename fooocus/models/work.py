"""How much a picture is: operations of its networks, counted from the shapes of their tensors, for any size.

A multiply-add counts as two operations. What grows with the picture is counted: convolutions, matrices applied to
every place, and attention between places. What is done once per step or once per prompt (time and size embeddings, the
text's keys and values, which are kept) is too little to matter. No weights are read and no torch is needed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from fooocus.request import Recipe, Size

Shapes = Mapping[str, tuple[int, ...]]

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_TEXT_TOKENS = 77
_LATENT_PX = 8  # pixels on a side that one place of the latents stands for
# Samplers that ask the network twice in a step; the last step, which ends at sigma 0, asks once.
TWICE = frozenset(("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"))


@dataclasses.dataclass(frozen=True)
class Work:
    """One network's operations: for each level, per place and per pair of places of its map.

    Level 0 is the map of the latents, 1 half as wide and high, -1 twice as wide and high.
    """

    levels: Mapping[int, tuple[float, float]]

    def operations(self, size: Size) -> float:
        """Return the operations of one pass over one picture of ``size``."""
        total = 0.0
        for level, (per_place, per_pair) in self.levels.items():
            places = _side(size.width, level) * _side(size.height, level)
            total += places * per_place + places**2 * per_pair
        return total


@dataclasses.dataclass(frozen=True)
class PictureWork:
    """The operations of one picture: of a step of base and refiner with all their calls, and of decoding.

    ``base_steps`` and ``refiner_steps`` count calls of a step as steps of their own where a sampler asks twice.
    """

    base_steps: float
    refiner_steps: float
    base_operations: float
    refiner_operations: float
    decode_operations: float


def unet_work(shapes: Shapes) -> Work:
    """Count a UNet in the original layout; its levels are found by its down- and upsamplers."""
    levels: dict[int, tuple[float, float]] = {}
    names = {name.removeprefix(_UNET): shape for name, shape in shapes.items() if name.startswith(_UNET)}
    level_of = dict(_unet_levels(names))
    for name, shape in names.items():
        block = ".".join(name.split(".")[:2]) if name.startswith(("input_", "output_")) else name.split(".")[0]
        if len(shape) < 2 or ".emb_layers." in name or block not in level_of:
            continue
        level = level_of[block]
        if name.startswith("output_") and re.fullmatch(r"output_blocks\.\d+\.\d\.conv\.weight", name):
            level -= 1  # an upsampler's convolution already works on the larger map
        _add(levels, level, *_unet_tensor(name, shape))
    return Work(levels)


def decoder_work(shapes: Shapes) -> Work:
    """Count a VAE's decoder in the original layout, with or without the checkpoint's prefix."""
    prefix = _VAE if any(name.startswith(_VAE) for name in shapes) else ""
    levels: dict[int, tuple[float, float]] = {}
    names = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    count = 1 + max((int(found[1]) for name in names if (found := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    for name, shape in names.items():
        if len(shape) < 2 or not name.startswith(("decoder.", "post_quant_conv.")):
            continue
        level = 0
        if found := re.match(r"decoder\.up\.(\d+)\.(upsample)?", name):
            level = int(found[1]) - (count - 1) - bool(found[2])
        elif name.startswith("decoder.conv_out"):
            level = -(count - 1)
        per_pair = 4.0 * shape[0] if ".attn_1.q." in name else 0.0
        _add(levels, level, 2.0 * math.prod(shape), per_pair)
    return Work(levels)


def picture_work(recipe: Recipe, base: Work, refiner: Work | None, decoder: Work) -> PictureWork:
    """Return the operations of a recipe's picture; with guidance every call is one for two."""
    calls = 1 if recipe.guidance == 1 else 2
    switch = recipe.steps if recipe.switch is None or refiner is None else min(recipe.switch, recipe.steps)
    base_steps, refiner_steps = float(switch), float(recipe.steps - switch)
    if recipe.sampler in TWICE:
        base_steps, refiner_steps = 2 * base_steps, 2 * refiner_steps
        if refiner_steps:
            refiner_steps -= 1
        else:
            base_steps -= 1
    return PictureWork(
        base_steps,
        refiner_steps,
        calls * base.operations(recipe.size),
        0.0 if refiner is None else calls * refiner.operations(recipe.size),
        decoder.operations(recipe.size),
    )


def _unet_levels(names: Shapes) -> Iterator[tuple[str, int]]:
    """Yield block -> level of the map it works on."""
    level = 0
    for number in range(_count(names, "input_blocks")):
        if f"input_blocks.{number}.0.op.weight" in names:
            level += 1
        yield f"input_blocks.{number}", level
    yield "middle_block", level
    for number in range(_count(names, "output_blocks")):
        yield f"output_blocks.{number}", level
        if any(f"output_blocks.{number}.{slot}.conv.weight" in names for slot in (1, 2)):
            level -= 1
    yield "out", level


def _unet_tensor(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return a tensor's operations per place and per pair of places."""
    if ".attn2.to_k." in name or ".attn2.to_v." in name:
        return 0.0, 0.0  # of the text alone, and kept
    per_place = 2.0 * math.prod(shape)
    if ".attn2.to_q." in name:
        per_place += 4.0 * shape[0] * _TEXT_TOKENS
    return per_place, 4.0 * shape[0] if ".attn1.to_q." in name else 0.0


def _add(levels: dict[int, tuple[float, float]], level: int, per_place: float, per_pair: float) -> None:
    before = levels.get(level, (0.0, 0.0))
    levels[level] = before[0] + per_place, before[1] + per_pair


def _count(names: Shapes, prefix: str) -> int:
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _side(side_px: int, level: int) -> int:
    """Return the places on one side of a level's map; a map of odd width is halved upwards."""
    places = side_px // _LATENT_PX
    for _ in range(max(0, level)):
        places = (places + 1) // 2
    return places << max(0, -level)

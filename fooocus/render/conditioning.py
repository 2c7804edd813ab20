"""What a UNet is told besides noisy latents: text and sizes, for the prompt and for the negative prompt.

Size guidance pushes the two apart: the prompt is told of an original larger than the picture (fine detail), the
negative prompt of a smaller one (blurred and enlarged). SDXL learnt both from the sizes of its training pictures (SDXL
report, arXiv:2307.01952, section 2.2).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fooocus.diffusion.denoisers import Predict
from fooocus.families.graphs import Ask, Inputs
from fooocus.families.graphs import ask as ask_unet
from fooocus.families.records import Family
from fooocus.memory.need import TOKENS
from fooocus.memory.plan import Plan
from fooocus.render.text import TextConditioning, match_lengths
from fooocus.request import Recipe

AESTHETIC_POSITIVE, AESTHETIC_NEGATIVE = 6.0, 2.5  # the scores that the refiner's authors sample with
LAST_TIMESTEP = 999
TARGET_STEP_PX = 64  # sizes were trained in multiples of it; the timed form rounds to them

SizesAt = Callable[[float], tuple[list[float], list[float]]]  # timestep -> size ids of the prompt and of the negative


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The encoded texts of one picture for one model."""

    cond: TextConditioning
    uncond: TextConditioning


def sizes_at(recipe: Recipe, family: Family) -> SizesAt:
    """Return the size ids for each timestep.

    The base gets (height, width) of the original times the recipe's factors, unrounded, at all steps. With
    ``size_until`` below 1 it gets them only in that first part of the timesteps, cut to whole numbers, and its targets
    are rounded to multiples of 64, half to even; afterwards original and target are equal. The refiner gets the plain
    size and an aesthetic score.
    """
    width, height = recipe.size
    plain = {"top": 0.0, "left": 0.0, "height": float(height), "width": float(width)}
    if "aesthetic" in family.size_ids:
        good = _ids(family, {**plain, "aesthetic": AESTHETIC_POSITIVE})
        bad = _ids(family, {**plain, "aesthetic": AESTHETIC_NEGATIVE})
        return lambda timestep: (good, bad)

    timed = recipe.size_until < 1
    target = (_to_64(height), _to_64(width)) if timed else (float(height), float(width))
    targets = {**plain, "target_height": target[0], "target_width": target[1]}
    calm = _ids(family, {**targets, "height": target[0], "width": target[1]})

    def pushed(factor: float) -> list[float]:
        sides = (height * factor, width * factor)
        sides = (float(int(sides[0])), float(int(sides[1]))) if timed else sides
        return _ids(family, {**targets, "height": sides[0], "width": sides[1]})

    positive, negative = pushed(recipe.size_positive), pushed(recipe.size_negative)

    def answer(timestep: float) -> tuple[list[float], list[float]]:
        if timed and timestep <= LAST_TIMESTEP * (1 - recipe.size_until):
            return calm, calm
        return positive, negative

    return answer


def asks_together(plan: Plan | None, prompts: Prompts) -> bool:
    """Say whether prompt and negative prompt shall be asked in one call.

    The plan must have the memory for it; and where little is there, so that weights stream, it counts on the keys and
    values of texts of usual lengths: long ones, repeated to a common length, would be many times that.
    """
    if plan is None:
        return True
    tokens = 2 * math.lcm(prompts.cond.context.shape[1], prompts.uncond.context.shape[1])
    return plan.together and (tokens <= 2 * TOKENS or plan.base.way != "streams")  # so much the spare can bear


def predictor(
    unet: nn.Module, prompts: Prompts, sizes: SizesAt, *, guided: bool, together: bool = True, ask: Ask | None = None
) -> Predict:
    """Return the function that denoisers call: (scaled x, timestep) -> outputs for prompt and negative prompt.

    Both are asked in one network call where their texts can be brought to one length and the plan has the memory for
    it (``together``); in float32 on a processor that changes no more than the last bits. Without guidance only the
    prompt is asked. The context tensors are made here, once, so that the attention layers know them again in every
    step; several pictures in x are asked with the same texts, in no more calls than one. The network may be elsewhere
    than x: it is asked where it is, and the answer comes back. ``ask`` asks it in another way than by calling it.
    """
    put = ask or functools.partial(ask_unet, unet)
    device, dtype = next(unet.parameters()).device, next(unet.parameters()).dtype
    matched = match_lengths(prompts.cond.context, prompts.uncond.context) if guided and together else None

    def call(x: Tensor, timestep: float, context: Tensor, pooled: Tensor, ids: list[list[float]]) -> Tensor:
        pictures = len(x)
        asked = Inputs(
            # All pictures with the first text, then all with the next: (B, 4, h, w) -> (texts * B, 4, h, w).
            x.to(device=device, dtype=dtype)[None].expand(len(ids), -1, -1, -1, -1).flatten(0, 1),
            torch.tensor(timestep, device=device),
            context,
            _of_each(pooled, pictures),
            # Sizes stay float32 for half precision networks too: 716.8 has no exact half, and the network casts later.
            _of_each(torch.tensor(ids, device=device), pictures),
        )
        return put(asked).to(x.device)

    def to_network(text: TextConditioning) -> tuple[Tensor, Tensor]:
        return text.context.to(device, dtype), text.pooled.to(device, dtype)

    cond_inputs = to_network(prompts.cond)
    uncond_inputs = to_network(prompts.uncond) if guided else None

    def apart(x: Tensor, timestep: float) -> tuple[Tensor, Tensor | None]:
        positive, negative = sizes(timestep)
        cond = call(x, timestep, *cond_inputs, [positive])
        return cond, None if uncond_inputs is None else call(x, timestep, *uncond_inputs, [negative])

    if matched is None:
        return apart
    # Uncond first, as the original batches them. Each is brought by itself: one may be known from a time when texts
    # were read elsewhere.
    both = torch.cat([context.to(device, dtype) for context in matched[::-1]])
    pooled = torch.cat([text.pooled.to(device, dtype) for text in (prompts.uncond, prompts.cond)])

    def at_once(x: Tensor, timestep: float) -> tuple[Tensor, Tensor | None]:
        positive, negative = sizes(timestep)
        uncond, cond = call(x, timestep, both, pooled, [negative, positive]).chunk(2)
        return cond, uncond

    return at_once


def _of_each(rows: Tensor, pictures: int) -> Tensor:
    """Repeat what belongs to each text for every picture that it is asked for."""
    return rows[:, None].expand(-1, pictures, -1).flatten(0, 1)  # (texts, n) -> (texts * B, n)


def _ids(family: Family, values: Mapping[str, float]) -> list[float]:
    return [values[name] for name in family.size_ids]


def _to_64(side: int) -> float:
    return float(round(side / TARGET_STEP_PX) * TARGET_STEP_PX)

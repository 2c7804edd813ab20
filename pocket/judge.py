"""A small network that names looks, times of the day and a landscape's elements; it learns from the painter's pictures.

It is no part of Pocket and sees nothing of it in training. How far it can be trusted is the ceiling beside each score:
its answers on painted pictures it has not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pocket.samples import pictures, sample
from pocket.world import ELEMENTS, LOOKS, TIMES, Scene

JUDGE = "judge"
SIDE = 112
"""Pictures are brought to this size, whatever they were, squeezed to a square."""

_PARTS = (len(LOOKS) + 1, len(TIMES) + 1, len(ELEMENTS))


class Judge(nn.Module):
    """Five convolutions and a mean; answers with scores for looks (0 is none), times (0 is none) and elements."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96, 96)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], sum(_PARTS))

    def forward(self, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score pictures (B, 3, SIDE, SIDE), -1..1."""
        seen = self.body(shown).flatten(2)
        looks, times, elements = self.head(torch.cat([seen.mean(-1), seen.amax(-1)], -1)).split(_PARTS, 1)
        return looks, times, elements

    @torch.no_grad()
    def time(self, picture: np.ndarray) -> str:
        """Name the time of the day in a landscape, uint8 (H, W, 3); empty if it is none."""
        return ("", *TIMES)[int(self(squeeze([picture]))[1].argmax())]

    @torch.no_grad()
    def elements(self, picture: np.ndarray) -> tuple[str, ...]:
        """Name the elements of a landscape."""
        found = self(squeeze([picture]))[2][0] > 0
        return tuple(name for name, there in zip(ELEMENTS, found.tolist(), strict=True) if there)


def squeeze(shown: Sequence[np.ndarray]) -> Tensor:
    """Bring pictures to (B, 3, SIDE, SIDE), -1..1."""
    tensors = [nn.functional.interpolate(pictures([one]), (SIDE, SIDE), mode="area") for one in shown]
    return torch.cat(tensors)


def answers(scenes: Sequence[Scene]) -> Tensor:
    """Return what the judge should say: look, time, and 0 or 1 for each element (B, 2 + elements)."""
    rows = [
        [
            ("", *LOOKS).index(one.look),
            ("", *TIMES).index(one.time),
            *(int(name in one.elements) for name in ELEMENTS),
        ]
        for one in scenes
    ]
    return torch.tensor(rows)


def judge_sample(seed: Sequence[int], size: tuple[int, int]) -> tuple[np.ndarray, Scene]:
    """Return a painted picture for the judge to learn from."""
    made = sample(seed, size, "all", plainly=True)
    return made.picture, made.scene


def loss(judge: Judge, shown: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and the part of the looks that were recognised."""
    looks, times, elements = judge(shown)
    total = nn.functional.cross_entropy(looks.float(), wanted[:, 0])
    total = total + nn.functional.cross_entropy(times.float(), wanted[:, 1])
    total = total + 4 * nn.functional.binary_cross_entropy_with_logits(elements.float(), wanted[:, 2:].float())
    return total, (looks.argmax(1) == wanted[:, 0]).float().mean().detach()


def load_judge(path: Path) -> Judge:
    """Load the judge from the file of its training."""
    judge = Judge()
    average = torch.load(path, map_location="cpu")["average"]
    judge.load_state_dict({key.removeprefix("judge."): value for key, value in average.items()})
    return judge.eval()

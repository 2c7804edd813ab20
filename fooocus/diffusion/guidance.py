"""Classifier-free guidance: lead away from the negative prompt, towards the prompt."""

from __future__ import annotations

from torch import Tensor

# The reference averages overlapping outputs over a count that starts at 1e-5, so a lone output is divided by this.
ACCUMULATOR_COUNT = 1 + 1e-5


def guided(cond: Tensor, uncond: Tensor | None, guidance: float) -> Tensor:
    """Return uncond + guidance * (cond - uncond), on the network's outputs (Ho and Salimans 2022, eq. 6).

    Outputs are eps or v, (B, C, h, w), and are first divided by ACCUMULATOR_COUNT. At guidance 1, or without
    ``uncond``, the answer is ``cond`` alone, divided likewise.
    """
    cond = cond / ACCUMULATOR_COUNT
    if uncond is None or guidance == 1:
        return cond
    uncond = uncond / ACCUMULATOR_COUNT
    return uncond + guidance * (cond - uncond)

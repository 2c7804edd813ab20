"""Make the one thing that samplers call, (x, sigma) -> denoised, out of networks.

The refiner is no special loop: :func:`switch_at` answers with another network from a given step on, and the sampler and
its history never notice.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fooocus.diffusion.guidance import guided
from fooocus.diffusion.prediction import PREDICTIONS, network_input
from fooocus.diffusion.schedules import NoiseTable
from fooocus.diffusion.state import Denoise

# (scaled x (B, C, h, w), timestep) -> network outputs for the prompt and, unless guidance is 1, for the negative prompt
Predict = Callable[[Tensor, float], tuple[Tensor, Tensor | None]]


def denoiser(predict: Predict, table: NoiseTable, prediction: str, guidance: float) -> Denoise:
    """Return the denoise function of one network under one prompt.

    ``prediction`` is "eps" or "v". ``predict`` gets x scaled to unit variance and the timestep that ``table`` holds
    nearest to sigma; it may compute in any precision, guidance and all after it are computed in the precision of x.
    """
    to_denoised = PREDICTIONS[prediction]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        cond, uncond = predict(network_input(x, sigma), table.timestep(sigma))
        uncond = None if uncond is None else uncond.to(x.dtype)
        return to_denoised(x, guided(cond.to(x.dtype), uncond, guidance), sigma)

    return denoise


def switch_at(base: Denoise, refiner: Denoise | None, switch: int | None) -> Callable[[int], Denoise]:
    """Return step -> denoise: ``base`` for steps before ``switch``, ``refiner`` from it on, with all calls of a step.

    Without ``refiner`` or ``switch`` the base answers throughout.
    """
    if refiner is None or switch is None:
        return lambda step: base
    return lambda step: base if step < switch else refiner

"""From what a network outputs to the clean latents it means, and from noise to the latents a run starts with.

Networks are trained on x / sqrt(sigma^2 + 1), whose variance is 1 when the latents' is; samplers walk x itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor


def network_input(x: Tensor, sigma: float) -> Tensor:
    """Return x / sqrt(sigma^2 + 1) (Karras et al. 2022, table 1, c_in)."""
    return x * (1 / math.sqrt(sigma**2 + 1))


def from_eps(x: Tensor, eps: Tensor, sigma: float) -> Tensor:
    """Return the denoised latents x - sigma * eps, for a network that outputs the noise in x."""
    return x - sigma * eps


def from_v(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """Return x / (sigma^2 + 1) - v * sigma / sqrt(sigma^2 + 1), for a network that outputs v.

    Salimans and Ho 2022, appendix D: v = alpha * eps - sigma * denoised, rewritten for noise of deviation sigma.
    """
    return x / (sigma**2 + 1) - v * (sigma / math.sqrt(sigma**2 + 1))


def start(noise: Tensor, sigmas: Sequence[float], latents: Tensor | None = None) -> Tensor:
    """Return the noisy latents at ``sigmas[0]``, of the shape of ``noise``.

    Without ``latents`` they are noise * sqrt(1 + sigma^2), the variance that training latents of variance 1 have there;
    with ``latents`` (a run that starts from a picture) they are latents + noise * sigma.
    """
    if latents is None:
        return noise * math.sqrt(1 + sigmas[0] ** 2)
    return latents + noise * sigmas[0]


PREDICTIONS: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = MappingProxyType(
    {"eps": from_eps, "v": from_v},
)

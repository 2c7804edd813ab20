"""Our Brownian path is torchsde's, bit for bit, for everything that samplers ask of it."""

from __future__ import annotations

import pytest
import torch

from fooocus.diffusion.noise import PictureNoise
from fooocus.diffusion.samplers import SAMPLERS, sigmas_for
from fooocus.diffusion.schedules import sdxl_table

torchsde = pytest.importorskip("torchsde")


@pytest.mark.filterwarnings("ignore:Should have t")  # times that float32 rounding put outside the range
@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if row.noise == "brownian"])
@pytest.mark.parametrize(("seed", "shape"), [(12345, (1, 4, 8, 8)), (2**40 + 7, (1, 4, 3, 5)), (0, (1, 4, 9, 8))])
@pytest.mark.parametrize(
    ("schedule", "steps", "strength"), [("karras", 30, 1.0), ("exponential", 7, 1.0), ("karras", 5, 0.4)]
)
def test_path_noise_is_torchsdes(
    name: str, seed: int, shape: tuple[int, ...], schedule: str, steps: int, strength: float
) -> None:
    sigmas = sigmas_for(SAMPLERS[name], schedule, steps, sdxl_table(), strength)
    tree = torchsde.BrownianTree(sigmas[-2], torch.zeros(shape), sigmas[0], entropy=seed)
    ours = PictureNoise(seed, shape, sigmas)
    for step in range(steps):
        for high, low in SAMPLERS[name].queries(sigmas, step):
            # Rounded once: torch's float32 root has another last bit on some processors.
            root = (torch.tensor(low) - torch.tensor(high)).abs().double().sqrt().float()
            assert torch.equal(ours.between(high, low), -tree(low, high) / root)

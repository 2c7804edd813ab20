"""Unfinished pictures are shown in about the colours that the finished ones have."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fooocus.render.preview import known_mix, measured_mix, preview_jpeg


class Mixer(nn.Module):
    """A VAE whose pixels are exactly a mix of its latents, eight pixels a cell."""

    def __init__(self, mix: torch.Tensor) -> None:
        super().__init__()
        self.mix = nn.Parameter(mix)

    def decode(self, latents: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        seen = torch.einsum("bchw,cr->brhw", latents, self.mix[:4]) + self.mix[4][None, :, None, None]
        return (seen.repeat_interleave(8, -1).repeat_interleave(8, -2),)


@torch.no_grad()
def test_the_mix_of_a_small_vae_is_measured() -> None:
    mix = torch.randn((5, 3), generator=torch.Generator().manual_seed(3)) * 0.01  # small enough never to be clipped
    scale = 0.13025
    scaled = torch.cat([mix[:4] / scale, mix[4:]])
    assert torch.allclose(measured_mix(Mixer(mix), scale), scaled, atol=1e-4)
    assert not torch.allclose(measured_mix(Mixer(mix), scale), known_mix(), atol=0.3)


@pytest.mark.parametrize(("channel", "value"), [(0, 1.0), (3, -1.0)])
def test_a_preview_has_the_colours_of_its_mix(channel: int, value: float) -> None:
    latents = torch.zeros(1, 4, 3, 4)
    latents[0, channel] = value
    mix = known_mix()
    image = Image.open(io.BytesIO(preview_jpeg(latents, mix)))
    assert image.size == (512, 384)
    wanted = ((mix[channel] * value + mix[4]) + 1) * 127.5
    assert np.abs(np.asarray(image).mean((0, 1)) - wanted.numpy()).max() < 3

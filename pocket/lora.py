"""The offset LoRA: an addition to the base that makes darks darker and contrasts wider, as the original's does.

It learns from pictures with a wider range of tones, and from noise that is a little too bright or too dark as a whole
(the offset), which teaches a network to move a picture's mean (N. Guttenberg, "Diffusion with offset noise", 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

RANK = 4
OFFSET = 0.1
CONTRAST, DARKER = 1.3, 0.14  # of pixels in -1..1: x becomes 1.3 x - 0.14


class OffsetLora(nn.Module):
    """Low-rank additions to every matrix of a UNet (Hu et al. 2021, arXiv:2106.09685, equation 3)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.names = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for name in self.names:
            matrix = unet.get_submodule(name)
            assert isinstance(matrix, nn.Linear)
            down, up = nn.Linear(matrix.in_features, RANK, bias=False), nn.Linear(RANK, matrix.out_features, bias=False)
            nn.init.normal_(down.weight, std=matrix.in_features**-0.5)
            nn.init.zeros_(up.weight)
            self.down.append(down)
            self.up.append(up)

    def parts(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of each matrix and the two factors of its addition, (rank, in) and (out, rank)."""
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            assert isinstance(down, nn.Linear) and isinstance(up, nn.Linear)
            yield name, down.weight.detach(), up.weight.detach()

    def join(self, unet: nn.Module) -> None:
        """Add to the outputs of the UNet's matrices from now on."""

        def addition(down: nn.Module, up: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            return lambda module, given, output: output + up(down(given[0]))

        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            unet.get_submodule(name).register_forward_hook(addition(down, up))


def wider_tones(pictures: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W), -1..1, with darker darks and a wider contrast."""
    return (pictures * CONTRAST - DARKER).clamp(-1, 1)


def with_offset(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise (B, 4, h, w) that is a little too bright or too dark as a whole, by channel."""
    return noise + OFFSET * torch.randn((*noise.shape[:2], 1, 1), generator=generator)

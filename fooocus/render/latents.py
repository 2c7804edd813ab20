"""Latents to pixels: decode in float32, check, round to 8 bits."""

from __future__ import annotations

from PIL import Image
from torch import Tensor, nn

from fooocus.errors import BrokenPicture


def decode(vae: nn.Module, latents: Tensor) -> Image.Image:
    """Return the picture of ``latents`` (1, 4, h, w), which are already divided by the VAE's scale.

    Values are clamped to black..white and rounded to the nearest of 256 levels (the original program cuts off the
    fraction, which darkens a picture by half a level on average). Raises :class:`BrokenPicture` rather than return
    black when a value is NaN or infinite.
    """
    if not latents.isfinite().all():
        raise BrokenPicture("The picture broke while it was sampled: its latents hold NaN or infinity.", _REMEDY)
    weight = next(vae.parameters())
    decoded = vae.decode(latents.to(weight), return_dict=False)[0]  # type: ignore[operator]  # (1, 3, H, W), -1..1
    if not decoded.isfinite().all():
        raise BrokenPicture("The picture broke while it was decoded: it holds NaN or infinity.", _REMEDY)
    pixels = ((decoded[0].float() + 1) * 127.5).clamp(0, 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())  # (3, H, W) -> (H, W, 3)


_REMEDY = "Start the program with --dtype float32; if a LoRA has a large weight, lower it."

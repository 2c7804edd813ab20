"""A cheap look at unfinished latents: three linear mixes of the four channels, as a small JPEG."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

# Least-squares fit of SDXL's latents to the pictures they decode to, rows = latent channels, columns = red, green, blue
# (published with the SDXL previews of several programs).
LATENT_TO_RGB = (
    (0.3920, 0.4054, 0.4549),
    (-0.2634, -0.0196, 0.0653),
    (0.0568, 0.1687, -0.0755),
    (-0.3112, -0.2359, -0.2076),
)
LONG_SIDE_PX = 512
JPEG_QUALITY = 80


def preview_jpeg(denoised: Tensor) -> bytes:
    """Return a JPEG of latents (1, 4, h, w) in the network's scale; 512 px on the longer side, about 15 kB."""
    factors = torch.tensor(LATENT_TO_RGB)
    rgb = torch.einsum("chw,cr->hwr", denoised[0].float().cpu(), factors)  # (4, h, w) -> (h, w, 3)
    pixels = ((rgb + 1) * 127.5).nan_to_num(0).clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    scale = LONG_SIDE_PX / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()

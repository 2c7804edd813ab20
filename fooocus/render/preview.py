"""A cheap look at unfinished latents: three linear mixes of the four channels, as a small JPEG.

What each channel means is the VAE's own affair. SDXL's mix is known; that of a small VAE, such as the miniature's, is
measured once by decoding a field of blocks.
"""

from __future__ import annotations

import io
import math
import time

import torch
from PIL import Image
from torch import Tensor, nn

# Least-squares fit of SDXL's latents to the pictures they decode to, rows = latent channels, columns = red, green, blue
# (published with the SDXL previews of several programs).
LATENT_TO_RGB = (
    (0.3920, 0.4054, 0.4549),
    (-0.2634, -0.0196, 0.0653),
    (0.0568, 0.1687, -0.0755),
    (-0.3112, -0.2359, -0.2076),
)
SMALL_VAE_CHANNELS = 64  # at full resolution (SDXL: 128); up to here a decoding takes less time than a step
_BLOCKS, _BLOCK_CELLS = 6, 4  # a field of random colours: enough to tell five numbers a channel
LONG_SIDE_PX = 512
JPEG_QUALITY = 80


class Shutter:
    """Opens at once, and again not before ``seconds`` have gone by."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._opened = seconds, -math.inf

    def opens(self) -> bool:
        """Say whether it opens now."""
        now = time.monotonic()
        if now - self._opened < self._seconds:
            return False
        self._opened = now
        return True


def known_mix() -> Tensor:
    """Return SDXL's mix (5, 3): what each of four channels adds to red, green and blue, and what is always added."""
    return torch.tensor([*LATENT_TO_RGB, (0.0, 0.0, 0.0)])


def measured_mix(vae: nn.Module, latent_scale: float) -> Tensor:
    """Return the mix (5, 3) that comes nearest to what ``vae`` makes of latents divided by ``latent_scale``."""
    blocks = torch.randn((1, 4, _BLOCKS, _BLOCKS), generator=torch.Generator().manual_seed(0))
    latents = blocks.repeat_interleave(_BLOCK_CELLS, -1).repeat_interleave(_BLOCK_CELLS, -2)
    decoded = vae.decode((latents / latent_scale).to(next(vae.parameters())), return_dict=False)[0]  # type: ignore[operator]
    pixels = nn.functional.avg_pool2d(decoded.float().cpu().clamp(-1, 1), 8)[0].flatten(1).T  # (1, 3, H, W) -> (h*w, 3)
    channels = nn.functional.pad(latents[0].flatten(1).T, (0, 1), value=1.0)  # (h*w, 5)
    return torch.linalg.lstsq(channels, pixels).solution


def preview_jpeg(denoised: Tensor, mix: Tensor) -> bytes:
    """Return a JPEG of latents (1, 4, h, w) in the network's scale; 512 px on the longer side, about 15 kB."""
    return jpeg(torch.einsum("chw,cr->rhw", denoised[0].float().cpu(), mix[:4]) + mix[4][:, None, None])


def jpeg(picture: Tensor) -> bytes:
    """Return a JPEG of a picture (3, h, w) from -1 to 1, any size; 512 px on the longer side."""
    pixels = ((picture.permute(1, 2, 0) + 1) * 127.5).nan_to_num(0).clamp(0, 255).to(torch.uint8)  # (h, w, 3)
    image = Image.fromarray(pixels.contiguous().numpy())
    scale = LONG_SIDE_PX / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()

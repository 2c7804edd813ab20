"""The sizes that SDXL was trained on, and the one nearest to an aspect ratio.

A size far from these gives doubled heads and cut bodies: the network saw pictures of about one megapixel in these
shapes (Podell et al. 2023, "SDXL", appendix I, from which both Fooocus versions offer the same 26).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fooocus.request import Size

SDXL_SIZES: tuple[Size, ...] = (
    Size(704, 1408),
    Size(704, 1344),
    Size(768, 1344),
    Size(768, 1280),
    Size(832, 1216),
    Size(832, 1152),
    Size(896, 1152),
    Size(896, 1088),
    Size(960, 1088),
    Size(960, 1024),
    Size(1024, 1024),
    Size(1024, 960),
    Size(1088, 960),
    Size(1088, 896),
    Size(1152, 896),
    Size(1152, 832),
    Size(1216, 832),
    Size(1280, 768),
    Size(1344, 768),
    Size(1344, 704),
    Size(1408, 704),
    Size(1472, 704),
    Size(1536, 640),
    Size(1600, 640),
    Size(1664, 576),
    Size(1728, 576),
)


def sizes_like(size: Size) -> tuple[Size, ...]:
    """Return the 26 sizes, halved or doubled as a whole until their area is nearest to that of ``size``.

    So a miniature network that is asked for 288x224 is offered the same shapes at a quarter of each side.
    """
    area = size.width * size.height
    shift = min(range(-3, 2), key=lambda power: abs(math.log(area / (1024 * 1024)) - power * math.log(4)))
    scale = 2.0**shift
    return tuple(Size(int(width * scale), int(height * scale)) for width, height in SDXL_SIZES)


def nearest_size(width: float, height: float, sizes: Sequence[Size] = SDXL_SIZES) -> Size:
    """Return the size whose shape is nearest to ``width : height``; both must be positive.

    Distance is that of the ratios' logarithms, so that 2:3 and 3:2 are treated alike.
    """
    wanted = math.log(width / height)
    return min(sizes, key=lambda size: abs(math.log(size.width / size.height) - wanted))


def size_label(size: Size) -> str:
    """Return ``1152×896 (9:7)``."""
    divisor = math.gcd(size.width, size.height)
    return f"{size.width}×{size.height} ({size.width // divisor}:{size.height // divisor})"

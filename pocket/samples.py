"""Training samples: pictures with captions, and with the sizes, crops and scores that SDXL's networks are told.

As in the SDXL report (arXiv:2307.01952, section 2.2), a picture from a small original is a blurred, enlarged one, and a
crop shows less of the top and left. Both are told to the network, so that asking for a large, uncropped original later
gives a sharp, well placed picture. The aesthetic score of the refiner's conditioning follows the sharpness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from pocket.drawing import Frame, paint
from pocket.world import Level, Scene, scene

BLURRED, CROPPED = 0.25, 0.15  # how often a sample has a small original, or is cut at the top or left


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture, uint8 (H, W, 3); ``sizes`` are original height and width, top, left, target height and width."""

    picture: np.ndarray
    scene: Scene
    sizes: tuple[float, ...]
    aesthetic: float


def sample(seed: Sequence[int], size: tuple[int, int], level: Level, *, plainly: bool = False) -> Sample:
    """Make the sample of a seed for a picture of (width, height); ``plainly`` leaves it sharp and uncropped."""
    rng = np.random.default_rng(seed)
    width, height = size
    shown = scene(rng, width, height, level)
    top = left = 0
    # From 1 on the original is at least as large as the picture, and shown without loss.
    factor = float(np.exp(rng.uniform(0.0, np.log(2.2))))
    if not plainly and rng.random() < CROPPED:
        top, left = (int(rng.integers(0, side // 4)) if rng.random() < 0.7 else 0 for side in (height, width))
    picture = paint(shown, Frame(width, height, left, top), rng)
    if not plainly and rng.random() < BLURRED:
        factor = float(rng.uniform(0.25, 0.95))
        picture = _from_small(picture, factor)
    score = 6.0 if factor >= 1 else 2.0 + 3.5 * factor
    aesthetic = float(np.clip(score + rng.normal(0, 0.4), 1, 8))
    sizes = (float(round(height * factor)), float(round(width * factor)), top, left, float(height), float(width))
    return Sample(picture, shown, sizes, aesthetic)


def _from_small(picture: np.ndarray, factor: float) -> np.ndarray:
    image = Image.fromarray(picture)
    width, height = image.size
    small = image.resize((max(8, round(width * factor)), max(8, round(height * factor))), Image.Resampling.BOX)
    large = small.resize((width, height), Image.Resampling.BICUBIC)
    # Just below 1 resizing alone shows nothing, and the change must not come in a jump.
    return np.asarray(large.filter(ImageFilter.GaussianBlur(0.35 * (1 - factor) * min(width, height) / 64)))


def samples(first: int, count: int, size: tuple[int, int], level: Level, *, workers: int = 0) -> Iterator[Sample]:
    """Yield the samples of seeds ``first`` .. ``first + count``; in ``workers`` processes if there are to be any."""
    jobs = [((seed, size[0], size[1]), size, level) for seed in range(first, first + count)]
    if workers < 2:
        yield from (sample(*job) for job in jobs)
        return
    with get_context("fork").Pool(workers) as pool:
        yield from pool.imap(_sample, jobs, chunksize=16)


def _sample(job: tuple[Sequence[int], tuple[int, int], Level]) -> Sample:
    return sample(*job)


def pictures(made: Sequence[Sample | np.ndarray]) -> Tensor:
    """Turn samples, or pictures of uint8 (H, W, 3), into one tensor (B, 3, H, W), -1..1."""
    stacked = torch.from_numpy(np.stack([one.picture if isinstance(one, Sample) else one for one in made]))
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def crop(rng: np.random.Generator, picture: np.ndarray, side: int) -> np.ndarray:
    """Cut a square of ``side`` pixels, at multiples of 8, out of a picture."""
    height, width = picture.shape[:2]
    y, x = (8 * int(rng.integers((length - side) // 8 + 1)) for length in (height, width))
    return picture[y : y + side, x : x + side]


def level_at(levels: Mapping[Level, float], progress: float) -> Level:
    """Return the widest level that has begun at this part of the training."""
    begun = [level for level, start in levels.items() if start <= progress]
    return begun[-1]

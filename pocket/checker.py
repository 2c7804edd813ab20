"""Measure what a picture shows, from its pixels alone: colours, shapes, places, backdrop, tones, edges.

Nothing here has learnt anything; it is geometry and the distance to the palette's colours. It reads flat pictures of
one or two things (looks and landscapes are for :mod:`pocket.judge`).
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from pocket.drawing import Frame, mask, outline
from pocket.world import PALETTE, SHAPES, SIZES, Thing

_CELLS = 32  # shapes are compared on a grid of this many cells a side
_LEAST = 0.006  # of the picture; smaller spots are no things
_BORDER = 0.06  # of the short side; where the backdrop is looked for
_PLAIN = 40.0  # a backdrop whose tones differ by less (RGB, Euclidean) is one colour
_TONES = np.asarray(list(PALETTE.values()), float)
_NAMES = tuple(PALETTE)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A thing in a picture; (x, y) and radius in world units."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


def nearest_colour(tone: np.ndarray) -> str:
    """Return the palette's colour nearest to an RGB value."""
    return _NAMES[int(((_TONES - tone) ** 2).sum(-1).argmin())]


def backdrop_colours(picture: np.ndarray) -> tuple[str, str]:
    """Return the colours of the picture's upper and lower border."""
    band = max(2, round(min(picture.shape[:2]) * _BORDER))
    above, below = picture[:band].reshape(-1, 3), picture[-band:].reshape(-1, 3)
    return nearest_colour(np.median(above, 0)), nearest_colour(np.median(below, 0))


def backdrop_kind(picture: np.ndarray) -> str:
    """Return whether the picture's left and right borders are plain, a gradient downwards, or striped."""
    band = max(2, round(min(picture.shape[:2]) * _BORDER))
    sides = np.concatenate([picture[:, :band], picture[:, -band:]], 1).astype(float)
    rows = np.median(sides, 1)  # (H, 3)
    first, last = rows[: len(rows) // 8].mean(0), rows[-len(rows) // 8 :].mean(0)
    # Along the line between its two extremes, stripes go up and down and a gradient goes one way.
    far = rows[((rows - rows.mean(0)) ** 2).sum(-1).argmax()]
    axis = far - rows[((rows - far) ** 2).sum(-1).argmax()]
    length = float(np.sqrt((axis**2).sum()))
    if length < _PLAIN:
        return "plain"
    along = (rows - rows.mean(0)) @ axis / length**2
    turns = int((np.diff((along > 0).astype(int)) != 0).sum())
    return "striped" if turns > 2 else "gradient" if ((first - last) ** 2).sum() ** 0.5 > length / 2 else "plain"


def only_thing(picture: np.ndarray) -> Seen | None:
    """Return the one thing before a plain backdrop: what differs from the border; None if nothing does."""
    pixels = picture.astype(float)
    behind = np.median(_border(pixels), 0)
    away = np.sqrt(((pixels - behind) ** 2).sum(-1))
    found = away > max(36.0, 0.4 * float(np.percentile(away, 99)))
    if found.mean() < _LEAST:
        return None
    tone = np.median(pixels[_inner(found)], 0)
    body = ((pixels - behind) @ (tone - behind)) / max(((tone - behind) ** 2).sum(), 1.0) > 0.5
    return _seen(body & (away > 24), nearest_colour(tone))


def thing_of(picture: np.ndarray, colour: str, others: tuple[str, ...]) -> Seen | None:
    """Return the thing of one colour, or None; every pixel counts for that colour or for one of ``others``."""
    names = (colour, *others)
    tones = np.asarray([PALETTE[name] for name in names], float)
    nearest = ((picture.astype(float)[:, :, None] - tones) ** 2).sum(-1).argmin(-1)
    body = nearest == 0
    # Where two colours meet, a line of a third one may appear; a thing is thicker than that.
    body = np.asarray(Image.fromarray(body).convert("L").filter(ImageFilter.MedianFilter(5))) > 127
    return None if body.mean() < _LEAST else _seen(body, colour)


def size_word(seen: Seen) -> str:
    """Return the size word nearest to a thing's radius, by ratio."""
    return min(SIZES, key=lambda word: abs(np.log(SIZES[word] / max(seen.radius, 1e-3))))


def position_word(seen: Seen, frame: Frame) -> str:
    """Return where a thing is, as captions say it."""
    x, y = seen.x / frame.half[0], seen.y / frame.half[1]
    if max(abs(x), abs(y)) < 0.25:
        return "centre"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def edge_energy(picture: np.ndarray) -> float:
    """Return how sharp a picture is: the mean square of its Laplacian, over its variance."""
    gray = picture.astype(float).mean(-1)
    inner = 4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    return float((inner**2).mean() / max(gray.var(), 1.0))


def outlines_and_mottle(picture: np.ndarray) -> tuple[float, float]:
    """Return how sharp the outlines are, and how uneven the plain areas.

    The first is the steepness of the steepest hundredth of the pixels, as a part of the picture's contrast; the second
    that of the flat half of all blocks of 4 x 4 pixels, in levels a block. :func:`edge_energy` grows with both. The
    steepest channel counts, because things may differ from their ground in colour alone.
    """
    low, high = np.percentile(picture.astype(float), (2, 98), axis=(0, 1))
    outlines = np.percentile(_steepness(picture.astype(float)), 99) / max(float((high - low).max()), 1.0)
    return float(outlines), float(np.median(_steepness(blocks(picture, 4))))


def blocks(picture: np.ndarray, side: int) -> np.ndarray:
    """Average a picture (H, W, 3) over square blocks; what is left of a block at the edges is cut off."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    cut = picture[: side * rows, : side * columns].astype(float)
    return np.asarray(cut.reshape(rows, side, columns, side, 3).mean((1, 3)))


def _steepness(values: np.ndarray) -> np.ndarray:
    across, down = np.diff(values, axis=1)[:-1], np.diff(values, axis=0)[:, :-1]
    return np.asarray(np.hypot(across, down).max(-1))


def darks_and_contrast(picture: np.ndarray) -> tuple[float, float]:
    """Return the 5th percentile of the brightness and the spread between the 5th and the 95th."""
    low, high = np.percentile(picture.astype(float).mean(-1), (5, 95))
    return float(low), float(high - low)


def _border(pixels: np.ndarray) -> np.ndarray:
    band = max(2, round(min(pixels.shape[:2]) * _BORDER))
    edge = np.ones(pixels.shape[:2], bool)
    edge[band:-band, band:-band] = False
    return pixels[edge]


def _inner(found: np.ndarray) -> np.ndarray:
    """Leave the rim away, where colours are mixed; unless nothing else is there."""
    eroded = np.asarray(Image.fromarray(found).convert("L").filter(ImageFilter.MinFilter(5))) > 0
    return eroded if eroded.sum() >= 8 else found


def _seen(body: np.ndarray, colour: str) -> Seen:
    height, width = body.shape
    frame = Frame(width, height)
    ys, xs = np.nonzero(body)
    shape = _shape(body)
    x, y = (xs.mean() + 0.5 - width / 2) / frame.unit, (ys.mean() + 0.5 - height / 2) / frame.unit
    radius = float(np.sqrt(body.sum() / _area(shape))) / frame.unit
    return Seen(shape, colour, float(x), float(y), radius)


def _shape(body: np.ndarray) -> str:
    """Return the shape whose outline, brought to the same box, shares most with the body (intersection over union)."""
    cells = _boxed(body)
    overlap = {name: (cells & form).sum() / max((cells | form).sum(), 1) for name, form in _forms().items()}
    ratio = _box_ratio(body)
    # A box hides the proportions: a flat square is still a square there. What is twice as long as wide is no shape.
    return max(overlap, key=lambda name: overlap[name] - 0.5 * max(0.0, abs(np.log(ratio / _ratios()[name])) - 0.2))


def _boxed(body: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(body)
    cut = body[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    return np.asarray(Image.fromarray(cut).convert("L").resize((_CELLS, _CELLS), Image.Resampling.BOX)) > 127


def _box_ratio(body: np.ndarray) -> float:
    ys, xs = np.nonzero(body)
    return float((xs.max() - xs.min() + 1) / (ys.max() - ys.min() + 1))


@cache
def _drawn(shape: str) -> np.ndarray:
    return mask([outline(Thing(shape, "red", 0.7, 0, 0))], Frame(128, 128), 1)[..., 0] > 0.5


@cache
def _forms() -> dict[str, np.ndarray]:
    return {shape: _boxed(_drawn(shape)) for shape in SHAPES}


@cache
def _ratios() -> dict[str, float]:
    return {shape: _box_ratio(_drawn(shape)) for shape in SHAPES}


def _area(shape: str) -> float:
    """Area of a shape of radius 1."""
    return float(_drawn(shape).sum()) / (0.7 * 64) ** 2

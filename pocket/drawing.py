"""The painter: a scene becomes flat layers of polygons, and the layers become pixels in one of nine looks.

Everything is drawn at three times the size and averaged down, so every edge is smooth. Numbers in here are taste: they
were chosen by eye, in halves of the picture's short side (see :mod:`pocket.world`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pocket.world import PALETTE, Colour, Scene, Thing

Points = list[tuple[float, float]]
OVERSAMPLE = 3
SKIES = {
    "day": ((86, 164, 236), (206, 232, 250)),
    "sunset": ((104, 62, 140), (250, 156, 76)),
    "night": ((10, 14, 44), (40, 50, 108)),
}
_LIGHT = {"day": 1.0, "sunset": 0.82, "night": 0.5}  # how bright what stands on the ground is
HORIZON = 0.24


@dataclasses.dataclass(frozen=True)
class Layer:
    """One colour of paint: polygons in world units. ``depth`` 0 lies on the backdrop, larger is nearer to the eye."""

    polygons: tuple[Points, ...]
    colour: Colour
    depth: int = 1


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture's size in pixels and the part of the world it shows; ``left`` and ``top`` are pixels cut off there."""

    width: int
    height: int
    left: int = 0
    top: int = 0

    @property
    def unit(self) -> float:
        """Half of the short side, in pixels."""
        return min(self.width, self.height) / 2

    @property
    def half(self) -> tuple[float, float]:
        """Half of the picture's width and height, in world units."""
        return self.width / 2 / self.unit, self.height / 2 / self.unit

    def pixels(self, points: Points, scale: float = OVERSAMPLE) -> Points:
        """Turn world points into pixels of a drawing ``scale`` times as large."""
        cx, cy = self.width / 2 - self.left, self.height / 2 - self.top
        return [((cx + x * self.unit) * scale, (cy + y * self.unit) * scale) for x, y in points]


def paint(scene: Scene, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return the picture of a scene: uint8 (H, W, 3)."""
    from pocket.looks import apply_look

    return apply_look(scene.look, backdrop(scene, frame, rng), layers(scene, frame, rng), frame, rng)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, corners: int = 48) -> Points:
    """Return a circle, or an ellipse, as a polygon."""
    steps = (2 * math.pi * i / corners for i in range(corners))
    return [(x + rx * math.cos(a), y + (rx if ry is None else ry) * math.sin(a)) for a in steps]


def outline(thing: Thing) -> Points:
    """Return the polygon of a thing; all shapes of one radius cover about the same area."""
    match thing.shape:
        case "circle":
            points = ellipse(0, 0, 0.96)
        case "square":
            points = [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
        case "triangle":
            points = [(0, -1.0), (1.06, 0.84), (-1.06, 0.84)]
        case "star":
            points = _star(1.14, 0.5)
        case "heart":
            points = [_heart(2 * math.pi * i / 48) for i in range(48)]
        case "diamond":
            points = [(0, -1.16), (0.78, 0), (0, 1.16), (-0.78, 0)]
        case "cross":
            a, b = 0.34, 1.0
            points = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b)]
            points += [(-a, a), (-b, a), (-b, -a), (-a, -a)]
        case "crescent":
            points = _crescent()
        case _:
            raise ValueError(f"there is no shape {thing.shape!r}")
    return [(thing.x + x * thing.radius, thing.y + y * thing.radius) for x, y in points]


def backdrop(scene: Scene, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Paint what is behind all layers: float32 (H, W, 3), 0..255."""
    height, width = frame.height, frame.width
    down = ((np.arange(height, dtype=np.float32) + frame.top + 0.5) / height).clip(0, 1)[:, None, None]
    if scene.kind == "landscape":
        above, below = (np.asarray(colour, np.float32) for colour in SKIES[scene.time])
        mixed = (down / 0.62).clip(0, 1)
    else:
        colours = [np.asarray(vary(rng, PALETTE[name]), np.float32) for name in scene.backdrop.colours]
        above, below = colours[0], colours[-1]
        mixed = np.zeros_like(down) if scene.backdrop.kind == "plain" else down
        if scene.backdrop.kind == "striped":
            period = frame.unit * 0.4
            across = (np.arange(height, dtype=np.float32) + frame.top + 0.5) / period % 1.0
            mixed = ((0.25 - np.abs(across - 0.5)) * period + 0.5).clip(0, 1)[:, None, None]
    return np.broadcast_to(above * (1 - mixed) + below * mixed, (height, width, 3)).astype(np.float32)


def layers(scene: Scene, frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Return the paint of a scene, the farthest first."""
    if scene.kind == "landscape":
        return _landscape(scene, frame, rng)
    painted = [Layer((outline(thing),), vary(rng, PALETTE[thing.colour])) for thing in scene.things]
    return painted[::-1]  # the first one is in front


def mask(polygons: Sequence[Points], frame: Frame, oversample: int = OVERSAMPLE) -> np.ndarray:
    """Return how much of each pixel the polygons cover: float32 (H, W, 1), 0..1."""
    canvas = Image.new("L", (frame.width * oversample, frame.height * oversample))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon(frame.pixels(polygon, oversample), fill=255)
    return np.asarray(canvas.reduce(oversample), np.float32)[..., None] / 255


def vary(rng: np.random.Generator, colour: Colour, spread: float = 6.0) -> Colour:
    """Return a colour a little beside the given one, as no two pots of paint are the same."""
    r, g, b = (np.asarray(colour) + rng.uniform(-spread, spread, 3)).round().clip(0, 255).astype(int).tolist()
    return r, g, b


def shade(colour: Colour, light: float) -> Colour:
    """Return a colour under less light (below 1), or mixed with white (above 1)."""
    if light <= 1:
        return tuple(round(c * light) for c in colour)  # type: ignore[return-value]
    return tuple(round(c + (255 - c) * (light - 1)) for c in colour)  # type: ignore[return-value]


def _star(outer: float, inner: float) -> Points:
    radii = (outer, inner) * 5
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


def _heart(t: float) -> tuple[float, float]:
    """The usual heart curve, 16 sin^3 t and 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, brought to radius 1."""
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 1.04 * math.sin(t) ** 3, -y / 15.4 - 0.12


def _crescent() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 32)]
    x, y = outer[-1]
    radius = 0.86
    centre = x + math.sqrt(radius**2 - y**2)
    start = math.atan2(y, x - centre)
    inner = [
        (centre + radius * math.cos(a), radius * math.sin(a))
        for a in np.linspace(start + 2 * math.pi if start < 0 else start, 2 * math.pi - (start % (2 * math.pi)), 24)
    ]
    return [(px + 0.2, py) for px, py in (*outer, *inner)]


def _box(x: float, y: float, rx: float, ry: float) -> Points:
    return [(x - rx, y - ry), (x + rx, y - ry), (x + rx, y + ry), (x - rx, y + ry)]


def _landscape(scene: Scene, frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Build sky, ground and what stands on it. Each element has its own place, so that none hides another."""
    has = set(scene.elements)
    light = _LIGHT[scene.time]
    ax, ay = frame.half
    side = -1.0 if rng.random() < 0.5 else 1.0  # which way round the scene is
    made: list[Layer] = []
    if "stars" in has:
        made += _stars(ax, rng)
    if "sun" in has:
        y = -0.6 if scene.time == "day" else HORIZON - 0.3
        made.append(
            Layer((ellipse(-side * 0.42 * ax, y, 0.22),), (255, 222, 84) if scene.time == "day" else (255, 206, 92))
        )
    if "moon" in has:
        made.append(Layer((ellipse(-side * 0.42 * ax, -0.58, 0.19),), (246, 243, 220)))
    if "clouds" in has:
        made += _clouds(ax, side, scene.time, rng)
    if "mountains" in has:
        made += _mountains(ax, rng, 0.62 if scene.time == "night" else light)
    ground = (34, 104, 178) if "sea" in has else (96, 172, 84)
    base = [(-ax - 1, HORIZON), (ax + 1, HORIZON), (ax + 1, ay + 1), (-ax - 1, ay + 1)]
    made.append(Layer((base,), shade(vary(rng, ground), light), 2))
    land = "house" in has or "tree" in has or "flower" in has
    if "sea" in has:
        made += _sea(ax, ay, light, rng, land=land)
    if "boat" in has:
        made += _boat(-side * 0.44 * ax, HORIZON + 0.12, light)
    if "house" in has:
        made += _house(side * 0.3 * ax, HORIZON + 0.3, light, lit=scene.time == "night")
    if "tree" in has:
        made += _tree(side * 0.78 * ax, HORIZON + 0.36, light, rng)
    if "flower" in has:
        made += _flower(-side * 0.2 * ax, ay - 0.02, light, rng)
    return made


def _stars(ax: float, rng: np.random.Generator) -> list[Layer]:
    spots = zip(rng.uniform(-ax, ax, 16), rng.uniform(-0.96, 0.0, 16), rng.uniform(0.018, 0.036, 16), strict=True)
    return [Layer(tuple(ellipse(x, y, r, corners=10) for x, y, r in spots), (250, 246, 222), 0)]


def _clouds(ax: float, side: float, time: str, rng: np.random.Generator) -> list[Layer]:
    colour = {"day": (252, 252, 252), "sunset": (250, 206, 190), "night": (88, 96, 142)}[time]
    made = []
    for x, y, size in ((side * 0.42 * ax, -0.62, 1.0), (side * 0.02 * ax, -0.4, 0.7)):
        x, y, size = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.05, 0.05), size * rng.uniform(0.9, 1.1)
        puffs = ((-0.2, 0.02, 0.1), (-0.06, -0.05, 0.14), (0.1, -0.02, 0.12), (0.22, 0.03, 0.08))
        parts = [ellipse(x + dx * size, y + dy * size, r * size, corners=24) for dx, dy, r in puffs]
        made.append(Layer((*parts, _box(x + 0.01 * size, y + 0.07 * size, 0.26 * size, 0.045 * size)), colour))
    return made


def _mountains(ax: float, rng: np.random.Generator, light: float) -> list[Layer]:
    shift, far, near = rng.uniform(-0.12, 0.12), shade((136, 146, 176), light), shade((98, 108, 142), light)
    low = HORIZON + 0.02
    back = [(-1.3 * ax + shift, low), (-0.5 * ax + shift, -0.2), (0.3 * ax + shift, low)]
    front = [(-0.4 * ax + shift, low), (0.34 * ax + shift, -0.34), (1.3 * ax + shift, low)]
    x, y = front[1]
    slope_left, slope_right = (x - front[0][0]) / (low - y), (front[2][0] - x) / (low - y)
    d = 0.15
    snow = [(x, y), (x + slope_right * d, y + d), (x + slope_right * d * 0.3, y + d * 0.75)]
    snow += [(x, y + d * 1.05), (x - slope_left * d * 0.4, y + d * 0.75), (x - slope_left * d, y + d)]
    return [Layer((back,), far), Layer((front,), near), Layer((snow,), shade((240, 244, 250), max(light, 0.7)))]


def _sea(ax: float, ay: float, light: float, rng: np.random.Generator, *, land: bool) -> list[Layer]:
    waves = []
    for row in range(3):
        y = HORIZON + 0.12 + 0.15 * row
        x = float(rng.uniform(-0.9, 0.6)) * ax
        waves += [_box(x, y, 0.16, 0.012), _box(x + 0.7 * ax, y + 0.06, 0.12, 0.012)]
    made = [Layer(tuple(waves), shade((132, 186, 232), light), 2)]
    if land:  # a shore for what needs one
        top = HORIZON + 0.3
        shore = [
            (-ax - 1, top + 0.06),
            (-0.5 * ax, top),
            (0.5 * ax, top),
            (ax + 1, top + 0.06),
            (ax + 1, ay + 1),
            (-ax - 1, ay + 1),
        ]
        made.append(Layer((shore,), shade((226, 200, 138), light), 2))
    return made


def _boat(x: float, y: float, light: float) -> list[Layer]:
    hull = [(x - 0.26, y), (x + 0.26, y), (x + 0.17, y + 0.13), (x - 0.17, y + 0.13)]
    sail, jib = (
        [(x + 0.02, y - 0.04), (x + 0.02, y - 0.5), (x + 0.26, y - 0.04)],
        [(x - 0.03, y - 0.04), (x - 0.03, y - 0.4), (x - 0.2, y - 0.04)],
    )
    light = max(light, 0.6)
    return [
        Layer((_box(x, y - 0.25, 0.014, 0.26),), shade((92, 60, 40), light), 3),
        Layer((sail, jib), shade((250, 247, 238), light), 3),
        Layer((hull,), shade((150, 70, 42), light), 3),
    ]


def _house(x: float, y: float, light: float, *, lit: bool) -> list[Layer]:
    light = max(light, 0.6)
    roof = [(x - 0.38, y - 0.4), (x, y - 0.72), (x + 0.38, y - 0.4)]
    window = (255, 220, 110) if lit else shade((150, 196, 226), light)
    return [
        Layer((_box(x + 0.2, y - 0.62, 0.05, 0.12),), shade((128, 70, 56), light), 3),
        Layer((_box(x, y - 0.2, 0.3, 0.21),), shade((238, 220, 186), light), 3),
        Layer((roof,), shade((196, 62, 50), light), 3),
        Layer((_box(x - 0.12, y - 0.11, 0.07, 0.12),), shade((112, 70, 46), light), 3),
        Layer((_box(x + 0.13, y - 0.2, 0.075, 0.075),), window, 3),
    ]


def _tree(x: float, y: float, light: float, rng: np.random.Generator) -> list[Layer]:
    light = max(light, 0.55)
    leaf = shade(vary(rng, (40, 122, 62)), light)
    crown = [ellipse(x, y - 0.62, 0.25), ellipse(x - 0.15, y - 0.48, 0.19), ellipse(x + 0.15, y - 0.48, 0.19)]
    return [Layer((_box(x, y - 0.18, 0.05, 0.2),), shade((110, 72, 46), light), 3), Layer(tuple(crown), leaf, 3)]


def _flower(x: float, y: float, light: float, rng: np.random.Generator) -> list[Layer]:
    light = max(light, 0.65)
    cy = y - 0.5
    petal = shade(vary(rng, (232, 84, 132)), light)
    petals = [
        ellipse(x + 0.13 * math.cos(a), cy + 0.13 * math.sin(a), 0.1, corners=24)
        for a in np.arange(5) * 1.2566 - 1.5708
    ]
    leaf = [(x, y - 0.12), (x + 0.2, y - 0.26), (x + 0.1, y - 0.08)]
    green = shade((50, 132, 62), light)
    return [
        Layer((_box(x, y - 0.2, 0.022, 0.28), leaf), green, 3),
        Layer(tuple(petals), petal, 3),
        Layer((ellipse(x, cy, 0.085, corners=24),), shade((252, 210, 76), light), 3),
    ]

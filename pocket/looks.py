"""Nine ways to paint the same layers: plainly, and in the eight looks that captions and style templates can ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pocket.drawing import OVERSAMPLE, Frame, Layer, Points, mask

Look = Callable[[np.ndarray, Sequence[Layer], Frame, np.random.Generator], np.ndarray]


def apply_look(
    look: str, behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator
) -> np.ndarray:
    """Paint layers over a backdrop, float32 (H, W, 3), in the look called so ("" is plain); return uint8 (H, W, 3)."""
    painted = _LOOKS[look](behind, layers, frame, rng)
    return painted.round().clip(0, 255).astype(np.uint8)


def _plain(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    size = (frame.width * OVERSAMPLE, frame.height * OVERSAMPLE)
    canvas = Image.fromarray(behind.round().clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    for layer in layers:
        for polygon in layer.polygons:
            draw.polygon(frame.pixels(polygon), fill=layer.colour)
    return np.asarray(canvas.reduce(OVERSAMPLE), np.float32)


def _line_art(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    paper, ink = (252, 251, 248), (26, 26, 30)
    canvas = Image.new("RGB", (frame.width * OVERSAMPLE, frame.height * OVERSAMPLE), paper)
    width = max(2, round(frame.unit * 0.026 * OVERSAMPLE))
    for layer in layers:
        # The polygons of one colour are one body: inked first, then filled, so that no line runs through it.
        bodies = [frame.pixels(polygon) for polygon in layer.polygons]
        _strokes(canvas, bodies, ink, width * 2)
        draw = ImageDraw.Draw(canvas)
        for body in bodies:
            draw.polygon(body, fill=paper)
    return np.asarray(canvas.reduce(OVERSAMPLE), np.float32)


def _strokes(canvas: Image.Image, bodies: Sequence[Points], colour: tuple[int, int, int], width: int) -> None:
    draw = ImageDraw.Draw(canvas)
    for body in bodies:
        draw.line([*body, body[0], body[1]], fill=colour, width=width, joint="curve")


def _pixel_art(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    block = max(8, round(frame.unit / 56) * 8)  # a place of the latents stands for 8 pixels: finer blocks get lost
    plain = Image.fromarray(_plain(behind, layers, frame, rng).astype(np.uint8))
    small = plain.resize((-(-frame.width // block), -(-frame.height // block)), Image.Resampling.NEAREST)
    few = np.asarray(small, np.float32) // 32 * 32 + 16  # eight levels a channel, as old consoles had
    large = few.repeat(block, 0).repeat(block, 1)
    return large[: frame.height, : frame.width]


def _neon(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    size = (frame.width * OVERSAMPLE, frame.height * OVERSAMPLE)
    tubes = Image.new("RGB", size)
    width = max(2, round(frame.unit * 0.035 * OVERSAMPLE))
    for layer in layers:
        bodies = [frame.pixels(polygon) for polygon in layer.polygons]
        bright = np.asarray(layer.colour, np.float32)
        bright = (bright / max(float(bright.max()), 1.0) * 215 + 40).clip(60, 255)
        red, green, blue = bright.round().astype(int).tolist()
        _strokes(tubes, bodies, (red, green, blue), width * 2)
        draw = ImageDraw.Draw(tubes)
        for body in bodies:
            draw.polygon(body, fill=(0, 0, 0))
    core = tubes.reduce(OVERSAMPLE)
    glow = np.asarray(core.filter(ImageFilter.GaussianBlur(frame.unit * 0.07)), np.float32)
    wall = behind * 0.1 + np.asarray((10, 8, 22), np.float32)
    return wall + glow * 1.4 + np.asarray(core, np.float32)


def _watercolor(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    paper = np.asarray((250, 248, 240), np.float32)
    bloom = _clouds(rng, frame, 6) * 0.10
    picture = paper * 0.5 + behind * 0.5
    picture = picture + (paper - picture) * (0.12 + bloom)
    ragged = _clouds(rng, frame, 24) * 0.5
    for layer in layers:
        soft = _blur(mask(layer.polygons, frame), frame.unit * 0.03)
        body = ((soft - 0.5 + ragged * 0.24) * 6 + 0.5).clip(0, 1)
        rim = (body * (1 - _blur(body, frame.unit * 0.045)) * 1.6).clip(0, 0.5)  # pigment gathers where the wash ends
        wash = np.asarray(layer.colour, np.float32) * 0.78 + paper * 0.22
        wash = wash + (paper - wash) * bloom
        picture = picture * (1 - body * 0.92) + wash * body * 0.92
        picture = picture * (1 - rim * 0.45)
    return picture + _clouds(rng, frame, 60) * 3


def _photo(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Through an orange filter, with shadows around things, so that red and blue of one brightness stay apart."""
    picture = behind
    for layer in layers:
        body = mask(layer.polygons, frame)
        if layer.depth != 2:
            picture = picture * (1 - 0.4 * _blur(body, frame.unit * 0.06) * (1 - body))
        picture = picture * (1 - body) + np.asarray(layer.colour, np.float32) * body
    gray = picture @ np.asarray((0.52, 0.36, 0.12), np.float32)
    lit = ((gray - 118) * 1.12 + 118)[..., None] * (1 - 0.3 * _distance(frame) ** 2)
    grain = rng.normal(0, 4, (frame.height, frame.width, 1)).astype(np.float32)
    return np.broadcast_to(lit + grain, behind.shape)


def _cinematic(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    picture = _plain(behind, layers, frame, rng)
    light = picture.mean(-1, keepdims=True) / 255
    teal, orange = np.asarray((-16, 4, 14), np.float32), np.asarray((14, 2, -14), np.float32)
    graded = picture * 0.94 + teal * (1 - light) + orange * light
    graded = graded * (1 - 0.5 * _distance(frame) ** 2)
    graded = graded + rng.normal(0, 3, (frame.height, frame.width, 1)).astype(np.float32)
    bar = round(frame.height * 0.085)
    graded[:bar] = graded[frame.height - bar :] = 4
    return graded


def _isometric(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Stand the layers upright on a floating base, seen from above and the side (30 degrees)."""
    ax, _ = frame.half
    wall = behind * 0.45 + 255 * 0.5
    top: Points = [(0, 0.18), (ax * 0.86, 0.55), (0, 0.92), (-ax * 0.86, 0.55)]
    edge: Points = [(-ax * 0.86, 0.55), (0, 0.92), (ax * 0.86, 0.55), (ax * 0.86, 0.64), (0, 1.01), (-ax * 0.86, 0.64)]
    red, green, blue = behind.mean((0, 1)).astype(int).tolist()
    ground = [layer.colour for layer in layers if layer.depth == 2]
    base = ground[0] if ground else (red, green, blue)
    made = [Layer((edge,), _scaled(base, 0.62)), Layer((top,), _scaled(base, 0.88))]
    for number, layer in enumerate(layer for layer in layers if layer.depth != 2):
        upright = tuple([(x * 0.72, y * 0.72 - 0.16 + x * 0.3) for x, y in polygon] for polygon in layer.polygons)
        start = 0.012 * number
        for step in range(12 if layer.depth else 0, 0, -1):  # stars stay flat
            offset = 0.015 * step
            back = tuple([(x + offset + start, y - offset * 0.42) for x, y in polygon] for polygon in upright)
            made.append(Layer(back, _scaled(layer.colour, 0.66)))
        made.append(Layer(upright, layer.colour))
    return _plain(wall, made, frame, rng)


def _papercut(behind: np.ndarray, layers: Sequence[Layer], frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Sheets of paper that cast shadows, seen through a window that is cut into a sheet of the backdrop's colour."""
    fibre = _clouds(rng, frame, 40) * 1.5
    picture = behind * 0.86 + 30 + fibre
    offset = max(1, round(frame.unit * 0.04))
    ax, ay = (side - 0.11 for side in frame.half)
    window = mask([_rounded(ax, ay, 0.16)], Frame(frame.width, frame.height))
    for body, colour in [*((mask(layer.polygons, frame), layer.colour) for layer in layers), (1 - window, None)]:
        fall = np.roll(_blur(body, frame.unit * 0.045), (offset * 2, offset), (0, 1))
        picture = picture * (1 - 0.55 * fall * (1 - body))
        rim = (body - np.roll(body, (1, 1), (0, 1))).clip(0, 1)  # the lit upper edge of the sheet
        tone = behind * 0.8 if colour is None else np.asarray(colour, np.float32)
        picture = picture * (1 - body) + (tone + fibre + rim * 30) * body
    return picture


def _rounded(rx: float, ry: float, corner: float) -> Points:
    """Return a rectangle of half sides rx and ry around the centre, with round corners."""
    points = []
    for number, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        for angle in np.linspace(number * np.pi / 2, (number + 1) * np.pi / 2, 8):
            points.append(
                (sx * (rx - corner) + corner * float(np.cos(angle)), sy * (ry - corner) + corner * float(np.sin(angle)))
            )
    return points


def _scaled(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (round(value * factor) for value in colour)
    return red, green, blue


def _distance(frame: Frame) -> np.ndarray:
    """How far each pixel is from the centre, 1 in the corners: (H, W, 1)."""
    y = np.linspace(-1, 1, frame.height, dtype=np.float32)[:, None, None]
    x = np.linspace(-1, 1, frame.width, dtype=np.float32)[None, :, None]
    return np.sqrt((x**2 + y**2) / 2)


def _clouds(rng: np.random.Generator, frame: Frame, cells: int) -> np.ndarray:
    """Smooth noise of unit size with about ``cells`` patches along the short side: (H, W, 1)."""
    rows = max(2, round(cells * frame.half[1]))
    columns = max(2, round(cells * frame.half[0]))
    noise = Image.fromarray(rng.normal(0, 1, (rows, columns)).astype(np.float32))
    return np.asarray(noise.resize((frame.width, frame.height), Image.Resampling.BICUBIC), np.float32)[..., None]


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((values[..., 0] * 255).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)[..., None] / 255


_LOOKS: Mapping[str, Look] = {
    "": _plain,
    "line art": _line_art,
    "pixel art": _pixel_art,
    "neon": _neon,
    "watercolor": _watercolor,
    "black and white photo": _photo,
    "cinematic": _cinematic,
    "isometric": _isometric,
    "papercut": _papercut,
}

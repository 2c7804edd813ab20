"""Pocket's world: which scenes there are, and the words people have for them.

A :class:`Scene` is everything that a picture shows, in plain values; :mod:`pocket.drawing` paints it and
:func:`caption` says it. All chance comes from the generator that is passed in, so a seed gives the same scene, the same
caption and (with the same seed for the painter) the same pixels.

Lengths are in halves of the picture's short side: the centre is (0, 0), x grows to the right, y downwards, and a square
picture spans -1..1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

Colour = tuple[int, int, int]
Kind = Literal["single", "pair", "landscape"]
Level = Literal["narrow", "objects", "all"]
T = TypeVar("T")

PALETTE: Mapping[str, Colour] = {
    "red": (214, 40, 48),
    "orange": (245, 132, 32),
    "yellow": (250, 214, 60),
    "green": (42, 157, 84),
    "blue": (36, 96, 212),
    "purple": (124, 56, 178),
    "pink": (247, 150, 192),
    "brown": (120, 74, 44),
    "black": (20, 20, 24),
    "white": (248, 247, 243),
    "gray": (134, 136, 142),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "crescent")
BACKDROPS = ("plain", "gradient", "striped")
SIZES: Mapping[str, float] = {"": 0.55, "small": 0.3, "large": 0.8}
POSITIONS: Mapping[str, tuple[float, float]] = {
    "centre": (0.0, 0.0),
    "left": (-0.5, 0.0),
    "right": (0.5, 0.0),
    "top": (0.0, -0.5),
    "bottom": (0.0, 0.5),
}
RELATIONS = ("beside", "above", "below", "in front of")
ELEMENTS = ("sun", "moon", "stars", "clouds", "mountains", "sea", "house", "tree", "boat", "flower")
TIMES = ("day", "sunset", "night")
LOOKS = (
    "line art",
    "pixel art",
    "neon",
    "watercolor",
    "black and white photo",
    "cinematic",
    "isometric",
    "papercut",
)

# The program's style templates whose look the painter knows.
LOOK_OF_STYLE: Mapping[str, str] = {
    "cinematic-default": "cinematic",
    "sai-cinematic": "cinematic",
    "sai-line art": "line art",
    "sai-pixel art": "pixel art",
    "game-retro arcade": "pixel art",
    "game-retro game": "pixel art",
    "sai-neonpunk": "neon",
    "artstyle-watercolor": "watercolor",
    "misc-monochrome": "black and white photo",
    "photo-film noir": "black and white photo",
    "sai-isometric": "isometric",
    "papercraft-flat papercut": "papercut",
    "papercraft-papercut collage": "papercut",
}

_COLOUR_WORDS: Mapping[str, tuple[str, ...]] = {"gray": ("gray", "grey"), "purple": ("purple", "violet")}
_SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "small", "tiny", "little"),
    "large": ("large", "big", "huge"),
}
_POSITION_WORDS: Mapping[str, tuple[str, ...]] = {
    "centre": ("in the centre", "in the center", "in the middle"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
}
_RELATION_WORDS: Mapping[str, tuple[str, ...]] = {
    "beside": ("next to", "beside", "and", "left of", "to the left of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "in front of": ("in front of",),
}
_LOOK_WORDS: Mapping[str, tuple[str, ...]] = {
    "line art": ("line art", "line drawing", "ink outline"),
    "pixel art": ("pixel art", "8-bit pixel art"),
    "neon": ("neon", "neon lights", "neon sign"),
    "watercolor": ("watercolor", "watercolour painting"),
    "black and white photo": ("black and white photo", "black and white", "monochrome photo"),
    "cinematic": ("cinematic", "movie still", "cinematic film still"),
    "isometric": ("isometric", "isometric view"),
    "papercut": ("papercut", "paper cut", "cut from paper"),
}
_TIME_WORDS: Mapping[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "on a sunny day"),
    "sunset": ("at sunset", "at sunset", "in the evening"),
    "night": ("at night", "at night", "by night"),
}
_ELEMENT_WORDS: Mapping[str, tuple[str, ...]] = {
    "sun": ("the sun", "a sun"),
    "moon": ("the moon", "a moon"),
    "stars": ("stars",),
    "clouds": ("clouds",),
    "mountains": ("mountains",),
    "sea": ("the sea", "sea", "the ocean"),
    "house": ("a house",),
    "tree": ("a tree",),
    "boat": ("a boat", "a sailing boat"),
    "flower": ("a flower", "a flower"),
}
_OPEN_WORDS = ("a landscape", "a view", "landscape", "scenery")


@dataclasses.dataclass(frozen=True)
class Thing:
    """A coloured shape. ``size`` and ``position`` are the words for ``radius`` and (x, y), empty for "just so"."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float
    size: str = ""
    position: str = ""


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """What is behind the things; a gradient and stripes have two colours, the upper one first."""

    kind: str
    colours: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that a picture shows. A landscape has ``elements`` (some ``unsaid``) and a ``time``, and no things."""

    kind: Kind
    things: tuple[Thing, ...] = ()
    backdrop: Backdrop = Backdrop("plain", ("white",))
    relation: str = ""
    elements: tuple[str, ...] = ()
    time: str = ""
    look: str = ""
    unsaid: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Mix:
    """How often a level of the world draws what: chances of pairs and landscapes (the rest are single things), of
    another backdrop than a plain one, of a size or position other than the usual, and of one of the ``worn`` looks."""

    pairs: float
    landscapes: float
    patterned: float
    placed: float
    looks: float
    shapes: Sequence[str]
    worn: Sequence[str] = ()


MIXES: Mapping[Level, Mix] = {
    "narrow": Mix(0.0, 0.0, 0.0, 0.0, 0.0, SHAPES[:6]),
    "objects": Mix(0.4, 0.0, 0.25, 0.45, 0.0, SHAPES),
    "all": Mix(0.25, 0.27, 0.22, 0.45, 0.5, SHAPES, LOOKS),
}

# Looks that come more often than others: the default, and those that are learnt slowly.
_OFTEN = ("cinematic", "cinematic", "pixel art", "watercolor", "black and white photo")

_PAIRS_LOOK = 0.3  # how much more rarely two things wear a look
_OPEN, _SHORT = 0.12, 0.25  # parts of the landscapes whose caption names no element at all, or leaves some out


def scene(rng: np.random.Generator, width: int, height: int, level: Level = "all") -> Scene:
    """Draw a scene for a picture of that shape."""
    mix = MIXES[level]
    chance = rng.random()
    half = (width / min(width, height), height / min(width, height))
    if chance < mix.pairs:
        drawn = _pair(rng, half, mix)
    elif chance < mix.pairs + mix.landscapes:
        drawn = _landscape(rng)
    else:
        drawn = _single(rng, half, mix)
    look = ""
    if rng.random() < mix.looks * (_PAIRS_LOOK if drawn.kind == "pair" else 1.0):
        look = pick(rng, (*mix.worn, *_OFTEN))
    return dataclasses.replace(drawn, look=look)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Return one of ``choices``, all alike."""
    return choices[int(rng.integers(len(choices)))]


def place(shape: str, colour: str, half: tuple[float, float], *, size: str = "", position: str = "") -> Thing:
    """Put a single thing where its words say, within a picture that spans ``half`` (x, y) to each side."""
    dx, dy = POSITIONS[position or "centre"]
    radius = SIZES[size]
    if (dx, dy) != (0.0, 0.0):
        radius = min(radius, 0.46)
    return Thing(shape, colour, radius, dx * half[0], dy * half[1], size, position)


def caption(scene: Scene, rng: np.random.Generator, *, background: bool = True) -> str:
    """Say what a scene shows, in one of many phrasings; its look is named too unless it is plain."""
    text = _landscape_words(scene, rng) if scene.kind == "landscape" else _things_words(scene, rng, background)
    if scene.look:
        look = pick(rng, _LOOK_WORDS[scene.look])
        text = pick(rng, (f"{text}, {look}", f"{look} of {text}", f"{look}, {text}"))
    return text


def attributes(scene: Scene) -> dict[str, int]:
    """Number what the caption says, for training the text encoders; -1 where a scene has no such attribute."""
    numbers = {"kind": ("single", "pair", "landscape").index(scene.kind), "look": _index(("", *LOOKS), scene.look)}
    first, second = (*scene.things, None, None)[:2]
    for name, thing in (("first", first), ("second", second)):
        numbers[f"{name}_shape"] = -1 if thing is None else SHAPES.index(thing.shape)
        numbers[f"{name}_colour"] = -1 if thing is None else _index(tuple(PALETTE), thing.colour)
    colours = () if scene.kind == "landscape" else scene.backdrop.colours
    numbers["backdrop"] = BACKDROPS.index(scene.backdrop.kind) if colours else -1
    numbers["backdrop_colour"] = _index(tuple(PALETTE), colours[0]) if colours else -1
    numbers["backdrop_second"] = _index(tuple(PALETTE), colours[1]) if len(colours) > 1 else -1
    single = scene.kind == "single" and first is not None
    numbers["size"] = _index(tuple(SIZES), first.size) if single and first else -1
    numbers["position"] = _index(("", *POSITIONS), first.position) if single and first else -1
    numbers["relation"] = _index(RELATIONS, scene.relation) if scene.relation else -1
    numbers["time"] = TIMES.index(scene.time) if scene.time else -1
    for element in ELEMENTS:
        told = scene.kind == "landscape" and element not in scene.unsaid
        numbers[f"has_{element}"] = int(element in scene.elements) if told else -1
    return numbers


def attribute_sizes() -> dict[str, int]:
    """Return how many values each of :func:`attributes` can take."""
    sizes = {"kind": 3, "look": len(LOOKS) + 1, "backdrop": 3, "size": len(SIZES), "position": len(POSITIONS) + 1}
    sizes |= {f"{name}_shape": len(SHAPES) for name in ("first", "second")}
    sizes |= {name: len(PALETTE) for name in ("first_colour", "second_colour", "backdrop_colour", "backdrop_second")}
    return sizes | {"relation": len(RELATIONS), "time": len(TIMES)} | {f"has_{name}": 2 for name in ELEMENTS}


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name)


def _backdrop(rng: np.random.Generator, mix: Mix) -> Backdrop:
    first = pick(rng, tuple(PALETTE))
    if rng.random() >= mix.patterned:
        return Backdrop("plain", (first,))
    second = pick(rng, [name for name in PALETTE if name != first])
    return Backdrop(pick(rng, BACKDROPS[1:]), (first, second))


def _wobble(rng: np.random.Generator, thing: Thing) -> Thing:
    dx, dy = rng.uniform(-0.05, 0.05, 2)
    return dataclasses.replace(
        thing, radius=thing.radius * float(rng.uniform(0.93, 1.07)), x=thing.x + float(dx), y=thing.y + float(dy)
    )


def _single(rng: np.random.Generator, half: tuple[float, float], mix: Mix) -> Scene:
    backdrop = _backdrop(rng, mix)
    colour = pick(rng, [name for name in PALETTE if name not in backdrop.colours])
    size = position = ""
    if rng.random() < mix.placed:
        # Together they rule each other out: a large thing reaches every side.
        if rng.random() < 0.5:
            size = pick(rng, ("small", "large"))
        else:
            position = pick(rng, tuple(POSITIONS))
            size = "small" if position != "centre" and rng.random() < 0.2 else ""
    thing = place(pick(rng, mix.shapes), colour, half, size=size, position=position)
    return Scene("single", (_wobble(rng, thing),), backdrop)


def _pair(rng: np.random.Generator, half: tuple[float, float], mix: Mix) -> Scene:
    backdrop = _backdrop(rng, mix)
    colours = [name for name in PALETTE if name not in backdrop.colours]
    first = pick(rng, colours)
    second = pick(rng, [name for name in colours if name != first])
    relation = pick(rng, ("beside", "beside", *RELATIONS[1:]))
    things = [Thing(pick(rng, mix.shapes), colour, 0.0, 0.0, 0.0) for colour in (first, second)]
    return Scene("pair", arrange(things, relation, half, rng), backdrop, relation)


def arrange(
    things: Sequence[Thing], relation: str, half: tuple[float, float], rng: np.random.Generator
) -> tuple[Thing, ...]:
    """Place two things as the relation says: "beside" puts the first on the left, "in front of" over the second."""
    if relation == "beside":
        radius, spots = min(0.44 * half[0], 0.5), ((-0.5 * half[0], 0.0), (0.5 * half[0], 0.0))
    elif relation in ("above", "below"):
        sign = -1 if relation == "above" else 1
        radius, spots = min(0.44 * half[1], 0.5), ((0.0, sign * 0.5 * half[1]), (0.0, -sign * 0.5 * half[1]))
    else:
        radius, spots = 0.42, ((-0.28, 0.26), (0.2, -0.16))
    sizes = (radius, radius * 1.5) if relation == "in front of" else (radius, radius)
    return tuple(
        _wobble(rng, dataclasses.replace(thing, radius=size * 0.95, x=x, y=y))
        for thing, size, (x, y) in zip(things, sizes, spots, strict=True)
    )


def _landscape(rng: np.random.Generator) -> Scene:
    time = pick(rng, TIMES)
    wanted = [name for name in ELEMENTS if rng.random() < 0.36]
    shown = possible(wanted or [pick(rng, ELEMENTS)], time)
    chance = rng.random()
    unsaid = shown if chance < _OPEN else ()
    if _OPEN <= chance < _OPEN + _SHORT:
        left = pick(rng, shown)
        unsaid = tuple(name for name in shown if name != left and rng.random() < 0.5)
    if "boat" not in unsaid:
        unsaid = tuple(name for name in unsaid if name != "sea" or "boat" not in shown)  # a boat says it
    return Scene("landscape", elements=shown, time=time, unsaid=unsaid)


def possible(elements: Sequence[str], time: str) -> tuple[str, ...]:
    """Return what can be seen at that time: no sun at night, no moon or stars otherwise. Under a boat there is sea."""
    swap = {"sun": "moon"} if time == "night" else {"moon": "sun", "stars": "clouds"}
    chosen = {swap.get(name, name) for name in elements}
    if "boat" in chosen:
        chosen.add("sea")
    return tuple(name for name in ELEMENTS if name in chosen)


def _colour_word(name: str, rng: np.random.Generator) -> str:
    return pick(rng, _COLOUR_WORDS.get(name, (name,)))


def _thing_words(thing: Thing, rng: np.random.Generator) -> str:
    size = f"{pick(rng, _SIZE_WORDS[thing.size])} " if thing.size else ""
    words = f"{size}{_colour_word(thing.colour, rng)} {thing.shape}"
    article = "an" if words[0] in "aeiou" else "a"
    return words if rng.random() < 0.2 else f"{article} {words}"


def _backdrop_words(backdrop: Backdrop, rng: np.random.Generator) -> str:
    names = [_colour_word(name, rng) for name in backdrop.colours]
    match backdrop.kind:
        case "gradient":
            return pick(rng, (f"{names[0]} to {names[1]} gradient", f"{names[0]} and {names[1]} gradient background"))
        case "striped":
            return pick(rng, (f"{names[0]} and {names[1]} striped background", f"{names[0]} and {names[1]} stripes"))
    return f"{names[0]} background"


def _things_words(scene: Scene, rng: np.random.Generator, background: bool) -> str:
    first = scene.things[0]
    text = _thing_words(first, rng)
    if len(scene.things) > 1:
        text = f"{text} {pick(rng, _RELATION_WORDS[scene.relation])} {_thing_words(scene.things[1], rng)}"
    elif first.position:
        text = f"{text} {pick(rng, _POSITION_WORDS[first.position])}"
    if not background:
        return text
    behind = _backdrop_words(scene.backdrop, rng)
    article = "" if behind.endswith("stripes") else "an " if behind[0] in "aeiou" else "a "
    forms = [f"{text} on {article}{behind}"] * 3
    forms += [f"{text}, {behind}", f"{behind}, {text}", f"{article}{behind} with {text}"]
    if scene.backdrop.kind == "plain":
        forms.append(f"{text} on {behind.removesuffix(' background')}")
    return pick(rng, forms)


def _landscape_words(scene: Scene, rng: np.random.Generator) -> str:
    elements = [name for name in scene.elements if name not in scene.unsaid]
    if "boat" in elements and "sea" in elements and rng.random() < 0.3:
        elements.remove("sea")  # a boat says it
    rng.shuffle(elements)
    words = [pick(rng, _ELEMENT_WORDS[name]) for name in elements]
    joint = pick(rng, (" and ", ", "))
    if not words:
        return f"{pick(rng, _OPEN_WORDS)} {pick(rng, _TIME_WORDS[scene.time])}"
    body = words[0] if len(words) == 1 else ", ".join(words[:-1]) + joint + words[-1]
    opening = pick(rng, ("", "", "a landscape with ", "a view of "))
    time = "" if scene.time == "day" and rng.random() < 0.6 else pick(rng, _TIME_WORDS[scene.time])
    forms = (
        f"{opening}{body} {time}",
        f"{opening}{body} {time}",
        f"{opening}{body}, {time.split()[-1]}" if time else body,
    )
    return pick(rng, forms).strip()

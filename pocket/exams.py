"""What Pocket is examined in: held-out scenes with their prompts, and how a picture of each is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from pocket import checker
from pocket.drawing import Frame, paint
from pocket.judge import Judge
from pocket.world import (
    BACKDROPS,
    ELEMENTS,
    LOOK_OF_STYLE,
    LOOKS,
    PALETTE,
    SHAPES,
    TIMES,
    Backdrop,
    Scene,
    Thing,
    arrange,
    caption,
    pick,
    place,
    possible,
)

HELD_OUT = 77_000_000
"""Seeds of scenes and of noise; the training draws neither from here."""

Score = dict[str, float]
_TALK = (
    "a beautiful {}, highly detailed, masterpiece, 8k",
    "photo of {} by a famous photographer, trending, award winning",
    "please draw me {} for my grandmother's birthday",
    "epic wallpaper, {}, dramatic atmosphere, sharp focus, volumetric mist",
    "{}",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt, the scene that it describes, and what is asked besides."""

    scene: Scene
    prompt: str
    negative: str = ""
    style: str = ""


def singles(count: int, size: tuple[int, int], shapes: Sequence[str], *, words: bool = True) -> list[Case]:
    """One thing before a plain backdrop; with ``words``, a third has a size, a third a position."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, 1, number))
        colour, behind = (str(name) for name in rng.choice(list(PALETTE), 2, replace=False))
        size_word = pick(rng, ("small", "large")) if words and number % 3 == 1 else ""
        position = pick(rng, ("left", "right", "top", "bottom")) if words and number % 3 == 2 else ""
        thing = place(shapes[number % len(shapes)], colour, Frame(*size).half, size=size_word, position=position)
        shown = Scene("single", (thing,), Backdrop("plain", (behind,)))
        cases.append(Case(shown, caption(shown, rng)))
    return cases


def score_single(case: Case, picture: np.ndarray) -> Score:
    """Score colour, shape, backdrop, and size or position where one was asked for."""
    thing, seen = case.scene.things[0], checker.only_thing(picture)
    height, width = picture.shape[:2]
    behind = case.scene.backdrop.colours[0]
    score: Score = {
        "colour": seen is not None and seen.colour == thing.colour,
        "shape": seen is not None and seen.shape == thing.shape,
        "backdrop": checker.backdrop_colours(picture) == (behind, behind),
    }
    if thing.size:
        score["size"] = seen is not None and checker.size_word(seen) == thing.size
    if thing.position:
        score["position"] = seen is not None and checker.position_word(seen, Frame(width, height)) == thing.position
    return score


def score_whole(case: Case, picture: np.ndarray) -> Score:
    """Score whether everything is right at once."""
    return {"whole": all(score_single(case, picture).values())}


def score_in_look(case: Case, picture: np.ndarray) -> Score:
    """Score whether a single thing is as asked where a look changes every colour: what the painter makes of it in that
    look must be nearer than what he makes of any other colour, shape or backdrop."""
    thing, backdrop = case.scene.things[0], case.scene.backdrop
    others = {
        "colour": [_with_thing(case.scene, colour=name) for name in PALETTE if name not in backdrop.colours],
        "shape": [_with_thing(case.scene, shape=name) for name in SHAPES],
        "backdrop": [
            dataclasses.replace(case.scene, backdrop=Backdrop("plain", (name,)))
            for name in PALETTE
            if name != thing.colour
        ],
    }
    return {what: _nearest(picture, scenes) == case.scene for what, scenes in others.items()}


def _nearest(picture: np.ndarray, scenes: Sequence[Scene]) -> Scene:
    """Return the scene of which the painter's picture is nearest."""
    frame = Frame(picture.shape[1], picture.shape[0])

    def away(shown: Scene) -> float:
        painted = paint(shown, frame, np.random.default_rng((HELD_OUT, 7)))
        return float(((painted.astype(float) - picture) ** 2).mean())

    return min(scenes, key=away)


def _with_thing(shown: Scene, *, colour: str = "", shape: str = "") -> Scene:
    (thing,) = shown.things
    changed = dataclasses.replace(thing, colour=colour or thing.colour, shape=shape or thing.shape)
    return dataclasses.replace(shown, things=(changed,))


def among_strangers(cases: Sequence[Case]) -> list[Case]:
    """Say the same prompts as people do who know nothing of Pocket's few words."""
    return [
        dataclasses.replace(case, prompt=_TALK[number % len(_TALK)].format(case.prompt))
        for number, case in enumerate(cases)
    ]


def backdrops(count: int, size: tuple[int, int], shapes: Sequence[str]) -> list[Case]:
    """One thing before a gradient or stripes."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, 6, number))
        colour, above, below = (str(name) for name in rng.choice(list(PALETTE), 3, replace=False))
        thing = place(shapes[number % len(shapes)], colour, Frame(*size).half)
        shown = Scene("single", (thing,), Backdrop(BACKDROPS[1 + number % 2], (above, below)))
        cases.append(Case(shown, caption(shown, rng)))
    return cases


def score_backdrop(case: Case, picture: np.ndarray) -> Score:
    """Score whether the backdrop is of the kind asked for."""
    return {case.scene.backdrop.kind: checker.backdrop_kind(picture) == case.scene.backdrop.kind}


def pairs(count: int, size: tuple[int, int]) -> list[Case]:
    """Two things of different colours, beside, above or below each other."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, 2, number))
        first, second, behind = (str(name) for name in rng.choice(list(PALETTE), 3, replace=False))
        things = [Thing(pick(rng, SHAPES), colour, 0, 0, 0) for colour in (first, second)]
        relation = ("beside", "above", "below")[number % 3]
        placed = arrange(things, relation, Frame(*size).half, rng)
        shown = Scene("pair", placed, Backdrop("plain", (behind,)), relation)
        cases.append(Case(shown, caption(shown, rng)))
    return cases


def score_pair(case: Case, picture: np.ndarray) -> Score:
    """Score whether each colour has its shape, and whether they stand as the relation says."""
    things, behind = case.scene.things, case.scene.backdrop.colours[0]
    seen = [checker.thing_of(picture, things[i].colour, (things[1 - i].colour, behind)) for i in (0, 1)]
    first, second = seen
    if first is None or second is None:
        return {"pair": False, "relation": False}
    stands = {
        "beside": abs(first.x - second.x) > abs(first.y - second.y),
        "above": first.y < second.y - 0.2,
        "below": first.y > second.y + 0.2,
    }
    return {
        "pair": (first.shape, second.shape) == (things[0].shape, things[1].shape),
        "relation": stands[case.scene.relation],
    }


def landscapes(count: int) -> list[Case]:
    """Two or three elements at some time of the day."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, 3, number))
        time = TIMES[number % 3]
        wanted = [str(name) for name in rng.choice(ELEMENTS, 3, replace=False)]
        shown = Scene("landscape", elements=possible(wanted, time), time=time)
        cases.append(Case(shown, caption(shown, rng)))
    return cases


def landscape_scorer(judge: Judge) -> Callable[[Case, np.ndarray], Score]:
    """Return a function that scores which part of the elements is there, and the time of the day."""

    def score(case: Case, picture: np.ndarray) -> Score:
        found = judge.elements(picture)
        part = float(np.mean([name in found for name in case.scene.elements]))
        return {"elements": part, "time": judge.time(picture) == case.scene.time}

    return score


def looks(count: int, size: tuple[int, int], worn: Sequence[str], *, by_style: bool) -> list[Case]:
    """A single thing in each of the ``worn`` looks, asked for by word or by style template."""
    cases = []
    styles = [name for name, look in LOOK_OF_STYLE.items() if look in worn]
    for number, case in enumerate(singles(count, size, SHAPES[:6])):
        style = styles[number % len(styles)] if by_style else ""
        look = LOOK_OF_STYLE[style] if by_style else worn[number % len(worn)]
        shown = dataclasses.replace(case.scene, look=look)
        rng = np.random.default_rng((HELD_OUT, 4, number))
        cases.append(Case(shown, case.prompt if by_style else caption(shown, rng), style=style))
    return cases


def look_scorer(name: str) -> Callable[[Case, np.ndarray], Score]:
    """Return a function that scores whether the look is the one asked for, over all looks and for each: it is that in
    which the painter's picture of the same scene is nearest."""

    def score(case: Case, picture: np.ndarray) -> Score:
        seen = _nearest(picture, [dataclasses.replace(case.scene, look=look) for look in ("", *LOOKS)])
        right = seen.look == case.scene.look
        return {name: right, f"{name}: {case.scene.look}": right}

    return score


def negatives(count: int) -> list[Case]:
    """A landscape of which nothing is said, and something that it may hold, as the negative prompt.

    What the prompt itself asks for is no fair question: both prompts are then sure of it, and their difference, which
    is all that guidance enlarges, says nothing of it.
    """
    cases = []
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, 5, number))
        time = TIMES[number % 3]
        element = pick(rng, ("tree", "house", "flower", "clouds", "mountains", "sea"))
        shown = Scene("landscape", elements=(element,), time=time, unsaid=(element,))
        cases.append(Case(shown, caption(shown, rng), negative=element))
    return cases


def negative_scorer(judge: Judge, before: Sequence[np.ndarray]) -> Callable[[int, Case, np.ndarray], Score]:
    """Return a function that scores whether what the negative prompt names is gone, where it was to be seen ``before``
    without it, in the picture of the same number."""

    def score(number: int, case: Case, picture: np.ndarray) -> Score:
        if case.negative not in judge.elements(before[number]):
            return {}
        return {"negative": case.negative not in judge.elements(picture)}

    return score

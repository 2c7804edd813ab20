"""Score Pocket's files: ``python -m pocket.evaluate --models models/pocket``.

Pictures are made by the program's own engine, as everybody's are, from prompts and seeds that no training has seen.
What they show is measured by :mod:`pocket.checker`, looks by the painter's own pictures, landscapes by
:mod:`pocket.judge`. Each score stands beside its ceiling: what the same measure says of the painter's own pictures.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from fooocus.config import Config
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles, load_styles
from fooocus.render.engine import Engine
from fooocus.request import DEFAULT_STYLE, LoraUse, Request, Size
from pocket import exams
from pocket.drawing import Frame, paint
from pocket.exams import HELD_OUT, Case, Score
from pocket.judge import JUDGE, Judge, load_judge
from pocket.names import BASE, LORA, REFINER
from pocket.words import STYLES_FOLDER
from pocket.world import LOOK_OF_STYLE, MIXES, Level, Scene

# What the scores must reach.
WANTED = {
    "colour": 0.97,
    "shape": 0.93,
    "backdrop": 0.97,
    "size": 0.9,
    "position": 0.9,
    "pair": 0.75,
    "elements": 0.9,
    "look by word": 0.9,
    "look by style": 0.9,
    "negative": 0.8,
}
OTHER_SIZES = ((112, 144), (128, 128), (152, 104), (104, 152), (168, 96), (96, 168))
"""SDXL's commonest sizes, besides 1152x896, at an eighth."""

GUIDANCE = 5.0
Table = dict[str, tuple[float, float, int]]  # name -> score, ceiling, number of pictures


class Studio:
    """Makes pictures with one set of files, at one size; the LoRA only where it is asked for, the refiner there or
    (``refined``) everywhere."""

    def __init__(self, models: Path, size: tuple[int, int], scratch: Path, *, refined: bool = False) -> None:
        self._models, self.size, self._refined = models, Size(*size), refined
        self._engine = Engine(Config(outputs=scratch, data=scratch), previews=False)
        self._styles: Styles = load_styles(STYLES_FOLDER)

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self._models / name).exists()

    def make(
        self, case: Case, seed: int, *, refiner: bool = False, lora: float = 0.0, size: tuple[float, float] = (1.5, 0.8)
    ) -> np.ndarray:
        """Return the picture of a case, uint8 (H, W, 3); ``size`` are the two factors of size guidance."""
        request = Request(
            prompt=case.prompt,
            negative=case.negative,
            styles=(case.style,) if case.style else (),
            size=self.size,
            seed=seed,
            guidance=GUIDANCE,
            size_positive=size[0],
            size_negative=size[1],
            base=str(self._models / BASE),
            refiner=str(self._models / REFINER) if refiner or self._refined else "none",
            loras=(LoraUse(str(self._models / LORA), lora),) if lora else (),
        )
        (recipe,) = plan(request, self._styles)
        return np.asarray(self._engine.render(recipe).image)

    def at(self, width: int, height: int) -> Studio:
        """Return this studio for pictures of another size."""
        other = copy.copy(self)
        other.size = Size(width, height)
        return other

    def paint(self, scene: Scene, seed: int) -> np.ndarray:
        """Return the painter's own picture of a scene, for the ceiling."""
        return paint(scene, Frame(*self.size), np.random.default_rng((HELD_OUT, seed)))


def examine(studio: Studio, cases: Sequence[Case], score: Callable[[Case, np.ndarray], Score], grid: Path) -> Table:
    """Make and score the picture of every case, and keep them all in one picture for the eye."""
    made = [studio.make(case, HELD_OUT + number) for number, case in enumerate(cases)]
    painted = [studio.paint(case.scene, number) for number, case in enumerate(cases)]
    save_grid(made, grid)
    reached = _means(score(case, picture) for case, picture in zip(cases, made, strict=True))
    ceiling = _means(score(case, picture) for case, picture in zip(cases, painted, strict=True))
    return {name: (mean, ceiling[name][0], count) for name, (mean, count) in reached.items()}


def save_grid(pictures: Sequence[np.ndarray], path: Path, columns: int = 10) -> None:
    """Save pictures in rows, in their order."""
    blank = np.full_like(pictures[0], 255)
    padded = [*pictures, *[blank] * (-len(pictures) % columns)]
    rows = [np.concatenate(padded[i : i + columns], 1) for i in range(0, len(padded), columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def score_all(studio: Studio, count: int, looks: int, to: Path, judge_file: Path | None, world: Level) -> Table:
    """Run the exams of a level of the world, ``count`` pictures each, ``looks`` those of looks; without a judge no
    landscapes."""
    size, mix = (studio.size.width, studio.size.height), MIXES[world]
    plain = exams.singles(count, size, mix.shapes, words=False)
    table = examine(studio, plain, exams.score_single, to / "singles.png")
    table |= _otherwise(studio, plain, to, looks=mix.looks > 0)
    if mix.placed:
        table |= _wide(studio, count, to, mix.shapes)
    if mix.pairs:
        table |= examine(studio, exams.pairs(count, size), exams.score_pair, to / "pairs.png")
    for name, by_style in (("look by word", False), ("look by style", True)) if mix.looks else ():
        cases = exams.looks(looks, size, mix.worn, by_style=by_style)
        table |= examine(studio, cases, exams.look_scorer(name), to / f"{name.replace(' ', '_')}.png")
    if judge_file is None:
        return table
    judge = load_judge(judge_file)
    if mix.landscapes:
        table |= examine(studio, exams.landscapes(count), exams.landscape_scorer(judge), to / "landscapes.png")
        table |= _negatives(studio, count, to, judge)
    return table


def _negatives(studio: Studio, count: int, to: Path, judge: Judge) -> Table:
    """Score whether a landscape loses what the negative prompt names; above without it, below with it."""
    cases = exams.negatives(count)
    before = [studio.make(dataclasses.replace(case, negative=""), HELD_OUT + n) for n, case in enumerate(cases)]
    after = [studio.make(case, HELD_OUT + n) for n, case in enumerate(cases)]
    save_grid([*before[:20], *after[:20]], to / "negatives.png")
    score = exams.negative_scorer(judge, before)
    found = _means(score(n, case, picture) for n, (case, picture) in enumerate(zip(cases, after, strict=True)))
    return {name: (mean, 1.0, number) for name, (mean, number) in found.items()}


def _otherwise(studio: Studio, cases: Sequence[Case], to: Path, *, looks: bool) -> Table:
    """Score the same prompts among words that mean nothing to Pocket, and in the program's default style, whose look
    they then have where the world has ``looks``."""
    talked = examine(studio, exams.among_strangers(cases), exams.score_whole, to / "among_strangers.png")
    look = LOOK_OF_STYLE[DEFAULT_STYLE] if looks else ""
    styled = [
        dataclasses.replace(case, style=DEFAULT_STYLE, scene=dataclasses.replace(case.scene, look=look))
        for case in cases
    ]
    found = examine(studio, styled, exams.score_in_look, to / "default_style.png")
    return {"among strangers": talked["whole"]} | {f"default style: {name}": row for name, row in found.items()}


def _wide(studio: Studio, count: int, to: Path, shapes: Sequence[str]) -> Table:
    """Score words for size and position, patterned backdrops, and pictures of other shapes."""
    size = (studio.size.width, studio.size.height)
    placed = [case for case in exams.singles(3 * count // 2, size, shapes) if _is_placed(case)]
    table = examine(studio, placed, exams.score_single, to / "placed.png")
    table = {name: table[name] for name in ("size", "position")}
    table |= examine(studio, exams.backdrops(count, size, shapes), exams.score_backdrop, to / "backdrops.png")
    found = [
        examine(
            studio.at(*other),
            exams.singles(max(1, count // len(OTHER_SIZES)), other, shapes, words=False),
            exams.score_whole,
            to / f"{other[0]}x{other[1]}.png",
        )["whole"]
        for other in OTHER_SIZES
    ]
    scores, ceilings, counts = zip(*found, strict=True)
    table["other sizes"] = (float(np.mean(scores)), float(np.mean(ceilings)), sum(counts))
    return table


def _is_placed(case: Case) -> bool:
    thing = case.scene.things[0]
    return bool(thing.size or thing.position)


def _means(scores: Iterable[Score]) -> dict[str, tuple[float, int]]:
    """Average each name over the scores that have it; with how many they are."""
    found: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.items():
            found.setdefault(name, []).append(float(value))
    return {name: (float(np.mean(values)), len(values)) for name, values in found.items()}


def main() -> int:
    """Score, print the table, and return 1 if a score is too low."""
    parser = argparse.ArgumentParser(prog="python -m pocket.evaluate", description="Score Pocket's model files.")
    parser.add_argument("--models", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--to", type=Path, required=True, help="folder for tables and grids of pictures")
    parser.add_argument("--size", default="144x112", help="width x height of the pictures")
    parser.add_argument("--count", type=int, default=120, help="pictures per exam")
    parser.add_argument("--looks", type=int, help="pictures per exam of looks, of which there are eight; as --count")
    parser.add_argument("--judge", type=Path, help=f"the training's {JUDGE}.pt; without it no landscapes")
    parser.add_argument("--refined", action="store_true", help="with the refiner, as the program's preset has it")
    parser.add_argument("--world", choices=tuple(MIXES), default="all", help="what the files should know")
    parsed = parser.parse_args()
    parsed.to.mkdir(parents=True, exist_ok=True)
    width, height = (int(side) for side in parsed.size.split("x"))
    with TemporaryDirectory() as scratch:
        studio = Studio(parsed.models.resolve(), (width, height), Path(scratch), refined=parsed.refined)
        table = score_all(studio, parsed.count, parsed.looks or parsed.count, parsed.to, parsed.judge, parsed.world)
    print("| what | score | ceiling | wanted | pictures |\n|---|---|---|---|---|")
    for name, (score, ceiling, count) in table.items():
        print(f"| {name} | {score:.3f} | {ceiling:.3f} | {WANTED.get(name, '')} | {count} |")
    (parsed.to / "scores.json").write_text(json.dumps(table, indent=1))
    return 0 if all(score >= WANTED.get(name, 0.0) for name, (score, _, _) in table.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

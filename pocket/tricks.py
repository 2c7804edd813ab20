"""Measure what each of the program's tricks does: ``python -m pocket.tricks --models models/pocket``.

The same prompts and seeds with a trick and without it, by the program's own engine; what differs is said in figures
that anyone can check, and written as a table (benchmarks/tricks.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fooocus.request import DEFAULT_STYLE
from pocket import checker, exams
from pocket.evaluate import GUIDANCE, Studio, save_grid
from pocket.exams import HELD_OUT, Case
from pocket.names import LORA, REFINER
from pocket.world import SHAPES

Pictures = list[np.ndarray]
_REFINER = "refiner from step 21 of 30"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one measure says of the pictures without a trick and with it, as means over all."""

    trick: str
    measure: str
    without: float
    with_it: float

    def row(self) -> str:
        """Return the row of the table."""
        return f"| {self.trick} | {self.measure} | {self.without:.4g} | {self.with_it:.4g} |"


def measure(studio: Studio, cases: Sequence[Case], to: Path) -> Iterator[Measured]:
    """Yield every figure; ``to`` gets a grid of pictures for each trick, above without and below with it."""
    plain = _made(cases, studio.make)
    for name, others in _tricks(studio, cases):
        yield from _compared(name, plain, others, to)
        right = [_right(cases, pictures) for pictures in (plain, others)]
        yield Measured(name, "pictures that show what was asked", *right)


def measure_on_landscapes(studio: Studio, cases: Sequence[Case], to: Path) -> Iterator[Measured]:
    """Yield what the refiner does to pictures that have more in them than one thing."""
    if studio.has(REFINER):
        plain, refined = (
            _made(cases, lambda case, seed, r=r: studio.make(case, seed, refiner=r)) for r in (False, True)
        )
        yield from _compared(f"{_REFINER}, landscapes", plain, refined, to)


def _compared(name: str, plain: Pictures, others: Pictures, to: Path) -> Iterator[Measured]:
    save_grid([*plain[:10], *others[:10]], to / f"{name.replace(' ', '_')}.png")
    for title, of in _MEASURES.items():
        yield Measured(name, title, _mean(of, plain), _mean(of, others))
    pairs = [(a.astype(float), b.astype(float)) for a, b in zip(plain, others, strict=True)]
    moved = np.mean([np.abs(a - b).mean() for a, b in pairs])
    yield Measured(name, "mean difference of a pixel, of 255", 0.0, float(moved))
    shifted = np.mean([np.abs(checker.blocks(a, 16) - checker.blocks(b, 16)).mean() for a, b in pairs])
    yield Measured(name, "mean difference of a block of 16 x 16 pixels: the composition", 0.0, float(shifted))


def _tricks(studio: Studio, cases: Sequence[Case]) -> Iterator[tuple[str, Pictures]]:
    """Yield each trick's name and its pictures; those without are made with size guidance as the program has it."""
    if studio.has(REFINER):
        yield _REFINER, _made(cases, lambda case, seed: studio.make(case, seed, refiner=True))
    for weight in (0.5, 1.0) if studio.has(LORA) else ():
        yield f"offset LoRA at {weight}", _made(cases, lambda case, seed, w=weight: studio.make(case, seed, lora=w))
    for name, size in (("size guidance off", (1.0, 1.0)), ("size of a small original", (0.4, 0.4))):
        yield name, _made(cases, lambda case, seed, s=size: studio.make(case, seed, size=s))
    styled = [dataclasses.replace(case, style=DEFAULT_STYLE) for case in cases]
    yield f"style {DEFAULT_STYLE}", _made(styled, studio.make)
    unwanted = [dataclasses.replace(case, negative=case.scene.things[0].colour) for case in cases]
    yield "its own colour as negative prompt", _made(unwanted, studio.make)


def _made(cases: Sequence[Case], make: Callable[[Case, int], np.ndarray]) -> Pictures:
    return [make(case, HELD_OUT + number) for number, case in enumerate(cases)]


def _mean(of: Callable[[np.ndarray], float], pictures: Pictures) -> float:
    return float(np.mean([of(picture) for picture in pictures]))


def _right(cases: Sequence[Case], pictures: Pictures) -> float:
    return sum(all(exams.score_single(case, picture).values()) for case, picture in zip(cases, pictures, strict=True))


_MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "edges": checker.edge_energy,
    "outlines (steepest hundredth of the pixels)": lambda picture: checker.outlines_and_mottle(picture)[0],
    "mottle (flat half of the blocks)": lambda picture: checker.outlines_and_mottle(picture)[1],
    "darks (5th percentile of brightness)": lambda picture: checker.darks_and_contrast(picture)[0],
    "contrast (5th to 95th percentile)": lambda picture: checker.darks_and_contrast(picture)[1],
}


def table(found: Sequence[Measured], count: int, size: str) -> str:
    """Return all figures as a page of Markdown."""
    rows = "\n".join(one.row() for one in found)
    return f"""# What each trick does to Pocket's pictures

Made by `python -m pocket.tricks --models models/pocket --count {count} --size {size} --table benchmarks/tricks.md
--to ...`: {count} held-out prompts of one thing on a plain ground, for the refiner as many landscapes besides, each at
the same seed without the trick and with it;
30 steps, guidance {GUIDANCE:g}, size guidance as the program has it (1.5 and 0.8) unless it is the trick. Means over
all pictures; "edges" is the mean square of the Laplacian over the picture's variance, "outlines" the change between
neighbouring pixels as a part of the contrast, "mottle" that between blocks of 4 x 4 pixels in levels. These figures
are true of this miniature; SDXL itself has not been measured.

| trick | measure | without | with |
|---|---|---|---|
{rows}
"""


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m pocket.tricks", description="Measure the tricks.")
    parser.add_argument("--models", type=Path, required=True, help="folder of Pocket's files")
    parser.add_argument("--to", type=Path, required=True, help="folder for the grids of pictures")
    parser.add_argument("--size", default="144x112", help="width x height of the pictures")
    parser.add_argument("--count", type=int, default=36, help="pictures for each trick")
    parser.add_argument("--table", type=Path, help="file that the table is written to")
    parsed = parser.parse_args()
    parsed.to.mkdir(parents=True, exist_ok=True)
    width, height = (int(side) for side in parsed.size.split("x"))
    with TemporaryDirectory() as scratch:
        studio = Studio(parsed.models.resolve(), (width, height), Path(scratch))
        cases = exams.singles(parsed.count, (width, height), SHAPES[:6], words=False)
        found = [*measure(studio, cases, parsed.to)]
        found += measure_on_landscapes(studio, exams.landscapes(parsed.count), parsed.to)
        text = table(found, parsed.count, parsed.size)
    print(text)
    if parsed.table is not None:
        parsed.table.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Make the README's picture of Pocket: ``python -m pocket.gallery --models models/pocket --to docs/pocket.png``.

Prompts as people type them, one seed each, nothing chosen afterwards; made by the program's own engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pocket.evaluate import Studio
from pocket.exams import Case
from pocket.names import REFINER
from pocket.world import Scene

PROMPTS = (
    "a red circle on a blue background",
    "a large green diamond on an orange background",
    "a pink heart on the left on a white background",
    "an orange heart on a blue and white striped background",
    "a red square next to a yellow circle on a green background",
    "a white star above a black crescent on a purple background",
    "a house and a tree by day",
    "the sea, a boat and the sun at sunset",
    "the moon, stars and mountains at night",
    "a flower and clouds by day",
    "mountains and clouds at sunset",
    "the sea and mountains by day",
    "line art of a red heart",
    "pixel art of a yellow star on a blue background",
    "a pink heart on a blue background, neon",
    "watercolor of a blue circle on a yellow background",
    "an orange star on a purple background, papercut",
    "a red square on a blue background, isometric",
)
GAP, COLUMNS = 8, 6


def sheet(pictures: Sequence[np.ndarray]) -> Image.Image:
    """Lay pictures of one size out in rows on nothing, so that the sheet stands on light and on dark pages."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    made = Image.new("RGBA", size)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        made.paste(Image.fromarray(picture), (column * (width + GAP), row * (height + GAP)))
    return made


def main() -> int:
    """Make the pictures and save the sheet."""
    parser = argparse.ArgumentParser(prog="python -m pocket.gallery", description="Make the README's picture.")
    parser.add_argument("--models", type=Path, required=True, help="folder of Pocket's files")
    parser.add_argument("--to", type=Path, required=True, help="the picture file")
    parsed = parser.parse_args()
    with TemporaryDirectory() as scratch:
        studio = Studio(parsed.models.resolve(), (144, 112), Path(scratch))
        cases = [Case(Scene("single"), prompt) for prompt in PROMPTS]
        refined = studio.has(REFINER)
        pictures = [studio.make(case, number, lora=0.5, refiner=refined) for number, case in enumerate(cases)]
    sheet(pictures).save(parsed.to, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

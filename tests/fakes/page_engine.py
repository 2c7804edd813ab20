"""The fake engine as the page's tests use it: words in the prompt choose speed and faults, previews look like pictures.

``slow`` takes 30 steps of 0.1 s, ``endless`` 5000 of 0.05 s, ``lingering`` does so from the second picture on,
``heavy`` takes a minute for its first step and looks at its control meanwhile, ``broken`` raises a RenderError,
``modelless`` a MissingModel, ``die`` kills the worker at step 3, ``processor`` says that it draws there although a card
is there. Everything else is as in :mod:`fake_engine`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fake_engine
from PIL import Image

from fooocus.errors import MissingModel, RenderError
from fooocus.events import Event, Notice, Paused, Stage, Step
from fooocus.jobs.worker import Control, Emit, WorkItem, claim_pipes, serve

_SLOW = (
    "Computing on processor (there is an NVIDIA card, but the installed torch cannot use it: see FOOOCUS_TORCH), "
    "float32 (exact on a processor)."
)
_ENDLESS = {"seconds": 0.05, "steps": 5000}


class PageEngine(fake_engine.FakeEngine):
    """Obeys the prompt."""

    def run(self, item: WorkItem, emit: Emit, control: Control) -> None:
        prompt = str(item.request["prompt"])
        fake: dict[str, Any] = {"seconds": 0.02, "steps": 10}
        if "slow" in prompt:
            fake = {"seconds": 0.1, "steps": 30}
        if "endless" in prompt:
            fake = dict(_ENDLESS)
        if "die" in prompt.split():
            fake["die_at"] = 3
        size = fake_engine._size(item.request)
        count = int(item.request["count"])
        if "processor" in prompt:
            emit(Notice(_SLOW))
        emit(Stage("loading", 1, count))
        time.sleep(0.1)
        emit(Stage("reading", 1, count))
        if "broken" in prompt:
            raise RenderError(
                "The card's memory ran out at 1152×896.", "Choose a smaller size, or close other programs."
            )

        if "modelless" in prompt:
            raise MissingModel("There is no checkpoint named 'gone'.", "Choose another one.")

        def say(event: Event) -> None:
            if isinstance(event, Paused) and event.steps:
                event = dataclasses.replace(event, preview=forming(size, event.step / event.steps))
            if isinstance(event, Step):
                event = dataclasses.replace(event, preview=forming(size, event.step / event.steps))
                if event.step == event.steps * 7 // 10:
                    emit(Stage("refining", event.picture, event.pictures))
            emit(event)

        super().run(dataclasses.replace(item, request={**item.request, "fake": fake}), say, control)

    def _steps(self, item: WorkItem, picture: int, pictures: int, emit: Emit, control: Control, begin: int) -> bool:
        if "heavy" in str(item.request["prompt"]):
            emit(Stage("sampling", picture, pictures))
            for _ in range(1200):  # as the real one between the blocks of a network
                control.check()
                time.sleep(0.05)
        if picture > 1 and "lingering" in str(item.request["prompt"]):
            item = dataclasses.replace(item, request={**item.request, "fake": dict(_ENDLESS)})
        return super()._steps(item, picture, pictures, emit, control, begin)


def forming(size: tuple[int, int], done: float) -> bytes:
    """Return a JPEG of a sunset of ``size`` / 8 pixels that comes out of noise as ``done`` goes from 0 to 1."""
    width, height = max(8, size[0] // 8), max(8, size[1] // 8)
    sky = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge(
        "RGB",
        (sky.point(lambda v: 60 + v * 2 // 3), sky.point(lambda v: 40 + v // 3), sky.point(lambda v: 120 - v // 4)),
    )
    noise = Image.merge("RGB", [Image.effect_noise((width, height), 90) for _ in range(3)])
    buffer = io.BytesIO()
    Image.blend(noise, picture, done).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def main() -> None:
    """Be a worker process."""
    stdin, stdout = claim_pipes()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", type=float, default=0.0)
    options = parser.parse_args()
    engine = PageEngine(options.folder, slow_seconds=options.slow)
    serve(engine.run, stdin, stdout, prepare=engine.prepare)


if __name__ == "__main__":
    main()

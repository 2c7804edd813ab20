"""A computer with a card of some size and the worker on it, for jobs of several pictures; and what such a job told."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from fooocus.config import Config
from fooocus.events import Event, Paused, Saved, Stage, Step
from fooocus.jobs.worker import Control, WorkItem, perform
from fooocus.loading.limits import Limits
from fooocus.render.engine import Engine
from fooocus.request import Request, Size
from tests.fakes.fake_card import fake_card
from tests.fakes.working_memory import Working

_COUNTER = itertools.count()


class Machine:
    """A computer with a card of some size, and the worker on it."""

    def __init__(self, folder: Path, card_bytes: int, fast: str = "auto") -> None:
        self.folder = folder
        self.card = fake_card(card_bytes, bare=True)
        self.memory = Working(self.card, limits=Limits(folder / "memory.json"))
        self.latents_file = folder / "latents.safetensors"
        config = Config(outputs=folder / "out", data=folder, fast=fast)
        self.engine = Engine(config, memory=self.memory, latents_file=self.latents_file)
        self.arrivals: list[str] = []
        """Which network came to the card, in order."""
        self.told: list[Event] = []

    def run(self, request: Request, wish: Callable[[Event, Control], object] = lambda event, control: None) -> list:
        number = next(_COUNTER)
        self.item = WorkItem(f"job{number}", request.to_json(), 1_700_000_000_000 + number)
        return self.go_on(self.item, wish)

    def go_on(
        self, item: WorkItem, wish: Callable[[Event, Control], object] = lambda event, control: None
    ) -> list[Event]:
        control = Control()
        told = self.told = []

        def emit(event: Event) -> None:
            told.append(event)
            wish(event, control)

        before = len(self.card.taken)
        perform(self.engine.run, item, emit, control)
        names = {id(held.network.module): self._name(key) for key, held in self.memory._held.items()}
        self.arrivals = [names.get(taken, "one that is gone") for taken in self.card.taken[before:]]
        return told

    def latents(self) -> Tensor:
        """Return the final latents of the last job's pictures."""
        return load_file(self.latents_file)["latent"]

    def _name(self, key: tuple[object, ...]) -> str:
        return next(str(part) for part in key if part in ("unet", "vae", "text_l", "text_g")) + (
            " of the refiner" if "refiner" in key else ""
        )


def resumed(item: WorkItem, told: list[Event]) -> WorkItem:
    assert isinstance(told[-1], Paused)
    saved = (*item.saved, *(event for event in told if isinstance(event, Saved)))
    return dataclasses.replace(item, saved=saved, paused=told[-1])


def made(told: list[Event]) -> dict[int, bytes]:
    return {event.picture: Path(event.path).read_bytes() for event in told if isinstance(event, Saved)}


def steps(told: list[Event]) -> list[tuple[int, int]]:
    return [(event.picture, event.step) for event in told if isinstance(event, Step)]


def at(picture: int, step: int, wish: str) -> Callable[[Event, Control], object]:
    """Wish something when a step is done; at step 0 when the picture's first stage begins."""

    def hear(event: Event, control: Control) -> None:
        if isinstance(event, Step) and (event.picture, event.step) == (picture, step):
            getattr(control, wish)()
        if isinstance(event, Stage) and step == 0 and event.picture == picture:
            getattr(control, wish)()

    return hear


def small_request(tiny: Path, *, steps: int, switch: int, count: int) -> Request:
    """Return a request of the miniature base and refiner in ``tiny``."""
    return Request(
        prompt="a red circle",
        styles=(),
        size=Size(64, 64),
        steps=steps,
        switch=switch,
        seed=11,
        count=count,
        base=str(tiny / "tiny_base.safetensors"),
        refiner=str(tiny / "tiny_refiner.safetensors"),
        loras=(),
    )

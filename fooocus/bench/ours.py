"""This program as a contestant: whole jobs through the worker's own engine, with previews, events and saved files.

What is timed is what a person waits for: the way from the request to the picture on the disk, every event turned into
the JSON that goes to the page.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from fooocus import events
from fooocus.bench.clock import Call, CallClock, MemoryGauge, now
from fooocus.config import Config, read_fast
from fooocus.errors import WorkerError
from fooocus.events import Event, Notice, Saved, Stage, Step
from fooocus.families.records import Kind
from fooocus.jobs.worker import Control, WorkItem
from fooocus.loading.checkpoint import Role
from fooocus.loading.memory import Memory
from fooocus.render.engine import Engine
from fooocus.render.fast import FastPath
from fooocus.render.half_sums import STAYS_EXACT, adding_up
from fooocus.request import LoraUse, Request


@dataclasses.dataclass(frozen=True)
class Timing:
    """One picture. ``steps`` are the seconds of each step, ``calls`` those of them spent inside the UNets; ``switch``
    is the first step of the refiner. The first step of a network also brings it to the device. ``own_bytes`` of the
    ``main_bytes`` of main memory are no pages of mapped files, which the system may take back at any time.
    ``device_bytes`` is what torch had of the device's memory.
    """

    text: float
    steps: tuple[float, ...]
    calls: tuple[float, ...]
    switch: int
    decode: float
    save: float
    picture: float
    main_bytes: int
    own_bytes: int | None
    device_bytes: int | None


class Ours:
    """The engine with one request. The first :meth:`picture` loads and warms everything and is not to be counted."""

    def __init__(self, config: Config, memory: Memory, request: Request) -> None:
        self._memory = memory
        self._request = request
        self._engine = Engine(config, memory=memory)
        self._clock = CallClock(memory.device.device)
        self._unets: dict[Role, nn.Module] = {}
        self._number = 0
        self._switches = read_fast(config.fast)
        self._fast = FastPath(self._switches, memory.device.device)
        self.notices: list[str] = []  # each once
        self.size = request.size
        self.base = Path(request.base)
        self.refiner = Path(request.refiner or "")
        self._loras = tuple((Path(use.name), use.weight) for use in request.loras or ())

    def picture(self) -> Timing:
        """Make one picture and say how long each part took."""
        device = self._memory.device.device
        told: list[tuple[Event, float, float]] = []

        def emit(event: Event) -> None:
            json.dumps(events.to_json(event), separators=(",", ":"))  # as the worker's channel writes it
            inside = self._clock.take() if isinstance(event, Step | Stage) else 0.0
            if isinstance(event, Notice) and event.text not in self.notices:
                self.notices.append(event.text)
            told.append((event, now(device), inside))

        item = self._next(1)
        gauge = MemoryGauge(device)
        with ExitStack() as stack:
            if self._number > 1:
                stack.enter_context(self._clock.on(self._networks()))
            stack.enter_context(gauge.on())
            began = now(device)
            self._engine.run(item, emit, Control())
        return _timing(told, began, gauge)

    def several(self, count: int) -> float:
        """Make pictures that differ in their seed only as one job; return the seconds of each."""
        saved: list[Event] = []

        def emit(event: Event) -> None:
            json.dumps(events.to_json(event), separators=(",", ":"))
            saved.extend([event] * isinstance(event, Saved))

        item = self._next(count)
        seconds = _seconds(self._memory.device.device, lambda: self._engine.run(item, emit, Control()))
        if len(saved) != count:
            raise _not_made()
        return seconds / count

    @contextmanager
    def arithmetic(self, unet: nn.Module) -> Iterator[None]:
        """Have a network that is called by itself compute as in the pictures, until the block ends."""
        half = self._switches.fp16_accumulation and STAYS_EXACT not in self.notices
        with self._fast.arithmetic(unet, self.size), adding_up(half=half):
            yield

    def _next(self, count: int) -> WorkItem:
        """Return a job with another prompt each time, as long as the others: one that is known is not read again."""
        self._number += 1
        prompt = f"{self._request.prompt}, view {self._number}"
        request = dataclasses.replace(self._request, prompt=prompt, count=count)
        return WorkItem("bench", request.to_json(), time.time_ns() // 1_000_000)

    @property
    def last_calls(self) -> dict[Role, Call]:
        """The arguments of each UNet's last call that was measured."""
        return {role: self._clock.last[unet] for role, unet in self._unets.items() if unet in self._clock.last}

    def _networks(self) -> list[nn.Module]:
        """Return both UNets where they lie; using one may bring it to the device, which the run would do as well."""
        for path, role in self.roles():
            with self._memory.use(path, role, "unet") as unet:
                self._unets[role] = unet
        return list(self._unets.values())

    def roles(self) -> Sequence[tuple[Path, Role]]:
        """List the two models."""
        return ((self.base, "base"), (self.refiner, "refiner"))

    def load(self) -> dict[str, float]:
        """Forget all weights, then load each network to the device; return seconds by name. Files may be cached."""
        device = self._memory.device.device
        self._memory.keep_only(())
        gc.collect()
        kinds: Sequence[tuple[Path, Role, Kind]] = (
            (self.base, "base", "text_l"),
            (self.base, "base", "text_g"),
            (self.base, "base", "unet"),
            (self.refiner, "refiner", "text_g"),
            (self.refiner, "refiner", "unet"),
        )
        self._memory.prepare(self.base, "base")
        self._memory.prepare(self.refiner, "refiner")
        seconds = {}
        for path, role, kind in kinds:
            seconds[f"{role} {kind}"] = _seconds(device, functools.partial(self._use, path, role, kind))
        seconds["vae"] = _seconds(device, self._use_vae)
        return seconds

    def change_lora(self, weights: Sequence[float]) -> list[float]:
        """Give the base's LoRA each weight in turn; return the seconds of each change."""
        seconds = []
        for weight in weights:
            self._memory.prepare(self.base, "base", [(path, weight) for path, _ in self._loras])
            seconds.append(_seconds(self._memory.device.device, lambda: self._use(self.base, "base", "unet")))
        self._memory.prepare(self.base, "base", self._loras)
        return seconds

    def _use(self, path: Path, role: Role, kind: Kind) -> None:
        with self._memory.use(path, role, kind):
            return

    def _use_vae(self) -> None:
        with self._memory.use_vae(self.base):
            return


def with_files(request: Request, base: Path, refiner: Path, lora: Path | None) -> Request:
    """Return the request for these files."""
    loras = () if lora is None else (LoraUse(str(lora), 0.5),)
    return dataclasses.replace(request, base=str(base), refiner=str(refiner), loras=loras)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    began = now(device)
    work()
    return now(device) - began


def _not_made() -> WorkerError:
    return WorkerError("The picture that was to be measured was not made.", "See the lines above.")


def _timing(told: Sequence[tuple[Event, float, float]], began: float, gauge: MemoryGauge) -> Timing:
    at = {event.name: time for event, time, _ in told if isinstance(event, Stage)}
    saved = [time for event, time, _ in told if isinstance(event, Saved)]
    if not saved:
        raise _not_made()
    steps = [(event.step, time, inside) for event, time, inside in told if isinstance(event, Step)]
    times = [at["sampling"], *(time for _, time, _ in steps)]
    # What was measured between the last step and the refiner's stage belongs to no step; there are no calls there.
    before_refiner = sum(time <= at["refining"] for _, time, _ in steps) if "refining" in at else len(steps)
    return Timing(
        text=at["sampling"] - at["reading"],
        steps=tuple(after - before for before, after in itertools.pairwise(times)),
        calls=tuple(inside for _, _, inside in steps),
        switch=before_refiner,
        decode=at["saving"] - at["decoding"],
        save=saved[-1] - at["saving"],
        picture=saved[-1] - began,
        main_bytes=gauge.main_bytes,
        own_bytes=gauge.own_bytes,
        device_bytes=gauge.device_bytes,
    )

"""Take the time of every picture while it is made, from the events that its job says. Nothing here can fail a job."""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fooocus.errors import FooocusError
from fooocus.events import Event, LeftOut, Saved, Stage, StageName, Step
from fooocus.models.catalogue import Kind
from fooocus.models.header import read_header
from fooocus.models.pace import Pace, PaceMemory
from fooocus.models.scan import SUFFIX, match_name
from fooocus.models.work import PictureWork, Work, decoder_work, picture_work, unet_work
from fooocus.request import Recipe

Plan = Callable[[Mapping[str, Any]], Sequence[Recipe]]
_PAUSE = 10  # times the median step
_SAVING_SECONDS = 60.0  # no picture takes longer: it waited for a disk that was full
_log = logging.getLogger(__name__)


class Counter:
    """Count a recipe's operations from the headers of its files, each read once while it is unchanged.

    ``outside`` are the absolute paths that may be looked at; other names are looked for in the folders of checkpoints.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        placed: Callable[[], Mapping[Kind, Mapping[str, Path]]] = dict,
        outside: Sequence[str] | None = (),
    ) -> None:
        self._folders = folders
        self._placed = placed
        self._outside = outside
        self._paths: dict[str, Path] = {}
        self._counted: dict[tuple[str, int, int], tuple[Work, Work]] = {}

    def count(self, recipe: Recipe) -> PictureWork | None:
        """Return the work of a recipe's picture; None where a file is not there or is not what it should be."""
        base = self._work(recipe.base)
        refiner = self._work(recipe.refiner) if recipe.refiner else None
        if base is None or (recipe.refiner and refiner is None):
            return None
        return picture_work(recipe, base[0], refiner and refiner[0], base[1])

    def _work(self, name: str) -> tuple[Work, Work] | None:
        try:
            path = self._find(name)
            if path is None:
                return None
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key not in self._counted:
                shapes = read_header(path).shapes
                self._counted[key] = unet_work(shapes), decoder_work(shapes)
            return self._counted[key]
        except (FooocusError, OSError, ValueError):
            self._paths.pop(name, None)
            return None

    def _find(self, name: str) -> Path | None:
        if os.path.isabs(name) or ".." in Path(name).parts:
            return Path(name) if self._outside is None or name in self._outside else None
        if name not in self._paths:
            files = dict(self._placed().get("checkpoint", {}))
            for folder in reversed(self._folders):
                for path in folder.rglob(f"*{SUFFIX}") if folder.is_dir() else ():
                    files[path.relative_to(folder).as_posix()] = path
            found = match_name(name, files)
            if len(found) != 1:
                return None
            self._paths[name] = files[found[0]]
        return self._paths[name]


class Measuring:
    """The times of one worker's pictures. ``plan`` says what a stored request makes, ``device`` what on."""

    def __init__(self, memory: PaceMemory, counter: Counter, plan: Plan, device: str, session: str = "") -> None:
        self._memory = memory
        self._counter = counter
        self._plan = plan
        self._device = device
        self._session = session or session_of(os.getpid())
        self._models = ""  # those of the last finished picture

    def job(self, request: Mapping[str, Any]) -> Callable[[Event], None]:
        """Return what is to hear the events of a job as they happen."""
        try:
            recipes = self._plan(request)
        except FooocusError:
            return lambda event: None  # the job itself will say why
        times = _Times()

        def heard(event: Event) -> None:
            times.heard(event, time.monotonic())
            if isinstance(event, Saved) and event.picture <= len(recipes):
                self._saved(times.finished(event.picture), recipes[event.picture - 1])

        return heard

    def _saved(self, spent: _Spent, recipe: Recipe) -> None:
        models = models_of(recipe)
        warm, self._models = models == self._models, models
        work = self._counter.count(recipe)
        measured = spent.taken(warm=warm)
        whole = len(spent.base) + len(spent.refiner) == recipe.steps  # else it was paused, and only ended here
        if work is None or measured is None or not whole:
            return
        self._memory.add(
            Pace(
                self._device,
                self._session,
                models,
                warm,
                work,
                measured.base * len(spent.base) / max(work.base_steps, 1),
                measured.refiner * len(spent.refiner) / max(work.refiner_steps, 1),
                measured.decode,
                measured.rest,
                measured.whole,
                spent.at_once,
            )
        )


def models_of(recipe: Recipe) -> str:
    """Return the files of a recipe as one text: those that have to be loaded for it."""
    return "|".join([recipe.base, recipe.refiner or "", recipe.vae or ""])


def session_of(pid: int | None) -> str:
    """Name one life of a worker."""
    return "" if pid is None else f"worker {pid}"


@dataclasses.dataclass(frozen=True)
class _Measured:
    base: float
    refiner: float
    decode: float
    rest: float
    whole: float


@dataclasses.dataclass
class _Spent:
    """What one picture has taken so far: seconds by stage, and those of each step."""

    stage: StageName = "starting"
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    base: list[float] = dataclasses.field(default_factory=list)
    refiner: list[float] = dataclasses.field(default_factory=list)
    at_once: int = 1

    def steps(self, stage: StageName) -> list[float]:
        """The steps of the network that works in a stage."""
        return self.refiner if stage == "refining" else self.base

    def taken(self, *, warm: bool) -> _Measured | None:
        """Return what the picture took; None unless it was watched from its beginning to its end, without a wait."""
        if not {"loading", "reading", "decoding", "saving"} <= self.stages.keys():
            return None
        if self.stages["saving"] > _SAVING_SECONDS:
            return None
        return _Measured(
            _a_step(self.base, warm=warm),
            _a_step(self.refiner, warm=warm),
            self.stages["decoding"],
            self.stages["loading"] + self.stages["reading"] + self.stages["saving"],
            sum(self.stages.values()) + sum(self.base) + sum(self.refiner),
        )


class _Times:
    """The time of a job's pictures. A job may work on them in turns: time is of the picture that was spoken of last.

    Pictures that are made at once share each step's time; what was loaded and read for all of them is the first's.
    """

    def __init__(self) -> None:
        self._pictures: dict[int, _Spent] = {}
        self._now: _Spent | None = None
        self._beside: list[_Spent] = []  # those that have said the step that the present picture is about to say
        self._at = 0.0

    def heard(self, event: Event, now: float) -> None:
        """Take an event that happened ``now``, in seconds of a monotonic clock."""
        match event:
            case Stage(name=name, picture=picture):
                self._pass(now)
                self._now = self._pictures.setdefault(picture, _Spent())
                self._now.stage = name
                self._beside.clear()
            case Step(picture=picture) if self._now is not None:
                spent = self._pictures.setdefault(picture, _Spent())
                if spent is not self._now:
                    self._beside.append(spent)
                else:
                    self._step(spent, now)
            case Saved() | LeftOut():
                self._pass(now)
                self._now = None

    def finished(self, picture: int) -> _Spent:
        """Return what a picture has taken, and forget it."""
        return self._pictures.pop(picture, _Spent())

    def _step(self, spent: _Spent, now: float) -> None:
        """Give a step to the present picture and to those made at once with it."""
        own = spent.steps(spent.stage)
        own.append((now - self._at) / (1 + len(self._beside)))
        for other in self._beside:
            steps = other.steps(spent.stage)
            steps.append(own[-1])
            if len(steps) == 2 and (over := steps[0] - steps[1]) > 0:  # the first brought the network as well
                steps[0] -= over
                own[0] += over
            for stage in ("loading", "reading"):
                other.stages.setdefault(stage, 0.0)
        for picture in (spent, *self._beside):
            picture.at_once = max(picture.at_once, 1 + len(self._beside))
        self._at = now
        self._beside.clear()

    def _pass(self, now: float) -> None:
        if self._now is not None:
            # What passes between the last step and the next stage is of no step, but the picture took it.
            stage = "between" if self._now.stage in ("sampling", "refining") else self._now.stage
            self._now.stages[stage] = self._now.stages.get(stage, 0.0) + now - self._at
        self._at = now


def _a_step(steps: Sequence[float], *, warm: bool) -> float:
    """Return the mean seconds of a step; one that took ten times as long as usual was no step but a pause.

    The first step also brings its network to the device. It does so for every picture where two take turns there, so it
    counts; but not when the network had to be loaded as well.
    """
    if not steps:
        return 0.0
    later = steps[1:] or steps
    longest = _PAUSE * statistics.median(later)
    usual = statistics.fmean(min(step, longest) for step in later)
    return (steps[0] + usual * (len(steps) - 1)) / len(steps) if warm else usual

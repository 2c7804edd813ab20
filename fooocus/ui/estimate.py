"""How long things will take on this computer: a request that Generate would send, and every job of the queue.

One estimate serves all: the line beside the button, the waits in the queue, and the weights of a job's progress.
Nothing is told while this computer has not shown it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import OrderedDict
from html import escape

from fooocus.config import Config, read_fast
from fooocus.errors import FooocusError
from fooocus.jobs.store import Job
from fooocus.jobs.supervisor import Jobs
from fooocus.models.elsewhere import placed
from fooocus.models.measuring import Counter, models_of, session_of
from fooocus.models.pace import Estimate, Pace, PaceMemory, estimate
from fooocus.models.words import duration
from fooocus.models.work import PictureWork
from fooocus.prompt.plan import number_of_pictures, plan
from fooocus.prompt.stock import load_stock
from fooocus.request import Request

_KEPT = 1024  # jobs whose work is known; a queue shows a thousand


_MUCH = 1.2, 2.0  # by what, and by how many seconds, a time must have grown before people are told a longer one


@dataclasses.dataclass(frozen=True)
class Course:
    """A job by this computer's history: the time of each of its pictures, and of how many steps the base does which."""

    time: Estimate
    pictures: int
    steps: int
    switch: int
    models: str = ""

    @property
    def seconds(self) -> float:
        """The time of the whole job, with what must be loaded first."""
        return self.time.seconds(self.pictures)

    @property
    def drawing_seconds(self) -> float:
        """The time of its pictures, the models at hand."""
        return self.pictures * self.time.picture_seconds

    def sampled_seconds(self, step: int) -> float:
        """Return the seconds of a picture from its beginning to the end of a step."""
        base = min(step, self.switch) / self.switch if self.switch else 0.0
        refined = max(0, step - self.switch) / max(1, self.steps - self.switch)
        return self.time.rest_seconds + self.time.base_seconds * base + self.time.refiner_seconds * refined


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a request asks of the computer."""

    work: PictureWork
    pictures: int
    steps: int
    switch: int
    models: str
    together: bool  # several may be made at once: its pictures differ in their seed only, and that is switched on


class Estimator:
    """Tell the time of requests from what earlier pictures took. ``defaults`` name files outside the model folders."""

    def __init__(self, config: Config, jobs: Jobs, defaults: Request) -> None:
        self._config = config
        self._together = read_fast(config.fast).batches
        self._jobs = jobs
        self._memory = PaceMemory(config.data / "pace.sqlite")
        outside = [name for name in (defaults.base, defaults.refiner) if name and os.path.isabs(name)]
        self._counter = Counter(config.folders("checkpoints"), lambda: placed(config.data), outside)
        self._asked: OrderedDict[str, _Asked | None] = OrderedDict()
        self._learnt: tuple[tuple[int, int], tuple[Pace, ...]] = ((0, 0), ())
        self._told: tuple[object, dict[_Asked, Course | None]] = (None, {})  # by what was learnt, and in which session

    def line(self, request: Request) -> str:
        """Return the words as HTML; nothing where no time can be told."""
        try:
            asked = self._read(request) if self._newest() else None
        except FooocusError:
            return ""  # Generate will say what is wrong
        course = asked and self._course(asked)
        if not course:
            return ""
        told, count = course.time, course.pictures
        title = f"Learnt from {told.pictures} picture{'s' if told.pictures > 1 else ''} made on this computer"
        if count > 1:
            title += f": {_about(told.picture_seconds)} a picture"
        if told.loading_seconds >= 1:
            title += f", and {_about(told.loading_seconds)} to load the model"
        return f'<p title="{escape(title)}">{_about(course.seconds)}</p>'

    def course(self, job: Job) -> Course | None:
        """Return the course of a job, whose request may be one of another version; None where nothing can be told.

        What a request asks for is read once a job. May be called from any thread; reads files.
        """
        if not self._newest():
            return None
        if job.id not in self._asked:
            try:
                known = Request().to_json()
                request = Request.from_json({name: value for name, value in job.request.items() if name in known})
                asked = self._read(request)
            except FooocusError:
                return None  # such as a style that is gone; it may come back
            if asked is None:
                return None
            self._asked[job.id] = asked
            while len(self._asked) > _KEPT:
                self._asked.popitem(last=False)
        found = self._asked.get(job.id)
        return None if found is None else self._course(found)

    def _course(self, asked: _Asked) -> Course | None:
        session, learnt = session_of(self._jobs.worker_state().pid), self._newest()
        key, told = self._told
        if key != (learnt, session):
            told = {}
            self._told = (learnt, session), told
        if asked not in told:  # a queue asks for the same again and again
            time = estimate(asked.work, asked.models, session, learnt, together=asked.together)
            told[asked] = (
                None if time is None else Course(time, asked.pictures, asked.steps, asked.switch, asked.models)
            )
        return told[asked]

    def _newest(self) -> tuple[Pace, ...]:
        """Return what was learnt; the file is read when it has changed."""
        stamp = self._memory.stamp
        if stamp != self._learnt[0]:
            self._learnt = (stamp, self._memory.newest())
        return self._learnt[1]

    def _read(self, request: Request) -> _Asked | None:
        """Return what a request asks for; None where a file is missing. Raises what is wrong with it."""
        count = number_of_pictures(request)
        stock = load_stock(self._config.styles_folder)
        # One picture stands for all: what differs between them, such as words, takes no time. A second one tells
        # whether they could be made at once, where that matters.
        planned = min(request.count, 2) if self._together else 1
        first = dataclasses.replace(request, count=planned, seed=request.seed or 0)
        recipe, *others = plan(first, stock.styles, stock.lists)
        alike = bool(others) and all(dataclasses.replace(other, seed=recipe.seed) == recipe for other in others)
        work = self._counter.count(recipe)
        switch = recipe.steps if recipe.switch is None else recipe.switch
        return None if work is None else _Asked(work, count, recipe.steps, switch, models_of(recipe), alike)


def calmed(shown: float | None, seconds: float | None) -> float | None:
    """Return the time left as it is shown: ``seconds`` in steps a person would use. ``shown`` is what stands there.

    Steps take now more and now less, so a time that grows by little waits: it is likely to be the old one again.
    """
    if seconds is None:
        return None
    # Rounded up, so that the work is done rather before its time; the steps are those of `views.duration`.
    unit = 1.0 if seconds <= 20 else 5.0 if seconds <= 85 else 60.0 if seconds < 90 * 60 else 360.0
    rough = math.ceil(seconds / unit) * unit
    share, more = _MUCH
    return shown if shown is not None and shown < rough and seconds < max(shown * share, shown + more) else rough


def _about(seconds: float) -> str:
    """Write a time no finer than it is known: 7 s, 12 s, 45 s, 2 min."""
    step = 5 if 40 <= seconds < 90 else 1
    return f"about {duration(max(1.0, round(seconds / step) * step))}"

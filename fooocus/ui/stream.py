"""From a job's events to what the stage shows.

:func:`fold` takes one event into a :class:`View`, a frozen value that holds everything the stage needs;
:func:`watch` follows jobs by their ids and yields views until the last terminal event. A watcher only looks: when its
tab is closed the job goes on, and the next watcher starts from the first event again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import anyio.to_thread

from fooocus.errors import RequestError
from fooocus.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    LeftOut,
    Notice,
    Paused,
    Queued,
    Saved,
    Stage,
    Step,
)
from fooocus.jobs.store import Job, State
from fooocus.jobs.supervisor import Jobs
from fooocus.request import Request, parse_size
from fooocus.ui.estimate import Course, calmed

Phase = Literal["empty", "waiting", "running", "paused", "finished", "failed", "cancelled"]
_Number = TypeVar("_Number", bound=float)
ACTIVE: tuple[State, ...] = ("waiting", "running", "paused")

_FIRST: tuple[State, ...] = ("running", "waiting", "paused")  # which job is shown of several

# How far a picture is when a stage begins, as a part of 1, while this computer has not shown how long its parts take:
# on a warm model sampling is nearly all of the time, and what is around it gets just enough to be seen moving.
_STAGE_BEGINS: Mapping[str, float] = {
    "starting": 0.0,
    "loading": 0.01,
    "reading": 0.03,
    "sampling": 0.05,
    "refining": 0.05,
    "decoding": 0.95,
    "saving": 0.98,
}
_WALKING = ("sampling", "refining")  # the stages that have steps
_SAMPLING_PART = _STAGE_BEGINS["decoding"] - _STAGE_BEGINS["sampling"]
_SAVING_PART = 0.02  # the part of a picture's time that is left when saving begins
_PACE_WEIGHT = 0.15  # of the newest step in the running mean of seconds per step: calm, yet it follows a refiner swap
_WAIT_SECONDS = 1.0  # longest wait for an event before the count of waiting jobs is looked at again
_KEPT_PREVIEWS = 64
_KEPT_PACES = 64
# Notices of a worker that say that all is well: the command line tells them, the page keeps still.
_AS_EXPECTED = re.compile(r"LoRA .+: (\d+) of \1 modules matched\.|Computing on .+", re.DOTALL)
_SLOW = "Computing on processor (there is"  # what a worker says at a job's begin, see loading/device.py


@dataclasses.dataclass(frozen=True)
class Picture:
    """A saved picture as the page links it; ``url`` is empty when it lies outside of the outputs folder."""

    number: int
    url: str
    seed: int


@dataclasses.dataclass(frozen=True)
class View:
    """Hold what the stage shows of one job. ``fraction`` of the whole job never falls; ``preview`` counts frames.

    ``done`` and ``walked`` say of each picture, in order, how far it is as a part of 1 and how many steps it has gone:
    a job may work on its pictures in turns. ``course`` is what this computer's history says of the job, ``loaded``
    whether its models are at hand. ``pace`` is the seconds of a step or, with a course, how many times as long as that
    says the steps of this job take, because a refiner's are others than a base's; the last step was at
    ``stepped_at``, when all pictures together had gone ``paced`` steps. ``slow`` is the worker's sentence where it
    draws on the processor although a card is there. ``left`` is the time left as people are told it, calmer than
    :attr:`seconds_left`.
    """

    job: str = ""
    phase: Phase = "empty"
    prompt: str = ""
    size: tuple[int, int] = (1, 1)
    ahead: int = 0
    waiting: int = 0
    held: bool = False
    stage: str = ""
    picture: int = 0
    pictures: int = 1
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    preview: int = 0
    saved: tuple[Picture, ...] = ()
    notice: str = ""
    sentence: str = ""
    remedy: str = ""
    code: str = ""
    field: str = ""
    slow: str = ""
    seconds: float = 0.0
    pace: float = 0.0
    stepped_at: float = 0.0
    paced: int = 0
    done: tuple[float, ...] = ()
    walked: tuple[int, ...] = ()
    course: Course | None = None
    loaded: bool = False
    left: float | None = None

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.phase in ACTIVE

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest takes, or ``None`` while there is nothing to tell it by.

        By this computer's history, at the pace of this job; without a history, by its steps alone.
        """
        left = [number for number in range(self.pictures) if _at(self.done, number) < 1]
        if self.course is None:
            steps = sum(self.steps - _at(self.walked, number) for number in left)
            return self.pace * steps if self.pace and self.steps else None
        if not self.picture:
            return None
        time = self.course.time
        seconds = time.picture_seconds * sum(1 - _at(self.done, number) for number in left) * (self.pace or 1.0)
        return seconds + (0.0 if self.loaded else time.loading_seconds)


class Previews:
    """Hold the newest frame of recent jobs in memory, where ``/preview/<job>`` finds it; nothing touches the disk."""

    def __init__(self) -> None:
        self._frames: OrderedDict[str, bytes] = OrderedDict()

    def put(self, job: str, frame: bytes) -> None:
        """Keep ``frame`` (a JPEG) as the newest of ``job`` and forget the jobs least lately seen."""
        self._frames[job] = frame
        self._frames.move_to_end(job)
        while len(self._frames) > _KEPT_PREVIEWS:
            self._frames.popitem(last=False)

    def get(self, job: str) -> bytes | None:
        """Return the newest frame of ``job``."""
        return self._frames.get(job)


def opening(job: Job) -> View:
    """Return the view of a job before its first event. Its request may be one of an older version of the program."""
    asked = Request().to_json() | job.request
    size = parse_size(str(asked["size"]))
    return View(job.id, "waiting", str(asked["prompt"]), (size.width, size.height), pictures=int(asked["count"]))


def fold(view: View, event: Event, now: float, outputs: Path) -> View:
    """Take one event into the view. ``now`` is a monotonic time in seconds, for the pace."""
    told = _told(view, event, now, outputs)
    return dataclasses.replace(told, left=calmed(view.left, told.seconds_left))


def _told(view: View, event: Event, now: float, outputs: Path) -> View:
    change = dataclasses.replace
    match event:
        case Queued(ahead):
            return change(view, phase="waiting", ahead=ahead)
        case Stage(name, picture, pictures):
            view = change(view, phase="running", ahead=0, stage=name, pictures=pictures)
            if picture != view.picture:
                view = change(view, picture=picture, step=_at(view.walked, picture - 1), stepped_at=0.0)
            return _advance(view, picture, _begins(view, name))
        case Step(picture, _, step, steps) if view.stage in _WALKING and picture != view.picture:
            # It is made at once with the picture that is shown, which stays the one that is spoken of.
            view = change(view, walked=_put(view.walked, picture - 1, step, 0))
            return _advance(view, picture, _sampled(view, step, steps))
        case Step(picture, pictures, step, steps, preview):
            walked = _put(view.walked, picture - 1, step, 0)
            pace = _pace(view, picture, step, sum(walked) - view.paced, now)
            view = change(view, phase="running", ahead=0, picture=picture, pictures=pictures, step=step, steps=steps)
            view = change(view, pace=pace, stepped_at=now, paced=sum(walked), walked=walked)
            view = change(view, preview=view.preview + bool(preview), loaded=True)
            return _advance(view, picture, _sampled(view, step, steps))
        case Saved(number, pictures, path, seed):
            others = (old for old in view.saved if old.number != number)
            newest = Picture(number, picture_url(Path(path), outputs), seed)
            saved = tuple(sorted((*others, newest), key=lambda one: one.number))
            view = change(view, phase="running", picture=number, pictures=pictures, saved=saved, stepped_at=0.0)
            return _advance(view, number, 1.0)
        case LeftOut(number, pictures):
            return _advance(change(view, pictures=pictures, stepped_at=0.0), number, 1.0)
        case Notice(text) if text.startswith(_SLOW):
            return change(view, slow=text)
        case Notice(text) if _AS_EXPECTED.fullmatch(text):
            return view
        case Notice(text):
            return change(view, notice=text)
        case Paused(picture, pictures, step, steps):
            view = change(view, phase="paused", ahead=0, stage="", stepped_at=0.0)
            return change(view, picture=picture, pictures=pictures, step=step, steps=steps) if steps else view
        case Finished(_, seconds):
            return change(view, phase="finished", fraction=1.0, seconds=seconds)
        case Failed(code, sentence, remedy, field):
            return change(view, phase="failed", sentence=sentence, remedy=remedy, code=code, field=field or "")
        case Cancelled():
            return change(view, phase="cancelled")


def _advance(view: View, picture: int, part: float) -> View:
    """Note how far a picture is, as a part of 1, and how far the job is by that; neither ever falls."""
    done = _put(view.done, picture - 1, max(part, _at(view.done, picture - 1)), 0.0)
    together, loading = sum(done[: view.pictures]) / max(view.pictures, 1), 0.0
    if view.course is not None and view.course.seconds > 0:
        loading = view.course.time.loading_seconds / view.course.seconds
    fraction = (loading if view.loaded else 0.0) + (1 - loading) * together
    return dataclasses.replace(view, done=done, fraction=min(1.0, max(view.fraction, fraction)))


def _begins(view: View, stage: str) -> float:
    """Return how far a picture is when a stage begins, as a part of 1."""
    course = view.course
    if course is None or course.time.picture_seconds <= 0 or stage in ("starting", "loading", "reading"):
        return _STAGE_BEGINS[stage] if course is None else 0.0
    if stage == "saving":
        return 1 - _SAVING_PART
    step = {"sampling": 0, "refining": course.switch, "decoding": course.steps}[stage]
    return min(course.sampled_seconds(step) / course.time.picture_seconds, 1 - _SAVING_PART)


def _sampled(view: View, step: int, steps: int) -> float:
    """Return how far a picture is when a step is done, as a part of 1."""
    course = view.course
    if course is None or course.time.picture_seconds <= 0 or course.steps != steps:
        return _STAGE_BEGINS["sampling"] + _SAMPLING_PART * step / max(steps, 1)
    return min(course.sampled_seconds(step) / course.time.picture_seconds, 1 - _SAVING_PART)


def _at(values: tuple[_Number, ...], place: int) -> _Number | int:
    return values[place] if 0 <= place < len(values) else 0


def _put(values: tuple[_Number, ...], place: int, value: _Number, nothing: _Number) -> tuple[_Number, ...]:
    before = (*values, *[nothing] * (place - len(values)))
    return (*before[:place], value, *before[place + 1 :])


def _pace(view: View, picture: int, step: int, steps: int, now: float) -> float:
    """Return the mean of what steps take, later the running one; the first step of a picture is no measure.

    ``steps`` is how many were gone since the last one of this picture, those of pictures made at once with it included.
    """
    usual = 1.0 if view.course is None else view.course.sampled_seconds(step) - view.course.sampled_seconds(step - 1)
    if picture != view.picture or not view.stepped_at or steps <= 0 or usual <= 0:
        return view.pace
    newest = (now - view.stepped_at) / steps / usual
    weight = max(_PACE_WEIGHT, 1 / max(1, sum(view.walked)))
    return newest if not view.pace else view.pace + weight * (newest - view.pace)


def picture_url(path: Path, outputs: Path) -> str:
    """Return the address of a picture in the outputs folder, or nothing for one that lies elsewhere."""
    try:
        parts = path.relative_to(outputs).parts
    except ValueError:
        return ""
    return f"/pictures/{parts[0]}/{parts[1]}" if len(parts) == 2 else ""


class Watcher:
    """Follow jobs for tabs. One that waits for news costs nothing but its place in the event loop.

    ``course`` says what this computer's history knows of a job; it may read files.
    """

    def __init__(
        self,
        jobs: Jobs,
        previews: Previews,
        outputs: Path,
        *,
        course: Callable[[Job], Course | None] = lambda job: None,
    ) -> None:
        self._jobs = jobs
        self._previews = previews
        self._outputs = outputs
        self._course = course
        self._paces: OrderedDict[tuple[str, bool], float] = OrderedDict()  # for whoever begins to look at a job

    def mine(self, ids: Sequence[str], owner: str) -> list[Job]:
        """Return those of ``ids`` that exist and belong to ``owner``, in order."""
        found = []
        for id in ids:
            with contextlib.suppress(RequestError):  # the browser remembers jobs that this data folder never had
                found.append(self._jobs.job(id))
        return [job for job in found if job.owner == owner]

    def last(self, owner: str) -> list[Job]:
        """Return the active jobs of ``owner`` in the order they run, or else the newest one."""
        active = self._jobs.jobs(owner, ACTIVE)
        if active:
            return sorted(active, key=lambda job: (job.state == "waiting", job.position))
        return list(self._jobs.jobs(owner, limit=1))

    async def watch(self, ids: Sequence[str], owner: str) -> AsyncIterator[View]:
        """Yield views of the jobs among ``ids``, one after the other as they run, until the last has ended.

        One that rests is shown while no other runs; when none is active, the last one is shown.
        """
        job = await anyio.to_thread.run_sync(self._first, ids, owner)
        while job is not None:
            async for view in self._follow(job, ids):
                yield view
            # One that ended longer ago may be among them again: a cancelled job can be taken back.
            job = await anyio.to_thread.run_sync(self._next, ids, owner, "" if view.active else job.id)
            if not view.active and job is not None and job.state == "paused":
                return  # what has just ended is worth more than a job that rests for longer

    def _first(self, ids: Sequence[str], owner: str) -> Job | None:
        return self._next(ids, owner) or next(iter(self.mine(ids, owner)[-1:]), None)

    def _next(self, ids: Sequence[str], owner: str, but: str = "") -> Job | None:
        """Return the active job that is shown first: what runs, or else waits, or else is paused."""
        active = [job for job in self._jobs.jobs(owner, ACTIVE) if job.id in ids and job.id != but]
        return min(active, key=lambda job: (_FIRST.index(job.state), job.position), default=None)

    async def _follow(self, job: Job, ids: Sequence[str]) -> AsyncIterator[View]:
        """Yield views of a job until it has ended, or rests while another one runs."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def heard() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed before its last watcher
                loop.call_soon_threadsafe(news.set)

        course = await anyio.to_thread.run_sync(self._course, job)
        pace = self._paces.get((job.id, course is None), 0.0)
        view = dataclasses.replace(opening(job), course=course, pace=pace)
        last = 0
        shown: View | None = None
        end = self._jobs.listen(job.id, heard)
        try:
            # The events of an old job are read from the disk, all later ones from memory.
            events = await anyio.to_thread.run_sync(self._jobs.events, job.id)
            while True:
                for number, event in events:
                    last = number
                    if isinstance(event, Step) and event.preview:
                        self._previews.put(job.id, event.preview)
                    # Events of the past, read at once after a reload, tell nothing about the pace.
                    view = fold(view, event, time.monotonic() if shown else 0.0, self._outputs)
                around = self._jobs.around(job.owner)
                waiting = len(around.waiting - {job.id}) if view.active else 0
                view = dataclasses.replace(view, waiting=waiting, held=around.held)
                self._keep_pace(view)
                if view != shown:
                    shown = view
                    yield view
                if not view.active or (view.phase != "running" and around.running & {*ids} - {job.id}):
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _WAIT_SECONDS)
                news.clear()
                events = self._jobs.events(job.id, last)
        finally:
            end()

    def _keep_pace(self, view: View) -> None:
        """Remember how fast a job goes, so that who looks at it anew is told at once how long it takes."""
        if view.pace and view.active:
            self._paces[view.job, view.course is None] = view.pace
            self._paces.move_to_end((view.job, view.course is None))
        while len(self._paces) > _KEPT_PACES:
            self._paces.popitem(last=False)

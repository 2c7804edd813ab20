"""One job of several pictures: which are still to be made, how they are told, kept, skipped and left for later.

Pictures are made one after the other, unless two networks would have to change places for each of them. Then the parts
that one network does are done for several pictures in turn; between its parts a picture waits in main memory, as the
same state that a pause puts on disk, so nothing in the result can tell.

With the switch ``batches``, pictures that differ in their seed only are also advanced at once, step by step, as many as
the engine has room for. Each has its own state after every step, so that any of them can be left out, kept or gone on
with alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image
from torch import Tensor

from fooocus.config import Config
from fooocus.diffusion.state import State, split
from fooocus.errors import BrokenPicture, PauseAsked, RequestError, StorageError
from fooocus.events import LeftOut, Notice, Paused, Saved, Stage, StageName, Step
from fooocus.images.log import append_to_log
from fooocus.images.metadata import Format, encode, fits, read_recipe, record, without_folders
from fooocus.images.store import picture_path, save_picture
from fooocus.jobs.paused import paused_file
from fooocus.jobs.worker import Control, Emit, WorkItem
from fooocus.memory.batches import MOST, fewer
from fooocus.render.hashes import FileHashes
from fooocus.render.latents import LatentsFile
from fooocus.render.paused import Begun, UnusablePause, read_paused, write_paused
from fooocus.render.watch import Skipped, TooMany, Watch
from fooocus.request import Recipe, Request

Part = Literal["base", "steps"]
"""What one network does of a picture: the base's steps, or all steps that are left before the pixels."""
TOGETHER = 8
"""So many pictures at most are made part by part: the change of networks then costs an eighth of what it did, and more
would only let the person wait longer for the first one, and lose more if the computer went off."""

SAVE_AGAIN_SECONDS = 1.0  # between two tries to save a picture; a stop or a pause is looked at as often
_KEPT = "The picture is kept and saved as soon as that is possible: free some space, or make the folder writable."
_MENDED = "The picture is saved now, and the job goes on."

# A request's word for a format, what the encoder calls it, and how its files end.
_FORMATS: Mapping[str, tuple[Format, str]] = {"png": ("png", "png"), "jpeg": ("jpeg", "jpg"), "webp": ("webp", "webp")}


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A finished picture: its pixels, and its latents (1, 4, h, w) divided by the VAE's scale."""

    image: Image.Image
    latents: Tensor


class Maker(Protocol):
    """What makes the pictures: the engine, as a job sees it."""

    config: Config
    previews: bool
    waits: bool
    hashes: FileHashes

    @property
    def computing_on(self) -> str:
        """The device and the number format, with the reasons, for a person."""

    def plan(self, request: Request) -> tuple[Recipe, ...]:
        """Return the recipes of a request."""

    def render(self, recipe: Recipe, watch: Watch, begun: State | None) -> Rendered:
        """Make a picture, or finish one that was begun."""

    def parts(self, recipe: Recipe, watch: Watch) -> tuple[Part, ...]:
        """Return the parts that are better done for several pictures in turn."""

    def at_once(self, recipe: Recipe, watch: Watch) -> int:
        """Return how many pictures that differ in their seed only are to be made at once."""

    def part(
        self, recipes: Sequence[Recipe], part: Part, watch: Watch, begun: Sequence[State | None], *, last: bool
    ) -> Sequence[State]:
        """Do one part of a picture, or of several at once."""

    def look(self, denoised: Tensor) -> bytes | None:
        """Return unfinished latents as a small JPEG; ``None`` where the last one was only just made."""

    def leave_card(self) -> None:
        """Send every network home."""


class JobRun:
    """One run of a job. ``latents_file`` collects the final latents of its pictures for inspection."""

    def __init__(
        self, engine: Maker, job: WorkItem, emit: Emit, control: Control, latents_file: Path | None = None
    ) -> None:
        self._engine, self._job, self._emit, self._control = engine, job, emit, control
        self._request = Request.from_json(job.request)
        self._recipes = list(engine.plan(self._request))
        self._latents = latents_file and LatentsFile(latents_file, self._recipes)
        self._skipped = set(job.paused.skipped if job.paused else ())
        self._states: dict[int, State] = {}  # how far the unfinished pictures are
        self._most = MOST  # pictures that may be made at once, by what turned out too many in this job
        self._at_once = 1  # by what the engine has room for as well
        self._alone: set[int] = set()  # pictures that broke together: each is to show by itself whether it does
        self._broken: tuple[int, BrokenPicture] | None = None  # the first that did
        self._picture = 1
        self._stage: tuple[int, str] = (0, "")  # what was told last
        self._told: set[str] = set()

    def run(self) -> None:
        """Make every picture that is not saved yet; raises what should end the job."""
        self._take_up()
        self._emit(Notice(f"Computing on {self._engine.computing_on}."))
        try:
            left = [number for number in range(1, len(self._recipes) + 1) if not self._done(number)]
            for first in range(0, len(left), TOGETHER):
                self._make_all(left[first : first + TOGETHER])
        except PauseAsked:
            self._emit(self._leave())

    def _done(self, number: int) -> bool:
        """Say whether a picture is saved or not wanted; one whose making was told by nobody is told now."""
        if number in self._skipped or number in {saved.picture for saved in self._job.saved}:
            return True
        path, recipe = self._path(number), self._recipes[number - 1]
        if self._job.attempt > 1 and _is_picture_of(path, recipe):
            # The first attempt died between saving the picture and telling of it.
            self._emit(Saved(number, len(self._recipes), str(path), recipe.seed))
            return True
        return False

    def _make_all(self, numbers: Sequence[int]) -> None:
        """Make some pictures: those parts of all of them first that are better done apart, and several at once.

        Those before one that breaks are finished all the same, as if they had been made one after the other.
        """
        apart = self._apart(numbers) if len(numbers) > 1 else ()
        for part in apart:
            self._advance(numbers, part)
        left = self._wanted(numbers)
        while left:
            batch = self._batch(left)
            if len(batch) > 1 and "steps" not in apart:
                self._advance(batch, "steps")
            for number in self._wanted(batch):
                self._make(number)
            left = self._wanted(left[len(batch) :])
        if self._broken is not None:
            raise self._broken[1]

    def _apart(self, numbers: Sequence[int]) -> tuple[Part, ...]:
        """Say which parts are better done apart, by one picture: the others have the same models and size."""
        for number in numbers:
            with self._at(number) as watch:
                recipe = self._recipes[number - 1]
                self._at_once = min(self._most, self._engine.at_once(recipe, watch))
                return self._engine.parts(recipe, watch)
        return ()  # all were skipped meanwhile

    def _wanted(self, numbers: Sequence[int]) -> list[int]:
        """Return those that were not skipped, and come before the first broken one."""
        end = len(self._recipes) + 1 if self._broken is None else self._broken[0]
        return [number for number in numbers if number < end and number not in self._skipped]

    def _batch(self, numbers: Sequence[int]) -> list[int]:
        """Return those that can be made at once, from the first on: they differ in their seed only."""

        def kind(number: int) -> object:
            state = self._states.get(number)
            recipe = dataclasses.replace(self._recipes[number - 1], seed=0)
            return recipe, 0 if state is None else state.step, number in self._alone

        alike = itertools.takewhile(lambda number: kind(number) == kind(numbers[0]), numbers[: self._at_once])
        return list(numbers[:1]) if numbers[0] in self._alone else list(alike)

    def _advance(self, numbers: Sequence[int], part: Part) -> None:
        """Do one part of all pictures, several at once where that can be, one after the other where not."""
        left = self._wanted(numbers)
        while left:
            batch = self._batch(left)
            if self._part(batch, part, last=len(batch) == len(left)):
                left = left[len(batch) :]
            left = self._wanted(left)

    def _part(self, numbers: Sequence[int], part: Part, *, last: bool) -> bool:
        """Do one part of some pictures at once.

        Return whether it is done. If not, it is known by now what to do otherwise: the picture shown is not wanted any
        more, there are too many, or one is broken. What all of them have done so far is kept.
        """
        with self._at(*numbers) as watch:
            recipes, begun = [self._recipes[n - 1] for n in numbers], [self._states.get(n) for n in numbers]
            try:
                states = self._engine.part(recipes, part, watch, begun, last=last)
            except TooMany:
                self._most = self._at_once = fewer(len(numbers))
                return False
            except BrokenPicture as error:
                if len(numbers) == 1:
                    self._broken = numbers[0], error
                self._alone.update(numbers)
                return False
            self._states.update(zip(numbers, states, strict=True))
            return True
        return False

    def _make(self, number: int) -> None:
        """Make a picture, or finish it, and save it, unless it was skipped."""
        if number in self._skipped:
            return
        recipe = self._recipes[number - 1]
        with self._at(number) as watch:
            rendered = self._engine.render(recipe, watch, self._states.get(number))
            watch.stage("saving")
            path = self._save(self._path(number), rendered, recipe, watch)
            self._log(path, recipe, watch)
            if self._latents:
                self._latents.add(rendered.latents)
            self._states.pop(number, None)
            self._emit(Saved(number, len(self._recipes), str(path), recipe.seed))

    @contextmanager
    def _at(self, number: int, *others: int) -> Iterator[Watch]:
        """Work on a picture, and on others with it; the block is left when the person does not want the first."""
        self._picture = number
        self._control.check()
        try:
            yield self._watch(number, *others)
        except Skipped:
            self._control.skipped()
            self._skipped.add(number)
            self._states.pop(number, None)
            self._emit(LeftOut(number, len(self._recipes)))
            self._emit(Notice(f"Picture {number} was skipped."))

    def _take_up(self) -> None:
        """Read the pictures that were left unfinished when the job was paused; what cannot be used begins again."""
        paused = self._job.paused
        if paused is None:
            return
        kept = {number for number, _ in paused.kept} or ({paused.picture} if paused.step else set())
        wanted = kept - self._skipped - {saved.picture for saved in self._job.saved}
        if not wanted:
            return
        try:
            begun = read_paused(paused_file(self._engine.config.data, self._job.id), self._job.id)
        except UnusablePause as error:
            self._emit(Notice(str(error)))
            return
        for number, picture in begun.items():
            if number in wanted and number <= len(self._recipes):
                self._recipes[number - 1] = picture.recipe
                self._states[number] = picture.state

    def _leave(self) -> Paused:
        """Keep the unfinished pictures on disk, free the card, and say where the job is."""
        number, state = self._picture, self._states.get(self._picture)
        here = Paused(number, len(self._recipes), skipped=tuple(sorted(self._skipped)))
        if self._states:
            begun = {n: Begun(self._recipes[n - 1], kept) for n, kept in sorted(self._states.items())}
            try:
                write_paused(paused_file(self._engine.config.data, self._job.id), self._job.id, begun)
                here = dataclasses.replace(here, kept=tuple((n, kept.state.step) for n, kept in begun.items()))
            except StorageError as error:
                self._emit(Notice(str(error)))
                state = None
        self._states.clear()
        seen = None if state is None or state.denoised is None else self._engine.look(state.denoised)
        self._engine.leave_card()
        if state is None:
            return here
        return dataclasses.replace(here, step=state.step, steps=self._recipes[number - 1].steps, preview=seen)

    def _path(self, number: int) -> Path:
        """Return where a picture is to lie."""
        suffix = _FORMATS[self._request.format][1]
        outputs, seed = self._engine.config.outputs, self._recipes[number - 1].seed
        return picture_path(outputs, self._job.created_ms, number, seed, suffix)

    def _save(self, path: Path, rendered: Rendered, recipe: Recipe, watch: Watch) -> Path:
        """Save a picture with its recipe; one that its format has no room for is saved beside it."""
        format = _FORMATS[self._request.format][0]
        metadata = self._engine.config.metadata
        hashes = self._engine.hashes.by_name(watch.check) if metadata else {}
        path = self._write(path, encode(rendered.image, recipe, format, metadata=metadata, hashes=hashes), watch)
        if metadata and not fits(recipe, format):
            self._write(path.with_suffix(".json"), record(recipe).encode(), watch)
        return path

    def _write(self, path: Path, data: bytes, watch: Watch) -> Path:
        """Write a file of a picture; an engine that ``waits`` does so until the disk takes it, or the person gives up.

        The next job's pictures would go to the same folder: failing this one would only spend the queue on nothing.
        """
        told = ""
        while True:
            try:
                path = save_picture(path, data)
            except StorageError as error:
                if not self._engine.waits:
                    raise
                if error.sentence != told:
                    told = error.sentence
                    self._emit(Notice(f"{told} {_KEPT}"))
            else:
                if told:
                    self._emit(Notice(_MENDED))
                return path
            watch.check()
            time.sleep(SAVE_AGAIN_SECONDS)

    def _log(self, path: Path, recipe: Recipe, watch: Watch) -> None:
        """Enter a saved picture in its day's page; a page that cannot be written must not cost the picture."""
        try:
            append_to_log(path, recipe)
        except StorageError as error:
            watch.notice(str(error))

    def _watch(self, number: int, *others: int) -> Watch:
        """Tell the making of a picture, and of those made at once with it, as events; a notice only once a job."""
        count = len(self._recipes)

        def stage(name: StageName) -> None:
            if (number, name) != self._stage:
                self._stage = number, name
                self._emit(Stage(name, number, count))

        def step(state: State, steps: int) -> None:
            self._states.update(zip((number, *others), split(state), strict=True))
            for other in others:
                self._emit(Step(other, count, state.step, steps))
            seen = self._states[number].denoised if self._engine.previews else None
            self._emit(Step(number, count, state.step, steps, None if seen is None else self._engine.look(seen)))

        def check() -> None:
            self._control.check()
            if self._control.skipping():
                raise Skipped("The picture was skipped.")

        def notice(text: str) -> None:
            if text not in self._told:
                self._told.add(text)
                self._emit(Notice(text))

        return Watch(stage, step, check, notice)


def _is_picture_of(path: Path, recipe: Recipe) -> bool:
    """Say whether the file is there and carries exactly this recipe."""
    try:
        return path.is_file() and read_recipe(path) == without_folders(recipe)
    except (RequestError, OSError):
        return False

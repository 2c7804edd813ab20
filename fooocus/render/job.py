"""One job of several pictures: which are still to be made, how they are told, kept, skipped and left for later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fooocus.diffusion.state import State
from fooocus.errors import PauseAsked, RequestError, StorageError
from fooocus.events import Notice, Paused, Saved, Stage, StageName, Step
from fooocus.images.log import append_to_log
from fooocus.images.metadata import Format, encode, fits, read_recipe, record, without_folders
from fooocus.images.store import picture_path, save_picture
from fooocus.jobs.paused import paused_file
from fooocus.jobs.worker import Control, Emit, WorkItem
from fooocus.render.latents import LatentsFile
from fooocus.render.paused import Begun, UnusablePause, read_paused, write_paused
from fooocus.render.preview import preview_jpeg
from fooocus.render.watch import Skipped, Watch
from fooocus.request import Recipe, Request

if TYPE_CHECKING:
    from fooocus.render.engine import Engine, Rendered

# A request's word for a format, what the encoder calls it, and how its files end.
_FORMATS: Mapping[str, tuple[Format, str]] = {"png": ("png", "png"), "jpeg": ("jpeg", "jpg"), "webp": ("webp", "webp")}


class JobRun:
    """One run of a job. ``latents_file`` collects the final latents of its pictures for inspection."""

    def __init__(
        self, engine: Engine, job: WorkItem, emit: Emit, control: Control, latents_file: Path | None = None
    ) -> None:
        self._engine, self._job, self._emit, self._control = engine, job, emit, control
        self._request = Request.from_json(job.request)
        self._recipes = list(engine.plan(self._request))
        self._latents = latents_file and LatentsFile(latents_file, self._recipes)
        self._skipped = set(job.paused.skipped if job.paused else ())
        self._states: dict[int, State] = {}  # how far the unfinished pictures are
        self._picture = 1
        self._told: set[str] = set()

    def run(self) -> None:
        """Make every picture that is not saved yet; raises what should end the job."""
        self._take_up()
        self._emit(Notice(f"Computing on {self._engine.computing_on}."))
        try:
            for number in range(1, len(self._recipes) + 1):
                self._make(number)
        except PauseAsked:
            self._emit(self._leave())

    def _make(self, number: int) -> None:
        if number in self._skipped or number in {saved.picture for saved in self._job.saved}:
            return  # before a pause is looked for: the job is at its first picture that is not done
        self._picture = number
        self._control.check()
        recipe, count = self._recipes[number - 1], len(self._recipes)
        format, suffix = _FORMATS[self._request.format]
        path = picture_path(self._engine.config.outputs, self._job.created_ms, number, recipe.seed, suffix)
        if self._job.attempt > 1 and _is_picture_of(path, recipe):
            # The first attempt died between saving the picture and telling of it.
            self._emit(Saved(number, count, str(path), recipe.seed))
            return
        watch = self._watch(number)
        try:
            rendered = self._engine.render(recipe, watch, self._states.get(number))
            watch.stage("saving")
            path = self._save(path, rendered, recipe, format, watch)
        except Skipped:
            self._control.skipped()
            self._skipped.add(number)
            self._states.pop(number, None)
            self._emit(Notice(f"Picture {number} was skipped."))
            return
        self._log(path, recipe, watch)
        if self._latents:
            self._latents.add(rendered.latents)
        self._states.pop(number, None)
        self._emit(Saved(number, count, str(path), recipe.seed))

    def _take_up(self) -> None:
        """Read the pictures that were left unfinished when the job was paused; what cannot be used begins again."""
        paused = self._job.paused
        if paused is None or not paused.step or paused.picture in {saved.picture for saved in self._job.saved}:
            return
        try:
            begun = read_paused(paused_file(self._engine.config.data, self._job.id), self._job.id)
        except UnusablePause as error:
            self._emit(Notice(str(error)))
            return
        for number, picture in begun.items():
            if 1 <= number <= len(self._recipes):
                self._recipes[number - 1] = picture.recipe
                self._states[number] = picture.state

    def _leave(self) -> Paused:
        """Keep the unfinished pictures on disk, free the card, and say where the job is."""
        number, state = self._picture, self._states.get(self._picture)
        here = Paused(number, len(self._recipes), skipped=tuple(sorted(self._skipped)))
        if self._states:
            begun = {n: Begun(self._recipes[n - 1], kept) for n, kept in self._states.items()}
            try:
                write_paused(paused_file(self._engine.config.data, self._job.id), self._job.id, begun)
            except StorageError as error:
                self._emit(Notice(str(error)))
                state = None
        self._states.clear()
        self._engine.leave_card()
        if state is None:
            return here
        seen = None if state.denoised is None else preview_jpeg(state.denoised, self._engine.mix)
        return dataclasses.replace(here, step=state.step, steps=self._recipes[number - 1].steps, preview=seen)

    def _save(self, path: Path, rendered: Rendered, recipe: Recipe, format: Format, watch: Watch) -> Path:
        """Save a picture with its recipe; one that its format has no room for is saved beside it."""
        metadata = self._engine.config.metadata
        hashes = self._engine.hashes.by_name(watch.check) if metadata else {}
        path = save_picture(path, encode(rendered.image, recipe, format, metadata=metadata, hashes=hashes))
        if metadata and not fits(recipe, format):
            save_picture(path.with_suffix(".json"), record(recipe).encode())
        return path

    def _log(self, path: Path, recipe: Recipe, watch: Watch) -> None:
        """Enter a saved picture in its day's page; a page that cannot be written must not cost the picture."""
        try:
            append_to_log(path, recipe)
        except StorageError as error:
            watch.notice(str(error))

    def _watch(self, number: int) -> Watch:
        """Tell the making of one picture as events; the same notice only once a job."""
        count = len(self._recipes)

        def stage(name: StageName) -> None:
            self._emit(Stage(name, number, count))

        def step(state: State, steps: int) -> None:
            self._states[number] = state
            seen = state.denoised if self._engine.previews else None
            self._emit(
                Step(number, count, state.step, steps, None if seen is None else preview_jpeg(seen, self._engine.mix))
            )

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

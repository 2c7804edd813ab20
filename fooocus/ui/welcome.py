"""What the page knows of this computer and its model files, and the orders it gives: fetch, pause, use a copy.

All tabs show the same, so one look a second serves all of them. A look touches the disk and asks for the graphics card;
it happens in a thread, and a page that opens meanwhile shows the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping

import anyio.to_thread

from fooocus.errors import FooocusError, StorageError
from fooocus.events import Finished
from fooocus.jobs.store import Job
from fooocus.models.fetch import ENDED, FileProgress, Progress
from fooocus.models.first_run import FirstRun
from fooocus.models.hub import Source
from fooocus.models.report import Survey, WantedFile
from fooocus.request import Request

_LOOK_SECONDS = 1.0
_ALIKE = ("base", "refiner", "size", "performance", "steps")  # what the time of a picture hangs on
_COMPARED = 8  # pictures of the past of which the quickest counts: the first of a session also loads the model


@dataclasses.dataclass(frozen=True)
class Look:
    """Hold what was seen: files, how far their download is, what the last order ran into.

    ``addresses`` say by name where each file is fetched from; ``offline`` that the person forbids connections;
    ``measured`` that the verdict's time is this computer's own; ``meanwhile`` that a stand-in draws until all is here.
    """

    survey: Survey
    progress: Progress
    addresses: Mapping[str, str]
    searching: bool = False
    offline: bool = False
    measured: bool = False
    meanwhile: bool = False
    trouble: FooocusError | None = None

    @property
    def unfinished(self) -> tuple[WantedFile, ...]:
        """The wanted files that cannot be used yet."""
        return tuple(file for file in self.survey.files if file.state != "here")

    @property
    def under_way(self) -> tuple[FileProgress, ...]:
        """The files that are being fetched, wait, or are paused."""
        return tuple(file for file in self.progress.files if file.phase not in ENDED)

    @property
    def failed(self) -> tuple[FileProgress, ...]:
        """The files that could not be fetched."""
        return tuple(file for file in self.progress.files if file.phase == "failed")


class Welcome:
    """Look around and carry out orders. Without ``run`` there is nothing to see and nothing to do.

    ``measure`` tells how many seconds a picture took here, if one was made; ``spare`` is what pages may begin with
    while files are missing.
    """

    def __init__(
        self,
        run: FirstRun | None,
        measure: Callable[[], float | None] = lambda: None,
        spare: Request | None = None,
    ) -> None:
        self._run = run
        self.spare = spare
        self._measure = measure
        self._seen: Look | None = None
        self._seen_at = 0.0
        self._looking = False
        self._trouble: FooocusError | None = None

    @property
    def knows_models(self) -> bool:
        """Whether there will be something to see."""
        return self._run is not None

    @property
    def stand_in(self) -> Request | None:
        """Return what a page begins with now because files are missing, if there is something."""
        return None if self._run is None or self.spare is None or self._run.complete() else self.spare

    async def look(self) -> Look | None:
        """Return what is to be seen, at most a second old; ``None`` while the first look is under way."""
        if self._run is not None and not self._looking and time.monotonic() - self._seen_at >= _LOOK_SECONDS:
            self._looking = True
            try:
                self._seen = await anyio.to_thread.run_sync(self._look, self._run)
                self._seen_at = time.monotonic()
            finally:
                self._looking = False
        return self._seen

    def order(self, text: str) -> None:
        """Carry out an order of the page: JSON with ``do`` and, where one file is meant, its ``name``.

        What goes wrong is shown with the files; an order that is none is passed over.
        """
        if self._run is None or not (order := _read(text)):
            return
        do, name = order
        self._trouble = None
        try:
            match do:
                case "fetch":
                    self._run.fetch()
                case "need":
                    self._run.need([name])
                case "use":
                    self._run.use(name)
                case "place":
                    self._run.use(name, "in place")
                case "pause":
                    self._run.fetcher.pause()
                case "resume":
                    self._run.fetcher.resume()
                case "cancel":
                    self._run.fetcher.cancel()
        except FooocusError as error:
            self._trouble = error
        self._seen_at = 0.0

    def _look(self, run: FirstRun) -> Look:
        seconds = None
        with contextlib.suppress(StorageError):  # the list of jobs cannot be read: then nothing is known of the past
            seconds = self._measure()
        survey = run.survey(seconds)
        hub = Source(survey.endpoint)
        addresses = {file.entry.name: hub.address(file.entry) for file in survey.files if file.state != "here"}
        return Look(
            survey,
            run.fetcher.progress(),
            addresses,
            searching=run.searching,
            offline=run.offline,
            measured=seconds is not None,
            meanwhile=self.spare is not None and any(file.state != "here" for file in survey.files),
            trouble=self._trouble,
        )


def measured_seconds(jobs: Iterable[Job], defaults: Request) -> float | None:
    """Return how many seconds a picture with these settings took, ``None`` if none was made; newest jobs come first."""
    wanted = {name: defaults.to_json()[name] for name in _ALIKE}
    times = [
        job.terminal.seconds / len(job.terminal.paths)
        for job in jobs
        if isinstance(job.terminal, Finished)
        and job.terminal.paths
        and all(job.request.get(name) == value for name, value in wanted.items())
    ]
    return min(times[:_COMPARED], default=None)


def _read(text: str) -> tuple[str, str] | None:
    """Read an order. It comes from a browser and may be anything."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    do, name = values.get("do"), values.get("name", "")
    return (do, name) if isinstance(do, str) and isinstance(name, str) else None

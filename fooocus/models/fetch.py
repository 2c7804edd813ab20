"""Several files at a time, for the page and the command line: begin, pause, resume, cancel, and how far it is.

Threads do the work; everything said about it is a frozen value, so a page may ask at any moment and from any thread.
No connection is opened before something is really missing.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fooocus.awake import awake
from fooocus.errors import FooocusError, Stopped
from fooocus.models.catalogue import Entry
from fooocus.models.download import RESERVE_BYTES, Downloader, Patience, Phase, RateLimit
from fooocus.models.hashes import FileMemory, Stamp
from fooocus.models.hub import Source, complete, make_client, sources
from fooocus.models.partfile import Disk, discard, fetched_bytes, is_there
from fooocus.models.troubles import FetchedElsewhere, NoConnection, too_little_room

if TYPE_CHECKING:  # see hub.py
    import httpx

Phases = Literal["waiting", "paused", "elsewhere", "done", "failed", "cancelled"] | Phase
ENDED: tuple[Phases, ...] = ("done", "failed", "cancelled")
AT_ONCE = 2
_RATE_SECONDS = 5.0  # over which a rate is averaged: long enough to stand still, short enough to be the present
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HubSettings:
    """What of the settings and the environment concerns downloads. ``rate`` in bytes per second, None for no limit."""

    environment: Mapping[str, str]
    mirrors: tuple[str, ...] = ()
    rate: float | None = None
    patience: Patience = Patience()


@dataclasses.dataclass(frozen=True)
class FileProgress:
    """How far one file is. ``sentence`` and ``remedy`` say what is wrong, where something is; ``code`` names the error.

    ``size_bytes`` is None until it is known, ``seconds_left`` until there is a rate.
    """

    name: str
    phase: Phases
    done_bytes: int
    size_bytes: int | None
    rate: float = 0.0
    seconds_left: float | None = None
    sentence: str = ""
    remedy: str = ""
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far all of it is."""

    files: tuple[FileProgress, ...]
    done_bytes: int
    size_bytes: int
    rate: float
    seconds_left: float | None

    @property
    def ended(self) -> bool:
        """Whether nothing is going on any more (what is paused can still go on)."""
        return all(file.phase in ENDED for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the values as a JSON object with the key ``event``."""
        return {"event": "fetching", **dataclasses.asdict(self)}


@dataclasses.dataclass(eq=False)
class _Task:
    """One file's way. Only its fields change, under the fetcher's lock."""

    entry: Entry
    target: Path
    phase: Phases = "waiting"
    done_bytes: int = 0
    error: FooocusError | None = None
    sentence: str = ""
    wish: Literal["fetch", "pause", "cancel"] = "fetch"
    at_work: bool = False
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    samples: deque[tuple[float, int]] = dataclasses.field(default_factory=deque)


class Fetcher:
    """Fetch catalogue entries into the folder ``models``; ``data`` is where pins and hashes are kept.

    Call :meth:`close` at the end; what is unfinished then goes on at the next start. ``done`` is called, in a thread of
    the fetcher, with the path of each file that has arrived.
    """

    def __init__(
        self,
        models: Path,
        data: Path,
        settings: HubSettings,
        *,
        done: Callable[[Path], None] | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._models, self._data, self._settings = models, data, settings
        self._done = done or (lambda path: None)
        self._disk = disk or Disk()
        self._memory = FileMemory(data / "models.sqlite")
        self._limit = RateLimit(settings.rate)
        self._tasks: dict[str, _Task] = {}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._closed = False
        self._client: httpx.Client | None = None
        self._sources: tuple[Source, ...] = ()

    def start(self, entries: Sequence[Entry]) -> None:
        """Fetch these files; those under way already go on, those that failed are tried again.

        Raises :class:`~fooocus.errors.StorageError`, before anything is fetched, if they will not fit on the disk, and
        :class:`~fooocus.errors.ConfigError` for a mirror or proxy that is none.
        """
        with self._changed:
            self._check_room(entries)
            if self._client is None:
                self._sources = sources(self._settings.environment, self._settings.mirrors)
                patience = self._settings.patience
                self._client = make_client(
                    connect_seconds=patience.connect_seconds, stall_seconds=patience.stall_seconds
                )
            for entry in entries:
                task = self._tasks.get(entry.name)
                if task is None or task.phase in ENDED:
                    target = entry.target(self._models)
                    self._tasks[entry.name] = _Task(entry, target, done_bytes=fetched_bytes(target))
                else:
                    self._wish(task, "fetch")
            self._start_threads()
            self._changed.notify_all()

    def pause(self, name: str | None = None) -> None:
        """Stop one file, or all, for now; what came is kept."""
        self._wish_all(name, "pause")

    def resume(self, name: str | None = None) -> None:
        """Go on with what was paused or has failed. Raises like :meth:`start`."""
        with self._changed:
            chosen = [task.entry for task in self._chosen(name) if task.phase not in ("done", "cancelled")]
        self.start(chosen)

    def cancel(self, name: str | None = None) -> None:
        """Stop one file, or all, and delete what came of it."""
        self._wish_all(name, "cancel")

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Change the limit that all files share; None for no limit."""
        self._limit.bytes_per_second = bytes_per_second

    def progress(self) -> Progress:
        """Say how far everything is."""
        with self._changed:
            files = tuple(_told(task) for task in self._tasks.values())
        counted = [file for file in files if file.phase != "cancelled"]
        done, size = sum(file.done_bytes for file in counted), sum(file.size_bytes or 0 for file in counted)
        rate = sum(file.rate for file in counted)
        return Progress(files, done, size, rate, (size - done) / rate if rate else None)

    def watch(self, seconds: float = 0.5) -> Iterator[Progress]:
        """Yield the progress every so often, and once more when all has ended or is paused."""
        while True:
            progress = self.progress()
            yield progress
            if all(file.phase in (*ENDED, "paused") for file in progress.files):
                return
            with self._changed:
                self._changed.wait(seconds)
            time.sleep(min(seconds, 0.05))

    def close(self) -> None:
        """End all work, keeping what came."""
        with self._changed:
            self._closed = True
            for task in self._tasks.values():
                task.stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(self._settings.patience.stall_seconds + 5)
        if self._client is not None:
            self._client.close()

    def _check_room(self, entries: Sequence[Entry]) -> None:
        missing = [entry for entry in entries if not is_there(entry.target(self._models))]
        needed = sum((entry.size_bytes or 0) - fetched_bytes(entry.target(self._models)) for entry in missing)
        free = self._disk.free_bytes(self._models)
        if missing and free < needed + RESERVE_BYTES:
            raise too_little_room(self._models, needed + RESERVE_BYTES, free)

    def _chosen(self, name: str | None) -> list[_Task]:
        return [task for task in self._tasks.values() if name is None or task.entry.name == name]

    def _wish_all(self, name: str | None, wish: Literal["pause", "cancel"]) -> None:
        with self._changed:
            for task in self._chosen(name):
                if task.phase not in ENDED or (wish == "cancel" and task.phase == "failed"):
                    self._wish(task, wish)
            self._changed.notify_all()

    def _wish(self, task: _Task, wish: Literal["fetch", "pause", "cancel"]) -> None:
        """Say what shall become of a task: a thread that is at it sees the event, else it happens here."""
        task.wish = wish
        if wish == "fetch":
            task.stop.clear()
        else:
            task.stop.set()
        if not task.at_work:
            self._settle(task)

    def _start_threads(self) -> None:
        while len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._work, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        """Take the next waiting file, over and over."""
        try:
            while (task := self._take()) is not None:
                self._run(task)
        finally:
            with self._changed:
                if not self._closed:  # a defect ends this thread: the other files still need one
                    self._threads.remove(threading.current_thread())
                    self._start_threads()

    def _take(self) -> _Task | None:
        """Wait for a file to fetch; None when all work ends."""
        with self._changed:
            task = self._next()
            while task is None and not self._closed:
                self._changed.wait()
                task = self._next()
            if task is None or self._closed:
                return None
            task.phase, task.at_work = "fetching", True
            return task

    def _next(self) -> _Task | None:
        return next((task for task in self._tasks.values() if task.phase == "waiting"), None)

    def _run(self, task: _Task) -> None:
        assert self._client is not None
        try:
            pins = self._data / "pins.json"
            entry = complete(task.entry, self._sources, self._client, pins)
            with self._changed:
                task.entry = entry
            downloader = Downloader(
                self._sources,
                self._client,
                patience=self._settings.patience,
                limit=self._limit,
                disk=self._disk,
                known=self._memory.sha256,
            )
            with awake():
                path = self._fetch(downloader, entry, task)
            self._memory.remember_sha256(Stamp.of(path), entry.sha256 or "")
            with self._changed:
                task.phase, task.done_bytes, task.sentence = "done", entry.size_bytes or 0, ""
                self._let_go(task)
        except Stopped:
            with self._changed:
                self._settle(task)
                self._let_go(task)
        except (FooocusError, OSError) as error:
            reason = error.reason if isinstance(error, NoConnection) else ""
            _log.warning("%s: %s", task.entry.name, f"{error} {reason}".rstrip())
            self._fail(task, error if isinstance(error, FooocusError) else FooocusError(str(error)))
        except BaseException:  # something came up that nobody thought of; the log has it
            defect = f"{task.entry.name} could not be fetched: a defect of this program."
            self._fail(task, FooocusError(defect, "The log says more."))
            raise
        else:
            self._done(path)

    def _fail(self, task: _Task, error: FooocusError) -> None:
        with self._changed:
            task.phase, task.samples, task.error = "failed", deque(), error
            self._let_go(task)

    def _let_go(self, task: _Task) -> None:
        """Leave a task, under the same lock as its new phase: a thread that waits may take it the moment after."""
        task.at_work = False
        self._changed.notify_all()

    def _fetch(self, downloader: Downloader, entry: Entry, task: _Task) -> Path:
        def tell(phase: Phase, done_bytes: int, sentence: str) -> None:
            now = time.monotonic()
            with self._changed:
                task.phase, task.done_bytes, task.sentence = phase, done_bytes, sentence
                if phase == "fetching" and (not task.samples or now - task.samples[-1][0] > 0.2):
                    task.samples.append((now, done_bytes))
                    while now - task.samples[0][0] > _RATE_SECONDS:
                        task.samples.popleft()

        while True:
            try:
                return downloader.fetch(entry, task.target, task.stop, tell)
            except FetchedElsewhere as error:
                with self._changed:
                    task.phase, task.sentence = "elsewhere", error.sentence
                    task.done_bytes = fetched_bytes(task.target)
                if task.stop.wait(2.0):
                    raise Stopped("Stopped.") from error

    def _settle(self, task: _Task) -> None:
        """Carry out a wish on a task that nobody is at."""
        task.samples = deque()
        match task.wish:
            case "fetch":
                task.phase = "waiting"
            case "pause":
                task.phase, task.done_bytes, task.sentence = "paused", fetched_bytes(task.target), ""
            case "cancel":
                task.phase, task.sentence, task.done_bytes = "cancelled", "", 0
                try:
                    discard(task.target)
                except FooocusError as error:
                    task.phase, task.error = "failed", error
        self._changed.notify_all()


def _told(task: _Task) -> FileProgress:
    """Say how far a task is."""
    size, error = task.entry.size_bytes, task.error if task.phase == "failed" else None
    moving = task.phase == "fetching" and len(task.samples) > 1
    (began, first), (ended, last) = (task.samples[0], task.samples[-1]) if moving else ((0.0, 0), (1.0, 0))
    rate = max(0.0, (last - first) / max(ended - began, 1e-6))
    return FileProgress(
        name=task.entry.name,
        # A stalled connection may take a while to notice; the person has paused it all the same.
        phase="paused" if task.at_work and task.wish == "pause" else task.phase,
        done_bytes=task.done_bytes,
        size_bytes=size,
        rate=rate,
        seconds_left=(size - task.done_bytes) / rate if size and rate else None,
        sentence=error.sentence if error else task.sentence,
        remedy=error.remedy if error else "",
        code=error.code if error else "",
    )

"""The page's side of the jobs: keep one worker process alive, feed it one job at a time, publish what it says.

Read :mod:`fooocus.jobs.store` first: it decides what state a job is in. Here live only things that may be lost: the
worker, the numbered events that watchers wait for, and the wish to stop. Each fact goes to the store before it is
published.

Three kinds of threads meet under one lock, which is never held while something is written to disk or to a pipe: callers
(the page), one dispatching thread that starts workers, hands out jobs and ends workers that do not answer, and the
reading thread of the present worker.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fooocus import events
from fooocus.errors import RequestError, StorageError
from fooocus.events import Cancelled, Event, Failed, Notice, Queued, Saved
from fooocus.jobs import deaths
from fooocus.jobs.feed import Feed
from fooocus.jobs.process import RotatedLog, WorkerProcess, WorkerState
from fooocus.jobs.restarts import FAILED_STARTS, Patience, Restarts
from fooocus.jobs.store import Job, JobStore, State, Terminal
from fooocus.jobs.worker import WorkItem

_FEEDS_KEPT = 256  # jobs whose events stay in memory; those of older jobs are rebuilt from the store
_LIFE = 1 << 32  # event numbers of one life of the page process; the sum stays exact in JavaScript

_RUNNING: tuple[State, ...] = ("running",)
_WAITING: tuple[State, ...] = ("waiting",)


class Jobs:
    """All jobs of one data folder. The caller holds the folder's lock and closes ``store`` after :meth:`close`.

    ``command`` and ``environment`` start a worker (see :mod:`fooocus.jobs.worker`), which is told ``prepare`` before
    anything else; its standard error goes to ``log``. Methods that write raise :class:`fooocus.errors.StorageError`.
    """

    def __init__(
        self,
        store: JobStore,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        log: Path,
        *,
        prepare: dict[str, Any] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.store = store
        self._patience = patience or Patience()
        self._prepare = prepare or {}
        self._spawn = functools.partial(
            WorkerProcess, command, environment, RotatedLog(log), heard=self._heard, gone=self._gone
        )
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)  # something for the dispatcher
        self._shut = threading.Event()
        self._feeds: dict[str, Feed] = {}
        self._number = store.begin_life() * _LIFE
        self._state = WorkerState("starting")
        self._process: WorkerProcess | None = None
        self._alive = False  # false from the worker's end on, while its job is still being ended
        self._started_at = 0.0
        self._claim_at = 0.0  # not before
        self._restarts = Restarts(self._patience.backoff_seconds)
        self._begun = False  # the worker has taken up the running job
        self._work = True  # a waiting job may be in the store
        self._stops: dict[str, float] = {}  # running jobs that shall stop, and when patience ends
        self.recovered, self.given_up = store.recover()
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self._dispatcher.start()

    def submit(self, request: dict[str, Any], owner: str, *, key: str | None = None) -> str:
        """Queue a job and return its id; it is on disk by then. The same ``key`` sent again returns the same job."""
        id = self.store.submit(request, owner, key=key).id
        with self._lock:
            self._feed(id)
            self._work = True
            if self._state.phase == "down":
                self._restarts.asked()
                self._state = WorkerState("restarting", self._state.reason)
            self._wake.notify()
        return id

    def job(self, id: str) -> Job:
        """Return a job. Raises :class:`RequestError` when there is none."""
        job = self.store.get(id)
        if job is None:
            raise RequestError("job", f"There is no job {id}.", "It may belong to another data folder.")
        return job

    def jobs(
        self, owner: str | None = None, states: Collection[State] | None = None, *, limit: int = 1000
    ) -> tuple[Job, ...]:
        """Return jobs: waiting ones in queue order, then the others, newest first."""
        return self.store.list(owner, states, limit=limit)

    def events(self, id: str, after: int = 0, timeout: float = 0.0) -> list[tuple[int, Event]]:
        """Return a job's events numbered above ``after``, waiting up to ``timeout`` seconds for the first.

        Numbers rise but leave gaps. Nothing comes after the terminal event. For a job of an earlier life of the page
        process these are rebuilt: what was saved, and how it ended. Raises :class:`RequestError` for an unknown job.
        """
        with self._lock:
            feed = self._feed(id)
            feed.changed.wait_for(lambda: feed.after(after) or feed.ended or self._shut.is_set(), timeout)
            return feed.after(after)

    def cancel(self, id: str) -> bool:
        """Take a waiting job out of the queue or ask a running one to stop; return whether it was either.

        A running job that does not stop in time loses its worker. Raises :class:`RequestError` for an unknown job.
        """
        if self.store.cancel(id):
            with self._lock:
                self._publish(id, Cancelled())
                self._tell_queue()
            return True
        if self.job(id).state != "running":
            return False
        with self._lock:
            if self._feed(id).ended:
                return False
            self._stops.setdefault(id, time.monotonic() + self._patience.stop_seconds)
            if self._process is not None:
                self._process.send({"stop": id})
            self._wake.notify()
        return True

    def skip(self, id: str) -> bool:
        """Ask a running job to go on with its next picture; return whether it is running."""
        with self._lock:
            if self._process is None or self._state.job != id:
                return False
            self._process.send({"skip": id})
            return True

    def move(self, id: str, place: int) -> bool:
        """Move a waiting job to ``place`` of the queue (0 runs next); return whether it was waiting."""
        moved = self.store.move(id, place)
        with self._lock:
            self._tell_queue()
        return moved

    def idle(self) -> bool:
        """Return whether no job is waiting or running."""
        return not self.store.list(states=("waiting", "running"), limit=1)

    def worker_state(self) -> WorkerState:
        """Return what the worker is doing."""
        with self._lock:
            return dataclasses.replace(self._state, pid=self._process.pid if self._process else None)

    def close(self) -> None:
        """End the worker. A running job waits at the front of the queue for the next start, its attempt not counted."""
        with self._lock:
            self._shut.set()
            self._wake.notify()
            for feed in self._feeds.values():
                feed.changed.notify_all()
        self._dispatcher.join()
        if self._process is not None:
            self._process.close(self._patience.close_seconds)
        if self._state.job is not None:
            try:
                self.store.release(self._state.job)
            except StorageError as error:
                _log().warning("job %s is put back at the next start: %s", self._state.job, error)

    # The dispatching thread.

    def _dispatch(self) -> None:
        while True:
            with self._lock:
                if self._shut.is_set():
                    return
                action, seconds = self._next_action(time.monotonic())
                if action is None:
                    self._wake.wait(seconds)
                    continue
            action()

    def _next_action(self, now: float) -> tuple[Callable[[], None] | None, float | None]:
        """Return what to do now, or for how long nothing is to be done unless woken."""
        process, phase = self._process, self._state.phase
        if process is None:
            if phase == "down":
                return None, None
            start_at = self._restarts.start_at
            return (self._start, None) if now >= start_at else (None, start_at - now)
        if phase == "ready" and self._work and self._alive:
            return (self._hand_out, None) if now >= self._claim_at else (None, self._claim_at - now)
        limit = None
        if phase in ("starting", "restarting"):
            limit = self._started_at + self._patience.start_seconds
        elif self._state.job in self._stops:
            limit = self._stops[self._state.job]
        if limit is None or process.killed:
            return None, None
        return (process.kill, None) if now >= limit else (None, limit - now)

    def _start(self) -> None:
        try:
            process = self._spawn()
        except OSError as error:
            self._after_death(f"The worker could not be started: {error}.", ready=False)
            return
        with self._lock:
            self._process, self._alive, self._started_at = process, True, time.monotonic()
        process.send({"prepare": self._prepare})
        process.listen()

    def _hand_out(self) -> None:
        """Claim the next job and send it to the worker."""
        with self._lock:
            process, self._work = self._process, False
        try:
            job = self.store.claim_next()
        except StorageError as error:
            _log().warning("no job could be claimed: %s", error)
            with self._lock:
                self._work, self._claim_at = True, time.monotonic() + self._patience.retry_seconds
                self._state = dataclasses.replace(self._state, reason=str(error))
            return
        if job is None:
            return
        with self._lock:
            feed = self._feed(job.id, job)
            if process is not None and process is self._process and self._alive:
                feed.started, self._begun = True, False
                self._state = WorkerState("busy", job=job.id)
                self._tell_queue()
                item = WorkItem(job.id, job.request, job.created_ms, job.attempts, job.saved)
                process.send({"run": item.to_json()})
                return
        self._take_back(job.id)

    def _take_back(self, id: str) -> None:
        """The worker died before it took up a claimed job, which therefore is not to blame and waits again."""
        if self._durably(id, lambda: self.store.release(id)):
            with self._lock:
                self._work = True
                self._feeds[id].started = False
                self._state = dataclasses.replace(self._state, job=None)
                stopped = self._stops.pop(id, None) is not None
            if stopped:
                self.cancel(id)

    # The reading thread of the worker.

    def _heard(self, process: WorkerProcess, message: dict[str, Any]) -> None:
        """Take one message of the worker."""
        if "ready" in message:
            self._idle()
            return
        if "begun" in message:
            self._begun = True
            return
        try:
            id, event = str(message["id"]), events.from_json(message["event"])
        except (KeyError, TypeError, ValueError) as error:
            _log().warning("the worker said something unknown: %r", error)
            return
        if id != self._state.job:
            _log().warning("the worker spoke about job %s, which is not running", id)
        elif isinstance(event, events.TERMINAL):
            self._end(id, event)
            self._idle()
        elif not isinstance(event, Saved) or self._durably(id, lambda: self.store.record(id, event)):
            with self._lock:
                self._publish(id, event)

    def _idle(self) -> None:
        """The worker can take a job."""
        with self._lock:
            if self._state.job is None:
                self._state = WorkerState("ready")
                self._wake.notify()

    def _gone(self, process: WorkerProcess, code: int) -> None:
        """The worker has ended: end its job with the reason and have another started."""
        with self._lock:
            self._alive, state = False, self._state
        if self._shut.is_set():
            return
        words, remedy = deaths.explain(code)
        ready = state.phase in ("ready", "busy")
        if process.killed:
            late = "did not answer to Stop and was ended" if ready else "was not ready in time and was ended"
            words, remedy = late, "Generate again."
        sentence = f"The worker process {words}."
        _log().warning("%s Job: %s. Exit code: %s.", sentence, state.job, code)
        if state.job is not None and not self._begun:
            self._take_back(state.job)
        elif state.job is not None:
            stopped = state.job in self._stops
            self._end(state.job, Cancelled() if stopped else Failed("WorkerError", sentence, remedy))
        self._after_death(sentence, ready=ready, tail=tuple(process.tail))

    def _after_death(self, sentence: str, *, ready: bool, tail: Sequence[str] = ()) -> None:
        """Plan the next start, or give up until somebody asks for it again."""
        now = time.monotonic()
        with self._lock:
            if self._state.job is not None:
                return  # closing, with the job's end unwritten: close() puts it back
            self._process = None
            down = self._restarts.died(now, ready=ready, lived_seconds=now - self._started_at)
            self._work = True
            self._state = WorkerState("down" if down else "restarting", sentence)
            self._wake.notify()
        if down:
            failed = deaths.stays_down(FAILED_STARTS, sentence, tail)
            for id in self._ahead():
                self._end(id, failed, states=_WAITING)

    # Shared by the threads.

    def _end(self, id: str, event: Terminal, *, states: Collection[State] = _RUNNING) -> None:
        """End a job: on disk first, then for the watchers."""
        done = self._durably(id, lambda: self.store.finish(id, event, states=states))
        with self._lock:
            if not done and self._shut.is_set():
                return
            self._stops.pop(id, None)
            self._work = True
            if self._state.job == id:
                self._state = dataclasses.replace(self._state, job=None)
                self._restarts.healthy()
            if done:
                self._publish(id, event)
                self._tell_queue()

    def _durably(self, id: str, write: Callable[[], bool]) -> bool:
        """Write to the store and return whether it changed; a store that cannot be written stops the queue till it can.

        The person is told once. Also returns false, without having written, when the page closes meanwhile.
        """
        told = False
        while True:
            try:
                return write()
            except StorageError as error:
                if not told:
                    told = True
                    with self._lock:
                        self._publish(id, Notice(f"{error.sentence} {error.remedy}"))
            if self._shut.wait(self._patience.retry_seconds):
                return False

    def _feed(self, id: str, job: Job | None = None) -> Feed:
        """Return a job's feed, rebuilt from the store when it is not in memory. Held: the lock."""
        feed = self._feeds.get(id)
        if feed is not None:
            return feed
        job = job or self.job(id)
        feed = self._feeds[id] = Feed(self._lock)
        begin: list[Event] = [] if job.terminal else [Queued(self._ahead().get(id, 0))]
        for event in (*begin, *job.saved, *([job.terminal] if job.terminal else [])):
            self._publish(id, event)
        ended = [old for old, kept in self._feeds.items() if kept.ended and old != id]
        for old in ended[: max(0, len(self._feeds) - _FEEDS_KEPT)]:
            del self._feeds[old]
        return feed

    def _publish(self, id: str, event: Event) -> None:
        """Number an event and give it to the watchers, if there ever was one. Held: the lock."""
        feed = self._feeds.get(id)
        if feed is not None:
            self._number += 1
            feed.add(self._number, event)

    def _ahead(self) -> dict[str, int]:
        """Return for each waiting job how many run before it. Held: the lock."""
        try:
            queue = self.store.queue()
        except StorageError as error:
            _log().warning("the queue cannot be read: %s", error)
            return {}
        return {id: place + (self._state.job is not None) for place, id in enumerate(queue)}

    def _tell_queue(self) -> None:
        """Tell the watchers of waiting jobs where they stand, if that has changed. Held: the lock."""
        for id, ahead in self._ahead().items():
            feed = self._feeds.get(id)
            if feed is not None and not feed.started and feed.ahead != ahead:
                self._publish(id, Queued(ahead))


def _log() -> logging.Logger:
    return logging.getLogger("fooocus.jobs")

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
from fooocus.errors import StorageError
from fooocus.events import Cancelled, Event, Failed, Notice, Paused, Saved
from fooocus.jobs import deaths
from fooocus.jobs.board import Board
from fooocus.jobs.durable import durably
from fooocus.jobs.orders import Orders
from fooocus.jobs.paused import sweep
from fooocus.jobs.process import RotatedLog, WorkerProcess, WorkerState
from fooocus.jobs.renewal import Renewal
from fooocus.jobs.restarts import FAILED_STARTS, Patience, Restarts
from fooocus.jobs.store import RESTING, Job, JobStore, State, Terminal, unknown
from fooocus.jobs.worker import WorkItem

_RUNNING: tuple[State, ...] = ("running",)
_WAITING: tuple[State, ...] = ("waiting",)


class Jobs(Renewal):
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
        self._rested = threading.Condition(self._lock)  # the worker has no job any more, or has ended
        self._shut = threading.Event()
        self._board = Board(store, self._lock, lambda: self._state.job)
        self.orders = Orders(store, self._board, self._lock, self._ask, self._wish)
        self._state = WorkerState("starting")
        self._process: WorkerProcess | None = None
        self._alive = False  # false from the worker's end on, while its job is still being ended
        self._started_at = 0.0
        self._claim_at = 0.0  # not before
        self._restarts = Restarts(self._patience.backoff_seconds)
        self._begun = False  # the worker has taken up the running job
        self._work = True  # a waiting job may be in the store
        self._stops: dict[str, float] = {}  # running jobs that shall stop, and when patience ends
        self._wishes: dict[str, bool] = {}  # of running jobs: whether they were last asked to pause, or to go on
        self.recovered, self.given_up = store.recover()
        sweep(store)
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self._dispatcher.start()

    def submit(
        self, request: dict[str, Any], owner: str, *, key: str | None = None, replaces: str | None = None
    ) -> str:
        """Queue a job and return its id; it is on disk by then. The same ``key`` sent again returns the same job.

        A resting job of the same owner that is named by ``replaces`` leaves the queue, and the new one has its place.
        """
        id = self.store.submit(request, owner, key=key, replaces=replaces).id
        gone = self.store.get(replaces) if replaces else None
        with self._lock:
            self._board.feed(id)
            if gone is not None and gone.state == "cancelled":
                self._board.cancelled(gone.id)
            self._ask()
        return id

    def job(self, id: str) -> Job:
        """Return a job. Raises :class:`RequestError` when there is none."""
        if (job := self.store.get(id)) is None:
            raise unknown(id)
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
            feed = self._board.feed(id)
            feed.changed.wait_for(lambda: feed.after(after) or feed.ended or self._shut.is_set(), timeout)
            return feed.after(after)

    def cancel(self, id: str) -> bool:
        """Take a resting job out of the queue or ask a running one to stop; return whether it was either.

        A running job that does not stop in time loses its worker. Raises :class:`RequestError` for an unknown job.
        """
        while not self.store.cancel(id):
            with self._lock:
                if (state := self.job(id).state) == "running":
                    self._stops.setdefault(id, time.monotonic() + self._patience.stop_seconds)
                    if self._process is not None:
                        self._process.send({"stop": id})
                    self._wake.notify()
                    return True
            if state not in RESTING:  # else it has left the card in between
                return False
        with self._lock:
            self._board.cancelled(id)
        return True

    def skip(self, id: str) -> bool:
        """Ask a running job to go on with its next picture; return whether it is running."""
        with self._lock:
            if self._process is None or self._state.job != id:
                return False
            self._process.send({"skip": id})
            return True

    def idle(self) -> bool:
        """Return whether no job runs, and none waits that nobody holds back."""
        return not self.store.queue() and not self.store.list(states=_RUNNING, limit=1)

    def worker_state(self) -> WorkerState:
        """Return what the worker is doing."""
        with self._lock:
            return dataclasses.replace(self._state, pid=self._process.pid if self._process else None)

    def close(self) -> None:
        """End the worker. A running job is the next start's first, its attempt uncounted; one asked to pause rests."""
        with self._lock:
            self._shut.set()
            self._wake.notify()
            self._board.wake_all()
            if self._state.job is not None and self._process is not None:
                self._process.send({"pause": self._state.job})  # no wish of the person, who may have one
            self._rested.wait_for(lambda: self._state.job is None or not self._alive, self._patience.close_seconds)
        self._dispatcher.join()
        if self._process is not None:
            self._process.close(self._patience.close_seconds)
        if (id := self._state.job) is not None:
            try:
                self._put_back(id, self.job(id).paused)
            except StorageError as error:
                _log().warning("job %s is put back at the next start: %s", id, error)

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
            feed = self._board.feed(job.id, job)
            if process is not None and process is self._process and self._alive:
                feed.started, self._begun = True, False
                self._state = WorkerState("busy", job=job.id)
                self._board.tell_queue()
                item = WorkItem(job.id, job.request, job.created_ms, job.attempts, job.saved, job.paused)
                process.send({"run": item.to_json()})
                if self._wishes.get(job.id):
                    process.send({"pause": job.id})
                return
        self._take_back(job.id)

    def _take_back(self, id: str) -> None:
        """The worker died before it took up a claimed job, which therefore is not to blame and waits again."""
        if self._durably(id, lambda: self.store.release(id)):
            with self._lock:
                self._work = True
                self._board.feed(id).started = False
                self._state = dataclasses.replace(self._state, job=None)
                stopped, rests = self._stops.pop(id, None) is not None, self._wishes.pop(id, False)
            if stopped:
                self.cancel(id)
            elif rests:
                self.orders.pause(id)

    # The reading thread of the worker.

    def _heard(self, process: WorkerProcess, message: dict[str, Any]) -> None:
        """Take one message of the worker."""
        if "ready" in message:
            return self._idle()
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
        elif isinstance(event, events.LAST):
            self._rest(id, event) if isinstance(event, Paused) else self._end(id, event)
            self._idle()
        elif not isinstance(event, Saved) or self._durably(id, lambda: self.store.record(id, event)):
            with self._lock:
                self._board.publish(id, event)

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
            self._rested.notify_all()
        if self._shut.is_set():
            return
        words, remedy = deaths.explain(code)
        ready = state.phase in ("ready", "busy")
        if process.killed:
            late = "did not answer to Stop and was ended" if ready else "was not ready in time and was ended"
            words, remedy = process.words or late, "Generate again."
        sentence = f"The worker process {words}."
        _log().warning("%s Job: %s. Exit code: %s.", sentence, state.job, code)
        if state.job is not None and not self._begun:
            self._take_back(state.job)
        elif state.job is not None:
            fault = Failed("WorkerError", sentence, remedy)
            self._end(state.job, Cancelled() if state.job in self._stops else fault)
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
            for id in self._board.ahead():
                self._end(id, failed, states=_WAITING)

    def _rest(self, id: str, paused: Paused) -> None:
        """The worker has left its job where it can go on: in this life of the page, or in the next."""
        if not self._durably(id, lambda: self._put_back(id, paused)):
            return
        with self._lock:
            stopped, stays = id in self._stops, self._wishes.get(id) is False
            self._leave(id)
            self._board.publish(id, paused)
            self._board.feed(id).started = False
            self._board.tell_queue()
        if stopped:
            self.cancel(id)
        elif stays and not self._shut.is_set():
            self.orders.resume(id)

    # Shared by the threads.

    def _put_back(self, id: str, paused: Paused | None) -> bool:
        """Let a running job rest, or, when the program closes and nobody asked for a pause, be the next one."""
        if self._shut.is_set() and not self._wishes.get(id):
            return self.store.release(id, paused)
        return self.store.rest(id, paused or Paused())

    def _wish(self, id: str, *, pause: bool) -> bool:
        """Tell the worker to leave its job or to stay with it; return whether it has this job, or is about to."""
        with self._lock:
            if self.job(id).state != "running":
                return False
            self._wishes[id] = pause
            if self._process is not None and self._state.job == id:
                self._process.send({"pause" if pause else "resume": id})
            return True

    def _ask(self) -> None:
        """A job may be there to begin. Held: the lock."""
        self._work = True
        if self._state.phase == "down":
            self._restarts.asked()
            self._state = WorkerState("restarting", self._state.reason)
        self._wake.notify()

    def _leave(self, id: str) -> None:
        """The worker's job is no longer its job. Held: the lock."""
        self._stops.pop(id, None)
        self._wishes.pop(id, None)
        self._work = True
        if self._state.job == id:
            self._state = dataclasses.replace(self._state, job=None)
            self._restarts.healthy()
            self._rested.notify_all()

    def _end(self, id: str, event: Terminal, *, states: Collection[State] = _RUNNING) -> None:
        """End a job: on disk first, then for the watchers."""
        done = self._durably(id, lambda: self.store.finish(id, event, states=states))
        with self._lock:
            if not done and self._shut.is_set():
                return
            self._leave(id)
            if done:
                self._board.publish(id, event)
                self._board.tell_queue()
        sweep(self.store)

    def _durably(self, id: str, write: Callable[[], bool]) -> bool:
        """Write to the store, see :func:`durably`; trouble with the disk is told on the job."""

        def tell(words: str) -> None:
            with self._lock:
                self._board.publish(id, Notice(words))

        return durably(write, tell, self._shut, self._patience.retry_seconds)


def _log() -> logging.Logger:
    return logging.getLogger("fooocus.jobs")

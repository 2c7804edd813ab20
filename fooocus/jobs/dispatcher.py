"""The worker's side of the jobs: keep one worker process alive, feed it one job at a time, publish what it says.

Read :mod:`fooocus.jobs.store` first: it decides what state a job is in. Here live only things that may be lost: the
worker, and the wishes about the job that it has. Each fact goes to the store before it is published.

Two threads of its own meet the callers' under one lock, which is never held while something is written to disk or to a
pipe: one dispatches, that is starts workers, hands out jobs and ends workers that do not answer; the other reads what
the present worker says.
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
from fooocus.events import Cancelled, Failed, Notice, Paused, Saved
from fooocus.jobs import deaths
from fooocus.jobs.board import Board
from fooocus.jobs.durable import durably
from fooocus.jobs.orders import Orders
from fooocus.jobs.paused import sweep
from fooocus.jobs.process import RotatedLog, WorkerProcess, WorkerState
from fooocus.jobs.restarts import FAILED_STARTS, Patience, Restarts
from fooocus.jobs.store import JobStore, State, Terminal, unknown
from fooocus.jobs.worker import WorkItem

_RUNNING: tuple[State, ...] = ("running",)
_WAITING: tuple[State, ...] = ("waiting",)


@dataclasses.dataclass(frozen=True)
class HowToStart:
    """The command line and environment of a worker, what it is told before anything else, and its log file.

    After a start that failed ``prepare`` is told empty: what it wants done ahead of jobs may be what kills the worker.
    """

    command: Sequence[str]
    environment: Mapping[str, str] | None
    log: Path
    prepare: dict[str, Any]


class Dispatcher:
    """Keep a worker and give it the jobs of ``store``, until :meth:`close`."""

    def __init__(self, store: JobStore, how: HowToStart, patience: Patience) -> None:
        self.store = store
        self._patience = patience
        self._prepare = how.prepare
        self._spawn = functools.partial(
            WorkerProcess, how.command, how.environment, RotatedLog(how.log), heard=self._heard, gone=self._gone
        )
        self.lock = threading.RLock()
        self.shut = threading.Event()
        self.board = Board(store, self.lock, lambda: self._state.job)
        self.orders = Orders(store, self.board, self.lock, self)
        self._wake = threading.Condition(self.lock)  # something for the dispatcher
        self._rested = threading.Condition(self.lock)  # the worker has no job any more, or has ended
        self._state = WorkerState("starting")
        self._process: WorkerProcess | None = None
        self._alive = False  # false from the worker's end on, while its job is still being ended
        self._started_at = 0.0
        self._claim_at = 0.0  # not before
        self._restarts = Restarts(self._patience.backoff_seconds)
        self._begun = False  # the worker has taken up the running job
        self._work = True  # a waiting job may be in the store
        self.stops: dict[str, float] = {}  # running jobs that shall stop, and when patience ends
        self._wishes: dict[str, bool] = {}  # of running jobs: whether they were last asked to pause, or to go on
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)

    def begin(self) -> None:
        """Start a worker and go on from there."""
        self._thread.start()

    # What callers ask.

    def worker_state(self) -> WorkerState:
        """Return what the worker is doing."""
        with self.lock:
            return dataclasses.replace(self._state, pid=self._process.pid if self._process else None)

    def ask(self) -> None:
        """A job may be there to begin. Held: the lock."""
        self._work = True
        if self._state.phase == "down":
            self._restarts.asked()
            self._state = WorkerState("restarting", self._state.reason)
        self._wake.notify()

    def stop(self, id: str) -> bool:
        """Ask the running job to stop, if this is it; return whether it is. One that is too slow loses its worker."""
        with self.lock:
            if self._stored(id) != "running":
                return False
            self.stops.setdefault(id, time.monotonic() + self._patience.stop_seconds)
            if self._process is not None:
                self._process.send({"stop": id})
            self._wake.notify()
            return True

    def wish(self, id: str, *, pause: bool) -> bool:
        """Tell the worker to leave its job or to stay with it; return whether it has this job, or is about to."""
        with self.lock:
            if self._stored(id) != "running":
                return False
            self._wishes[id] = pause
            if self._process is not None and self._state.job == id:
                self._process.send({"pause" if pause else "resume": id})
            return True

    def skip(self, id: str) -> bool:
        """Ask a running job to go on with its next picture; return whether it is running."""
        with self.lock:
            if self._process is None or self._state.job != id:
                return False
            self._process.send({"skip": id})
            return True

    def renew(self) -> bool:
        """End the worker if it is idle; return whether it was. Jobs that come meanwhile wait for the next one.

        Nothing short of this gives everything back: libraries keep memory for later use, on cards and off them.
        """
        with self.lock:
            if self._process is None or self._state.phase != "ready":
                return False
            self._process.kill("was ended to free its memory")
            return True

    def close(self) -> None:
        """End the worker. A running job is the next start's first, its attempt uncounted; one asked to pause rests."""
        with self.lock:
            self.shut.set()
            self._wake.notify()
            self.board.wake_all()
            if self._state.job is not None and self._process is not None:
                self._process.send({"pause": self._state.job})  # no wish of the person, who may have one
            self._rested.wait_for(lambda: self._state.job is None or not self._alive, self._patience.close_seconds)
        self._thread.join()
        if self._process is not None:
            self._process.close(self._patience.close_seconds)
        if (id := self._state.job) is not None:
            try:
                job = self.store.get(id)
                self._put_back(id, job.paused if job else None)
            except StorageError as error:
                _log().warning("job %s is put back at the next start: %s", id, error)

    # The dispatching thread.

    def _dispatch(self) -> None:
        while True:
            with self.lock:
                if self.shut.is_set():
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
        elif self._state.job in self.stops:
            limit = self.stops[self._state.job]
        if limit is None or process.killed:
            return None, None
        return (process.kill, None) if now >= limit else (None, limit - now)

    def _start(self) -> None:
        try:
            process = self._spawn()
        except OSError as error:
            self._after_death(f"The worker could not be started: {error}.", ready=False)
            return
        with self.lock:
            self._process, self._alive, self._started_at = process, True, time.monotonic()
        process.send({"prepare": {} if self._restarts.failing else self._prepare})
        process.listen()

    def _hand_out(self) -> None:
        """Claim the next job and send it to the worker."""
        with self.lock:
            process, self._work = self._process, False
        try:
            job = self.store.claim_next()
        except StorageError as error:
            _log().warning("no job could be claimed: %s", error)
            with self.lock:
                self._work, self._claim_at = True, time.monotonic() + self._patience.retry_seconds
                if self._state.phase == "ready":  # else the worker has died meanwhile, and that is the reason
                    self._state = WorkerState("ready", str(error))
            return
        if job is None:
            with self.lock:
                if self._state.phase == "ready":
                    self._state = WorkerState("ready")  # the queue can be read again
            return
        with self.lock:
            feed = self.board.feed(job.id, job)
            if process is not None and process is self._process and self._alive:
                feed.started, self._begun = True, False
                self._state = WorkerState("busy", job=job.id)
                self.board.tell_queue()
                item = WorkItem(job.id, job.request, job.created_ms, job.attempts, job.saved, job.paused)
                process.send({"run": item.to_json()})
                if self._wishes.get(job.id):
                    process.send({"pause": job.id})
                return
        self._take_back(job.id)

    def _take_back(self, id: str) -> None:
        """The worker died before it took up a claimed job, which therefore is not to blame and waits again."""
        if self._durably(id, lambda: self.store.release(id)):
            with self.lock:
                self._work = True
                self.board.feed(id).started = False
                self._state = dataclasses.replace(self._state, job=None)
                stopped, rests = self.stops.pop(id, None) is not None, self._wishes.pop(id, False)
            if stopped:
                self.orders.cancel(id)
            elif rests:
                self.orders.pause(id)

    # The reading thread of the worker.

    def _heard(self, process: WorkerProcess, message: dict[str, Any]) -> None:
        """Take one message of the worker."""
        if "ready" in message:
            # Its own number: where a small program starts Python, as in Windows' environments, the process has another.
            process.pid = int(message["ready"].get("pid", process.pid))
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
            with self.lock:
                self.board.publish(id, event)

    def _idle(self) -> None:
        """The worker can take a job."""
        with self.lock:
            if self._state.job is None:
                self._state = WorkerState("ready")
                self._wake.notify()

    def _gone(self, process: WorkerProcess, code: int) -> None:
        """The worker has ended: end its job with the reason and have another started."""
        with self.lock:
            self._alive, state = False, self._state
            self._rested.notify_all()
        if self.shut.is_set():
            return
        words, remedy = deaths.explain(code)
        ready = state.phase in ("ready", "busy")
        if process.killed:
            late = "did not answer to Stop and was ended" if ready else "was not ready in time and was ended"
            words, remedy = process.words or late, "Generate again."
        sentence = f"The worker process {words}."
        _log().warning("%s Job: %s. The process: %s.", sentence, state.job, deaths.named(code))
        if state.job is not None and not self._begun:
            self._take_back(state.job)
        elif state.job in self.stops:
            self._end(state.job, Cancelled())
        elif state.job is not None:
            self._end(state.job, Failed("WorkerError", sentence, remedy))
            sentence = ""  # the job says it; the line about the worker need not say it again
        self._after_death(sentence, ready=ready, tail=tuple(process.tail))

    def _after_death(self, sentence: str, *, ready: bool, tail: Sequence[str] = ()) -> None:
        """Plan the next start, or give up until somebody asks for it again.

        Then one job ends with the reason, the next one, so that somebody is told in full. The others are not to blame:
        they wait, and go on when the worker is asked for again.
        """
        now = time.monotonic()
        with self.lock:
            if self._state.job is not None:
                return  # closing, with the job's end unwritten: close() puts it back
            self._process = None
            down = self._restarts.died(now, ready=ready, lived_seconds=now - self._started_at)
            self._work = True
            self._state = WorkerState("down" if down else "restarting", sentence)
            self._wake.notify()
        if down:
            failed = deaths.stays_down(FAILED_STARTS, sentence, tail)
            for id in list(self.board.ahead())[:1]:
                self._end(id, failed, states=_WAITING)

    def _rest(self, id: str, paused: Paused) -> None:
        """The worker has left its job where it can go on: in this life of the page, or in the next."""
        if not self._durably(id, lambda: self._put_back(id, paused)):
            return
        with self.lock:
            stopped, stays = id in self.stops, self._wishes.get(id) is False
            self._leave(id)
            self.board.publish(id, paused)
            self.board.feed(id).started = False
            self.board.tell_queue()
        if stopped:
            self.orders.cancel(id)
        elif stays and not self.shut.is_set():
            self.orders.resume(id)

    # Shared by the threads.

    def _put_back(self, id: str, paused: Paused | None) -> bool:
        """Let a running job rest, or, when the program closes and nobody asked for a pause, be the next one."""
        if self.shut.is_set() and not self._wishes.get(id):
            return self.store.release(id, paused)
        return self.store.rest(id, paused or Paused())

    def _leave(self, id: str) -> None:
        """The worker's job is no longer its job. Held: the lock."""
        self.stops.pop(id, None)
        self._wishes.pop(id, None)
        self._work = True
        if self._state.job == id:
            self._state = dataclasses.replace(self._state, job=None)
            self._restarts.healthy()
            self._rested.notify_all()

    def _end(self, id: str, event: Terminal, *, states: Collection[State] = _RUNNING) -> None:
        """End a job: on disk first, then for the watchers."""
        done = self._durably(id, lambda: self.store.finish(id, event, states=states))
        with self.lock:
            if not done and self.shut.is_set():
                return
            self._leave(id)
            if done:
                self.board.publish(id, event)
                self.board.tell_queue()
        sweep(self.store)

    def _durably(self, id: str, write: Callable[[], bool]) -> bool:
        """Write to the store, see :func:`durably`; trouble with the disk is told on the job."""

        def tell(words: str) -> None:
            with self.lock:
                self.board.publish(id, Notice(words))

        return durably(write, tell, self.shut, self._patience.retry_seconds)

    def _stored(self, id: str) -> State:
        """Return the state of a job. Raises :class:`RequestError` for an unknown one."""
        if (job := self.store.get(id)) is None:
            raise unknown(id)
        return job.state


def _log() -> logging.Logger:
    return logging.getLogger("fooocus.jobs")

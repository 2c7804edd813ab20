"""The board of the jobs room: every job's feed, the numbering of events, and who stands where in the queue.

Nothing here is lost with the program that the store does not know: a feed is rebuilt from a job's row. Every method is
called with the lock held that the board was made with.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from fooocus.errors import StorageError
from fooocus.events import Cancelled, Event, LeftOut, Paused, Queued, Step
from fooocus.jobs.feed import Feed
from fooocus.jobs.store import Job, JobStore, unknown

_FEEDS_KEPT = 256  # jobs whose events stay in memory; those of older jobs are rebuilt from the store
_LIFE = 1 << 32  # event numbers of one life of the page process; the sum stays exact in JavaScript


class Board:
    """The feeds of all jobs. ``running`` answers with the id of the job that the worker has."""

    def __init__(self, store: JobStore, lock: threading.RLock, running: Callable[[], str | None]) -> None:
        self._store, self._lock, self._running = store, lock, running
        self._feeds: dict[str, Feed] = {}
        self._listeners: dict[str, set[Callable[[], object]]] = {}
        self._number = store.begin_life() * _LIFE

    def feed(self, id: str, job: Job | None = None) -> Feed:
        """Return a job's feed, rebuilt from the store when it is not in memory. Raises :class:`RequestError`."""
        feed = self._feeds.get(id)
        if feed is not None:
            return feed
        job = job or self._store.get(id)
        if job is None:
            raise unknown(id)
        feed = self._feeds[id] = Feed(self._lock)
        for event in self._past(job):
            self.publish(id, event)
        ended = [old for old, kept in self._feeds.items() if kept.ended and old != id]
        for old in ended[: max(0, len(self._feeds) - _FEEDS_KEPT)]:
            del self._feeds[old]
        return feed

    def publish(self, id: str, event: Event) -> None:
        """Number an event and give it to the watchers, if there ever was one."""
        feed = self._feeds.get(id)
        if feed is not None:
            self._number += 1
            feed.add(self._number, event)
            self._ring(id)

    def cancelled(self, id: str) -> None:
        """Tell that a job has left the queue, and the others where they stand now."""
        self.publish(id, Cancelled())
        self.tell_queue()

    def begin_again(self, id: str) -> None:
        """Forget that a job had ended; who watches it from now on sees it as it is in the store."""
        self._feeds.pop(id, None)
        self._ring(id)

    def listen(self, id: str, heard: Callable[[], object]) -> Callable[[], None]:
        """Call ``heard`` at every change of a job's feed, with the lock held; return what ends that. Takes the lock."""
        with self._lock:
            self._listeners.setdefault(id, set()).add(heard)

        def end() -> None:
            with self._lock:
                if listeners := self._listeners.get(id):
                    listeners.discard(heard)
                    if not listeners:
                        del self._listeners[id]

        return end

    def _ring(self, id: str) -> None:
        for heard in self._listeners.get(id, ()):
            heard()

    def tell_queue(self) -> None:
        """Tell the watchers of waiting jobs where they stand, if that has changed."""
        for id, ahead in self.ahead().items():
            feed = self._feeds.get(id)
            if feed is not None and not feed.started and feed.ahead != ahead:
                self.publish(id, Queued(ahead))

    def ahead(self) -> dict[str, int]:
        """Return for each waiting job how many run before it."""
        try:
            queue = self._store.queue()
        except StorageError as error:
            logging.getLogger("fooocus.jobs").warning("the queue cannot be read: %s", error)
            return {}
        return {id: place + (self._running() is not None) for place, id in enumerate(queue)}

    def wake_all(self) -> None:
        """Wake every watcher: there will be no more events."""
        for feed in self._feeds.values():
            feed.changed.notify_all()
        for id in self._listeners:
            self._ring(id)

    def _past(self, job: Job) -> list[Event]:
        """Return the events that the store's row of a job stands for."""
        past: list[Event] = [*job.saved]
        if job.terminal:
            return [*past, job.terminal]
        rests = job.paused
        if rests is not None:
            past += [LeftOut(picture, rests.pictures) for picture in rests.skipped]
            steps = dict(rests.kept) | ({rests.picture: rests.step} if rests.step else {})
            others = (picture for picture in steps if picture != rests.picture)
            past += [Step(picture, rests.pictures, steps[picture], rests.steps) for picture in others]
            if rests.step:
                past.append(Step(rests.picture, rests.pictures, rests.step, rests.steps, rests.preview))
        if job.state == "paused":
            return [*past, dataclasses.replace(rests or Paused(), preview=None)]
        return [*past, Queued(self.ahead().get(job.id, 0))]

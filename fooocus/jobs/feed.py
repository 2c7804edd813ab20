"""The events of one job as watchers read them: numbered, awaitable, bounded.

A number never falls and is never given twice, so a watcher that lost its connection asks for everything after the last
number it saw. What a late watcher cannot use is dropped: pictures of old steps at once, old steps when there are
thousands.
"""

from __future__ import annotations

import bisect
import dataclasses
import threading

from fooocus import events
from fooocus.events import Event, Queued, Stage, Step

_KEPT = 2000  # events per job; 32 pictures of 60 steps fit
_PASSING = (Queued, Stage, Step)  # what may be dropped: the next of its kind says it again


class Feed:
    """The events of one job. Not thread-safe by itself: every use holds ``lock``, which ``changed`` is built on."""

    def __init__(self, lock: threading.RLock) -> None:
        self.changed = threading.Condition(lock)
        self.ended = False
        self.started = False  # handed to a worker
        self.ahead = -1  # jobs before this one, as last told
        self._events: list[tuple[int, Event]] = []

    def add(self, number: int, event: Event) -> None:
        """Append an event and wake the watchers; nothing is added after a terminal event."""
        if self.ended:
            return
        if isinstance(event, Step):
            self._drop_preview()
        if isinstance(event, Queued):
            self.ahead = event.ahead
        self._events.append((number, event))
        self.ended = isinstance(event, events.TERMINAL)
        if len(self._events) > _KEPT:
            self._thin()
        self.changed.notify_all()

    def after(self, number: int) -> list[tuple[int, Event]]:
        """Return the events with greater numbers."""
        return self._events[bisect.bisect_right(self._events, number, key=lambda entry: entry[0]) :]

    def _drop_preview(self) -> None:
        """Only the newest picture is worth its memory: a watcher that is late wants that one."""
        for place in range(len(self._events) - 1, -1, -1):
            number, event = self._events[place]
            if isinstance(event, Step):
                self._events[place] = (number, dataclasses.replace(event, preview=None))
                return

    def _thin(self) -> None:
        """Drop the passing events of the older half; how far each picture is can still be read off its last step."""
        half = len(self._events) // 2
        last = {event.picture: number for number, event in self._events if isinstance(event, Step)}
        kept = {*last.values()}
        self._events[:half] = [
            entry for entry in self._events[:half] if entry[0] in kept or not isinstance(entry[1], _PASSING)
        ]

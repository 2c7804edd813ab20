"""A fresh worker on request: what an idle one holds in memory goes back to the system, and another starts."""

from __future__ import annotations

import threading

from fooocus.jobs.process import WorkerProcess, WorkerState


class Renewal:
    """The part of :class:`~fooocus.jobs.supervisor.Jobs` that gives memory back."""

    _lock: threading.RLock
    _process: WorkerProcess | None
    _state: WorkerState

    def renew(self) -> bool:
        """End the worker if it is idle; return whether it was. Jobs that come meanwhile wait for the next one.

        Nothing short of this gives everything back: libraries keep memory for later use, on cards and off them.
        """
        with self._lock:
            if self._process is None or self._state.phase != "ready":
                return False
            self._process.kill("was ended to free its memory")
            return True

"""The jobs as the page has them: ask for one, watch it, order it about.

Who works on them is :mod:`fooocus.jobs.dispatcher`'s affair, and what state each is in that of
:mod:`fooocus.jobs.store`. Every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fooocus.events import Event
from fooocus.jobs.census import Around
from fooocus.jobs.dispatcher import Dispatcher, HowToStart
from fooocus.jobs.paused import sweep
from fooocus.jobs.process import WorkerState
from fooocus.jobs.restarts import Patience
from fooocus.jobs.store import Job, JobStore, State, unknown

_RUNNING: tuple[State, ...] = ("running",)


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
        how = HowToStart(command, environment, log, prepare or {})
        self._dispatcher = Dispatcher(store, how, patience or Patience())
        self._lock, self._board = self._dispatcher.lock, self._dispatcher.board
        self.orders = self._dispatcher.orders
        self.recovered, self.given_up = store.recover()
        sweep(store)
        self._dispatcher.begin()

    def submit(
        self, request: dict[str, Any], owner: str, *, key: str | None = None, replaces: str | None = None
    ) -> str:
        """Queue a job and return its id; it is on disk by then. The same ``key`` sent again returns the same job.

        A resting job of the same owner that is named by ``replaces`` leaves the queue, and the new one has its place.
        """
        job = self.store.submit(request, owner, key=key, replaces=replaces)
        gone = self.store.get(replaces) if replaces else None
        with self._lock:
            self._board.feed(job.id, job)
            if gone is not None and gone.state == "cancelled":
                self._board.cancelled(gone.id)
            self._dispatcher.ask()
        return job.id

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

    def around(self, owner: str) -> Around:
        """Return what is going on with all jobs of ``owner``. Asked again and again it costs nothing: see Census."""
        return self.store.census().around(owner)

    def events(self, id: str, after: int = 0, timeout: float = 0.0) -> list[tuple[int, Event]]:
        """Return a job's events numbered above ``after``, waiting up to ``timeout`` seconds for the first.

        Numbers rise but leave gaps. Nothing comes after the terminal event. For a job of an earlier life of the page
        process these are rebuilt: what was saved, and how it ended. Raises :class:`RequestError` for an unknown job.
        """
        with self._lock:
            feed = self._board.feed(id)
            shut = self._dispatcher.shut
            feed.changed.wait_for(lambda: feed.after(after) or feed.ended or shut.is_set(), timeout)
            return feed.after(after)

    def listen(self, id: str, heard: Callable[[], object]) -> Callable[[], None]:
        """Have ``heard`` called whenever a job may have news, until what is returned is called.

        It is called by any thread, with a lock held: it must return at once and not ask for anything.
        """
        return self._board.listen(id, heard)

    def cancel(self, id: str) -> bool:
        """Take a resting job out of the queue or ask a running one to stop; return whether it was either.

        A running job that does not stop in time loses its worker. Raises :class:`RequestError` for an unknown job.
        """
        return self.orders.cancel(id)

    def skip(self, id: str) -> bool:
        """Ask a running job to go on with its next picture; return whether it is running."""
        return self._dispatcher.skip(id)

    def renew(self) -> bool:
        """End the worker if it is idle, so that all its memory is free; return whether it was. Another one starts."""
        return self._dispatcher.renew()

    def idle(self) -> bool:
        """Return whether no job runs, and none waits that nobody holds back."""
        return not self.store.queue() and not self.store.list(states=_RUNNING, limit=1)

    def worker_state(self) -> WorkerState:
        """Return what the worker is doing."""
        return self._dispatcher.worker_state()

    def close(self) -> None:
        """End the worker. A running job is the next start's first, its attempt uncounted; one asked to pause rests."""
        self._dispatcher.close()

"""What people may do with their jobs: order them, pause them, hold them all back, let them go on, take them back.

Whether a person may do it at all, the page has asked before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from fooocus.events import Paused, Queued
from fooocus.jobs.board import Board
from fooocus.jobs.store import RESTING, JobStore, State

_RUNNING: tuple[State, ...] = ("running",)


class Hands(Protocol):
    """Whoever has the worker: told that a job may be there to begin, and how the running job is spoken to."""

    def ask(self) -> None: ...

    def stop(self, id: str) -> bool: ...

    def wish(self, id: str, *, pause: bool) -> bool: ...


class Orders:
    """Orders on jobs. ``hands`` are told, with ``lock`` held, that a job may be there to begin.

    They tell the worker to stop, to leave its job or to stay with it, if it has this very one, and return whether it
    has. Every method writes to the disk first, and raises :class:`~fooocus.errors.StorageError` when that fails.
    """

    def __init__(self, store: JobStore, board: Board, lock: threading.RLock, hands: Hands) -> None:
        self._store, self._board, self._lock, self._hands = store, board, lock, hands

    def cancel(self, id: str) -> bool:
        """Take a resting job out of the queue or ask a running one to stop; return whether it was either.

        Raises :class:`RequestError` for an unknown job.
        """
        while not self._store.cancel(id):
            if self._hands.stop(id):
                return True
            job = self._store.get(id)
            if job is None or job.state not in RESTING:  # else it has left the card in between
                return False
        with self._lock:
            self._board.cancelled(id)
        return True

    def arrange(self, owner: str, ids: Sequence[str]) -> bool:
        """Bring the waiting jobs of ``owner`` into this order; return whether that changed anything."""
        changed = self._store.arrange(owner, ids)
        with self._lock:
            self._board.tell_queue()
        return changed

    def pause(self, id: str) -> bool:
        """Let a waiting job rest, or ask a running one to leave the card; return whether it was either."""
        if not self._store.pause(id):
            return self._hands.wish(id, pause=True)
        with self._lock:
            self._board.feed(id)
            self._board.publish(id, Paused())
            self._board.tell_queue()
        return True

    def resume(self, id: str) -> bool:
        """Let a paused job wait again, where it was in the queue, or a running one that was asked to pause go on.

        Returns whether it was either.
        """
        return self._back(id, self._store.resume(id)) or self._hands.wish(id, pause=False)

    def hold(self, owner: str) -> None:
        """Begin no more jobs of ``owner`` until :meth:`let_go`, after a restart too; a running one is paused."""
        self._store.hold(owner)
        for job in self._store.list(owner, _RUNNING):
            self._hands.wish(job.id, pause=True)
        with self._lock:
            self._board.tell_queue()

    def restore(self, id: str, *, paused: bool = False) -> bool:
        """Put a cancelled job back where it was in the queue; return whether it was cancelled."""
        restored = self._store.restore(id, paused=paused)
        if restored:
            with self._lock:
                self._board.begin_again(id)
        return self._back(id, restored and not paused) or restored

    def let_go(self, owner: str) -> bool:
        """Let the jobs of ``owner`` begin again; return whether they were held back."""
        let_go = self._store.let_go(owner)
        for job in self._store.list(owner, _RUNNING):
            self._hands.wish(job.id, pause=False)
        with self._lock:
            self._board.tell_queue()
            self._hands.ask()
        return let_go

    def adopt(self, old: str, new: str) -> None:
        """Give the jobs of ``old`` to ``new``: one person's two browsers have become one.

        If either has held its jobs back, all of them are held now.
        """
        self._store.adopt(old, new)
        if self._store.held(new):
            self.hold(new)

    def held(self, owner: str) -> bool:
        """Return whether the jobs of ``owner`` are held back."""
        return self._store.held(owner)

    def _back(self, id: str, waits: bool) -> bool:
        """A job waits again, if it does: tell it and the others where they stand."""
        if waits:
            with self._lock:
                self._board.feed(id).started = False
                self._board.publish(id, Queued(self._board.ahead().get(id, 0)))
                self._board.tell_queue()
                self._hands.ask()
        return waits

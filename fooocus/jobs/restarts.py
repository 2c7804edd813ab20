"""How patient the page is with its worker: the time limits, and when a dead one is started again.

No clock and no process in here, so the policy can be read and tested by itself.
"""

from __future__ import annotations

import dataclasses

FAILED_STARTS = 5  # in a row, before a worker stays down
_LONGEST_SECONDS = 60.0  # between two starts; a worker that lived longer was a healthy one


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for a worker, in seconds."""

    stop_seconds: float = 20.0  # for an answer to a stop, before the worker is killed
    start_seconds: float = 900.0  # for a start: a first import of torch from a slow disk takes minutes
    close_seconds: float = 5.0  # for leaving, before it is killed
    backoff_seconds: float = 0.5  # before the third start in a row, doubled for each further one
    retry_seconds: float = 1.0  # between two tries to write to a full disk


class Restarts:
    """Count deaths in a row and derive ``start_at``, the moment before which no worker is started.

    ``backoff_seconds`` is the delay after the second death in a row; it doubles with each further one. A death in the
    middle of a job is followed by a start at once, because the job ends with it and the next job may be harmless.
    """

    def __init__(self, backoff_seconds: float) -> None:
        self.start_at = 0.0
        self._backoff_seconds = backoff_seconds
        self._deaths = 0  # in a row, while starting or idle
        self._failed_starts = 0  # in a row

    def died(self, now: float, *, ready: bool, lived_seconds: float) -> bool:
        """Count a death and plan the next start; return whether the worker has to stay down."""
        self._deaths = self._deaths + 1 if lived_seconds < _LONGEST_SECONDS else 1
        self._failed_starts = 0 if ready else self._failed_starts + 1
        if self._deaths > 1:
            delay = self._backoff_seconds * 2.0 ** min(self._deaths - 2, 20)
            self.start_at = now + min(delay, _LONGEST_SECONDS)
        return self._failed_starts >= FAILED_STARTS

    @property
    def failing(self) -> bool:
        """Say whether the last start failed."""
        return self._failed_starts > 0

    def healthy(self) -> None:
        """A job came to its end: earlier deaths no longer count."""
        self._deaths = 0

    def asked(self) -> None:
        """Somebody wants the worker now: begin anew."""
        self._deaths = self._failed_starts = 0
        self.start_at = 0.0

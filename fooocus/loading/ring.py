"""A ring of device memory through which parcels pass in a fixed order, again and again.

Parcels lie one behind the other and leave in the order they came. As many as fit are sent ahead of their use; when the
last of a round is sent, the first of the next follows. A place is written again only after the work that read it, for
which every release leaves a mark (:mod:`fooocus.loading.lanes`).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from fooocus.loading.lanes import Lane, Mark, Parcel

_ARRIVED = object()


@dataclasses.dataclass
class _Held:
    number: int
    offset: int
    nbytes: int
    arrival: Mark


class Ring:
    """Memory for parcels on their way. ``rounds`` is what passes in a round: numbers of ``parcels``, in order."""

    def __init__(self, lane: Lane, nbytes: int, parcels: Sequence[Parcel]) -> None:
        self._lane = lane
        self._parcels = parcels
        self._buffer = lane.buffer(nbytes)
        self._held: deque[_Held] = deque()
        self._head = 0
        self._round: tuple[int, ...] = tuple(range(len(parcels)))
        self._next = 0  # place in the round of the parcel to be sent next
        self._free_after: Mark | None = lane.mark()

    @property
    def nbytes(self) -> int:
        """Its own memory on the device."""
        return self._buffer.numel()

    def start(self, numbers: Sequence[int]) -> None:
        """Begin a round of these parcels; what is here of it already, sent ahead in the last round, stays."""
        here = [held.number for held in self._held]
        wanted = tuple(numbers)
        if here != list(wanted[: len(here)]):
            self._drop(len(self._held))
            here = []
        self._round, self._next = wanted, len(here)
        self._top_up()

    def take(self, number: int) -> Tensor | None:
        """Return a parcel of this round, when the work may read it; None if it is not here. Earlier ones are let go."""
        here = [held.number for held in self._held]
        if number not in here:
            return None
        if here.index(number):
            self._drop(here.index(number))
            self._top_up()
        held = self._held[0]
        if held.arrival is not _ARRIVED:
            self._lane.wait(held.arrival)
            held.arrival = _ARRIVED
        return self._buffer[held.offset : held.offset + held.nbytes]

    def release(self, number: int) -> None:
        """Let a parcel go: the work that reads it is under way. The next ones are sent as far as there is room."""
        if self._held and self._held[0].number == number:
            self._drop(1)
            self._top_up()

    def _drop(self, count: int) -> None:
        for _ in range(count):
            held = self._held.popleft()
            if held.arrival is not _ARRIVED:
                self._lane.wait(held.arrival)  # or a copy still under way would meet the next one
        if count:
            self._free_after = self._lane.mark()

    def _top_up(self) -> None:
        """Send what fits: the rest of this round, then the beginning of the next, but nothing twice at a time."""
        while self._round and len(self._held) < len(self._round):
            number = self._round[self._next % len(self._round)]
            parcel = self._parcels[number]
            offset = self._place(parcel.nbytes)
            if offset is None:
                return
            target = self._buffer[offset : offset + parcel.nbytes]
            arrival = self._lane.send(target, parcel, self._free_after)
            self._held.append(_Held(number, offset, parcel.nbytes, arrival))
            self._head = offset + parcel.nbytes
            self._next += 1

    def _place(self, nbytes: int) -> int | None:
        """Return where the next parcel can lie, behind the newest and before the oldest."""
        size = self._buffer.numel()
        if not self._held:
            return 0 if nbytes <= size else None
        tail = self._held[0].offset
        if self._head > tail:
            if self._head + nbytes <= size:
                return self._head
            return 0 if nbytes <= tail else None
        return self._head if self._head + nbytes <= tail else None

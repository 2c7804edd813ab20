"""A graphics card that is main memory with a budget: what is too much for it is out of memory, as on a real one.

Weights are counted as copies that networks still point at, rings and other buffers as long as they live, and the work
of a network where a test says how much it takes. The lane is the worst one allowed: a parcel's place is spoilt the
moment it is sent, and its weights arrive only when somebody waits for them. It refuses a parcel whose place may still
be read: one that is sent without a mark made since the last one there was waited for.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fooocus.loading.device import Device
from fooocus.loading.lanes import Parcel


class Account:
    """Who holds how many bytes of the card."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = self.peak_bytes = 0
        self.full: Callable[[str], bool] = lambda what: False  # says when to be out of memory for no reason

    def take(self, nbytes: int, what: str) -> None:
        if self.full(what) or self.used_bytes + nbytes > self.budget_bytes:
            raise torch.OutOfMemoryError(f"the card is full: {what}")
        self.used_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def give(self, nbytes: int) -> None:
        self.used_bytes -= nbytes

    def own(self, tensor: Tensor, what: str) -> Tensor:
        """Count a tensor for as long as its memory lives."""
        nbytes = tensor.untyped_storage().nbytes()
        self.take(nbytes, what)
        weakref.finalize(tensor.untyped_storage(), self.give, nbytes)
        return tensor


class LateLane:
    """A lane on which everything is late; ``log`` notes what happened, for the tests to look at."""

    def __init__(self, account: Account) -> None:
        self.device = torch.device("cpu")
        self.account = account
        self.log: list[tuple[str, int, int]] = []
        self._time = 0
        self._coming: list[tuple[int, Tensor, Parcel]] = []
        # A place in memory, as _place tells it, and since when the work reads there.
        self._read: list[tuple[int, int, int, int]] = []

    def buffer(self, nbytes: int) -> Tensor:
        made = self.account.own(torch.empty(nbytes, dtype=torch.uint8), "ring")
        self._read = [read for read in self._read if read[0] != made.data_ptr()]  # where a freed one was
        return made

    def keep(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return self.account.own(tensor.to(dtype, copy=True), "weights")

    def pinned(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def send(self, target: Tensor, parcel: Parcel, after: int | None) -> int:
        self._time += 1
        storage, first, last = _place(target)
        since = [read[3] for read in self._read if read[0] == storage and read[1] < last and first < read[2]]
        assert not since or (after is not None and after > max(since)), "the work may still read what was there"
        target.fill_(255)  # NaN in every number format
        self.log.append(("sent", target.storage_offset(), target.numel()))
        self._coming.append((self._time, target, parcel))
        return self._time

    def wait(self, arrival: int) -> None:
        while self._coming and self._coming[0][0] <= arrival:
            _, target, parcel = self._coming.pop(0)
            if parcel.packed is not None:
                target.copy_(parcel.packed)
            else:
                parcel.fill(target)
            self.log.append(("here", target.storage_offset(), target.numel()))
            self._time += 1
            self._read.append((*_place(target), self._time))

    def mark(self) -> int:
        self._time += 1
        return self._time

    def close(self) -> None:
        self._coming.clear()


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """Return a tensor's memory, and its first byte and the one behind its last there."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.storage_offset() + tensor.numel()


@dataclasses.dataclass(frozen=True)
class FakeCard(Device):
    """A card of ``account``'s size. A ``blind`` one cannot tell what is free, a ``bare`` one's driver takes nothing."""

    account: Account = dataclasses.field(default_factory=lambda: Account(10**12))
    blind: bool = False
    bare: bool = False
    lanes: list[LateLane] = dataclasses.field(default_factory=list)
    taken: list[int] = dataclasses.field(default_factory=list)

    @property
    def apart(self) -> bool:
        return True

    def free_bytes(self) -> int | None:
        return None if self.blind else self.account.budget_bytes - self.account.used_bytes

    def total_bytes(self) -> int:
        return 0 if self.blind or self.bare else self.account.budget_bytes

    def place(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        copy = tensor.to(dtype=dtype or tensor.dtype, copy=True)
        return self.account.own(copy, "weights")

    def take(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.data = self.place(parameter.data)
        self.taken.append(id(module))

    @contextmanager
    def working(self, nbytes: int) -> Iterator[None]:
        """Count the memory that work takes beside the weights, until the block ends."""
        self.account.take(nbytes, "work")
        try:
            yield
        finally:
            self.account.give(nbytes)

    def lane(self) -> LateLane:
        self.lanes.append(LateLane(self.account))
        return self.lanes[-1]


def fake_card(budget_bytes: int = 10**12, *, blind: bool = False, bare: bool = False) -> FakeCard:
    return FakeCard(torch.device("cpu"), torch.float32, "a test's card", Account(budget_bytes), blind, bare)

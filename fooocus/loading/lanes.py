"""How weights travel to a device while it works: a lane carries parcels in order, beside the computation.

Three moments need order, and a lane knows no others: a parcel may be written only after the last work that reads its
place (``after``), work may begin only when its parcel has arrived (:meth:`Lane.wait`), and places are let go when work
has passed (:meth:`Lane.mark`). On NVIDIA's and AMD's cards these are events between two streams, and nothing ever waits
for the whole card. Elsewhere :class:`PlainLane` copies in line with the work, which is right on every device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

Mark = Any  # a point in the computation's or the lane's own time; only the lane that made it can read it

# Two buffers of main memory that the card reads at full speed, each as large as a parcel gets: one is filled from the
# file while the other is on its way.
_STAGES = 2


@dataclasses.dataclass(frozen=True)
class Piece:
    """A weight in a parcel: its offset in bytes, its number format there, and where it comes from."""

    offset: int
    dtype: torch.dtype
    source: Tensor

    @property
    def nbytes(self) -> int:
        """Its bytes in the parcel."""
        return self.source.numel() * self.dtype.itemsize

    def within(self, parcel: Tensor) -> Tensor:
        """Return its place in a parcel of bytes, in its own shape."""
        return parcel[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.source.shape)


@dataclasses.dataclass
class Parcel:
    """Weights that travel together. ``packed`` holds their bytes in one place when they were packed beforehand."""

    nbytes: int
    pieces: Sequence[Piece]
    packed: Tensor | None = None

    def fill(self, parcel: Tensor) -> None:
        """Write all pieces into a parcel of bytes in main memory."""
        for piece in self.pieces:
            piece.within(parcel).copy_(piece.source)


class Lane(Protocol):
    """The way to one device."""

    device: torch.device

    def buffer(self, nbytes: int) -> Tensor:
        """Return new bytes on the device. Raises torch's out-of-memory error."""

    def keep(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy that stays on the device, at once. Raises torch's out-of-memory error."""

    def pinned(self, nbytes: int) -> Tensor:
        """Return new bytes in main memory, such as the device reads at full speed if they can be had."""

    def send(self, target: Tensor, parcel: Parcel, after: Mark | None) -> Mark:
        """Begin to copy a parcel to ``target``, not before ``after``; return the moment of its arrival."""

    def wait(self, arrival: Mark) -> None:
        """Let the computation go on only when a parcel has arrived."""

    def mark(self) -> Mark:
        """Return the moment that the computation has reached."""

    def close(self) -> None:
        """Wait until nothing is on its way any more."""


class PlainLane:
    """Copies at once, in line with the computation; for devices without streams of their own.

    On Intel's cards, whose driver cannot read pages of a mapped file on every system, torch is told not to block: then
    it copies into pinned memory first (ATen's ``_copy_xpu``), and the order of calls is still the order of time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._passes_on = device.type == "xpu"

    def buffer(self, nbytes: int) -> Tensor:
        """Return new bytes on the device."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def keep(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy that stays on the device."""
        return tensor.to(self.device, dtype, copy=True, non_blocking=self._passes_on)

    def pinned(self, nbytes: int) -> Tensor:
        """Return new bytes of main memory."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def send(self, target: Tensor, parcel: Parcel, after: Mark | None) -> Mark:
        """Copy a parcel."""
        if parcel.packed is not None:
            target.copy_(parcel.packed, non_blocking=self._passes_on)
        else:
            for piece in parcel.pieces:
                # In its format first: a device need not know the one that is stored.
                piece.within(target).copy_(piece.source.to(piece.dtype), non_blocking=self._passes_on)
        return None

    def wait(self, arrival: Mark) -> None:
        """Do nothing: it is there."""

    def mark(self) -> Mark:
        """Return nothing: the order of calls is the order of time."""
        return None

    def close(self) -> None:
        """Do nothing."""


class CudaLane:
    """A stream of copies beside the stream of work; what is not pinned goes through two pinned buffers, in a thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._reader: ThreadPoolExecutor | None = None
        self._stages: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self._last: Future[torch.cuda.Event] | None = None

    def buffer(self, nbytes: int) -> Tensor:
        """Return new bytes on the device; the lane will not write to them before the work that had them is done."""
        made = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        made.record_stream(self._stream)
        return made

    def keep(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy that stays on the device."""
        return tensor.to(self.device, dtype, copy=True)

    def pinned(self, nbytes: int) -> Tensor:
        """Return new pinned bytes, or common ones where the system refuses to pin so many."""
        try:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:
            return torch.empty(nbytes, dtype=torch.uint8)

    def send(self, target: Tensor, parcel: Parcel, after: Mark | None) -> Mark:
        """Begin to copy a parcel; one from the file is read by a thread, so that the work is not held up."""
        if parcel.packed is not None and parcel.packed.is_pinned():
            if self._last is not None:  # parcels keep their order
                self._last.result()
            return self._copy(target, parcel.packed, after)
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._last = self._reader.submit(self._staged, target, parcel, after)
        return self._last

    def wait(self, arrival: Mark) -> None:
        """Let the stream of work wait for an event of the lane's; only a parcel that is still being read blocks."""
        event = arrival.result() if isinstance(arrival, Future) else arrival
        torch.cuda.current_stream(self.device).wait_event(event)

    def mark(self) -> Mark:
        """Return an event at the present end of the work."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def close(self) -> None:
        """Wait for the reader and for the copies."""
        if self._reader is not None:
            self._reader.shutdown(wait=True)
            self._reader = self._last = None
        self._stream.synchronize()
        self._stages.clear()

    def _staged(self, target: Tensor, parcel: Parcel, after: Mark | None) -> torch.cuda.Event:
        stage = self._stage(parcel.nbytes)
        if parcel.packed is not None:
            stage.copy_(parcel.packed)
        else:
            parcel.fill(stage)
        event = self._copy(target, stage, after)
        self._stages.append((self._stages.pop(0)[0], event))
        return event

    def _stage(self, nbytes: int) -> Tensor:
        """Return the front buffer, when nothing reads it any more; buffers grow to the largest parcel."""
        if len(self._stages) < _STAGES:
            self._stages.insert(0, (self.pinned(nbytes), None))
        buffer, event = self._stages[0]
        if event is not None:
            event.synchronize()
        if buffer.numel() < nbytes:
            buffer = self.pinned(nbytes)
        self._stages[0] = (buffer, None)
        return buffer[:nbytes]

    def _copy(self, target: Tensor, source: Tensor, after: Mark | None) -> torch.cuda.Event:
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return event

"""Clocks and gauges: time spent inside a network's calls, and the most memory that was in use meanwhile.

A graphics card works behind the program's back, so a clock that is read without waiting for it measures how fast work
is handed over. :func:`wait` waits; inside a run nothing may wait, and :class:`CallClock` lets the card note the times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn

_LOOK_SECONDS = 0.02


def wait(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "xpu":
        torch.xpu.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def now(device: torch.device) -> float:
    """Return the time in seconds at which the device has done all that it was given."""
    wait(device)
    return time.perf_counter()


Call = tuple[tuple[Any, ...], Mapping[str, Any]]


class CallClock:
    """The seconds that calls of networks take, on the device itself, and the arguments of the last call of each.

    On CUDA the card's own events mark begin and end, so that measuring hands over no more than two marks. Elsewhere
    the call is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begins: list[Any] = []
        self._ends: list[Any] = []
        self.last: dict[nn.Module, Call] = {}

    @contextmanager
    def on(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Measure the calls of ``networks`` until the block ends."""
        handles: list[Any] = []
        for network in networks:
            handles.append(network.register_forward_pre_hook(self._begin, with_kwargs=True))
            handles.append(network.register_forward_hook(self._end, always_call=True))  # memory may run out within
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> float:
        """Return the seconds of all calls since the last take. Waits for the device."""
        wait(self._device)
        pairs = list(zip(self._begins, self._ends, strict=True))
        self._begins, self._ends = [], []
        if self._device.type == "cuda":
            return sum(begin.elapsed_time(end) for begin, end in pairs) / 1000
        return sum(end - begin for begin, end in pairs)

    def _begin(self, network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._recording():
            return
        self.last[network] = arguments, named
        self._begins.append(self._mark())

    def _end(self, network: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        if not self._recording():
            self._ends.append(self._mark())

    def _recording(self) -> bool:
        """Say whether a graph is recorded now: a mark in it would have no time."""
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _mark(self) -> Any:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        return now(self._device)


class MemoryGauge:
    """The most memory in use while a block runs: of the process in main memory, and of torch on the device.

    ``own_bytes`` is without the pages of mapped files. ``card_bytes`` is what all programs had of a card, with what its
    driver takes; the driver is asked for it only with ``whole_card``, as that is no work for a time that is measured.
    Those two and ``device_bytes`` stay ``None`` where nobody can tell.
    """

    def __init__(self, device: torch.device, *, whole_card: bool = False) -> None:
        self._device = device
        self._whole_card = whole_card and device.type == "cuda"
        self.main_bytes = 0
        self.own_bytes: int | None = None
        self.device_bytes: int | None = None
        self.card_bytes: int | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look again and again until the block ends."""
        done = threading.Event()
        process = psutil.Process()

        def note() -> None:
            found = process.memory_info()
            self.main_bytes = max(self.main_bytes, found.rss)
            if hasattr(found, "shared"):
                self.own_bytes = max(self.own_bytes or 0, found.rss - found.shared)
            if self._whole_card:
                free, whole = torch.cuda.mem_get_info(self._device)
                self.card_bytes = max(self.card_bytes or 0, whole - free)

        def look() -> None:
            while not done.wait(_LOOK_SECONDS):
                note()

        self.main_bytes, self.own_bytes, self.card_bytes = 0, None, None
        note()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        looking = threading.Thread(target=look, name="gauge", daemon=True)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
            if self._device.type == "cuda":
                self.device_bytes = torch.cuda.max_memory_reserved(self._device)
            elif self._device.type == "mps":
                self.device_bytes = torch.mps.driver_allocated_memory()

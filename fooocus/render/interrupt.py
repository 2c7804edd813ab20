"""Look at the person's wishes between the blocks of a network, so that a stop takes effect in mid-step.

Two things would delay it where a step takes long. A block on a slow processor takes seconds itself: there the layers in
it are looked between too. And a card is handed its work far ahead: Python may have gone through a whole step that the
card has hardly begun. So, while steps are slow, Python is kept at most some blocks ahead of the card.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

# Between two of these a card works for a second at the most; finer hooks would cost a fast card more than they give.
_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D", "CLIPEncoderLayer")
# On a processor the blocks of a large network take seconds; those of a miniature are not worth more hooks.
_LARGE_BYTES = 100_000_000
_LAYERS = (nn.Linear, nn.Conv2d)
_SLOW_SECONDS = 1.0  # between two passes; below that the card is never a second behind
_AHEAD = 2  # blocks that Python may be ahead of a slow card
# Whether the card is slow is not known in a first pass. A fast one's blocks take less than a millisecond, and a long
# nap would leave it idle.
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.0005, 0.01


class Mark(Protocol):
    """A place in the work that was handed to a card."""

    def query(self) -> bool:
        """Return whether the card has come past it."""


@contextmanager
def interruptible(
    module: nn.Module, check: Callable[[], object], mark: Callable[[], Mark | None] | None = None
) -> Iterator[None]:
    """Call ``check`` before every block of ``module``'s forward passes; what it raises leaves the pass.

    ``mark`` sets a mark in the work that is handed over ahead; left out, as the device does on which the module is
    (:func:`marks_on`). Beside a card a module may yet be with the processor.
    """
    mark = mark or marks_on(next((p.device for p in module.parameters()), torch.device("cpu")))
    pace = _Pace(check, mark)
    sizes = [parameter.nbytes for parameter in module.parameters()]
    # A network with empty parameters streams, which small ones need not.
    fine = mark is None and (sum(sizes) > _LARGE_BYTES or 0 in sizes)

    def before(block: nn.Module, arguments: object) -> None:
        check()
        pace.block()

    def begin(block: nn.Module, arguments: object) -> None:
        pace.begin()

    places = [m for m in module.modules() if type(m).__name__ in _BLOCKS or (fine and isinstance(m, _LAYERS))]
    handles = [place.register_forward_pre_hook(before) for place in places]
    handles.append(module.register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def marks_on(device: torch.device) -> Callable[[], Mark | None] | None:
    """Return how marks are set on a device, or ``None`` where Python waits for its work anyway or may not ask.

    On Apple's graphics a mark is reached only when something else sends the work: to wait for one could be for ever.

    While a graph is recorded there are none: the card does nothing then, and to ask it would spoil the recording.
    """
    if device.type not in ("cuda", "xpu"):
        return None
    driver = torch.cuda if device.type == "cuda" else torch.xpu

    def mark() -> Mark | None:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        event = driver.Event()
        event.record(driver.current_stream(device))
        return event

    return mark


class _Pace:
    """Keeps Python near a slow card."""

    def __init__(self, check: Callable[[], object], mark: Callable[[], Mark | None] | None) -> None:
        self._check, self._mark = check, mark
        self._begun = 0.0
        self._slow = True
        self._marks: deque[Mark] = deque()

    def begin(self) -> None:
        """A pass begins: the last one was slow if it took long, its wait for the card included."""
        now = time.monotonic()
        self._slow = now - self._begun > _SLOW_SECONDS
        self._begun = now
        self._marks.clear()

    def block(self) -> None:
        """A block is to be handed over: wait until the card is near, looking at the person's wishes."""
        if self._mark is None or not self._slow:
            return
        here = self._mark()
        if here is None:
            return
        self._marks.append(here)
        if len(self._marks) <= _AHEAD:
            return
        oldest, nap = self._marks.popleft(), _FIRST_LOOK_SECONDS
        while not oldest.query():
            self._check()
            time.sleep(nap)
            nap = min(2 * nap, _LOOK_SECONDS)

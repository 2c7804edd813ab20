"""All randomness of one picture, drawn on the CPU from its seed: the same on every device, whatever else is running.

No function here touches torch's global generator. Samplers see the :class:`Noise` protocol only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fooocus.diffusion.brownian import BrownianPath

AHEAD = 32  # a picture's usual number of steps; bounds memory where there are a thousand
Pair = tuple[float, float]  # (sigma_from, sigma_to), falling


class Noise(Protocol):
    """What a sampler may ask for. Every answer is standard normal and is the same when asked again."""

    def at(self, step: int) -> Tensor:
        """Return the noise that belongs to a step."""

    def between(self, sigma_from: float, sigma_to: float) -> Tensor:
        """Return the scaled increment of the picture's Brownian path between two sigmas."""


def starting_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the float32 noise that a picture starts from: what ``torch.randn`` gives on a CPU freshly seeded."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class JoinedNoise:
    """The noises of several pictures as one, (1, 4, h, w) each -> (B, 4, h, w): each gets what its own seed gives."""

    def __init__(self, noises: Sequence[PictureNoise]) -> None:
        self._noises = noises

    def at(self, step: int) -> Tensor:
        """Return the noise of all pictures that belongs to a step."""
        return _joined([noise.at(step) for noise in self._noises])

    def between(self, sigma_from: float, sigma_to: float) -> Tensor:
        """Return the scaled increments of the pictures' Brownian paths between two sigmas."""
        return _joined([noise.between(sigma_from, sigma_to) for noise in self._noises])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for noise in self._noises:
            noise.close()


class PictureNoise:
    """The noise of one picture after its starting noise, handed out on ``device``.

    ``sigmas`` spans the Brownian path: from its smallest positive value to its largest. ``queries`` are the pairs that
    :meth:`between` will be asked for, in order; one helper thread draws them ahead, from construction on and at most
    :data:`AHEAD` of them, so that a step seldom waits. Every other pair is drawn when asked for. What was drawn ahead
    is dropped once delivered. Close it, or use it as a context manager, to end the thread; it answers correctly even
    then, only later.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        sigmas: Sequence[float],
        queries: Iterable[Pair] = (),
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self._seed, self._shape, self._device = seed, tuple(shape), device
        self._generator = torch.Generator()
        self._position: int | None = None  # the draw of self._generator that comes next
        positive = [sigma for sigma in sigmas if sigma > 0]
        self._range = min(positive), max(positive)
        self._path: BrownianPath | None = None
        self._path_lock = Lock()
        self._helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise")  # its thread starts with a query
        self._queries = iter(queries)
        self._ahead: dict[Pair, Future[np.ndarray]] = {}
        for _ in range(AHEAD):
            self._draw_next()

    def at(self, step: int) -> Tensor:
        """Return the ``step``-th draw (from 0) that the starting noise's generator makes after it."""
        if self._position is None or self._position > step:
            self._generator.manual_seed(self._seed)
            torch.randn(self._shape, generator=self._generator)  # the starting noise
            self._position = 0
        while self._position < step:
            torch.randn(self._shape, generator=self._generator)
            self._position += 1
        self._position += 1
        return torch.randn(self._shape, generator=self._generator).to(self._device)

    def between(self, sigma_from: float, sigma_to: float) -> Tensor:
        """Return (W(sigma_to) - W(sigma_from)) / sqrt(|sigma_to - sigma_from|); raises what the helper raised."""
        ahead = self._ahead.pop((sigma_from, sigma_to), None)
        if ahead is None:
            return torch.from_numpy(self._draw(sigma_from, sigma_to)).to(self._device)
        self._draw_next()
        drawn = ahead.result()
        return torch.from_numpy(drawn).to(self._device)

    def _draw_next(self) -> None:
        """Have the helper draw one pair more."""
        if (pair := next(self._queries, None)) is not None:
            self._ahead[pair] = self._helper.submit(self._draw, *pair)

    def _draw(self, sigma_from: float, sigma_to: float) -> np.ndarray:
        with self._path_lock:
            if self._path is None:
                self._path = BrownianPath(self._seed, self._shape, *self._range)
            drawn = self._path.increment(min(sigma_from, sigma_to), max(sigma_from, sigma_to))
        drawn *= 1 if sigma_from < sigma_to else -1
        # A difference of float32 values, as in the reference; its root is rounded once, the same on every processor.
        drawn /= (torch.tensor(sigma_to) - torch.tensor(sigma_from)).abs().double().sqrt().float().item()
        return drawn

    def close(self) -> None:
        """End the helper thread: what it has not begun is left undrawn."""
        self._ahead.clear()
        self._queries = iter(())
        self._helper.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _joined(drawn: Sequence[Tensor]) -> Tensor:
    return drawn[0] if len(drawn) == 1 else torch.cat(list(drawn))

"""A Brownian path over sigma that is fixed by a seed alone: the same numbers whatever is asked, in whatever order.

The path is refined by halves. W over the whole range is one draw; where an interval of length h with increment W is
cut into lengths l and r, the left part is W * l / h + sqrt(l * r / h) * draw (the Brownian bridge), the right part is
the rest. Every interval seeds its draw from its place in the tree, so no state is carried from draw to draw.

The values are those of ``torchsde.BrownianTree`` 0.2.6 (Li et al. 2020, "Scalable Gradients for Stochastic Differential
Equations", section 4), bit for bit, which the original pictures were made with. Two things make this one cheap: an
interval is drawn once for both its halves and kept for as long as the walk stays beside it, and the arithmetic is
numpy's on one thread, which never waits for the pool of threads that the network is using.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

DIGITS = 6  # times are rounded to this many decimals, so that a cut sooner or later falls on each of them
SEED_POOL = 24  # words of entropy that numpy mixes a seed in


class _Interval(NamedTuple):
    start: float
    end: float
    depth: int
    place: int  # number of the interval among the 2**depth of its depth, from the left
    increment: np.ndarray


class BrownianPath:
    """A standard Brownian motion on [``low``, ``high``] with values of ``shape``, fixed by ``seed``, float32."""

    def __init__(self, seed: int, shape: tuple[int, ...], low: float, high: float) -> None:
        self._seed = seed
        self._shape = shape
        whole = self._draw() * math.sqrt(high - low)
        self._whole = _Interval(round(low, DIGITS), round(high, DIGITS), 0, 0, whole)
        self._halves: dict[tuple[int, int], tuple[_Interval, _Interval]] = {}

    def increment(self, start: float, end: float) -> np.ndarray:
        """Return W(``end``) - W(``start``) for ``start`` <= ``end``; times outside the range are moved to its border.

        The intervals met on the way are kept for the next call, all others are forgotten: at most some 100 arrays stay.
        """
        start, end = (round(min(max(t, self._whole.start), self._whole.end), DIGITS) for t in (start, end))
        if start == end:
            return np.zeros(self._shape, dtype=np.float32)
        met: dict[tuple[int, int], tuple[_Interval, _Interval]] = {}
        first, *others = self._pieces(self._whole, start, end, met)
        self._halves = met
        total = first.copy()
        for piece in others:  # from left to right: float32 sums depend on their order
            total += piece
        return total

    def _pieces(
        self, interval: _Interval, start: float, end: float, met: dict[tuple[int, int], tuple[_Interval, _Interval]]
    ) -> list[np.ndarray]:
        """Return the increments of the fewest intervals of the tree that together are [``start``, ``end``]."""
        if (start, end) == (interval.start, interval.end):
            return [interval.increment]
        place = interval.depth, interval.place
        left, right = met[place] = self._halves.get(place) or self._halve(interval)
        pieces = []
        if start < left.end:
            pieces += self._pieces(left, start, min(end, left.end), met)
        if end > right.start:
            pieces += self._pieces(right, max(start, right.start), end, met)
        return pieces

    def _halve(self, interval: _Interval) -> tuple[_Interval, _Interval]:
        start, end, depth, place, whole = interval
        middle = round(0.5 * (end + start), DIGITS)
        reciprocal = 1 / (end - start)
        left = (middle - start) * whole
        left *= reciprocal
        draw = self._draw(place, depth)
        draw *= math.sqrt((middle - start) * (end - middle) * reciprocal)
        left += draw
        return (
            _Interval(start, middle, depth + 1, 2 * place, left),
            _Interval(middle, end, depth + 1, 2 * place + 1, whole - left),
        )

    def _draw(self, *key: int) -> np.ndarray:
        (seed,) = np.random.SeedSequence(self._seed, spawn_key=key, pool_size=SEED_POOL).generate_state(1)
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(int(seed))).numpy()

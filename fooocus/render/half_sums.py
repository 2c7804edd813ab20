"""Matrix products that add up in half precision: up to twice as fast on GeForce cards, where the picture bears it.

Tensor cores of these cards multiply twice as fast when they also add up in 16 bits. What that does to a network's
answers depends on the network, its LoRAs and the card, so it is not believed but looked at: at the first call for every
size the network is asked both ways, and stays exact where its answers move too far.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fooocus.families.graphs import Ask, Inputs

MOST_MOVED = 0.01
"""Part of its length by which an answer may move: what bfloat16 does to it, the format of the fastest cards.

(``benchmarks/switches.md`` has 1.2e-2 and 1.3e-2 for bfloat16.)
"""


class HalfSums:
    """What is known of the networks that were asked both ways."""

    def __init__(self) -> None:
        self._bears: weakref.WeakKeyDictionary[nn.Module, dict[torch.Size, bool]] = weakref.WeakKeyDictionary()

    def over(self, unet: nn.Module, ask: Ask, notice: Callable[[str], object]) -> Ask:
        """Return ``ask`` with sums in half precision where ``unet`` bears them; ``notice`` hears where it does not."""
        bears = self._bears.setdefault(unet, {})

        def asked(inputs: Inputs) -> Tensor:
            shape = inputs.x.shape
            if shape in bears:
                with _adding_up(half=bears[shape]):
                    return ask(inputs)
            exact = ask(inputs)
            with _adding_up(half=True):
                moved = _moved(exact, ask(inputs))
            bears[shape] = moved <= MOST_MOVED  # False where it is not a number
            logging.getLogger("fooocus.render").info("sums in half precision move an answer by %.2g", moved)
            if not bears[shape]:
                notice("Sums in half precision would change this picture visibly: they stay exact for this size.")
            return exact

        return asked


def _moved(exact: Tensor, tried: Tensor) -> float:
    return float((tried.float() - exact.float()).norm() / exact.float().norm())


@contextmanager
def _adding_up(*, half: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = half
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before

"""Matrix products that add up in half precision: up to twice as fast on GeForce cards, where the picture bears it.

Tensor cores of these cards multiply twice as fast when they also add up in 16 bits. What that does to a network's
answers depends on the network, its LoRAs and the card, so it is not believed but looked at: at the first call for every
size the network is asked both ways, and stays exact where its answer moves too far. That is the noisiest step of a
picture; numbers that overflow later are found where all latents are looked at (:mod:`fooocus.render.latents`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fooocus.families import graphs
from fooocus.families.graphs import Ask, Inputs

MOST_MOVED = 0.01
"""Part of its length by which an answer may move: what bfloat16 does to it, the format of the fastest cards.

(``benchmarks/switches.md`` has 1.2e-2 and 1.3e-2 for bfloat16.)
"""
STAYS_EXACT = "Sums in half precision would change this picture visibly: they stay exact for this size."


@dataclasses.dataclass
class _Known:
    """What was found of a network with these LoRAs, by the shape of the latents."""

    loras: object
    bears: dict[torch.Size, bool] = dataclasses.field(default_factory=dict)


class HalfSums:
    """What is known of the networks that were asked both ways."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()

    def over(self, unet: nn.Module, ask: Ask, loras: object, notice: Callable[[str], object]) -> Ask:
        """Return ``ask`` with sums in half precision where ``unet`` with these ``loras`` bears them.

        ``loras`` is another value where they are others. ``notice`` hears where the network does not bear it.
        """
        known = self._known.get(unet)
        if known is None or known.loras != loras:
            known = self._known[unet] = _Known(loras)
            graphs.release(unet)  # recorded as it was found before

        def asked(inputs: Inputs) -> Tensor:
            if inputs.x.dtype != torch.float16:
                return ask(inputs)  # other formats know no such sums
            shape = inputs.x.shape
            if shape in known.bears:
                with adding_up(half=known.bears[shape]):
                    return ask(inputs)
            # Never through ``ask``, which may record: a graph would keep the way it was recorded in.
            plain = functools.partial(graphs.ask, unet, inputs)
            with adding_up(half=False):
                exact = plain()
            with adding_up(half=True):
                tried = plain()
            moved = _moved(exact, tried)
            known.bears[shape] = moved <= MOST_MOVED  # False where it is not a number
            logging.getLogger("fooocus.render").info("sums in half precision move an answer by %.2g", moved)
            if known.bears[shape]:
                return tried  # so that a seed's picture is the same whether it is the first
            notice(STAYS_EXACT)
            return exact

        return asked


def _moved(exact: Tensor, tried: Tensor) -> float:
    return float((tried.float() - exact.float()).norm() / exact.float().norm())


@contextmanager
def adding_up(*, half: bool) -> Iterator[None]:
    """Have float16 products add up in half precision or not, until the block ends."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = half
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before

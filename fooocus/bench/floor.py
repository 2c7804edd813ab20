"""The least time that a picture's arithmetic can take here: its operations, counted, at the device's own best rate.

The rate is that of large matrix products in the same number format, measured in the same run, at the best of a few
moments: what the maker's figure would be on this very device. Whatever is no arithmetic (reading and writing memory
between two operations, starting kernels, waiting for Python) is what lies between floor and truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from fooocus.bench.clock import now
from fooocus.models.measuring import Counter
from fooocus.render.half_sums import adding_up
from fooocus.request import Recipe

# Sides of the square matrices: large enough for full speed, small enough for seconds of measuring on slow devices too.
_SIDE_ON_CARD, _SIDE_ON_PROCESSOR = 8192, 1024
_TRIES = 12  # a matter of taste: the first few choose kernels and wake the device, and one that is undisturbed will do


@dataclasses.dataclass(frozen=True)
class Floor:
    """Seconds of arithmetic alone: of a picture, of a step (with prompt and negative prompt), of decoding.

    ``operations`` are those of a picture, a multiply-add counted as two; ``rates`` operations a second by format.
    """

    picture: float
    base: float
    refiner: float
    decode: float
    operations: float
    rates: Mapping[str, float]


def measure_floor(
    recipe: Recipe, device: torch.device, dtype: torch.dtype, decoded_in: torch.dtype, *, half_sums: bool = False
) -> Floor | None:
    """Measure the rates and return the floor of a recipe's picture, sampled in ``dtype`` and ``decoded_in`` another.

    With ``half_sums`` float16 adds up in half precision. ``None`` where the recipe's files cannot be counted.
    """
    work = Counter([], outside=None).count(recipe)
    if work is None:
        return None
    with adding_up(half=half_sums):
        rates = {kind: product_rate(device, kind) for kind in {dtype, decoded_in}}
    sampling, decoding = rates[dtype], rates[decoded_in]
    base = work.base_steps * work.base_operations
    refiner = work.refiner_steps * work.refiner_operations
    # A sampler that asks twice in a step has steps that are as long.
    calls = (work.base_steps + work.refiner_steps) / recipe.steps
    return Floor(
        picture=(base + refiner) / sampling + work.decode_operations / decoding,
        base=calls * work.base_operations / sampling,
        refiner=calls * work.refiner_operations / sampling,
        decode=work.decode_operations / decoding,
        operations=base + refiner + work.decode_operations,
        rates={str(kind).removeprefix("torch."): rate for kind, rate in rates.items()},
    )


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of the best of some products of square matrices.

    In float32 with as many bits as the convolutions of decoding have on a card.
    """
    side = _SIDE_ON_PROCESSOR if device.type == "cpu" else _SIDE_ON_CARD
    # Random, as a card that multiplies zeros draws less power and clocks higher.
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    ten_bits = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        seconds = []
        for _ in range(_TRIES):
            began = now(device)
            one @ other
            seconds.append(now(device) - began)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = ten_bits
    return 2.0 * side**3 / min(seconds)

"""What this computer can do with SDXL, and how long a picture will take, said before anything is fetched.

The times are not promises. They follow from the operations of one picture and a card's published rate; how much of that
rate programs reach is known from published runs (between a third and two thirds). Where no rate is known, none is made
up. A time measured here replaces all of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from fooocus.memory.cards import against_half
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, Space, Way, make_plan
from fooocus.memory.words import sentence
from fooocus.models.computer import Card, Computer
from fooocus.models.words import amount, duration

Fit = Literal["fits", "takes turns", "streams", "processor"]

# One picture of 1152 x 896: 20 steps of the base and 10 of the refiner, both with guidance, text and VAE. Counted on
# the networks' graphs, one multiply-add as two operations.
PICTURE_OPERATIONS = 419.6e12
# Share of a card's rate that published SDXL runs reach: 0.39 (a common interface on an RTX 3060 laptop) to 0.6 (OneDiff
# on an RTX 4090).
REACHED_SHARES = (0.6, 0.35)
# Dense half-precision operations per second with float32 accumulation, which is what the libraries use by default. GTX
# cards without tensor cores compute in float32, because in half precision this network gives NaN on them or crawls.
_CARD_RATES = (
    (r"H200", 790e12),
    (r"H100", 750e12),
    (r"A100", 280e12),
    (r"RTX 4090(?! Laptop)", 165e12),
    (r"RTX 3090", 71e12),
    (r"RTX 3060(?! Laptop)", 25.5e12),
    (r"RTX 3050.*Laptop", 12.3e12),
    (r"GTX 1650", 2.98e12),
    (r"GTX 1050 Ti", 2.14e12),
)
# Measured on the full base network on two cores of a Zen 4 processor in float32, the format used there: 0.1e12.
_CORE_RATE = 0.05e12

_FITS: Mapping[Way, Fit] = {
    "stays": "fits",
    "takes turns": "takes turns",
    "streams": "streams",
    "processor": "processor",
}
_MAIN_FREE_SHARE = 0.7  # of main memory, after the system and a browser
_APPLE_SHARE = 0.7  # of the common memory, which Apple's driver recommends as the most for graphics
_COMFORT_BYTES = 16e9  # main memory that holds the larger file, the page and the system


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the computer can do. ``seconds`` is the range for one picture, None where nothing is known to say.

    ``sentence`` says it for a person, ``basis`` where the time comes from, ``plan`` what will be kept where (the worker
    makes the same plan from what is free then), ``warnings`` what is likely to hurt.
    """

    fit: Fit
    sentence: str
    seconds: tuple[float, float] | None
    basis: str
    plan: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the values as a JSON object."""
        return dataclasses.asdict(self)


def judge(computer: Computer, measured_seconds: float | None = None) -> Verdict:
    """Say what a computer can do; ``measured_seconds`` is what a picture of the usual size took here, if known."""
    card = computer.cards[0] if computer.cards else None
    plan = make_plan(_space(computer, card), sdxl_need(itemsize=_itemsize(card)))
    fit: Fit = "streams" if card is not None and not card.memory_bytes else _FITS[plan.base.way]
    seconds, basis = _time(computer, card if fit != "processor" else None)
    if measured_seconds is not None:
        seconds, basis = (measured_seconds, measured_seconds), "measured on this computer"
    told = "" if fit == "streams" and plan.base.way != "streams" else sentence(plan)
    return Verdict(fit, _sentence(fit, card, seconds), seconds, basis, told, tuple(_warnings(computer, card)))


def picture_time(seconds: tuple[float, float]) -> str:
    """Write a range of times: "40 s to 70 s", "about 12 s"."""
    low, high = (duration(value if value >= 1 else 1) for value in seconds)
    return f"about {low}" if low == high else f"{low} to {high}"


def _space(computer: Computer, card: Card | None) -> Space:
    """Return what the worker will find, as far as the sizes tell: nothing but this program is assumed to run."""
    main_free = int(computer.memory_bytes * _MAIN_FREE_SHARE)
    if card is None:
        return Space(False, 0, None, computer.memory_bytes, main_free)
    size = int(card.memory_bytes * (_APPLE_SHARE if card.maker == "apple" else 1))
    free = size - DRIVER_BYTES if size else None
    return Space(True, size, free, computer.memory_bytes, main_free, whole=card.maker not in ("apple", "intel"))


def _itemsize(card: Card | None) -> int:
    """Return the bytes of a number as the worker computes: float32 on processors and on cards that need it."""
    if card is None or (card.maker == "nvidia" and against_half(card.name, card.capability)):
        return 4
    return 2


def _sentence(fit: Fit, card: Card | None, seconds: tuple[float, float] | None) -> str:
    time = f"{picture_time(seconds)} a picture" if seconds else "the first picture will show how long one takes"
    match fit:
        case "fits":
            return f"SDXL fits fully on this card; {time}."
        case "takes turns":
            return f"SDXL's base and refiner take turns on this card; {time}."
        case "streams" if card is not None and card.memory_bytes:
            return f"SDXL is larger than this card's memory and will stream from main memory; {time}."
        case "streams":
            return f"How much memory this card has is not known; SDXL streams from main memory where needed; {time}."
        case _ if card is not None:
            return f"This card has too little memory for SDXL, so the processor computes; {time}."
        case _:
            return f"No graphics card: {time} with SDXL; the miniature model takes seconds."


def _time(computer: Computer, card: Card | None) -> tuple[tuple[float, float] | None, str]:
    if card is None:
        seconds = PICTURE_OPERATIONS / (_CORE_RATE * computer.cores)
        return (seconds, seconds), (
            f"420 T operations a picture, {computer.cores} cores, at 0.05 T/s a core in float32 as measured on Zen 4; "
            "older processors need two to five times as long"
        )
    for pattern, rate in _CARD_RATES:
        if re.search(pattern, card.name):
            low, high = (PICTURE_OPERATIONS / (rate * share) for share in REACHED_SHARES)
            return (low, high), (
                f"420 T operations a picture, {rate / 1e12:g} T/s for this card, of which programs reach 35 to 60 %; "
                "30 steps at 1152 x 896; not measured here"
            )
    return None, f"no rate is known for {card.name}"


def _warnings(computer: Computer, card: Card | None) -> list[str]:
    found = []
    memory = computer.memory_bytes
    if memory and memory < _COMFORT_BYTES * 0.9:
        found.append(
            f"Main memory is {amount(memory)}; below 16 GB the models are read from disk again and again, "
            "and a picture takes longer."
        )
    if card is not None and card.maker == "nvidia" and "wrong" in against_half(card.name, card.capability):
        found.append("This card is wrong in half precision, so float32 is used, which takes more memory and time.")
    if card is not None and card.maker == "amd" and computer.system.startswith("Windows"):
        found.append("PyTorch supports no AMD card on Windows, so the processor is used: expect minutes a picture.")
    return found

"""Which network is kept where, decided by one pure function from what there is and what is needed.

A plan gives every network one of four ways and says what the worst moment will take. When the memory runs out all the
same, :func:`step_down` answers with the next smaller plan for the part of the work that failed; the last one computes
on the processor. Nothing but numbers goes in, so a plan can be made for any computer without having it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, TypeVar

from fooocus.memory.need import (
    MIB,
    RING_BYTES,
    TEXT_WORK_BYTES,
    Need,
    striped_work,
    unet_work,
    whole_work,
)

Way = Literal["stays", "takes turns", "streams", "processor"]
Decoding = Literal["whole", "stripes", "stripes in main memory", "processor"]
Stage = Literal["text", "sampling", "decoding"]

GIB = 2**30
# What the driver and the libraries take on a card before the first weight (an assumption until measured on a card).
DRIVER_BYTES = 460 * MIB
# Left free on a card for the desktop and for the allocator's gaps: half a GiB, or a sixteenth of a large card.
SPARE_BYTES, SPARE_SHARE = 512 * MIB, 1 / 16
# Of what a card says is free, this share is not planned with: freed blocks do not always fit what is wanted next.
GAPS_SHARE = 0.05
# Main memory that is left to the system, the page and everything else that a person runs.
MAIN_SPARE_BYTES = int(1.5 * GIB)
# Windows lets programs pin about half of the main memory; staying below it is no loss elsewhere.
PINNED_SHARE = 0.4
# Decoding whole on a processor may take this share of the free main memory; in stripes it is as fast.
WHOLE_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Space:
    """What a computer has. ``card_free_bytes`` is None where nobody can tell, ``card_bytes`` 0 where unknown.

    ``card`` is False where there is nothing but the processor. ``card_free_bytes`` is without what the driver holds.
    ``whole`` says whether a picture may be decoded in one piece: not all devices have an attention for it that does
    without the matrix of every place with every other.
    """

    card: bool
    card_bytes: int
    card_free_bytes: int | None
    main_bytes: int
    main_free_bytes: int
    whole: bool = True

    @property
    def usable_bytes(self) -> int | None:
        """What a plan may take on the card, without the driver's share; None for any amount."""
        if self.card_free_bytes is None:
            return None
        usable = int(self.card_free_bytes * (1 - GAPS_SHARE))
        if self.card_bytes:
            spare = max(SPARE_BYTES, int(self.card_bytes * SPARE_SHARE))
            usable = min(usable, self.card_bytes - DRIVER_BYTES - spare)
        return max(0, usable)

    @property
    def spare_bytes(self) -> int:
        """What is free on the card and yet not planned with; 0 where nobody can tell."""
        return 0 if self.usable_bytes is None else (self.card_free_bytes or 0) - self.usable_bytes


@dataclasses.dataclass(frozen=True)
class Steps:
    """How many plans were found too large, for each part of the work."""

    text: int = 0
    sampling: int = 0
    decoding: int = 0


@dataclasses.dataclass(frozen=True)
class Berth:
    """Where one network is. Of its weights ``resident_bytes`` stay on the card while it works, as they travel.

    ``pinned_bytes`` lie in main memory that the card reads at full speed; the rest comes straight from the file. On a
    processor ``from_file`` says that weights are widened layer by layer instead of being held in main memory.
    """

    way: Way
    resident_bytes: int = 0
    pinned_bytes: int = 0
    from_file: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where everything is while a picture is made. Peaks are for the card, with the driver's share."""

    space: Space
    need: Need
    steps: Steps
    text: Berth
    base: Berth
    refiner: Berth | None
    together: bool
    decoding: Decoding
    text_peak_bytes: int
    sampling_peak_bytes: int
    decoding_peak_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that will be taken on the card."""
        return max(self.text_peak_bytes, self.sampling_peak_bytes, self.decoding_peak_bytes)

    @property
    def unets(self) -> tuple[Berth, ...]:
        """Where the networks are that sample."""
        return (self.base,) if self.refiner is None else (self.base, self.refiner)

    @property
    def pinned_bytes(self) -> int:
        """The main memory that is taken beside the files' own pages."""
        return sum(berth.pinned_bytes for berth in self.unets)


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """One way to sample: where the UNets are, and what it takes on the card, ``staying`` of it also afterwards."""

    berths: tuple[Berth, ...]
    together: bool = True
    peak_bytes: int = 0
    staying_bytes: int = 0
    everything: bool = False


FIRST = Steps()


def make_plan(space: Space, need: Need, steps: Steps = FIRST) -> Plan:
    """Decide what is kept where. ``steps`` of the plans that would do by the numbers were found too large."""
    sampling = _pick(list(_samplings(space, need)), steps.sampling)
    beside = sampling.staying_bytes
    text = _pick(list(_texts(space, need, sampling)), steps.text)
    decoding = _pick(list(_decodings(space, need, beside)), steps.decoding)
    driver = DRIVER_BYTES if space.card else 0
    return Plan(
        space=space,
        need=need,
        steps=steps,
        text=text[0],
        base=sampling.berths[0],
        refiner=sampling.berths[1] if need.refiner else None,
        together=sampling.together,
        decoding=decoding[0],
        text_peak_bytes=driver + text[1],
        sampling_peak_bytes=driver + sampling.peak_bytes,
        decoding_peak_bytes=driver + decoding[1],
    )


def step_down(plan: Plan, stage: Stage | None = None) -> Plan | None:
    """Return the next smaller plan for the part of the work that ran out of memory; None behind the last.

    Without ``stage`` the part that takes the most gives way.
    """
    if stage is None:
        peaks: dict[Stage, int] = {
            "sampling": plan.sampling_peak_bytes,
            "decoding": plan.decoding_peak_bytes,
            "text": plan.text_peak_bytes,
        }
        ordered = sorted(peaks, key=lambda name: -peaks[name])
        return next((lower for name in ordered if (lower := step_down(plan, name))), None)
    before = _choices(plan, stage)
    steps = plan.steps
    for _ in range(_RUNGS):
        steps = dataclasses.replace(steps, **{stage: getattr(steps, stage) + 1})
        lower = make_plan(plan.space, plan.need, steps)
        if _choices(lower, stage) != before:
            return lower
    return None


# What stays is counted in parts of the network, so that a little more or less free memory changes nothing.
_PARTS = 64
_Rung = TypeVar("_Rung")
_RUNGS = 8  # more than any part has


def work_bytes(plan: Plan, stage: Stage) -> int:
    """Return what a part of the work takes on the card beside its weights."""
    match stage, plan.decoding:
        case "text", _:
            return TEXT_WORK_BYTES
        case "sampling", _:
            return max(unet_work(plan.need, unet, together=plan.together) for unet in plan.need.unets)
        case _, "whole":
            return whole_work(plan.need, card=plan.space.card)
        case _, way:
            return striped_work(plan.need, maps=way == "stripes")


def _choices(plan: Plan, stage: Stage) -> object:
    choices: dict[Stage, object] = {
        "text": plan.text,
        "sampling": (plan.unets, plan.together, plan.sampling_peak_bytes),
        "decoding": plan.decoding,
    }
    return choices[stage]


def _pick(rungs: list[_Rung], down: int) -> _Rung:
    return rungs[min(down, len(rungs) - 1)]


def _samplings(space: Space, need: Need) -> Iterator[_Sampling]:
    """Yield the ways to sample that the numbers allow, the fastest first."""
    if space.card:
        yield from _whole_samplings(space, need)
        yield from _streamed_samplings(space, need)
    yield from _on_processor(space, need)


def _whole_samplings(space: Space, need: Need) -> Iterator[_Sampling]:
    """Every UNet as a whole on the card: all networks at once, the UNets at once, or one network at a time."""
    usable = space.usable_bytes
    unets = [unet.weight_bytes for unet in need.unets]
    work = max(unet_work(need, unet, together=True) for unet in need.unets)
    others = [text.weight_bytes for text in need.texts]
    decoding = striped_work(need, maps=True)
    everything = sum(unets) + sum(others) + need.vae.weight_bytes
    stays = tuple(Berth("stays", size) for size in unets)
    pixels = whole_work(need, card=True) if space.whole else decoding
    if usable is None or everything + max(work, pixels, TEXT_WORK_BYTES) <= usable:
        yield _Sampling(stays, peak_bytes=everything + work, staying_bytes=everything, everything=True)
    beside = max(work, need.vae.weight_bytes + decoding, max(others, default=0) + TEXT_WORK_BYTES)
    if usable is None or sum(unets) + beside <= usable:
        yield _Sampling(stays, peak_bytes=sum(unets) + work, staying_bytes=sum(unets))
    alone = max(size + unet_work(need, unet, together=True) for size, unet in zip(unets, need.unets, strict=True))
    if usable is None or alone <= usable:
        yield _Sampling(tuple(Berth("takes turns", size) for size in unets), peak_bytes=alone)


def _streamed_samplings(space: Space, need: Need) -> Iterator[_Sampling]:
    """UNets of which a part stays on the card: as much as fits, half of it, nothing, and one prompt at a time."""
    usable = space.usable_bytes
    for share, together in ((1.0, True), (0.5, True), (0.0, True), (0.0, False)):
        if not together and not need.guided:
            continue
        berths, peaks = [], []
        pinnable = _pinnable(space)
        for unet in need.unets:
            taken = unet.opened * unet.itemsize + unet_work(need, unet, together=together) + RING_BYTES
            taken += unet.widen_bytes
            # Where nobody can tell what is free, half of the weights is as good a first try as any.
            room = usable - taken if usable is not None else unet.travel_bytes // 2
            resident = min(unet.travel_bytes, int(max(0, room) * share))
            if resident < unet.travel_bytes:
                resident -= resident % max(1, unet.travel_bytes // _PARTS)
            streamed = unet.travel_bytes - resident
            pinned = streamed if streamed <= pinnable else 0
            pinnable -= pinned
            berths.append(Berth("streams", resident, pinned))
            peaks.append(taken + resident)
        if usable is None or max(peaks) <= usable:
            yield _Sampling(tuple(berths), together, max(peaks))


def _pinnable(space: Space) -> int:
    return min(space.main_free_bytes - MAIN_SPARE_BYTES, int(space.main_bytes * PINNED_SHARE))


def _on_processor(space: Space, need: Need) -> Iterator[_Sampling]:
    """Nothing on a card: copies of all UNets in main memory, of one at a time, or weights widened as they are used."""
    copies = [unet.copied_bytes for unet in need.unets]
    room = space.main_free_bytes - MAIN_SPARE_BYTES
    work = [unet_work(need, unet, together=True) for unet in need.unets]
    if sum(copies) + max(work) <= room or max(map(sum, zip(copies, work, strict=True))) <= room:
        yield _Sampling(tuple(Berth("processor") for _ in copies))
    yield _Sampling(tuple(Berth("processor", from_file=unet.copied > 0) for unet in need.unets))


def _texts(space: Space, need: Need, sampling: _Sampling) -> Iterator[tuple[Berth, int]]:
    """Yield the ways to read texts, with what each takes on the card."""
    usable = space.usable_bytes
    if space.card:
        beside = sampling.staying_bytes
        largest = max(text.weight_bytes for text in need.texts)
        if sampling.everything:
            yield Berth("stays"), beside + TEXT_WORK_BYTES
        # What computes in wider numbers than it is stored in would be copied whole in main memory first.
        narrow = any(text.widen_bytes for text in need.texts)
        if not narrow and (usable is None or beside + largest + TEXT_WORK_BYTES <= usable):
            yield Berth("takes turns"), beside + largest + TEXT_WORK_BYTES
        streamed = max(text.opened * text.itemsize + text.widen_bytes for text in need.texts)
        streamed += RING_BYTES + TEXT_WORK_BYTES
        if usable is None or streamed <= usable:
            yield Berth("streams"), streamed
    room = space.main_free_bytes - MAIN_SPARE_BYTES
    if sum(text.copied_bytes for text in need.texts) <= room:
        yield Berth("processor"), 0
    yield Berth("processor", from_file=any(text.copied > 0 for text in need.texts)), 0


def _decodings(space: Space, need: Need, beside: int) -> Iterator[tuple[Decoding, int]]:
    """Yield the ways to decode, with what each takes on the card."""
    usable = space.usable_bytes
    weights = need.vae.weight_bytes
    if space.card:
        ways: tuple[tuple[Decoding, int], ...] = (
            ("whole", whole_work(need, card=True)),
            ("stripes", striped_work(need, maps=True)),
            ("stripes in main memory", striped_work(need, maps=False)),
        )
        for way, work in ways if space.whole else ways[1:]:
            if usable is None or beside + weights + work <= usable:
                yield way, beside + weights + work
    elif whole_work(need, card=False) <= (space.main_free_bytes * WHOLE_SHARE):
        yield "whole", 0
    yield "processor", 0

"""What is kept where, for every size of card: plans are numbers, so any computer can be planned for here."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import activations
from fooocus.memory.cards import against_half
from fooocus.memory.need import STRIPED_ELEMENTS, UNET_ELEMENTS, WHOLE_ELEMENTS, sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, GIB, Plan, Space, Stage, make_plan, step_down
from fooocus.memory.words import sentence

CARDS = (2, 4, 6, 8, 12, 16, 24, 80)


def space(card_gib: float, main_gib: float = 16, taken_gib: float = 0) -> Space:
    """Return a computer of which the system has 3 GiB of main memory and others ``taken_gib`` of the card."""
    card = int(card_gib * GIB)
    free = card - DRIVER_BYTES - int(taken_gib * GIB)
    return Space(True, card, free, int(main_gib * GIB), int((main_gib - 3) * GIB))


def processor(main_gib: float) -> Space:
    return Space(False, 0, None, int(main_gib * GIB), int((main_gib - 3) * GIB))


def rungs(plan: Plan, stage: Stage | None = None) -> list[Plan]:
    found = [plan]
    while lower := step_down(found[-1], stage):
        found.append(lower)
    return found


@pytest.mark.parametrize("main_gib", [8, 16])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("card_gib", CARDS)
def test_every_plan_stays_within_its_card(card_gib: int, itemsize: int, main_gib: int) -> None:
    """Down the whole ladder, for the usual size and for the largest one a page offers."""
    for size in ((1152, 896), (1536, 640), (2048, 2048)):
        where = space(card_gib, main_gib)
        for plan in rungs(make_plan(where, sdxl_need(*size, itemsize=itemsize))):
            assert plan.peak_bytes <= where.card_bytes - 0.5 * GIB or plan.base.way == "processor"
            assert plan.pinned_bytes <= (main_gib - 3) * GIB - 1.5 * GIB


@pytest.mark.parametrize(
    ("card_gib", "way", "text", "decoding"),
    [
        (2, "streams", "streams", "stripes in main memory"),
        (4, "streams", "takes turns", "stripes"),
        (6, "streams", "takes turns", "stripes"),
        (8, "takes turns", "takes turns", "whole"),
        (12, "takes turns", "takes turns", "whole"),
        (16, "stays", "takes turns", "stripes"),
        (24, "stays", "stays", "whole"),
    ],
)
def test_the_card_decides(card_gib: int, way: str, text: str, decoding: str) -> None:
    plan = make_plan(space(card_gib), sdxl_need())
    assert (plan.base.way, plan.text.way, plan.decoding) == (way, text, decoding)
    assert plan.together, "prompt and negative prompt share each weight that travels"


def test_four_gib_are_enough() -> None:
    """The promise for small cards: 3.5 GiB in all, and 8 GiB of main memory do."""
    plan = make_plan(space(4, main_gib=8), sdxl_need())
    assert plan.peak_bytes <= 3.5 * GIB
    assert plan.base.resident_bytes > 2 * GIB, "most of it need not travel"
    assert 0 < plan.pinned_bytes < 3.5 * GIB
    assert sentence(plan) == (
        "Streams from main memory: 2.2 of 4.8 GiB of the base and 2.2 of 4.2 GiB of the refiner stay on the card; "
        "the picture is decoded in stripes."
    )


def test_what_others_have_taken_is_not_planned_with() -> None:
    alone, shared = (make_plan(space(8, taken_gib=taken), sdxl_need()) for taken in (0, 4))
    assert alone.base.way == "takes turns" and shared.base.way == "streams"
    assert shared.peak_bytes - DRIVER_BYTES <= (shared.space.card_free_bytes or 0)


def test_where_nobody_knows_what_is_free_the_most_is_tried_first() -> None:
    plan = make_plan(Space(True, 0, None, 16 * GIB, 12 * GIB), sdxl_need())
    assert plan.base.way == "stays"
    ways = [lower.base.way for lower in rungs(plan, "sampling")]
    assert ways == ["stays", "stays", "takes turns", "streams", "streams", "streams", "streams", "processor"]


@pytest.mark.parametrize("card_gib", CARDS)
def test_the_ladder_goes_down_to_the_processor(card_gib: int) -> None:
    ladder = rungs(make_plan(space(card_gib), sdxl_need()))
    assert len({(p.unets, p.together, p.text, p.decoding) for p in ladder}) == len(ladder), "every rung is another plan"
    last = ladder[-1]
    assert (last.base.way, last.text.way, last.decoding) == ("processor",) * 3
    peaks = [plan.sampling_peak_bytes for plan in rungs(ladder[0], "sampling")]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("stage", ["text", "sampling", "decoding"])
def test_only_the_part_that_failed_gives_way(stage: Stage) -> None:
    first = make_plan(space(6), sdxl_need())
    lower = step_down(first, stage)
    assert lower is not None
    assert (lower.text != first.text) == (stage == "text")
    assert (lower.base != first.base) == (stage == "sampling")
    assert (lower.decoding != first.decoding) == (stage == "decoding")
    assert rungs(first, stage)[-1].steps != first.steps and step_down(rungs(first, stage)[-1], stage) is None


def test_one_prompt_at_a_time_comes_last_and_only_with_guidance() -> None:
    need = sdxl_need()
    plans = rungs(make_plan(space(4), need), "sampling")
    assert [plan.together for plan in plans] == [True, True, True, False, True]
    assert plans[3].base.resident_bytes == 0
    assert all(plan.together for plan in rungs(make_plan(space(4), dataclasses.replace(need, guided=False))))


def test_a_processor_holds_what_main_memory_allows() -> None:
    need = sdxl_need(itemsize=4)
    small, large = (make_plan(processor(gib), need) for gib in (8, 24))
    assert small.base.from_file and not large.base.from_file
    assert small.decoding == "processor" and large.decoding == "whole"
    assert small.peak_bytes == 0 and "read from their files" in sentence(small)
    stored = make_plan(processor(8), sdxl_need(itemsize=2))
    assert not stored.base.from_file, "what is computed with as it is stored needs no copy"


def test_every_plan_can_be_said() -> None:
    words = {sentence(plan) for gib in CARDS for plan in rungs(make_plan(space(gib), sdxl_need()))}
    assert all(text.endswith(".") and ".." not in text and text[0].isupper() for text in words)
    alone = make_plan(space(8), dataclasses.replace(sdxl_need(), refiner=None))
    assert sentence(alone).startswith("The base stays on the card, text encoders and decoder take turns;")
    assert "nothing stays on the card; prompt and" in sentence(rungs(make_plan(space(4), sdxl_need()), "sampling")[3])


def test_cards_that_compute_in_float32_are_known() -> None:
    assert "slow" in against_half("NVIDIA GeForce GTX 1060", 6.1)
    assert "wrong" in against_half("NVIDIA GeForce GTX 1650", 7.5)
    for name in ("Quadro T1000", "NVIDIA T400 4GB", "NVIDIA T1200 Laptop GPU", "NVIDIA CMP 30HX"):
        assert "wrong" in against_half(name, 7.5)
    for name in ("NVIDIA GeForce RTX 2060", "Tesla T4", "NVIDIA RTX 2000 Ada Generation", "Quadro RTX 4000"):
        assert against_half(name, 7.5) == ""
    assert against_half("unknown", 0.0) == ""
    plan = make_plan(space(4, main_gib=8), sdxl_need(itemsize=4))
    assert plan.base.way == "streams" and plan.base.resident_bytes > 1.5 * GIB, "weights rest and travel in 2 bytes"


@pytest.mark.slow
def test_the_work_memory_is_what_the_networks_take() -> None:
    """The constants against live tensors of the full networks, which run without data."""
    for config, width in ((activations.UNET, 320), (activations.REFINER, 384)):
        counted = activations.unet_peak(config, 1152, 896) / (2 * 2 * 1152 * 896 / 64 * width)
        assert UNET_ELEMENTS * 0.95 < counted <= UNET_ELEMENTS
    whole = activations.whole_peak(1152, 896) / (4 * 1152 * 896 * 128)
    assert whole == pytest.approx(WHOLE_ELEMENTS, rel=0.01) and whole > STRIPED_ELEMENTS

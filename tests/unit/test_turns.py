"""Several pictures where base and refiner take turns on the card: each comes once, and no bit of a picture can tell."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fooocus.diffusion.state import State
from fooocus.events import Cancelled, Event, Failed, Finished, LeftOut, Notice, Paused, Saved, Step
from fooocus.jobs.paused import paused_file
from fooocus.jobs.worker import WorkItem
from fooocus.loading.limits import Limits
from fooocus.loading.memory import Memory
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, GIB, Space, Steps, make_plan
from fooocus.memory.turns import base_apart, pixels_apart
from fooocus.render import engine as engine_module
from fooocus.render import job as job_module
from fooocus.render.paused import read_paused
from fooocus.request import Recipe, Request
from tests.fakes.machine import Machine, at, made, resumed, small_request, steps

PICTURES, STEPS, SWITCH = 3, 4, 2
# The miniature's UNets take 35 MB each, its VAE 21, and their work 162.
FOR_ONE = 236_000_000  # one UNet and its work, or a UNet and the VAE's work
FOR_ONE_ALONE = 212_000_000  # a UNet and its work, but not the VAE's beside it


@pytest.fixture(scope="module")
def request_(tiny: Path) -> Request:
    return small_request(tiny, steps=STEPS, switch=SWITCH, count=PICTURES)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory, request_: Request) -> list[Event]:
    """What is told where everything fits."""
    return Machine(tmp_path_factory.mktemp("expected"), 64 * GIB).run(request_)


@pytest.fixture(scope="module")
def expected(one_by_one: list[Event]) -> dict[int, bytes]:
    """The pictures made one after the other."""
    return made(one_by_one)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for most tests: opening the miniatures takes longer than drawing with them."""
    return Machine(tmp_path_factory.mktemp("one"), FOR_ONE)


def test_each_network_comes_once(
    tmp_path: Path,
    request_: Request,
    expected: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(tmp_path, FOR_ONE)
    told = machine.run(request_)
    assert made(told) == expected and isinstance(told[-1], Finished)
    assert Counter(machine.arrivals)["unet"] == Counter(machine.arrivals)["unet of the refiner"] == 1
    base, refiner = ([(p, s) for p in range(1, PICTURES + 1) for s in part] for part in ((1, 2), (3, 4)))
    assert steps(told) == [*base, *refiner], "each step once, and the refiner's behind all of the base's"
    one_of_two = [event.picture for event in told if isinstance(event, Saved | Step)]
    assert one_of_two[6:9] == [1, 1, 1], "each picture is saved as soon as it is done"

    monkeypatch.setattr(job_module, "TOGETHER", 1)
    alone = Machine(tmp_path / "alone", FOR_ONE)
    assert made(alone.run(request_)) == expected
    unets = Counter(alone.arrivals)["unet"] + Counter(alone.arrivals)["unet of the refiner"]
    assert unets == 2 * PICTURES, "one after the other, each picture would bring both"


def test_where_pixels_need_the_networks_room_they_are_made_last(
    tmp_path: Path, request_: Request, expected: dict[int, bytes]
) -> None:
    machine = Machine(tmp_path, FOR_ONE_ALONE)
    told = machine.run(request_)
    assert made(told) == expected
    assert machine.arrivals[-3:] == ["unet", "unet of the refiner", "vae"]
    assert sum("unet" in name for name in machine.arrivals) == 2
    kinds = [type(event) for event in told if isinstance(event, Saved | Step)]
    assert kinds == [Step] * STEPS * PICTURES + [Saved] * PICTURES
    base_only = dataclasses.replace(request_, refiner="none", switch=None)
    machine.run(base_only)
    assert Counter(machine.arrivals)["unet"] == 1


# A pause in each part by default; all places are run by hand.
_USUAL = {(FOR_ONE, (2, 0)), (FOR_ONE, (1, 3)), (FOR_ONE_ALONE, (2, 4))}


def test_where_everything_fits_pictures_are_made_one_after_the_other(one_by_one: list[Event]) -> None:
    assert steps(one_by_one) == [(p, s) for p in range(1, PICTURES + 1) for s in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("card_bytes", "picture", "step"),
    [
        pytest.param(card, *place, marks=() if (card, place) in _USUAL else pytest.mark.slow)
        for card in (FOR_ONE, FOR_ONE_ALONE)
        for place in ((2, 0), (2, 1), (3, 2), (1, 3), (3, 3), (2, 4))
    ],
)
def test_a_pause_anywhere_loses_no_step(
    tmp_path: Path,
    machine: Machine,
    request_: Request,
    expected: dict[int, bytes],
    card_bytes: int,
    picture: int,
    step: int,
) -> None:
    machine = machine if card_bytes == FOR_ONE else Machine(tmp_path, card_bytes)
    first = machine.run(request_, at(picture, step, "pause"))
    assert isinstance(first[-1], Paused)
    assert machine.card.account.used_bytes == 0
    item = resumed(machine.item, first)
    second = machine.go_on(item)
    assert made(first) | made(second) == expected
    assert sorted([*steps(first), *steps(second)]) == [
        (p, s) for p in range(1, PICTURES + 1) for s in range(1, STEPS + 1)
    ]


def test_a_second_pause_keeps_what_the_first_one_kept(
    machine: Machine, request_: Request, expected: dict[int, bytes]
) -> None:
    first = machine.run(request_, at(2, 1, "pause"))
    item = resumed(machine.item, first)
    assert item.paused is not None and item.paused.kept == ((1, 2), (2, 1))
    second = machine.go_on(item, at(3, 0, "pause"))
    item = resumed(item, second)
    assert item.paused is not None and item.paused.kept == ((1, 2), (2, 2)) and item.paused.step == 0
    assert sorted(read_paused(paused_file(machine.folder, item.id), item.id)) == [1, 2]
    third = machine.go_on(WorkItem.from_json(item.to_json()))  # as it comes through the pipe
    assert made(third) == expected
    assert len(steps(first)) + len(steps(second)) + len(steps(third)) == PICTURES * STEPS


@pytest.mark.parametrize(("picture", "step", "saved"), [(2, 1, []), (2, 3, [1])])
def test_stop_keeps_what_is_saved(
    machine: Machine,
    request_: Request,
    expected: dict[int, bytes],
    picture: int,
    step: int,
    saved: list[int],
) -> None:
    told = machine.run(request_, at(picture, step, "stop"))
    assert isinstance(told[-1], Cancelled) and steps(told)[-1] == (picture, step)
    assert made(told) == {number: expected[number] for number in saved}
    assert made(machine.run(request_)) == expected, "the next job knows nothing of it"


def test_a_second_attempt_makes_what_the_first_one_had_not_saved(
    machine: Machine, request_: Request, expected: dict[int, bytes]
) -> None:
    """The first attempt dies in the refiner's part, with one picture saved and one that nobody was told of."""
    first = made(machine.run(request_, at(3, 3, "stop")))
    assert sorted(first) == [1, 2]
    told_of = [event for event in machine.told if isinstance(event, Saved) and event.picture == 1]
    told = machine.go_on(dataclasses.replace(machine.item, attempt=2, saved=tuple(told_of)))
    assert steps(told) == [(3, step) for step in range(1, STEPS + 1)]
    assert first | made(told) == expected and sorted(made(told)) == [2, 3]


@pytest.mark.parametrize("step", [1, SWITCH + 1])
def test_a_picture_that_breaks_costs_none_before_it(
    machine: Machine, request_: Request, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original = engine_module.check_latents

    def check(x: Tensor, recipe: Recipe, done: int) -> None:
        original(x * float("nan") if (recipe.seed, done) == (request_.seed + 1, step) else x, recipe, done)

    monkeypatch.setattr(engine_module, "check_latents", check)
    told = machine.run(request_)
    assert made(told) == {1: expected[1]}
    assert isinstance(told[-1], Failed) and f"broke in step {step} of {STEPS}" in told[-1].sentence


@pytest.mark.parametrize(("picture", "step"), [(2, 1), (1, 3)])
def test_a_skipped_picture_is_left_out_of_both_parts(
    machine: Machine,
    request_: Request,
    expected: dict[int, bytes],
    picture: int,
    step: int,
) -> None:
    told = machine.run(request_, at(picture, step, "skip"))
    assert [event.picture for event in told if isinstance(event, LeftOut)] == [picture]
    assert made(told) == {number: bits for number, bits in expected.items() if number != picture}
    later = [event for event in told[told.index(LeftOut(picture, PICTURES)) :] if isinstance(event, Step | Saved)]
    assert picture not in {event.picture for event in later}


def test_a_plan_that_turns_out_too_large_in_between_loses_nothing(
    tmp_path: Path,
    request_: Request,
    expected: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, original = Machine(tmp_path, FOR_ONE), engine_module.advance
    left = iter([True])

    def full(sampler: Any, denoise_at: Any, state: State, *others: Any) -> State:
        after = original(sampler, denoise_at, state, *others)
        if state.step == 1 and len(machine.told) > 12 and next(left, False):
            raise torch.OutOfMemoryError("full")
        return after

    monkeypatch.setattr(engine_module, "advance", full)
    told = machine.run(request_)
    assert next(left, None) is None and isinstance(told[-1], Finished)
    assert any(isinstance(event, Notice) and "memory ran out" in event.text for event in told)
    assert sorted(steps(told)) == [(p, s) for p in range(1, PICTURES + 1) for s in range(1, STEPS + 1)]
    assert made(told)[1] == expected[1] and made(told).keys() == expected.keys()


def test_many_pictures_are_made_in_groups(machine: Machine, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "TOGETHER", 2)
    told = machine.run(dataclasses.replace(request_, count=5))
    assert [event.picture for event in told if isinstance(event, Saved)] == [1, 2, 3, 4, 5]
    pictures = [picture for picture, _ in itertools.groupby(picture for picture, _ in steps(told))]
    assert pictures == [1, 2, 1, 2, 3, 4, 3, 4, 5], "the last one is alone"


def test_the_parts_of_a_picture_are_its_steps(request_: Request, machine: Machine) -> None:
    """What waits between the parts is on the CPU and small, whatever the card is."""
    (recipe, *_) = machine.engine.plan(request_)
    assert machine.engine.parts(recipe) == ("base",), "the pixels' room is there beside the refiner"
    (state,) = machine.engine.part([recipe], "base")
    assert state.step == SWITCH
    kept: list[Tensor] = [state.x, *state.history]
    assert all(tensor.device == torch.device("cpu") and tensor.shape == (1, 4, 8, 8) for tensor in kept)
    before = len(machine.card.taken)
    assert machine.engine.part([recipe], "base", begun=[state])[0].step == SWITCH
    assert len(machine.card.taken) == before


def space(card_gib: float) -> Space:
    card = int(card_gib * GIB)
    return Space(True, card, card - DRIVER_BYTES, 32 * GIB, 29 * GIB)


@pytest.mark.parametrize(
    ("card_gib", "base", "pixels"),
    [(4, True, True), (6, True, True), (8, True, True), (10, True, True), (16, False, False), (24, False, False)],
)
def test_sdxls_parts_are_made_apart_where_networks_would_change_places(
    card_gib: float, base: bool, pixels: bool
) -> None:
    plan = make_plan(space(card_gib), sdxl_need())
    assert (base_apart(plan), pixels_apart(plan)) == (base, pixels)
    alone = make_plan(space(card_gib), dataclasses.replace(sdxl_need(), refiner=None))
    assert not base_apart(alone)


def test_nothing_is_apart_where_nothing_would_be_spared() -> None:
    streams = make_plan(space(4), sdxl_need(), Steps(sampling=2))
    assert streams.base.way == "streams" and streams.base.resident_bytes == 0
    assert not base_apart(streams), "everything travels in every step anyway"
    blind = make_plan(Space(True, 0, None, 16 * GIB, 12 * GIB), sdxl_need(), Steps(sampling=2))
    assert blind.base.way == "takes turns" and base_apart(blind) and pixels_apart(blind)
    wide = sdxl_need(itemsize=4)
    for main_gib, apart in ((8, False), (16, True), (32, False)):
        plan = make_plan(Space(False, 0, None, main_gib * GIB, main_gib * GIB), wide)
        assert base_apart(plan) == apart and not pixels_apart(plan)
        assert plan.base.from_file == (main_gib == 8), "what is widened as it is used is not kept"
    assert not base_apart(make_plan(Space(False, 0, None, 24 * GIB, 12 * GIB), sdxl_need())), "no copies, no room"


def test_memory_and_limits_are_those_of_one_picture(machine: Machine, request_: Request) -> None:
    """Parts ask for no more than whole pictures: nothing steps down, nothing is remembered as too much."""
    machine.run(request_)
    assert isinstance(machine.memory, Memory) and machine.memory.plan is not None
    assert machine.memory.plan.steps == Steps()
    assert machine.card.account.peak_bytes <= FOR_ONE
    assert Limits(machine.folder / "memory.json")._entries == {}

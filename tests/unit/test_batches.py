"""Several pictures at once: what each is does not hang on the others, and what becomes of one is no other's affair.

The tolerance of a picture made with others: 1e-5 of its latents, one level of its pixels. Everything but the networks'
own sums is the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fooocus.diffusion import noise as noise_module
from fooocus.diffusion.noise import JoinedNoise, PictureNoise
from fooocus.diffusion.state import State, join, split
from fooocus.events import Cancelled, Failed, Finished, LeftOut, Notice, Saved, Stage, Step
from fooocus.jobs.worker import WorkItem
from fooocus.loading.limits import Limits
from fooocus.memory.batches import MOST, at_once, widened
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, GIB, Space, Steps, make_plan
from fooocus.render import engine as engine_module
from fooocus.render import fast as fast_module
from fooocus.render.preview import Shutter
from fooocus.request import Recipe, Request
from fooocus.ui.stream import View, fold
from tests.fakes.machine import Machine, at, made, resumed, small_request, steps

PICTURES, STEPS, SWITCH = 3, 4, 2
ENOUGH = 2**36  # bytes of a card: everything stays
IN_TURNS = 236_000_000  # one of the miniature's UNets and its work
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def request_(tiny: Path) -> Request:
    return small_request(tiny, steps=STEPS, switch=SWITCH, count=PICTURES)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for most tests: opening the miniatures takes longer than drawing with them."""
    return Machine(tmp_path_factory.mktemp("batches"), ENOUGH, "batches")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The same without the switch."""
    return Machine(tmp_path_factory.mktemp("plain"), ENOUGH)


@pytest.fixture(scope="module")
def expected(plain: Machine, request_: Request) -> dict[int, bytes]:
    """Four pictures made one after the other."""
    return made(plain.run(dataclasses.replace(request_, count=4)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows of every call of a UNet."""
    original, rows = fast_module.ask, list[int]()

    def ask(unet: Any, inputs: Any) -> Tensor:
        rows.append(len(inputs.x))
        return original(unet, inputs)

    monkeypatch.setattr(fast_module, "ask", ask)
    return rows


def alike(pictures: dict[int, bytes], expected: dict[int, bytes]) -> bool:
    """Say whether pictures are those expected, of which there may be more, to one level."""
    return bool(pictures) and all(
        np.abs(_pixels(picture) - _pixels(expected[number])).max() <= 1 for number, picture in pictures.items()
    )


def _pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"), dtype=np.int16)


def row(pictures: int, first: int, last: int, *, shown: int = 1) -> list[tuple[int, int]]:
    """The steps of a batch as they are told: the picture shown comes last."""
    others = range(shown + 1, pictures + 1)
    return [(number, step) for step in range(first, last + 1) for number in (*others, shown)]


# The pictures


@pytest.mark.parametrize(
    ("sampler", "refined"),
    [("euler", False), ("dpmpp_2m", True), ("euler_ancestral", True), ("dpmpp_3m_sde", True), ("dpmpp_sde", False)],
)
def test_a_picture_made_with_others_is_the_one_made_alone(
    machine: Machine, plain: Machine, request_: Request, sampler: str, refined: bool
) -> None:
    asked = dataclasses.replace(request_, sampler=sampler)
    asked = asked if refined else dataclasses.replace(asked, refiner="none", switch=None)
    alone, together = made(plain.run(asked)), made(machine.run(asked))
    assert together.keys() == alone.keys() and alike(together, alone)
    for one, other in zip(machine.latents(), plain.latents(), strict=True):
        assert (one - other).norm() / other.norm() <= TOLERANCE


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (4.0, "blue " * 400)])
def test_one_text_at_a_time(
    machine: Machine, plain: Machine, request_: Request, calls: list[int], guidance: float, negative: str
) -> None:
    """Without guidance there is one text; two of very different lengths are asked one after the other."""
    asked = dataclasses.replace(request_, guidance=guidance, negative=negative)
    together = made(machine.run(asked))
    assert set(calls) == {PICTURES} and len(calls) == STEPS * (1 if guidance == 1 else 2)
    assert alike(together, made(plain.run(asked)))


def test_the_networks_are_called_as_often_as_for_one_picture(
    machine: Machine, plain: Machine, request_: Request, calls: list[int]
) -> None:
    machine.run(request_)
    assert calls == [2 * PICTURES] * STEPS
    calls.clear()
    plain.run(request_)
    assert calls == [2] * STEPS * PICTURES


def test_the_noise_of_each_is_that_of_its_seed() -> None:
    sigmas, shape, seeds = (10.0, 5.0, 1.0, 0.0), (1, 4, 8, 8), (3, 4, 5)
    with JoinedNoise([PictureNoise(seed, shape, sigmas, [(10.0, 5.0)]) for seed in seeds]) as joined:
        asked = [joined.at(0), joined.at(2), joined.between(10.0, 5.0), joined.between(5.0, 1.0)]
    for place, seed in enumerate(seeds):
        with PictureNoise(seed, shape, sigmas) as alone:
            own = [alone.at(0), alone.at(2), alone.between(10.0, 5.0), alone.between(5.0, 1.0)]
        for all_of_them, one in zip(asked, own, strict=True):
            assert torch.equal(all_of_them[place : place + 1], one)


def test_states_are_joined_and_split_to_the_same_bits() -> None:
    states = [State(2, torch.randn(1, 4, 8, 8), (torch.randn(1, 4, 8, 8),) * 2, torch.randn(1, 4, 8, 8)) for _ in "abc"]
    joined = join(states)
    assert joined.x.shape == (3, 4, 8, 8) and len(joined.history) == 2
    for before, after in zip(states, split(joined), strict=True):
        assert after.step == 2 and torch.equal(after.x, before.x)
        assert all(torch.equal(one, other) for one, other in zip(after.history, before.history, strict=True))
        assert before.denoised is not None and after.denoised is not None
        assert torch.equal(after.denoised, before.denoised)
    assert join(states[:1]) is states[0] and split(states[0]) == (states[0],)
    assert join([dataclasses.replace(states[0], denoised=None), states[1]]).denoised is None
    with pytest.raises(ValueError, match="equally far"):
        join([states[0], State(1, states[0].x)])


# The job


def test_what_a_batch_tells(
    machine: Machine, request_: Request, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.engine, "_shutter", Shutter(0.0))  # every step is shown
    told = machine.run(request_)
    assert isinstance(told[-1], Finished) and alike(made(told), expected)
    assert steps(told) == row(PICTURES, 1, STEPS)
    assert [event.picture for event in told if isinstance(event, Step) and event.preview] == [1] * STEPS
    saved = [event.picture for event in told if isinstance(event, Saved | Step)]
    assert saved[-PICTURES:] == [1, 2, 3], "each is saved as soon as it is decoded"


def test_what_the_page_shows_of_a_batch_does_not_jump(machine: Machine, request_: Request) -> None:
    views = [View("job", "waiting", "a circle", (64, 64))]
    for second, event in enumerate(machine.run(request_)):
        views.append(fold(views[-1], event, 100.0 + second, Path("/out")))
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    pictures = [view.picture for view in views if view.picture]
    assert pictures == sorted(pictures), "the next one is spoken of when it is decoded"
    for _, of_one in itertools.groupby(views, key=lambda view: view.picture):
        gone = [view.step for view in of_one]
        assert gone == sorted(gone)


def test_only_alike_pictures_are_made_at_once(machine: Machine, request_: Request, calls: list[int]) -> None:
    told = machine.run(dataclasses.replace(request_, prompt="a circle\na star", lines="each", count=2))
    assert calls == [4] * STEPS * 2
    assert [event.picture for event in told if isinstance(event, Saved)] == [1, 2, 3, 4]
    calls.clear()
    machine.run(dataclasses.replace(request_, count=5))
    assert calls == [8] * STEPS + [2] * STEPS, "no more than four"


@pytest.mark.parametrize(("picture", "step"), [(1, 0), (1, 2), (3, 3)])
def test_a_skip_takes_the_picture_shown(
    machine: Machine, request_: Request, expected: dict[int, bytes], calls: list[int], picture: int, step: int
) -> None:
    """Whoever's step was told last, the picture shown is the first; the others go on from where they are."""
    told = machine.run(request_, at(picture, step, "skip"))
    assert [event.picture for event in told if isinstance(event, LeftOut)] == [1]
    assert sorted(made(told)) == [2, 3] and alike(made(told), expected)
    assert steps(told) == row(PICTURES, 1, step) + row(PICTURES, step + 1, STEPS, shown=2)
    assert calls == [6] * step + [4] * (STEPS - step)


def test_a_skip_while_pixels_are_made_leaves_the_others(
    machine: Machine, request_: Request, expected: dict[int, bytes]
) -> None:
    told = machine.run(request_, lambda event, control: control.skip() if event == Stage("decoding", 2, 3) else None)
    assert sorted(made(told)) == [1, 3] and alike(made(told), expected)


def test_a_stop_ends_it_at_once(machine: Machine, request_: Request) -> None:
    told = machine.run(request_, at(1, 2, "stop"))
    assert isinstance(told[-1], Cancelled) and steps(told) == row(PICTURES, 1, 2) and not made(told)


@pytest.mark.parametrize("step", [0, 1, STEPS])
def test_a_pause_keeps_all_and_another_engine_goes_on(
    tmp_path: Path, request_: Request, expected: dict[int, bytes], machine: Machine, calls: list[int], step: int
) -> None:
    first = machine.run(request_, at(1, step, "pause"))
    item = resumed(machine.item, first)
    assert item.paused is not None and item.paused.kept == tuple((n, step) for n in (1, 2, 3) if step)
    assert (item.paused.picture, item.paused.step) == (1, step)
    calls.clear()
    machine.memory.keep_only([])  # as in another process
    machine.engine = Machine(machine.folder, ENOUGH, "batches").engine
    second = machine.go_on(WorkItem.from_json(item.to_json()))
    assert calls == [2 * PICTURES] * (STEPS - step)
    assert sorted(made(second)) == [1, 2, 3] and alike(made(second), expected)


def test_pictures_that_are_not_equally_far_are_not_made_at_once(
    machine: Machine, request_: Request, expected: dict[int, bytes], calls: list[int]
) -> None:
    """What was paused before the switch was on: the first picture was begun, the others were not."""
    assert machine.engine._batches
    machine.engine._batches = False
    first = machine.run(request_, at(1, 1, "pause"))
    machine.engine._batches = True
    calls.clear()
    second = machine.go_on(resumed(machine.item, first))
    assert calls == [2] * (STEPS - 1) + [4] * STEPS and alike(made(second), expected)


# What goes wrong


def full_above(monkeypatch: pytest.MonkeyPatch, pictures: int, *, after: int = 0, times: int = 100) -> list[int]:
    """Have the card full in steps of more pictures than that; return the pictures of each step that was tried."""
    original, tried, left = engine_module.advance, list[int](), iter(range(times))

    def advance(sampler: Any, denoise_at: Any, state: State, *others: Any) -> State:
        tried.append(len(state.x))
        done = original(sampler, denoise_at, state, *others)
        if len(state.x) > pictures and state.step >= after and next(left, None) is not None:
            raise torch.OutOfMemoryError("full")
        return done

    monkeypatch.setattr(engine_module, "advance", advance)
    return tried


def test_too_many_are_halved_for_the_rest_of_the_job(
    tmp_path: Path, request_: Request, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ENOUGH, "batches")
    tried = full_above(monkeypatch, 2, after=1)
    told = machine.run(dataclasses.replace(request_, count=6))
    assert isinstance(told[-1], Finished) and sorted(made(told)) == [1, 2, 3, 4, 5, 6]
    assert alike(dict(list(made(told).items())[:4]), expected)
    assert tried == [4, 4, *[2] * 3 * 2, *[2] * 4], "no step is lost but the one that was too much"
    notices = [event.text for event in told if isinstance(event, Notice) and "ran out" in event.text]
    assert notices == ["The graphics card's memory ran out. Fewer pictures are made at once."]
    assert machine.memory.plan is not None and machine.memory.plan.steps == Steps()
    (entry,) = json.loads((tmp_path / "memory.json").read_text()).values()
    assert entry["sampling"] == entry["text"] == entry["decoding"] == 0, "one picture was never too much"
    assert entry["pictures"] == 2
    for next_one in (machine, Machine(tmp_path, ENOUGH, "batches")):
        tried.clear()
        told = next_one.run(request_)
        assert isinstance(told[-1], Finished) and tried == [*[2] * STEPS, *[1] * STEPS], "nobody runs into it twice"


def test_how_many_were_too_many_is_forgotten_with_the_plan_or_with_more_memory(tmp_path: Path) -> None:
    file, space = tmp_path / "memory.json", Space(True, 8 * GIB, 7 * GIB, 16 * GIB, 12 * GIB)
    file.write_text('{"old": {"text": 0, "sampling": 1, "decoding": 0, "free_bytes": 5}}')  # of an older version
    limits = Limits(file)
    assert (limits.pictures("old", Space(True, 8 * GIB, 5, 16 * GIB, 12 * GIB)), limits.pictures("a", space)) == (0, 0)
    limits.note_pictures("a", space, 3)
    assert (Limits(file).pictures("a", space), Limits(file).steps("a", space)) == (3, Steps())
    assert Limits(file).pictures("a", dataclasses.replace(space, card_free_bytes=10 * GIB)) == 0
    lower = make_plan(space, sdxl_need(), Steps(0, 1, 0))
    limits.note("a", lower)
    assert (limits.pictures("a", space), limits.steps("a", space)) == (0, Steps(0, 1, 0))
    limits.note_pictures("a", space, 2)
    assert (Limits(file).pictures("a", space), Limits(file).steps("a", space)) == (2, Steps(0, 1, 0))


def test_where_not_even_two_have_room_they_are_made_alone(
    tmp_path: Path, request_: Request, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ENOUGH, "batches")
    tried = full_above(monkeypatch, 1, after=2)
    told = machine.run(dataclasses.replace(request_, count=2))
    assert isinstance(told[-1], Finished) and tried == [2, 2, 2, *[1] * 4]
    assert made(told).keys() == {1, 2} and alike(made(told), expected)


def test_memory_that_is_short_for_one_as_well_steps_the_plan_down(
    tmp_path: Path, request_: Request, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Machine(tmp_path, ENOUGH, "batches")
    tried = full_above(monkeypatch, 0, times=3)
    told = own.run(request_)
    assert isinstance(told[-1], Finished) and sorted(made(told)) == [1, 2, 3] and alike(made(told), expected)
    assert tried == [3, 2, 1, *[1] * STEPS * PICTURES]
    assert own.memory.plan is not None and own.memory.plan.steps.sampling > 0


def broken_noise(monkeypatch: pytest.MonkeyPatch, seed: int, below: float = 1e9) -> None:
    """Have one picture broken from its first step below a sigma on."""
    original = PictureNoise.between

    def between(self: PictureNoise, sigma_from: float, sigma_to: float) -> Tensor:
        drawn = original(self, sigma_from, sigma_to)
        return drawn * float("nan") if self._seed == seed and sigma_to < below else drawn

    monkeypatch.setattr(noise_module.PictureNoise, "between", between)


@pytest.mark.parametrize(("card", "step"), [(ENOUGH, 1), (ENOUGH, 3), (IN_TURNS, 3)])
def test_a_broken_picture_costs_none_before_it(
    tmp_path: Path,
    request_: Request,
    machine: Machine,
    expected: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
    card: int,
    step: int,
) -> None:
    machine = machine if card == ENOUGH else Machine(tmp_path, card, "batches")
    (recipe, *_) = machine.engine.plan(request_)
    sigmas = machine.engine._prepare(recipe, engine_module.SILENT).sigmas
    broken_noise(monkeypatch, request_.seed + 1, (sigmas[step - 1] + sigmas[step]) / 2)  # type: ignore[operator]
    told = machine.run(request_)
    assert isinstance(told[-1], Failed) and f"broke in step {step} of {STEPS}" in told[-1].sentence
    assert made(told).keys() == {1} and alike(made(told), expected)


def test_what_breaks_only_with_others_is_made_alone(
    machine: Machine,
    request_: Request,
    expected: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
    calls: list[int],
) -> None:
    original = engine_module.check_latents

    def check(x: Tensor, recipe: Recipe, done: int) -> None:
        original(x * float("nan") if len(x) > 1 and done == 3 else x, recipe, done)

    monkeypatch.setattr(engine_module, "check_latents", check)
    told = machine.run(request_)
    assert isinstance(told[-1], Finished) and alike(made(told), expected) and sorted(made(told)) == [1, 2, 3]
    assert calls == [6, 6, 6, *[2] * 6] and len(steps(told)) == PICTURES * STEPS


# Where networks take turns, or stream


def test_parts_are_done_for_several_at_once(
    tmp_path: Path, request_: Request, expected: dict[int, bytes], calls: list[int]
) -> None:
    own = Machine(tmp_path, IN_TURNS, "batches")
    (recipe, *_) = own.engine.plan(request_)
    assert own.engine.parts(recipe) == ("base",) and own.engine.at_once(recipe) == MOST
    told = own.run(dataclasses.replace(request_, count=6))
    assert calls == [*[8] * SWITCH, *[4] * SWITCH, *[8] * (STEPS - SWITCH), *[4] * (STEPS - SWITCH)]
    assert [name for name in own.arrivals if "unet" in name] == ["unet", "unet of the refiner"]
    assert alike(dict(list(made(told).items())[:4]), expected)
    assert own.card.account.peak_bytes <= IN_TURNS and own.memory.plan is not None
    assert own.memory.plan.steps == Steps() and own.memory.plan.need.pictures == 1
    paused = own.run(request_, at(1, 1, "pause"))
    assert sorted(made(own.go_on(resumed(own.item, paused)))) == [1, 2, 3]


@pytest.mark.parametrize("down", [4, 6])
def test_a_network_that_streams_comes_once_a_step_for_all(
    tmp_path: Path,
    request_: Request,
    expected: dict[int, bytes],
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
    down: int,
) -> None:
    """With half of it on the card, and with nothing of it there and one text at a time."""
    monkeypatch.setattr(Limits, "steps", lambda self, key, space: Steps(sampling=down))
    own = Machine(tmp_path, 700_000_000, "batches")
    told = own.run(request_)
    assert own.memory.plan is not None and own.memory.plan.base.way == "streams"
    assert calls == ([6] * STEPS if own.memory.plan.together else [3] * STEPS * 2)
    assert sorted(made(told)) == [1, 2, 3] and alike(made(told), expected)
    assert own.card.account.peak_bytes <= 700_000_000


# How many


def card(gib: float) -> Space:
    return Space(True, int(gib * GIB), int(gib * GIB) - DRIVER_BYTES, 32 * GIB, 29 * GIB)


@pytest.mark.parametrize(
    ("gib", "way", "pictures"),
    [(2, "streams", 1), (4, "streams", 4), (8, "takes turns", 4), (24, "stays", 4)],
)
def test_as_many_as_the_same_plan_has_room_for(gib: int, way: str, pictures: int) -> None:
    plan = make_plan(card(gib), sdxl_need())
    assert plan.base.way == way and at_once(plan) == pictures
    for number in range(2, MOST + 1):
        wide = widened(plan, number)
        assert (wide is not None) == (number <= pictures)
        if wide is not None:
            assert [berth.way for berth in wide.unets] == [berth.way for berth in plan.unets]
            assert (wide.decoding, wide.text, wide.together) == (plan.decoding, plan.text, plan.together)
            usable = plan.space.usable_bytes
            assert usable is not None and wide.sampling_peak_bytes - DRIVER_BYTES <= usable
            assert wide.sampling_peak_bytes >= plan.sampling_peak_bytes or way == "streams"


def test_a_plan_that_would_have_to_change_is_no_room() -> None:
    """Between two kinds of cards: one picture leaves everything where it is, four would have to move it."""
    plans = [make_plan(card(gib / 8), sdxl_need()) for gib in range(16, 200)]
    assert {at_once(plan) for plan in plans} > {1, 4}
    for plan in plans:
        if (wide := widened(plan, at_once(plan))) is not None and at_once(plan) > 1:
            assert [berth.way for berth in wide.unets] == [berth.way for berth in plan.unets]


def test_who_cannot_tell_makes_one_at_a_time() -> None:
    assert at_once(make_plan(Space(True, 0, None, 32 * GIB, 29 * GIB), sdxl_need())) == 1


@pytest.mark.parametrize(("gib", "itemsize", "pictures"), [(8, 4, 1), (16, 2, 4), (12, 2, 1), (32, 4, 4)])
def test_on_a_processor_work_must_not_drive_the_weights_out(gib: int, itemsize: int, pictures: int) -> None:
    plan = make_plan(Space(False, 0, None, gib * GIB, int(0.9 * gib * GIB)), sdxl_need(itemsize=itemsize))
    assert at_once(plan) == pictures


def test_without_the_switch_pictures_are_made_one_by_one(plain: Machine, machine: Machine, request_: Request) -> None:
    (recipe, *_) = plain.engine.plan(request_)
    assert (plain.engine.at_once(recipe), machine.engine.at_once(recipe)) == (1, MOST)

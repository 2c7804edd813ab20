"""Networks come and go without changing a bit of the picture: a card with a byte budget, and scarce main memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fooocus.config import Config
from fooocus.errors import BrokenPicture, DeviceOutOfMemory
from fooocus.families.records import Kind
from fooocus.loading import memory as memory_module
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.device import choose_device, is_out_of_memory
from fooocus.loading.limits import Limits
from fooocus.loading.memory import Memory
from fooocus.loading.needs import network_need, together
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, GIB, Space, Steps, make_plan
from fooocus.memory.words import sentence
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import load_styles
from fooocus.render import engine as engine_module
from fooocus.render.engine import Engine
from fooocus.render.latents import decode_surely
from fooocus.render.preview import known_mix
from fooocus.render.watch import Watch
from fooocus.request import LoraUse, Recipe, Request, Size
from tests.fakes.fake_card import FakeCard, fake_card
from tests.fakes.working_memory import Working

CPU = choose_device("cpu", "float32")  # processors that have bfloat16 would choose that


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    request = Request(
        prompt="a red circle",
        styles=(),
        size=Size(64, 64),
        steps=4,
        switch=2,
        seed=11,
        base=str(tiny / "tiny_base.safetensors"),
        refiner=str(tiny / "tiny_refiner.safetensors"),
        loras=(LoraUse(str(tiny / "tiny_offset_lora.safetensors"), 0.5),),
    )
    return plan(request, load_styles(Config().styles_folder))[0]


def engine_with(tmp_path: Path, memory: Memory) -> Engine:
    return Engine(Config(outputs=tmp_path, data=tmp_path, metadata=False), memory=memory)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> torch.Tensor:
    return engine_with(tmp_path_factory.mktemp("expected"), Memory(CPU)).render(recipe).latents


def largest(tiny: Path) -> int:
    from fooocus.loading.checkpoint import open_checkpoint

    sizes = []
    for file in ("tiny_base", "tiny_refiner"):
        blueprints = open_checkpoint(tiny / f"{file}.safetensors")
        for kind in (*blueprints.architecture.family.text, "unet", "vae"):
            module = blueprints.load(kind, dtype=torch.float32).module
            sizes.append(sum(parameter.nbytes for parameter in module.parameters()))
    return max(sizes)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, or but for the order of sums where prompts are asked one after the other."""
    return bool((a - b).norm() <= 1e-5 * b.norm())


def test_without_main_memory_the_picture_is_the_same(
    tmp_path: Path, recipe: Recipe, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor: nothing is held, weights are widened from the files as they are used."""
    opened: list[str] = []
    original = memory_module.open_checkpoint

    def counted(path: Path, **arguments: object) -> object:
        opened.append(path.name)
        return original(path, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(memory_module, "open_checkpoint", counted)
    engine = engine_with(tmp_path, Memory(CPU, free_main_bytes=lambda: 0))
    told: list[str] = []
    assert torch.equal(engine.render(recipe, Watch(notice=told.append)).latents, expected)
    assert sorted(opened) == ["tiny_base.safetensors", "tiny_refiner.safetensors"]
    assert torch.equal(engine.render(recipe).latents, expected)
    assert any("read from their files as they are used" in text for text in told)


@pytest.mark.parametrize("room", [1.05, 100.0])
def test_a_card_that_cannot_tell_is_used_as_far_as_it_goes(
    tmp_path: Path, tiny: Path, recipe: Recipe, expected: torch.Tensor, room: float
) -> None:
    # Reading uses both text encoders of the base at once; they are the largest things here together.
    card = fake_card(int(largest(tiny) * 2 * room), blind=True)
    engine = engine_with(tmp_path, Memory(card))
    for _ in range(2):
        assert torch.equal(engine.render(recipe).latents, expected)
    if room == 100.0:
        assert len(card.taken) == len(set(card.taken)), "what is there already is not copied again"


def test_a_card_too_small_for_anything_leaves_it_to_the_processor(
    tmp_path: Path, recipe: Recipe, expected: torch.Tensor
) -> None:
    told: list[str] = []
    for card in (fake_card(1000), fake_card(1000, blind=True)):
        rendered = engine_with(tmp_path, Memory(card)).render(recipe, Watch(notice=told.append))
        assert close(rendered.latents, expected)
        assert card.account.used_bytes == 0
    assert "Computes on the processor, because the card has too little memory" in told[1]
    assert [text for text in told if text.startswith("The graphics card's memory ran out.")]


def test_a_lora_weight_changed_on_the_card_goes_home_with_it(tmp_path: Path, recipe: Recipe) -> None:
    card = fake_card(blind=True)
    engine = engine_with(tmp_path, Memory(card))
    engine.render(recipe)
    other = dataclasses.replace(recipe, loras=(LoraUse(recipe.loras[0].name, -0.7),))
    changed = engine.render(other).latents
    engine._memory.make_room()
    assert card.account.used_bytes == 0
    assert torch.equal(engine.render(other).latents, changed)
    assert torch.equal(engine_with(tmp_path, Memory(CPU)).render(other).latents, changed)


# The parts of the work that may run out of memory, and how often weights or rings had been asked for before.
STAGES = ("load", "text", "step", "refiner", "decode")
# Steps down for text, sampling and decoding where the picture begins: each way to keep a network.
TIERS = {
    "everything stays": Steps(),
    "UNets stay": Steps(0, 1, 0),
    "take turns": Steps(0, 2, 1),
    "streams in part": Steps(1, 4, 1),
    "streams": Steps(1, 5, 2),
    "streams, apart": Steps(1, 6, 2),
}


class Fault:
    """Be out of memory in one stage of a picture: once, or twice where at first others may have been in the way."""

    def __init__(self, stage: str, card: FakeCard) -> None:
        self.stage, self.now, self.left = stage, "", 2 if stage in ("step", "decode") else 1
        card.account.full = lambda what: what != "work" and stage in ("load", "refiner") and self.due(stage)
        self.checks: Counter[str] = Counter()

    def begins(self, name: str) -> None:
        self.now = name

    def check(self) -> None:
        """Run out inside of a network: the third block of a pass of the wanted part."""
        self.checks[self.now] += 1
        wanted = {"step": "sampling", "decode": "decoding"}.get(self.stage, "")
        if self.now == wanted and self.checks[self.now] >= 3 and self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("full")

    def due(self, stage: str) -> bool:
        part = {"load": "sampling", "refiner": "refining", "text": "reading"}[stage]
        if self.now == part and self.left:
            self.left -= 1
            return True
        return False


# Every stage and every tier once by default; all pairs take a minute and are run by hand.
_USUAL = {
    ("load", "UNets stay"),
    ("text", "everything stays"),
    ("step", "streams in part"),
    ("step", "streams, apart"),
    ("refiner", "take turns"),
    ("decode", "streams"),
}


@pytest.mark.parametrize(
    ("stage", "tier"),
    [
        pytest.param(stage, tier, marks=() if (stage, tier) in _USUAL else pytest.mark.slow)
        for stage in STAGES
        for tier in TIERS
    ],
)
def test_memory_that_runs_out_anywhere_costs_no_picture(
    tmp_path: Path,
    recipe: Recipe,
    expected: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    tier: str,
) -> None:
    card = fake_card(64 * GIB)
    limits = Limits(None)
    monkeypatch.setattr(limits, "steps", lambda key, space: TIERS[tier])
    memory = Memory(card, limits=limits)
    engine = engine_with(tmp_path, memory)
    fault = Fault(stage, card)
    if stage == "text":
        read = engine.read

        def reading(*arguments: object) -> object:
            if fault.due("text"):
                raise torch.OutOfMemoryError("full")
            return read(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(engine, "read", reading)
    told: list[str] = []
    steps: list[int] = []
    watch = Watch(
        stage=fault.begins, check=fault.check, notice=told.append, step=lambda state, count: steps.append(state.step)
    )
    rendered = engine.render(recipe, watch)
    assert close(rendered.latents, expected)
    assert steps == [1, 2, 3, 4], "a step that failed is done again, and told once"
    fell = [text for text in told if "memory ran out" in text]
    cleared = [text for text in fell if text.endswith("What rested there made room.")]
    assert cleared == (fell[:1] if stage in ("step", "decode") else [])
    fell = fell[len(cleared) :]
    how = fell[0] if fell else "another network left" if not fault.left else "nothing had to be loaded"
    print(f"\n| {stage} | {tier} | {how} |")  # the table in benchmarks/out_of_memory.md: pytest -s
    # Where another network could leave instead, it did, and nobody needs to know; what is there need not be loaded.
    assert len(fell) <= 1 and (stage in ("load", "refiner") or len(fell) == 1 - fault.left == 1)
    assert memory.plan is not None and (not fell or fell[0].endswith(sentence(memory.plan)))
    memory.make_room()
    del rendered
    assert card.account.used_bytes == 0


@pytest.mark.parametrize("first", [64, 128])
def test_a_second_picture_has_the_room_of_the_first(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """On a card for the UNet and its work, or the VAE and its work, but not for the VAE's beside the UNet."""
    monkeypatch.setattr(FakeCard, "total_bytes", lambda self: 0)  # the driver takes nothing here
    card = fake_card(221_000_000)
    memory, limits = Working(card), []
    monkeypatch.setattr(memory._limits, "note", lambda *arguments: limits.append(arguments))
    engine = engine_with(tmp_path, memory)
    told: list[str] = []
    for pixels in (first, 128):
        # Without LoRAs: the card does not count the sums that take the place of its copies.
        alone = dataclasses.replace(recipe, refiner=None, switch=None, loras=(), size=Size(pixels, pixels), steps=1)
        engine.render(alone, Watch(notice=told.append))
        assert memory.plan is not None
        assert (memory.plan.base.way, memory.plan.decoding, memory.plan.steps) == ("takes turns", "whole", Steps())
    assert not limits and not [text for text in told if "ran out" in text]


def test_a_network_that_streams_follows_the_plan_of_the_next_size(
    tmp_path: Path, tiny: Path, recipe: Recipe, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, limits = fake_card(64 * GIB), Limits(None)
    memory, base = Memory(card, limits=limits), tiny / "tiny_base.safetensors"
    engine = engine_with(tmp_path, memory)
    free = card.account.budget_bytes
    rest: list[int] = []
    for tier in ("streams in part", "streams in part", "streams"):
        monkeypatch.setattr(limits, "steps", lambda key, space, tier=tier: TIERS[tier])
        assert close(engine.render(recipe).latents, expected)
        counted = (memory._space().card_free_bytes or 0) - free
        assert abs(counted) < 2**20, "what networks hold there is free for them, rings as well"
        held = next(held for key, held in memory._held.items() if "unet" in key and str(base) in key)
        assert held.stream is not None and held.settled and memory.plan is not None
        assert held.berth == memory.plan.base
        rest.append(held.stream.resident_bytes)
    assert rest[0] == rest[1] > 2 * rest[2]


def test_plans_that_failed_are_remembered_until_there_is_more(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "memory.json"
    card = fake_card(64 * GIB)
    memory = Memory(card, limits=Limits(file))
    engine = engine_with(tmp_path, memory)
    fault = Fault("step", card)
    engine.render(recipe, Watch(stage=fault.begins, check=fault.check))
    assert memory.plan is not None and memory.plan.steps.sampling == 1
    assert [entry["sampling"] for entry in json.loads(file.read_text()).values()] == [1]

    again = Memory(card, limits=Limits(file))
    engine_with(tmp_path, again).render(recipe)
    assert again.plan is not None and again.plan.steps.sampling == 1, "the next run begins there"
    key, space = next(iter(json.loads(file.read_text()))), again.plan.space
    more = dataclasses.replace(space, card_free_bytes=int((space.card_free_bytes or 0) * 1.3))
    little = dataclasses.replace(space, card_free_bytes=int((space.card_free_bytes or 0) * 1.1))
    limits = Limits(file)
    assert limits.steps(key, little).sampling == 1 and limits.steps("another card", more) == Steps()
    assert limits.steps(key, more) == Steps() and json.loads(file.read_text()) == {}


def test_what_was_too_much_is_tried_again_after_a_day(tmp_path: Path) -> None:
    """Perhaps another program had the card only then."""
    file, clock = tmp_path / "memory.json", [1_000_000.0]
    space = Space(True, 8 * GIB, 7 * GIB, 16 * GIB, 12 * GIB)
    limits = Limits(file, lambda: clock[0])
    lower = make_plan(space, sdxl_need(), Steps(0, 1, 0))
    for later, kept in ((0, True), (86_399, True), (86_400, False), (-10, False)):
        limits.note("a", lower)
        clock[0] += later
        assert (limits.steps("a", space) == Steps(0, 1, 0)) == kept
        assert bool(json.loads(file.read_text())) == kept


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"text": -1}}', "\x00", '{"a": {"text": "x"}}'])
def test_a_spoilt_memory_file_is_no_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    limits = Limits(tmp_path / "memory.json")
    space = Space(True, 8 * GIB, 7 * GIB, 16 * GIB, 12 * GIB)
    assert limits.steps("a", space) == Steps()
    limits.note("a", make_plan(space, sdxl_need(), Steps(0, 1, 0)))
    assert Limits(tmp_path / "memory.json").steps("a", space) == Steps(0, 1, 0)


def test_running_out_again_and_again_is_told_in_words(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    engine = engine_with(tmp_path, Memory(fake_card(blind=True)))
    monkeypatch.setattr("fooocus.render.latents.decode", full)
    told: list[str] = []
    with pytest.raises(DeviceOutOfMemory, match="memory ran out"):
        engine.render(recipe, Watch(notice=told.append))
    fell = [text for text in told if "ran out" in text]
    assert len(fell) == 4, "others leave; whole, stripes, main memory, processor"
    assert fell[0].endswith("What rested there made room.")


def test_the_refiner_travels_while_the_base_still_works(
    tmp_path: Path, recipe: Recipe, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_AHEAD_BYTES", 1)
    for tier in ("take turns", "streams in part"):
        card, limits = fake_card(64 * GIB), Limits(None)
        monkeypatch.setattr(limits, "steps", lambda key, space, tier=tier: TIERS[tier])
        memory = Memory(card, limits=limits)
        sent: list[int] = []

        def step(state: object, count: int, card: FakeCard = card, sent: list[int] = sent) -> None:
            sent.append(sum(nbytes for lane in card.lanes for what, _, nbytes in lane.log if what == "sent"))

        rendered = engine_with(tmp_path, memory).render(recipe, Watch(step=step))
        assert torch.equal(rendered.latents, expected)
        if tier == "take turns":
            assert sent[1] > sent[0], "before the first of the refiner's steps"


def test_what_was_sent_ahead_gives_way_before_the_plan_does(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_AHEAD_BYTES", 1)
    card, limits = fake_card(64 * GIB), Limits(None)
    monkeypatch.setattr(limits, "steps", lambda key, space: TIERS["take turns"])
    memory = Memory(card, limits=limits)
    base, refiner = tiny / "tiny_base.safetensors", tiny / "tiny_refiner.safetensors"
    memory.prepare(base, "base")
    memory.prepare(refiner, "refiner")
    before = memory.arrange(base, refiner, Size(64, 64), guided=True)
    with memory.use(base, "base", "unet"):
        used = card.account.used_bytes
        memory.expect(refiner, "refiner", "unet")
        assert card.account.used_bytes > used
        assert memory.step_down("sampling") is before, "nothing but the haste was too much"
        assert card.account.used_bytes == used
        memory.expect(refiner, "refiner", "unet")
        assert card.account.used_bytes == used, "nothing is sent ahead any more"
        lower = memory.step_down("sampling")
        assert lower is not None and lower.steps.sampling > before.steps.sampling


def test_what_is_sent_ahead_leaves_free_what_no_plan_touches(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_AHEAD_BYTES", 1)
    base, refiner = tiny / "tiny_base.safetensors", tiny / "tiny_refiner.safetensors"
    card, limits = fake_card(10**12), Limits(None)
    monkeypatch.setattr(limits, "steps", lambda key, space: TIERS["take turns"])
    memory = Memory(card, limits=limits)
    memory.prepare(base, "base")
    memory.prepare(refiner, "refiner")
    made = memory.arrange(base, refiner, Size(64, 64), guided=True)
    spare = made.space.spare_bytes
    assert spare == card.account.budget_bytes - (made.space.usable_bytes or 0) > 0
    with memory.use(base, "base", "unet"):
        # As much is taken by others as leaves the work its room, the spare, and not one byte more.
        work = made.sampling_peak_bytes - DRIVER_BYTES - max(berth.resident_bytes for berth in made.unets)
        card.account.take(card.free_bytes() - work - spare, "others")
        used = card.account.used_bytes
        memory.expect(refiner, "refiner", "unet")
        assert card.account.used_bytes == used
        card.account.give(64 * 2**20)
        memory.expect(refiner, "refiner", "unet")
        assert used - 64 * 2**20 < card.account.used_bytes <= used


@pytest.mark.parametrize("tier", ["everything stays", "take turns", "streams in part"])
def test_sums_take_the_place_of_what_stays_on_the_card(tiny: Path, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    """A small card has no room for its weights and for their sums."""
    base, lora = tiny / "tiny_base.safetensors", tiny / "tiny_offset_lora.safetensors"
    limits = Limits(None)
    monkeypatch.setattr(limits, "steps", lambda key, space: TIERS[tier])
    # In the numbers of the file: what is widened as it is used gets its sums then, and needs no memory for them.
    memory = Memory(dataclasses.replace(fake_card(), dtype=torch.float16), limits=limits)
    memory.prepare(base, "base")
    memory.arrange(base, None, Size(64, 64), guided=True)
    places: list[dict[str, int]] = []
    for weights in ([], [(lora, 0.5)], [(lora, 0.7)], []):
        memory.prepare(base, "base", weights)
        with memory.use(base, "base", "unet"):
            (held,) = (held for held in memory._held.values() if held.network.kind == "unet")
            module = held.network.module
            stay = {name: module.get_parameter(name) for name in held.copies}
            if held.stream is not None:  # what stays is shown while it does not work
                held.stream.unbind()
                stay = {name: module.get_parameter(name) for name in held.copies}
                held.stream.bind()
            places.append({name: parameter.data_ptr() for name, parameter in stay.items()})
            assert bool(held.network.patches) == bool(weights)
    assert len(places[0]) > 100 and places[1:] == places[:1] * 3


def test_for_the_spare_only_those_leave_that_need_not_stay(tiny: Path) -> None:
    base = tiny / "tiny_base.safetensors"
    memory = Memory(fake_card())
    memory.prepare(base, "base")
    kinds: tuple[Kind, ...] = ("text_l", "unet")
    for kind in kinds:
        with memory.use(base, "base", kind):
            pass
    held = {one.network.kind: one for one in memory._held.values()}
    held["unet"].stays = True
    free = memory._clearing.free_bytes()
    assert free is not None
    memory._clearing.clear(free, 10**12)
    assert held["unet"].placed and not held["text_l"].placed
    memory._clearing.clear(free + 10**12)
    assert not held["unet"].placed, "for the work itself it does leave"


def test_other_networks_give_way_before_the_plan_does_but_once(tiny: Path) -> None:
    base, card = tiny / "tiny_base.safetensors", fake_card(64 * GIB)
    memory = Memory(card)
    memory.prepare(base, "base")
    plan = memory.arrange(base, None, Size(64, 64), guided=True)
    kinds: tuple[Kind, ...] = ("text_l", "unet")

    def bring() -> None:
        for kind in kinds:
            with memory.use(base, "base", kind):
                pass

    bring()
    assert memory.step_down("sampling") is plan and card.account.used_bytes == 0
    bring()
    lower = memory.step_down("sampling")
    assert lower is not None and lower.steps.sampling > plan.steps.sampling
    assert memory.arrange(base, None, Size(64, 64), guided=True).steps.sampling == lower.steps.sampling
    bring()
    assert memory.step_down("decoding") is memory.plan, "another part of the work may find them in its way as well"
    bring()
    again = memory.step_down("sampling")
    assert again is not None and again.steps.sampling > lower.steps.sampling, "they will rest there again"


def test_loras_stay_on_the_card_when_their_network_leaves_it(tiny: Path) -> None:
    """They are added again, to the last bit, and nothing is fetched home."""
    base, lora = tiny / "tiny_base.safetensors", tiny / "tiny_offset_lora.safetensors"
    memory = Memory(fake_card())
    memory.prepare(base, "base", [(lora, 0.5)])
    with memory.use(base, "base", "unet") as unet:
        (held,) = (held for held in memory._held.values() if held.network.kind == "unet")
        home, sums = held.home, {name: value.clone() for name, value in unet.state_dict().items()}
        assert home is not None and held.network.patches
    memory.make_room()
    assert held.network.patches == {}
    for name, parameter in held.network.module.named_parameters():
        assert parameter.data_ptr() == home[name].data_ptr(), name
    with memory.use(base, "base", "unet") as unet:
        assert all(torch.equal(value, sums[name]) for name, value in unet.state_dict().items())


def test_a_preview_without_room_for_its_colours_changes_no_plan(
    tmp_path: Path, recipe: Recipe, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, told = fake_card(64 * GIB), []
    memory = Memory(card)
    engine = engine_with(tmp_path, memory)
    original = engine_module.measured_mix
    asked: list[Exception] = [torch.OutOfMemoryError("full"), MemoryError(), DeviceOutOfMemory("full")]

    def full(*arguments: object) -> torch.Tensor:
        if asked:
            raise asked.pop()
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "measured_mix", full)
    for _ in range(3):
        assert torch.equal(engine.render(recipe, Watch(notice=told.append)).latents, expected)
        assert torch.equal(engine.mix, known_mix())
    engine.render(recipe)
    assert not asked and not torch.equal(engine.mix, known_mix()), "when there is room it is measured"
    assert memory.plan is not None and memory.plan.steps == Steps()
    assert not [text for text in told if "ran out" in text]
    monkeypatch.setattr(engine_module, "measured_mix", lambda *arguments: 1 / 0)
    engine._mixes.clear()
    with pytest.raises(ZeroDivisionError):
        engine.render(recipe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_that_mix_number_formats_are_counted_tensor_by_tensor(
    tiny: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """As some merges are stored: attention of the text in float32, everything else in half precision."""
    mixed = {
        name: tensor.float() if ".attn2." in name else tensor
        for name, tensor in load_file(tiny / "tiny_base.safetensors").items()
    }
    save_file(mixed, tmp_path / "mixed.safetensors")
    checkpoint = open_checkpoint(tmp_path / "mixed.safetensors")
    blueprint = checkpoint.architecture.blueprints["unet"]
    told = network_need(blueprint, checkpoint.file, dtype)
    stored = {name: mixed[source.key] for name, source in blueprint.sources.items()}
    resting = {name: tensor.numel() * min(tensor.element_size(), dtype.itemsize) for name, tensor in stored.items()}
    once = [name for name in stored if ".attn2.to_k." in name or ".attn2.to_v." in name]
    assert told.count == sum(tensor.numel() for tensor in stored.values())
    assert told.resting_bytes == sum(resting.values())
    assert told.travel_bytes == told.resting_bytes - sum(resting[name] for name in once)
    assert told.copied == sum(tensor.numel() for tensor in stored.values() if tensor.dtype != dtype)
    narrow = [tensor.numel() for tensor in stored.values() if tensor.element_size() < dtype.itemsize]
    assert told.widened == max(narrow, default=0)
    both = together([told, told])
    assert (both.resting_bytes, both.copied_bytes) == (2 * told.resting_bytes, 2 * told.copied_bytes)


def test_files_that_are_no_longer_wanted_are_let_go(tiny: Path) -> None:
    memory = Memory(CPU)
    base, refiner = tiny / "tiny_base.safetensors", tiny / "tiny_refiner.safetensors"
    lora = tiny / "tiny_offset_lora.safetensors"
    memory.prepare(base, "base", [(lora, 1.0)])
    memory.prepare(refiner, "refiner")
    with memory.use(refiner, "refiner", "text_g"):
        assert len(memory._held) == 1
    memory.keep_only([base])
    assert (len(memory._models), len(memory._held), len(memory._loras)) == (1, 0, 0)


class _Overflowing(nn.Module):
    """A decoder that breaks in half precision, as SDXL's does."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 300.0, dtype=dtype))
        self.decoder = nn.Module()

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        big = latents[:, :3] * 0 + self.weight * self.weight
        return (big / self.weight.pow(2).clamp(min=1),)


def test_a_decoder_that_breaks_in_half_precision_is_asked_again(tmp_path: Path) -> None:
    asked: list[torch.dtype] = []
    told: list[str] = []

    @contextlib.contextmanager
    def vae(dtype: torch.dtype):  # type: ignore[no-untyped-def]
        asked.append(dtype)
        yield _Overflowing(dtype)

    memory = Memory(CPU, vae_dtype=torch.float16)
    image = decode_surely(vae, torch.zeros(1, 4, 8, 8), memory, lambda: None, told.append)
    assert asked == [torch.float16, torch.float32] and len(told) == 1 and "float32" in told[0]
    assert image.getextrema() == ((255, 255),) * 3
    with pytest.raises(BrokenPicture):
        decode_surely(vae, torch.full((1, 4, 8, 8), math.nan), memory, lambda: None, told.append)


def test_latents_that_break_name_model_and_loras(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine_module.advance
    for step, named in ((1, "tiny_base.safetensors with .*tiny_offset_lora.* at 0.5"), (3, "tiny_refiner.safetensors")):

        def broken(sampler: object, denoise_at: object, state: object, *others: object, step: int = step) -> object:
            after = original(sampler, denoise_at, state, *others)  # type: ignore[arg-type]
            return dataclasses.replace(after, x=after.x * math.nan) if after.step == step else after

        monkeypatch.setattr(engine_module, "advance", broken)
        with pytest.raises(BrokenPicture, match=f"step {step} of 4: .*{named}"):
            engine_with(tmp_path, Memory(CPU)).render(recipe)


def test_libraries_that_get_no_memory_are_out_of_memory() -> None:
    for text in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))


def test_the_processor_is_chosen_with_a_reason() -> None:
    assert (CPU.device.type, CPU.dtype, CPU.apart) == ("cpu", torch.float32, False)
    assert "processor" in CPU.reason and "as asked" in CPU.reason
    assert choose_device("cpu", "bfloat16").dtype is torch.bfloat16

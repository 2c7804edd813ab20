"""Networks come and go without changing a bit of the picture: a card with a byte budget, and scarce main memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from fooocus.config import Config
from fooocus.errors import DeviceOutOfMemory
from fooocus.loading import memory as memory_module
from fooocus.loading.device import Device, choose_device
from fooocus.loading.memory import Memory
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import load_styles
from fooocus.render.engine import Engine
from fooocus.render.watch import Watch
from fooocus.request import LoraUse, Recipe, Request, Size

CPU = choose_device("cpu")


@dataclasses.dataclass(frozen=True)
class Card(Device):
    """A card that is main memory with a budget: taking a network copies it, and too much is out of memory."""

    budget_bytes: int = 0
    there: dict[int, tuple[nn.Module, dict[str, torch.Tensor]]] = dataclasses.field(default_factory=dict)
    taken: list[int] = dataclasses.field(default_factory=list)

    @property
    def apart(self) -> bool:
        return True

    def used_bytes(self) -> int:
        """Count the copies that networks still point at; those sent home have let go of theirs."""
        return sum(
            parameter.nbytes
            for module, copies in self.there.values()
            for name, parameter in module.named_parameters()
            if parameter.data_ptr() == copies[name].data_ptr()
        )

    def free_bytes(self) -> int | None:
        return None  # a card that cannot tell: everything must be found out by running out

    def take(self, module: nn.Module) -> None:
        size = sum(parameter.nbytes for parameter in module.parameters())
        if self.used_bytes() + size > self.budget_bytes:
            raise torch.OutOfMemoryError("the card is full")
        copies = {name: parameter.data.clone() for name, parameter in module.named_parameters()}
        for name, parameter in module.named_parameters():
            parameter.data = copies[name]
        self.there[id(module)] = (module, copies)
        self.taken.append(id(module))


class HonestCard(Card):
    """The same, but it says how much is free."""

    def free_bytes(self) -> int | None:
        return self.budget_bytes - self.used_bytes()


@pytest.fixture
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
    engine = Engine(Config(outputs=tmp_path, data=tmp_path))
    engine._memory, engine._device = memory, memory.device
    return engine


@pytest.fixture
def expected(tmp_path: Path, recipe: Recipe) -> torch.Tensor:
    return engine_with(tmp_path, Memory(CPU)).render(recipe).latents


def card_of(kind: type[Card], budget_bytes: int) -> Card:
    return kind(CPU.device, torch.float32, "a test's card", budget_bytes)


def largest(tiny: Path) -> int:
    from fooocus.loading.checkpoint import open_checkpoint

    sizes = []
    for file in ("tiny_base", "tiny_refiner"):
        blueprints = open_checkpoint(tiny / f"{file}.safetensors")
        for kind in (*blueprints.architecture.family.text, "unet", "vae"):
            module = blueprints.load(kind, dtype=torch.float32).module
            sizes.append(sum(parameter.nbytes for parameter in module.parameters()))
    return max(sizes)


def test_without_main_memory_the_picture_is_the_same(
    tmp_path: Path, recipe: Recipe, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = memory_module.open_checkpoint

    def counted(path: Path, **arguments: object) -> object:
        opened.append(path.name)
        return original(path, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(memory_module, "open_checkpoint", counted)
    engine = engine_with(tmp_path, Memory(CPU, free_main_bytes=lambda: 0))
    assert torch.equal(engine.render(recipe).latents, expected)
    assert sorted(opened) == ["tiny_base.safetensors", "tiny_refiner.safetensors"]
    assert torch.equal(engine.render(recipe).latents, expected)


@pytest.mark.parametrize("kind", [Card, HonestCard])
@pytest.mark.parametrize("room", [1.05, 1.4, 3.0, 100.0])
def test_any_card_that_holds_the_largest_network_makes_the_same_picture(
    tmp_path: Path, tiny: Path, recipe: Recipe, expected: torch.Tensor, kind: type[Card], room: float
) -> None:
    # Reading uses both text encoders of the base at once; they are the largest things here together.
    card = card_of(kind, int(largest(tiny) * 2 * room))
    engine = engine_with(tmp_path, Memory(card))
    for _ in range(2):
        assert torch.equal(engine.render(recipe).latents, expected)
    if room == 100.0:
        assert len(card.taken) == len(set(card.taken)), "what is there already is not copied again"


def test_a_lora_weight_changed_on_the_card_goes_home_with_it(tmp_path: Path, recipe: Recipe) -> None:
    card = card_of(Card, 10**12)
    engine = engine_with(tmp_path, Memory(card))
    engine.render(recipe)
    other = dataclasses.replace(recipe, loras=(LoraUse(recipe.loras[0].name, -0.7),))
    changed = engine.render(other).latents
    engine._memory.make_room()
    assert card.used_bytes() == 0
    assert torch.equal(engine.render(other).latents, changed)
    assert torch.equal(engine_with(tmp_path, Memory(CPU)).render(other).latents, changed)


def test_a_card_that_is_too_small_is_told_in_words(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(DeviceOutOfMemory, match="too little free memory"):
        engine_with(tmp_path, Memory(card_of(Card, 1000))).render(recipe)


@pytest.mark.parametrize(("guidance", "tolerance"), [(1.0, 0.0), (7.0, 1e-5)])
def test_running_out_in_a_step_makes_room_and_goes_on(
    tmp_path: Path, recipe: Recipe, guidance: float, tolerance: float
) -> None:
    """The memory runs out once, inside a network, in the third step: it is done again with the same noise.

    With guidance, prompt and negative prompt are asked one after the other from then on, which changes the last bits.
    """
    recipe = dataclasses.replace(recipe, guidance=guidance)
    expected = engine_with(tmp_path, Memory(CPU)).render(recipe).latents
    engine = engine_with(tmp_path, Memory(card_of(Card, 10**12)))
    steps: list[int] = []
    checks: list[int] = []

    def check() -> None:
        checks.append(len(steps))
        # The first check of a step stands before it; the third is inside of its network.
        if len(steps) == 2 and checks.count(2) == 3:
            raise torch.OutOfMemoryError("full")

    rendered = engine.render(recipe, Watch(check=check, step=lambda state, count: steps.append(state.step)))
    assert (rendered.latents - expected).norm() <= tolerance * expected.norm()
    assert steps == [1, 2, 3, 4]


def test_running_out_again_and_again_is_told_in_words(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    engine = engine_with(tmp_path, Memory(card_of(Card, 10**12)))
    monkeypatch.setattr("fooocus.render.engine.decode", full)
    with pytest.raises(DeviceOutOfMemory, match="memory ran out"):
        engine.render(recipe)


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


def test_the_processor_is_chosen_with_a_reason() -> None:
    assert (CPU.device.type, CPU.dtype, CPU.apart) == ("cpu", torch.float32, False)
    assert "processor" in CPU.reason and "as asked" in CPU.reason
    assert choose_device("cpu", "bfloat16").dtype is torch.bfloat16

"""Recorded graphs answer with the network's own bits, whatever changes between two calls, and never from stale memory.

No card is needed: the recorder here does on a processor what a card's graph does. It works on the very tensors that
were there when it recorded, and looks at no condition again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fooocus.config import FAST_EXTRAS, Config, Fast, load_config, read_fast
from fooocus.errors import ConfigError
from fooocus.families import attention, graphs
from fooocus.families.graphs import KEPT, WARM_CALLS, Inputs, Recording, Replays, ask, replays_of
from fooocus.loading import device
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.memory import Memory
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles
from fooocus.render.engine import Engine
from fooocus.render.fast import FastPath
from fooocus.request import LoraUse, Request, Size
from tests.fakes.fake_card import fake_card
from tests.tiny import BASE, LORA, REFINER


class FakeRecorder:
    """Replays on the tensors of the recording: the text's keys and values are those that were known then."""

    def __init__(self, *unets: nn.Module) -> None:
        self.recorded = 0
        self.replayed = 0
        self.fails = False
        self.keeps_bytes = 0
        processors = (getattr(module, "processor", None) for unet in unets for module in unet.modules())
        self._layers = [layer for layer in processors if isinstance(layer, attention.CachingAttention)]

    def record(self, work: Callable[[], Tensor]) -> Recording:
        if self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.recorded += 1
        known = [list(layer._known) for layer in self._layers]
        output = work()

        def replay() -> None:
            self.replayed += 1
            before = [layer._known for layer in self._layers]
            for layer, then in zip(self._layers, known, strict=True):
                layer._known = list(then)
            output.copy_(work())
            for layer, now in zip(self._layers, before, strict=True):
                layer._known = now

        return Recording(replay, output, self.keeps_bytes)


@pytest.fixture
def unet(tiny: Path) -> nn.Module:
    unet = open_checkpoint(tiny / "tiny_base.safetensors").load("unet", dtype=torch.float32).module
    attention.install(unet)
    return unet


def drawn(seed: int, *, context: Tensor | None = None, side: int = 8) -> Inputs:
    seeded = torch.Generator().manual_seed(seed)
    return Inputs(
        torch.randn(2, 4, side, side, generator=seeded),
        torch.tensor(100.0 + seed),
        torch.randn(2, 77, 192, generator=seeded) if context is None else context,
        torch.randn(2, 128, generator=seeded),
        torch.full((2, 6), 64.0 + seed),
    )


def expected(unet: nn.Module, inputs: Inputs) -> Tensor:
    attention.forget(unet)
    return ask(unet, inputs)


@torch.no_grad()
def test_it_records_after_a_few_calls_and_answers_with_the_same_bits(unet: nn.Module) -> None:
    context = drawn(0).context
    steps = [drawn(seed, context=context) for seed in range(1, 7)]
    wanted = [expected(unet, inputs) for inputs in steps]
    attention.forget(unet)
    recorder = FakeRecorder(unet)
    replays = Replays(unet, recorder)
    replays.renew()
    answers = [replays(inputs) for inputs in steps]
    assert all(torch.equal(a, b) for a, b in zip(answers, wanted, strict=True)), "answers are kept, not overwritten"
    assert (recorder.recorded, recorder.replayed) == (1, len(steps) - WARM_CALLS)


@torch.no_grad()
def test_another_prompt_is_told_to_the_recorded_graph(unet: nn.Module) -> None:
    """As between two pictures: the layers have forgotten everything, the graph's own memory is written anew."""
    recorder = FakeRecorder(unet)
    replays = Replays(unet, recorder)
    replays.renew()
    first, second = drawn(1).context, drawn(2).context
    wanted = {seed: expected(unet, drawn(seed, context=second)) for seed in (7, 8)}
    for seed in range(WARM_CALLS + 2):
        replays(drawn(seed, context=first))
    attention.forget(unet)
    replays.renew()
    assert all(torch.equal(replays(drawn(seed, context=second)), wanted[seed]) for seed in (7, 8))
    assert torch.equal(replays(drawn(3, context=first)), expected(unet, drawn(3, context=first)))
    assert recorder.recorded == 1


@torch.no_grad()
def test_changed_weights_end_the_graph(unet: nn.Module) -> None:
    recorder = FakeRecorder(unet)
    replays = Replays(unet, recorder)
    replays.renew()
    context = drawn(1).context
    for seed in range(WARM_CALLS + 1):
        replays(drawn(seed, context=context))
    layer = next(m for name, m in unet.named_modules() if name.endswith("attn2.to_k"))
    layer.weight = nn.Parameter(layer.weight * 2, requires_grad=False)  # as a LoRA does
    attention.forget(unet)
    replays.renew()
    assert torch.equal(replays(drawn(5, context=context)), expected(unet, drawn(5, context=context)))
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    replays.renew()
    for seed in range(WARM_CALLS):
        replays(drawn(seed, context=context))
    assert recorder.recorded == 2


@torch.no_grad()
def test_every_size_has_its_graph_and_only_some_are_kept(unet: nn.Module) -> None:
    recorder = FakeRecorder(unet)
    replays = Replays(unet, recorder)
    replays.renew()
    context = drawn(1).context
    sides = (4, 8, 12)
    for side in sides:
        for seed in range(WARM_CALLS + 1):
            inputs = drawn(seed, context=context, side=side)
            assert torch.equal(replays(inputs), ask(unet, inputs))
    assert recorder.recorded == len(sides) and len(replays._recorded) == KEPT
    replays(drawn(9, context=context, side=4))  # the oldest was let go and is recorded again
    assert recorder.recorded == len(sides) + 1
    replays.drop()
    assert not replays._recorded


@torch.no_grad()
def test_a_card_that_cannot_record_is_asked_as_usual_and_only_tried_once(
    unet: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = FakeRecorder(unet)
    recorder.fails = True
    replays = Replays(unet, recorder)
    replays.renew()
    context = drawn(1).context
    for seed in range(6):
        inputs = drawn(seed, context=context)
        assert torch.equal(replays(inputs), ask(unet, inputs))
    assert replays.broken and caplog.text.count("no graph could be recorded") == 1


@torch.no_grad()
def test_a_stop_in_the_middle_of_recording_is_no_fault(unet: nn.Module) -> None:
    class Leave(Exception):
        """What a person's Stop raises."""

    recorder = FakeRecorder(unet)
    replays = Replays(unet, recorder)
    replays.renew()
    context = drawn(1).context
    for seed in range(WARM_CALLS):
        replays(drawn(seed, context=context))
    leave = next(unet.children()).register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(Leave()))
    with pytest.raises(Leave):
        replays(drawn(3, context=context))
    leave.remove()
    assert not replays.broken
    assert torch.equal(replays(drawn(4, context=context)), ask(unet, drawn(4, context=context)))


def test_pictures_by_graphs_are_the_same_pictures(tiny: Path, tmp_path: Path) -> None:
    """Two pictures of different prompts, base and refiner, without and with graphs."""
    values = {"styles": (), "seed": 3, "size": Size(64, 64), "steps": 7, "switch": 4, "base": str(tiny / BASE)}
    values |= {"refiner": str(tiny / REFINER), "loras": (LoraUse(str(tiny / LORA), 0.5),)}
    prompts = ("a fox in snow", "a lighthouse")
    recipes = [plan(Request(**values, prompt=prompt), Styles({}))[0] for prompt in prompts]  # type: ignore[arg-type]
    engine = Engine(Config(outputs=tmp_path, data=tmp_path, device="cpu", dtype="float32"))
    wanted = [engine.render(recipe).latents for recipe in recipes]

    unets = []
    for path, role in ((tiny / BASE, "base"), (tiny / REFINER, "refiner")):
        with engine._memory.use(path, role, "unet") as unet:  # type: ignore[arg-type]
            unets.append(unet)
    recorder = FakeRecorder(*unets)
    engine._fast = FastPath(read_fast("graphs"), torch.device("cpu"), recorder)
    found = [engine.render(recipe).latents for recipe in recipes]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert (recorder.recorded, recorder.replayed) == (2, 2 * 7 - 2 * WARM_CALLS)


def test_a_network_whose_weights_travel_is_asked_as_usual(unet: nn.Module) -> None:
    path = FastPath(read_fast("graphs"), torch.device("cpu"), FakeRecorder(unet))
    assert isinstance(path.ask(unet), Replays)
    unet.conv_in.to("meta")  # as if it were elsewhere
    assert not isinstance(path.ask(unet), Replays)
    assert not isinstance(FastPath(read_fast("auto"), torch.device("cpu")).ask(unet), Replays)


def test_graphs_do_not_keep_a_network_that_nobody_wants(tiny: Path) -> None:
    path = FastPath(read_fast("graphs"), torch.device("cpu"), FakeRecorder())
    unet = open_checkpoint(tiny / BASE).load("unet").module
    graphs = weakref.ref(path.ask(unet))
    gone = weakref.ref(unet)
    del unet
    gc.collect()
    assert gone() is None and graphs() is None


def test_another_weight_of_a_lora_is_replayed_and_not_recorded_again(tiny: Path, tmp_path: Path) -> None:
    """The sums stand where they stood, and the text's keys and values are those of the new ones."""
    memory = Memory(fake_card())
    engine = Engine(Config(outputs=tmp_path, data=tmp_path), memory=memory, previews=False)
    values = {"styles": (), "seed": 3, "size": Size(64, 64), "steps": 5, "base": str(tiny / BASE), "refiner": "none"}
    recipes = [
        plan(Request(**values, loras=(LoraUse(str(tiny / LORA), weight),)), Styles({}))[0]  # type: ignore[arg-type]
        for weight in (0.5, 1.5)
    ]
    wanted = [engine.render(recipe).latents for recipe in recipes]
    with memory.use(tiny / BASE, "base", "unet") as unet:
        recorder = FakeRecorder(unet)
    engine._fast = FastPath(read_fast("graphs"), torch.device("cpu"), recorder)
    for recipe, latents in zip([*recipes, *recipes], [*wanted, *wanted], strict=True):
        assert torch.equal(engine.render(recipe).latents, latents)
    assert recorder.recorded == 1 and recorder.replayed == 4 * 5 - WARM_CALLS


def test_graphs_leave_with_the_weights_they_were_recorded_with(tiny: Path, tmp_path: Path) -> None:
    """A graph holds a step's activations: on a card that is given to others nothing of it may stay."""
    memory = Memory(fake_card())
    engine = Engine(Config(outputs=tmp_path, data=tmp_path), memory=memory, previews=False)
    engine._fast = FastPath(read_fast("graphs"), torch.device("cpu"), FakeRecorder())
    request = Request(styles=(), seed=3, size=Size(64, 64), steps=4, base=str(tiny / BASE), refiner="none", loras=())
    recipe = plan(request, Styles({}))[0]
    wanted = engine.render(recipe).latents
    with memory.use(tiny / BASE, "base", "unet") as unet:
        graphs = replays_of(unet, FakeRecorder())
    (recorded,) = graphs._recorded.values()
    output = weakref.ref(recorded.recording.output)
    del recorded
    engine.leave_card()
    gc.collect()
    assert not graphs._recorded and output() is None
    assert torch.equal(engine.render(recipe).latents, wanted) and graphs._recorded, "and it is recorded again"


def test_what_graphs_keep_for_themselves_is_nobody_elses(tiny: Path, tmp_path: Path) -> None:
    """Another network that needs the room gets it by sending the recorded one away, not by running out of memory."""
    card = fake_card(64 * 2**30)
    memory = Memory(card)
    engine = Engine(Config(outputs=tmp_path, data=tmp_path), memory=memory, previews=False)
    recorder = FakeRecorder()
    recorder.keeps_bytes = 10 * 2**20
    engine._fast = FastPath(read_fast("graphs"), torch.device("cpu"), recorder)
    request = Request(styles=(), seed=3, size=Size(64, 64), steps=4, base=str(tiny / BASE), refiner="none", loras=())
    recipe = plan(request, Styles({}))[0]
    engine.render(recipe)
    with memory.use(tiny / BASE, "base", "unet") as unet:
        replays = replays_of(unet, recorder)
    free = memory._clearing.free_bytes()
    assert card.free_bytes() - free == replays.idle_bytes == 10 * 2**20  # type: ignore[operator]
    memory._clearing.clear(free + 1)  # type: ignore[operator]
    assert not replays._recorded and memory._clearing.free_bytes() == card.free_bytes()
    assert any(held.placed for held in memory._held.values()), "no network had to leave for it"

    engine.render(recipe)
    with memory.use(tiny / BASE, "base", "unet"):
        assert memory._clearing.free_bytes() == card.free_bytes(), "for its own work it is there"
    before = memory.plan
    assert memory.step_down("decoding") is before and not replays._recorded, "they go before the plan does"
    assert memory.step_down("decoding") is before, "and so do networks that rest"
    assert memory.step_down("decoding") is not before


@torch.no_grad()
def test_off_asks_for_the_text_in_every_step(unet: nn.Module) -> None:
    context = drawn(1).context
    wanted = ask(unet, drawn(2, context=context))
    attention.forget(unet)
    off = FastPath(read_fast("off"), torch.device("cpu")).ask(unet)
    assert torch.equal(off(drawn(2, context=context)), wanted)
    assert attention.remembered(unet, context) == []
    again = FastPath(read_fast("auto"), torch.device("cpu")).ask(unet)
    assert torch.equal(again(drawn(2, context=context)), wanted)
    assert len(attention.remembered(unet, context)) > 0


def test_the_setting_is_read_in_words() -> None:
    assert read_fast("auto") == read_fast("") == Fast()
    assert read_fast("graphs, cudnn-attention") == Fast(graphs=True, cudnn_attention=True)
    assert read_fast("auto,fp16-accumulation") == Fast(fp16_accumulation=True)
    assert {field.name for field in dataclasses.fields(Fast)} == {
        "keep_text",
        "short_numbers",
        *(name.replace("-", "_") for name in FAST_EXTRAS),
    }
    with pytest.raises(ConfigError, match="warp"):
        load_config({"fast": "graphs,warp"}, {}, Path("none"))


@pytest.mark.parametrize(
    ("capability", "name", "dtype"),
    [
        ((9, 0), "NVIDIA H200", torch.bfloat16),
        ((8, 0), "NVIDIA A100-SXM4-80GB", torch.bfloat16),
        ((8, 9), "NVIDIA GeForce RTX 4090", torch.float16),
        ((12, 0), "NVIDIA GeForce RTX 5090", torch.float16),
        ((7, 5), "NVIDIA GeForce GTX 1650", torch.float32),
    ],
)
def test_the_number_format_of_cards(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str, dtype: torch.dtype
) -> None:
    card = SimpleNamespace(major=capability[0], minor=capability[1], name=name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert device._best_dtype(torch.device("cuda", 0))[0] == dtype


def test_whoever_computes_in_float32_gets_all_of_it(tmp_path: Path) -> None:
    config = Config(outputs=tmp_path, data=tmp_path)
    before = torch.backends.cudnn.allow_tf32
    try:
        for dtype, ten_bits in ((torch.float32, False), (torch.bfloat16, True)):
            Engine(config, memory=Memory(device.Device(torch.device("cpu"), dtype, "a test's")))
            assert torch.backends.cudnn.allow_tf32 == ten_bits
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_a_card_does_not_stand_still_for_every_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("fooocus.render.preview.time", clock)
    latents = torch.zeros(1, 4, 8, 8)
    processor = device.choose_device("cpu")
    for where, seen in ((fake_card(), [True, False, False, True]), (processor, [True] * 4)):
        engine, now = Engine(Config(outputs=tmp_path, data=tmp_path), memory=Memory(where)), [5.0]
        found = []
        for seconds in (0.0, 0.1, 0.04, 0.02):
            now[0] += seconds
            found.append(engine.look(latents) is not None)
        assert found == seen


def test_a_card_that_torch_has_nothing_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "CUDA error: no kernel image is available for execution on the device\nand much more"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for error, taken in ((None, "cuda"), (RuntimeError(said), "cpu"), (torch.OutOfMemoryError("full"), "cuda")):

        def ones(*shape: int, error: Exception | None = error, **where: object) -> torch.Tensor:
            if error is not None:
                raise error
            return torch.zeros(shape)

        monkeypatch.setattr(torch, "ones", ones)
        chosen, reason = device._best_device()
        assert chosen.type == taken
        assert reason.endswith("cannot use it: " + said.split("\n")[0]) == (taken == "cpu")


def test_the_first_card_that_computes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's processors bring small graphics of their own, which torch has nothing for and may list first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(device, "_refusal", lambda card: "no kernel image" if card.index == 0 else "")
    assert device._best_device() == (torch.device("cuda", 1), "the first that works: no kernel image")
    monkeypatch.setattr(device, "_refusal", lambda card: f"no kernel image on {card.index}")
    chosen, reason = device._best_device()
    assert chosen.type == "cpu" and reason.endswith("cannot use it: no kernel image on 0")


def test_a_card_that_is_asked_for_must_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="device 'meta' cannot be used here"):
        device.choose_device("meta")
    monkeypatch.setattr(device, "_refusal", lambda card: "no kernel image is available")
    with pytest.raises(ConfigError, match="device 'cpu' cannot be used here: no kernel image"):
        device.choose_device("cpu")


def test_numbers_of_amd_cards_say_nothing_of_data_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(major=10, minor=3, name="AMD Radeon RX 6800")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.version, "hip", "7.1")
    assert device._best_dtype(torch.device("cuda", 0))[0] == torch.float16


def test_recording_happens_on_the_card_that_computes_and_leaves_no_stream_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    @contextlib.contextmanager
    def within(name: str, value: object) -> Iterator[None]:
        told.append((name, value))
        yield
        told.append(f"left {name}")

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    here = Stream()
    monkeypatch.setattr(torch.cuda, "device", lambda asked: within("card", asked))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: here)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within("stream", stream))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: within("graph", graph))
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: told.append(stream))
    # Of the 50 that torch has of the card 30 are in use; recording takes 100 more, of which 60 are free at its end.
    reserved, allocated = iter([50, 150, 50]), iter([30, 70, 30])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: next(reserved))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: next(allocated))
    calls: list[int] = []

    def work() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("not while recording")
        return torch.zeros(1)

    assert graphs.CudaRecorder(torch.device("cuda", 1)).record(work).idle_bytes == 60
    told.clear()

    with pytest.raises(RuntimeError, match="not while recording"):
        graphs.CudaRecorder(torch.device("cuda", 1)).record(work)
    assert told[0] == ("card", torch.device("cuda", 1)) and told[-1] is here


@pytest.mark.parametrize("unit", ["", "AMX", "AVX512-BF16"])
def test_a_processor_computes_in_bfloat16_where_it_has_a_unit_for_it(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: unit == "AMX")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: unit == "AVX512-BF16")
    chosen = device.choose_device("cpu")
    assert chosen.dtype == (torch.bfloat16 if unit else torch.float32)
    assert (unit or "exact") in chosen.reason
    exact = device.choose_device("cpu", short_numbers=False)
    assert exact.dtype == torch.float32 and "nothing is done for speed" in exact.reason
    assert device.choose_device("cpu", "float32").dtype == torch.float32

"""Streamed networks answer to the last bit what resident ones do, in order, within their memory, whatever is late."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fooocus.bench import layout
from fooocus.families import attention
from fooocus.families.detect import recognise
from fooocus.loading.checkpoint import Checkpoint, open_checkpoint
from fooocus.loading.lanes import Parcel, Piece, PlainLane
from fooocus.loading.lora import apply_loras, lora_sums, lora_targets, read_lora
from fooocus.loading.network import Network
from fooocus.loading.order import Layer, choose_resident, layers_in_order
from fooocus.loading.ring import Ring
from fooocus.loading.streaming import Stream
from tests.fakes.fake_card import Account, LateLane
from tests.tiny import BASE, LORA

RING = 5 * 2**20


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny / BASE)


@pytest.fixture(scope="module")
def layers(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    return layers_in_order(checkpoint.architecture.blueprints["unet"])


def unet(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Network:
    network = checkpoint.load("unet", dtype=dtype)
    attention.install(network.module)
    return network


def inputs(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "sample": draw(2, 4, 8, 8),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": draw(2, 77, 64),
        "added_cond_kwargs": {"text_embeds": draw(2, 32), "time_ids": torch.ones(2, 6)},
        "return_dict": False,
    }


@torch.no_grad()
def answers(module: nn.Module, given: dict[str, Any], steps: int = 3) -> list[Tensor]:
    return [module(**{**given, "timestep": torch.tensor(900.0 - 300 * step)})[0] for step in range(steps)]


@pytest.fixture(scope="module")
def given(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.architecture
    made = inputs()
    made["encoder_hidden_states"] = torch.randn(2, 77, config.context_width, generator=torch.Generator().manual_seed(1))
    made["added_cond_kwargs"]["text_embeds"] = torch.randn(2, config.pooled_width)
    return made


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint, given: dict[str, Any]) -> list[Tensor]:
    return answers(unet(checkpoint, torch.float32).module, given)


def streamed_bytes(network: Network) -> int:
    return sum(parameter.nbytes for parameter in network.module.parameters())


@pytest.mark.parametrize("pin", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_streamed_is_bit_equal_to_resident(
    checkpoint: Checkpoint,
    layers: tuple[Layer, ...],
    given: dict[str, Any],
    expected: list[Tensor],
    share: float,
    pin: bool,
) -> None:
    """On a lane where everything arrives at the last moment and old bytes are spoilt at the first."""
    network = unet(checkpoint, torch.float32)
    size, account = streamed_bytes(network), Account(10**12)
    lane = LateLane(account)
    stream = Stream(network, layers, lane, torch.float32)
    stream.settle(int(size * share), RING, pin=pin)
    stream.bind()
    assert all(torch.equal(a, b) for a, b in zip(answers(network.module, given), expected, strict=True))
    assert stream.resident_bytes <= max(size * share, size * 0.25) + RING
    assert account.peak_bytes <= stream.resident_bytes + RING + 512
    sent = [entry for entry in lane.log if entry[0] == "sent"]
    assert bool(sent) == (share < 1)
    stream.close()
    assert account.used_bytes == 0
    assert torch.equal(answers(network.module, given, 1)[0], expected[0]), "at home it is whole again"


def test_the_tests_lane_refuses_a_parcel_that_comes_too_early() -> None:
    """What these tests rest on: a card would read the next weights in the place of the last ones, and say nothing."""
    lane = LateLane(Account(1000))
    place, parcel = lane.buffer(8)[:4], Parcel(4, [], torch.zeros(4, dtype=torch.uint8))
    early = lane.mark()
    lane.wait(lane.send(place, parcel, None))
    for after in (None, early):
        with pytest.raises(AssertionError, match="may still read"):
            lane.send(place, parcel, after)
    lane.send(place, parcel, lane.mark())


def test_each_weight_travels_once_a_step_and_those_of_the_text_never_again(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any]
) -> None:
    network = unet(checkpoint, torch.float32)
    lane = LateLane(Account(10**12))
    stream = Stream(network, layers, lane, torch.float32)
    stream.settle(0, RING, pin=True)
    stream.bind()
    bytes_sent = []
    for step in range(4):
        before = len(lane.log)
        answers(network.module, given, 1)
        bytes_sent.append(sum(nbytes for what, _, nbytes in lane.log[before:] if what == "sent"))
        assert step == 0 or not [entry for entry in lane.log[before:] if entry[0] == "lost"]
    round_bytes = sum(parcel.nbytes for parcel in stream._parcels)
    assert bytes_sent[1:] == [round_bytes] * 3, "in the first step some of the second are sent ahead"
    once = sum(
        p.nbytes for name, p in unet(checkpoint, torch.float32).module.named_parameters() if ".attn2.to_k" in name
    )
    assert once > 0 and not [unit for unit in stream._units if unit.layer.once and unit.parcel is not None]


def test_weights_rest_in_half_the_bytes_and_compute_in_full(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any], expected: list[Tensor]
) -> None:
    """Stored in float16, computed in float32: on a card, and on a processor without a copy of the network."""
    for lane in (LateLane(Account(10**12)), PlainLane(torch.device("cpu")), None):
        network = unet(checkpoint, None)
        assert next(network.module.parameters()).dtype is torch.float16
        stream = Stream(network, layers, lane, torch.float32)
        stream.settle(streamed_bytes(network) // 3, RING, pin=False)
        stream.bind()
        assert all(torch.equal(a, b) for a, b in zip(answers(network.module, given), expected, strict=True))
        stream.close()
        mapped = network.original("conv_in.weight")
        assert network.module.get_parameter("conv_in.weight").data_ptr() == mapped.data_ptr()


def test_a_file_of_several_number_formats_keeps_every_one(
    tmp_path: Path, tiny: Path, layers: tuple[Layer, ...], given: dict[str, Any]
) -> None:
    """The first weights in 8 bits, others in 16 and 32, as some files have them: none is rounded on the way."""
    tensors = load_file(tiny / BASE)
    mixed = (torch.float8_e4m3fn, torch.float16, torch.float32)
    unets = [name for name in tensors if name.startswith("model.diffusion_model.")]
    for number, name in enumerate(unets):
        wide = tensors[name].float() * 1.001  # float16 cannot hold it
        tensors[name] = wide.to(mixed[0] if "time_embed" in name or "input_blocks.0." in name else mixed[number % 3])
    save_file(tensors, tmp_path / BASE)
    checkpoint = open_checkpoint(tmp_path / BASE)
    wanted = answers(unet(checkpoint, torch.float32).module, given, 2)
    for lane in (LateLane(Account(10**12)), None):
        network = unet(checkpoint, None)
        stored = {parameter.dtype for parameter in network.module.parameters()}
        assert stored == set(mixed)
        stream = Stream(network, layers, lane, torch.float32)
        stream.settle(streamed_bytes(network) // 3, RING, pin=lane is not None)
        stream.bind()
        assert all(torch.equal(a, b) for a, b in zip(answers(network.module, given, 2), wanted, strict=True))
        assert {tensor.dtype for unit in stream._units for tensor in unit.home.values()} == stored
        stream.close()


def test_what_was_packed_is_not_sent_any_more_when_nothing_is_to_be(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any], tiny: Path
) -> None:
    """Main memory became short between two pictures, and the LoRA is another: the old sums are gone."""
    whole, network = unet(checkpoint, torch.float32), unet(checkpoint, torch.float32)
    stream = Stream(network, layers, LateLane(Account(10**12)), torch.float32)
    lora = read_lora(tiny / LORA)
    for weight, pin in ((0.5, True), (-1.0, False)):
        stream.settle(0, RING, pin=pin)
        for one in (whole, network):
            apply_loras({"unet": one}, [(lora, weight)])
            attention.forget(one.module)
        stream.bind()
        assert torch.equal(answers(network.module, given, 1)[0], answers(whole.module, given, 1)[0])
        assert (stream.packed_bytes > 0) == pin
        stream.close()


def test_loras_come_and_go_while_it_streams(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any], expected: list[Tensor], tiny: Path
) -> None:
    lora = read_lora(tiny / LORA)
    whole, network = unet(checkpoint, torch.float32), unet(checkpoint, torch.float32)
    stream = Stream(network, layers, LateLane(Account(10**12)), torch.float32)
    stream.settle(streamed_bytes(network) // 3, RING, pin=True)
    for weight in (0.5, -1.0, 0.0):
        wanted = [(lora, weight)] if weight else []
        apply_loras({"unet": whole}, wanted)
        stream.unbind()
        apply_loras({"unet": network}, wanted)
        stream.bind()
        attention.forget(whole.module)
        attention.forget(network.module)
        pairs = zip(answers(network.module, given, 2), answers(whole.module, given, 2), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    stream.close()
    assert torch.equal(answers(network.module, given, 1)[0], expected[0])


def test_loras_on_weights_that_are_widened_cost_no_memory_and_no_bit(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any], tiny: Path
) -> None:
    wanted = [(read_lora(tiny / LORA), 0.5)]
    whole, network = unet(checkpoint, torch.float32), unet(checkpoint, None)
    apply_loras({"unet": whole}, wanted)
    stream = Stream(network, layers, None, torch.float32)
    stream.settle(0, 0, pin=False)
    targets = lora_targets([checkpoint.architecture.blueprints["unet"]], checkpoint.file.header.shapes)
    stream.bind(lora_sums("unet", wanted, targets))
    assert torch.equal(answers(network.module, given, 1)[0], answers(whole.module, given, 1)[0])
    stream.close()
    assert not network.patches


def test_a_pass_that_was_left_is_begun_again(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any], expected: list[Tensor]
) -> None:
    """A stop, or memory that runs out, may leave at any layer; the next pass knows nothing of it."""
    network = unet(checkpoint, torch.float32)
    stream = Stream(network, layers, LateLane(Account(10**12)), torch.float32)
    stream.settle(0, RING, pin=False)
    stream.bind()

    class Left(Exception):
        pass

    named = dict(network.module.named_modules())
    for layer in random.Random(4).sample([layer for layer in layers if not layer.once], 6):

        def leave(*_: object) -> None:
            raise Left

        handle = named[layer.name].register_forward_hook(leave)
        with pytest.raises(Left):
            answers(network.module, given, 1)
        handle.remove()
        assert torch.equal(answers(network.module, given, 1)[0], expected[0])


def test_weights_that_are_not_there_cannot_be_read(checkpoint: Checkpoint, layers: tuple[Layer, ...]) -> None:
    network = unet(checkpoint, torch.float32)
    stream = Stream(network, layers, LateLane(Account(10**12)), torch.float32)
    stream.settle(0, RING, pin=False)
    stream.bind()
    unit = next(unit for unit in stream._units if unit.parcel is not None)
    weight = next(iter(unit.module.parameters()))
    assert weight.numel() == 0
    with pytest.raises(RuntimeError):
        nn.functional.linear(torch.ones(1, 32), weight)


@pytest.mark.parametrize("kind", ["unet", "text_l", "text_g"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_everything_is_on_the_device_when_it_works(checkpoint: Checkpoint, kind: Any, dtype: torch.dtype) -> None:
    """On a device that is not main memory (torch's "meta"): every layer has its weights and constants there."""
    network = checkpoint.load(kind)
    blueprint = checkpoint.architecture.blueprints[kind]
    if kind == "unet":
        attention.install(network.module)
    stream = Stream(network, layers_in_order(blueprint), PlainLane(torch.device("meta")), dtype)
    stream.settle(streamed_bytes(network) // 4, RING, pin=True)
    stream.bind()

    def there(module: nn.Module, arguments: object) -> None:
        held = [*module._parameters.values(), *module._buffers.values()]
        assert all(tensor is None or tensor.device.type == "meta" for tensor in held)
        weights = [tensor for tensor in module._parameters.values() if tensor is not None]
        assert all(tensor.numel() > 0 and tensor.dtype is dtype for tensor in weights)

    for module in network.module.modules():
        if module._parameters or module._buffers:
            module.register_forward_pre_hook(there)
    with torch.no_grad(), torch.device("meta"):
        if kind == "unet":
            config = blueprint.config
            pooled = config["projection_class_embeddings_input_dim"] - config["addition_time_embed_dim"]
            network.module(
                torch.empty(2, 4, 8, 8, dtype=dtype),
                torch.empty(()),
                encoder_hidden_states=torch.empty(2, 77, config["cross_attention_dim"], dtype=dtype),
                added_cond_kwargs={"text_embeds": torch.empty(2, pooled, dtype=dtype), "time_ids": torch.ones(2, 1)},
            )
        else:
            network.module(input_ids=torch.zeros(1, 77, dtype=torch.long))
    stream.close()
    assert {tensor.device.type for tensor in (*network.module.parameters(), *network.module.buffers())} == {"cpu"}


def test_the_order_is_the_order_of_a_real_pass(
    checkpoint: Checkpoint, layers: tuple[Layer, ...], given: dict[str, Any]
) -> None:
    module = unet(checkpoint, torch.float32).module
    seen: list[str] = []
    for name, layer in module.named_modules():
        if layer._parameters:
            layer.register_forward_pre_hook(lambda _, __, name=name: seen.append(name))  # type: ignore[misc]
    answers(module, given, 1)
    assert seen == [layer.name for layer in layers]
    assert all(layer.work > 0 for layer in layers)


@pytest.fixture
def parcels() -> list[Parcel]:
    rng = random.Random(1)
    sizes = [rng.choice((64, 128, 192, 256, 320)) for _ in range(23)]
    return [
        Parcel(size, [Piece(0, torch.uint8, torch.full((size,), number, dtype=torch.uint8))])
        for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("size", [320, 500, 900, 2000, 10_000])
def test_no_place_is_written_while_it_is_read(parcels: list[Parcel], size: int) -> None:
    """Any ring, any number of rounds, rounds that change: what is taken is whole until it is released."""
    lane = LateLane(Account(10**12))
    ring = Ring(lane, size, parcels)
    rng = random.Random(size)
    for turn in range(12):
        numbers = sorted(rng.sample(range(23), 17)) if turn % 3 == 2 else list(range(23))
        ring.start(numbers)
        for number in numbers:
            place = ring.take(number)
            assert place is not None
            assert place.tolist() == [number] * parcels[number].nbytes
            ring.release(number)
            assert len(ring._held) <= len(numbers)


def test_the_ring_runs_ahead(parcels: list[Parcel]) -> None:
    lane = LateLane(Account(10**12))
    ring = Ring(lane, 1500, parcels)
    ring.start(range(23))
    ring.take(0)
    assert len(ring._held) >= 4, "several are on their way before the first is used up"
    assert sum(held.nbytes for held in ring._held) <= 1500


def layer_times() -> Iterator[tuple[list[int], list[int]]]:
    yield [10] * 20, [10] * 20
    yield [1] * 10 + [100] * 10 + [1] * 10, [50] * 10 + [10] * 10 + [50] * 10


@pytest.mark.parametrize("budget", [0, 30, 200, 500, 10_000])
def test_what_stays_fits_and_what_travels_is_spread_out(budget: int) -> None:
    for sizes, work in layer_times():
        stays = choose_resident(sizes, work, budget, 120)
        assert sum(size for size, stay in zip(sizes, stays, strict=True) if stay) <= budget
    stays = choose_resident([10] * 20, [10] * 20, 100, 20)
    assert sum(stays) == 10
    longest = max(len(run) for run in "".join("x" if stay else "." for stay in stays).split("x"))
    assert longest <= 3, "those that travel are not all in a row"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "once", "budget_gib"), [(layout.BASE, 140, 2.3), (layout.REFINER, 88, 2.2)])
def test_the_published_networks_are_cut_well(name: str, once: int, budget_gib: float) -> None:
    """At full size, without data: the text's keys and values stay behind, the budget is used, no copy must hurry."""
    shapes, metadata = layout.published(name)
    blueprint = recognise(shapes, metadata, file=name).blueprints["unet"]
    layers = layers_in_order(blueprint)
    assert sum(layer.once for layer in layers) == once
    sizes_of = {name: 2 * math.prod(source.shape(shapes[source.key])) for name, source in blueprint.sources.items()}
    travelling = [layer for layer in layers if not layer.once and sizes_of[f"{layer.name}.weight"] > 64 * 1024]
    sizes = [sizes_of[f"{layer.name}.weight"] for layer in travelling]
    work = [layer.work for layer in travelling]
    budget, ahead = int(budget_gib * 2**30), 256 * 2**20
    stays = choose_resident(sizes, work, budget, ahead)
    resident = sum(size for size, stay in zip(sizes, stays, strict=True) if stay)
    assert 0.95 * budget < resident <= budget
    # At an even rate that takes the whole step for what travels, and a tenth more, no layer has to wait.
    rate = 1.1 * (sum(sizes) - resident) / sum(work)
    sent = float(ahead)
    for size, time, stay in zip(sizes, work, stays, strict=True):
        sent -= 0 if stay else size
        assert sent >= 0
        sent = min(ahead, sent + time * rate)

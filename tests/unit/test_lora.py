"""Adding LoRAs, taking them away, and never leaving a trace."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from fooocus.errors import IncompatibleLora, ModelError, UnreadableModel
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.lora import Lora, LoraReport, apply_loras, lora_sums, lora_targets, read_lora
from fooocus.loading.network import Network
from tests.tiny import BASE, LORA, REFINER, tiny_folder

KINDS = ("unet", "text_l", "text_g")
CONV_IN, TIME, TEXT = "lora_unet_conv_in", "lora_unet_time_embed_0", "lora_te1_text_model_encoder_layers_0_mlp_fc1"
WEIGHTS = {
    CONV_IN: ("unet", "conv_in.weight"),
    TIME: ("unet", "time_embedding.linear_1.weight"),
    TEXT: ("text_l", "encoder.layers.0.mlp.fc1.weight"),
}


def load(dtype: torch.dtype | None = None) -> dict[str, Network]:
    checkpoint = open_checkpoint(tiny_folder() / BASE)
    return {kind: checkpoint.load(kind, dtype=dtype) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Network]:
    return load()


@pytest.fixture
def networks(loaded: dict[str, Network]) -> Iterator[dict[str, Network]]:
    yield loaded
    apply_loras(loaded, [])


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape))) * 0.2


def shape_of(networks: Mapping[str, Network], module: str) -> tuple[int, ...]:
    kind, name = WEIGHTS[module]
    return tuple(networks[kind].original(name).shape)


def write(path: Path, tensors: dict[str, Tensor]) -> Lora:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return read_lora(path)


def pair(networks: Mapping[str, Network], *modules: str, gain: float = 1.0) -> dict[str, Tensor]:
    tensors = {}
    for module in modules:
        out, *rest = shape_of(networks, module)
        tensors[f"{module}.lora_up.weight"] = random(out, 2) * gain
        tensors[f"{module}.lora_down.weight"] = random(2, *rest)
    return tensors


def values(networks: Mapping[str, Network]) -> dict[tuple[str, str], Tensor]:
    return {(kind, name): p.data for kind in KINDS for name, p in networks[kind].module.named_parameters()}


def touchable(networks: Mapping[str, Network]) -> dict[tuple[str, str], Tensor]:
    return {(kind, name): networks[kind].module.get_parameter(name).data for kind, name in WEIGHTS.values()}


def assert_same(one: Mapping[tuple[str, str], Tensor], other: Mapping[tuple[str, str], Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_original(networks: Mapping[str, Network]) -> None:
    assert_same(values(networks), {(k, n): networks[k].original(n) for k in KINDS for n in networks[k].names()})
    assert all(not network.patches for network in networks.values())


@pytest.fixture(scope="module")
def three(loaded: dict[str, Network], tmp_path_factory: pytest.TempPathFactory) -> list[Lora]:
    """A plain LoRA, a LoHa and a DoRA that overlap."""
    folder = tmp_path_factory.mktemp("loras")
    out, inner = shape_of(loaded, TIME)
    loha = {
        f"{TIME}.hada_w{n}_{side}": random(*size) for n in (1, 2) for side, size in (("a", (out, 2)), ("b", (2, inner)))
    }
    dora = {**pair(loaded, TIME, TEXT, gain=2.0), f"{TIME}.dora_scale": random(out, 1).abs() + 0.5}
    return [
        write(folder / "plain.safetensors", pair(loaded, CONV_IN, TIME)),
        write(folder / "loha.safetensors", loha),
        write(folder / "dora.safetensors", dora),
    ]


Lists = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-3.0, -2.0, -0.5, 0.0, 0.3, 1.0, 2.0])), max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(Lists, st.booleans()), min_size=1, max_size=4))
def test_any_history_ends_in_the_same_bits(
    networks: dict[str, Network], three: list[Lora], history: list[tuple[list[tuple[int, float]], bool]]
) -> None:
    """However the last list was reached, the result is bit-equal to applying it alone; [] gives the file back."""
    for chosen, over in history:
        apply_loras(networks, [(three[n], weight) for n, weight in chosen], over=over)
    reached = touchable(networks)
    apply_loras(networks, [])
    assert_same(touchable(networks), {(kind, name): networks[kind].original(name) for kind, name in WEIGHTS.values()})
    apply_loras(networks, [(three[n], weight) for n, weight in history[-1][0]])
    assert_same(touchable(networks), reached)
    used = [three[n] for n, weight in history[-1][0] if weight]
    assert sum(len(n.patches) for n in networks.values()) == len({module for lora in used for module in lora.modules})


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_another_weight_is_written_over_the_sum_before(three: list[Lora], dtype: torch.dtype | None) -> None:
    """Nothing moves and the file stays as it was: what is written over is never the mapped file itself."""
    networks, fresh = load(dtype), load(dtype)
    before = hashlib.sha256((tiny_folder() / BASE).read_bytes()).digest()
    apply_loras(networks, [(three[0], 0.5), (three[1], -1.0)], over=True)
    places = {name: p.data_ptr() for n in networks.values() for name, p in n.module.named_parameters()}
    for weight in (0.7, -2.0, 0.3):
        apply_loras(networks, [(three[0], weight), (three[1], -1.0)], over=True)
        assert places == {name: p.data_ptr() for n in networks.values() for name, p in n.module.named_parameters()}
    apply_loras(fresh, [(three[0], 0.3), (three[1], -1.0)])
    assert_same(touchable(networks), touchable(fresh))
    apply_loras(networks, [], over=True)
    exact = {(kind, name): networks[kind].original(name) for kind, name in WEIGHTS.values()}
    assert_same(touchable(networks), {place: value.to(dtype or value.dtype) for place, value in exact.items()})
    assert hashlib.sha256((tiny_folder() / BASE).read_bytes()).digest() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_copies_on_a_card_are_written_into_from_the_first_sum_on(three: list[Lora], dtype: torch.dtype) -> None:
    """Else a card would hold every weight that stays there twice, until the last sum is made."""
    networks, fresh = load(dtype), load(dtype)
    for network in networks.values():
        for name in network.names():
            network.put(name, network.module.get_parameter(name).data.clone())  # as they are on a card
    before = hashlib.sha256((tiny_folder() / BASE).read_bytes()).digest()
    copies = {name for network in networks.values() for name in network.names()}
    places = {place: value.data_ptr() for place, value in values(networks).items()}
    for history in ([(0, 0.5), (2, 1.0)], [(0, -2.0), (1, 0.3)], [(2, 0.7)], []):
        loras = [(three[n], weight) for n, weight in history]
        apply_loras(networks, loras, copies=copies)
        apply_loras(fresh, loras)
        assert_same(values(networks), values(fresh))
        assert places == {place: value.data_ptr() for place, value in values(networks).items()}
    assert hashlib.sha256((tiny_folder() / BASE).read_bytes()).digest() == before


def test_what_nothing_was_added_to_yet_is_its_own_original(three: list[Lora]) -> None:
    """On a card the weights need not cross the bus once more; only what was added to before is read from the file."""
    moved = load()
    lora = three[0]
    before = {place: value.clone() for place, value in values(moved).items()}
    for network in moved.values():
        for name in network.names():
            network.put(name, network.module.get_parameter(name).data.clone() * 2)
    apply_loras(moved, [(lora, 0.5)])
    told = {place: value.clone() for place, value in values(moved).items()}
    apply_loras(moved, [(lora, 0.25)], over=True)
    again = values(moved)
    changed = [place for place in told if not torch.equal(told[place], 2 * before[place])]
    assert changed
    for place in changed:
        delta = 2 * (told[place].float() - 2 * before[place].float())
        assert torch.allclose(again[place].float(), before[place].float() + delta / 4, atol=2e-2, rtol=2e-2), place


def test_a_sum_that_fails_half_way_is_no_sum(three: list[Lora], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out between two blocks of rows; whatever comes next begins from the file again."""
    networks, fresh = load(torch.float32), load(torch.float32)
    for one in (networks, fresh):
        apply_loras(one, [(three[0], 0.5)])
    monkeypatch.setattr("fooocus.loading.lora_deltas._BLOCK", 700)
    whole = Tensor.addmm_
    left = iter([True, True])

    def full(self: Tensor, *given: Any, **more: Any) -> Tensor:
        if next(left, None) is None:
            raise MemoryError
        return whole(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "addmm_", full)
        with pytest.raises(MemoryError):
            apply_loras(networks, [(three[0], 0.9)], over=True)
    monkeypatch.undo()
    apply_loras(networks, [(three[0], 0.5)], over=True)
    assert_same(touchable(networks), touchable(fresh))


def test_a_low_rank_sum_to_a_parameter_of_one_axis(networks: dict[str, Network], tmp_path: Path) -> None:
    """Some trainers write even what is added to a norm as up times down."""
    tensors = {"lora_unet_out_0.lora_up.weight": random(32, 1), "lora_unet_out_0.lora_down.weight": random(1, 1)}
    apply_loras(networks, [(write(tmp_path / "norm.safetensors", tensors), 0.5)])
    up, down = (tensors[f"lora_unet_out_0.lora_{part}.weight"] for part in ("up", "down"))
    network = networks["unet"]
    (name,) = network.patches
    expected = network.original(name).float() + 0.5 * (up.float() @ down.float()).flatten()
    assert torch.allclose(network.module.get_parameter(name).float(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_sums_in_blocks_of_rows_are_the_same_however_they_are_made(
    three: list[Lora], dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for large matrices: several blocks, the last one shorter; alone, over another sum, beside a DoRA, as used."""
    whole, networks = load(dtype), load(dtype)
    apply_loras(whole, [(three[0], 0.7)])
    expected = touchable(whole)
    monkeypatch.setattr("fooocus.loading.lora_deltas._BLOCK", 700)
    apply_loras(networks, [(three[0], 0.2)])
    apply_loras(networks, [(three[0], 0.7)], over=True)
    found = touchable(networks)
    assert all((found[place] - value).norm() <= 1e-3 * value.norm() for place, value in expected.items())
    again = load(dtype)
    apply_loras(again, [(three[0], 0.7)])
    assert_same(touchable(again), found)
    checkpoint = open_checkpoint(tiny_folder() / BASE)
    targets = lora_targets(checkpoint.architecture.blueprints.values(), checkpoint.file.header.shapes)
    sums = lora_sums("unet", [(three[0], 0.7)], targets)
    kind, name = WEIGHTS[CONV_IN]
    assert torch.equal(sums[name](networks[kind].original(name)).to(found[kind, name].dtype), found[kind, name])


def test_the_empty_list_restores_everything(networks: dict[str, Network], three: list[Lora]) -> None:
    apply_loras(networks, [(read_lora(tiny_folder() / LORA), -1.3), *((lora, 2.0) for lora in three)])
    assert sum(len(network.patches) for network in networks.values()) == 306
    apply_loras(networks, [])
    assert_original(networks)


def test_only_what_changes_is_touched(networks: dict[str, Network], three: list[Lora]) -> None:
    plain, loha, _ = three
    apply_loras(networks, [(plain, 0.5), (loha, 1.0)])
    before = {place: networks[place[0]].module.get_parameter(place[1]) for place in WEIGHTS.values()}
    apply_loras(networks, [(plain, 0.5), (loha, -1.0)])
    changed = {place for place, p in before.items() if networks[place[0]].module.get_parameter(place[1]) is not p}
    assert changed == {WEIGHTS[TIME]}
    apply_loras(networks, [(plain, 0.5), (loha, -1.0)])
    apply_loras(networks, [(plain, 0.5)])
    assert networks["unet"].module.get_parameter("conv_in.weight") is before[WEIGHTS[CONV_IN]]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a file that is mapped from being replaced")
def test_a_replaced_file_is_added_anew(networks: dict[str, Network], tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", pair(networks, TIME))
    apply_loras(networks, [(first, 1.0)])
    before = values(networks)
    new = tmp_path / "b.safetensors"
    write(new, {**pair(networks, TIME, gain=3.0), f"{TIME}.alpha": torch.tensor(2.0)})
    apply_loras(networks, [(read_lora(new.replace(tmp_path / "a.safetensors")), 1.0)])
    assert not torch.equal(values(networks)[WEIGHTS[TIME]], before[WEIGHTS[TIME]])


def test_the_file_is_never_written(networks: dict[str, Network], three: list[Lora]) -> None:
    """The parameters are the mapped file; adding must not reach it, not even in memory."""
    path = tiny_folder() / BASE
    digest = hashlib.sha256(path.read_bytes()).digest()
    originals = {place: networks[place[0]].original(place[1]).clone() for place in WEIGHTS.values()}
    apply_loras(networks, [(lora, 2.0) for lora in three])
    assert all(torch.equal(networks[kind].original(name), originals[kind, name]) for kind, name in originals)
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def test_float32_checkpoint_is_not_written_either(networks: dict[str, Network], tmp_path: Path) -> None:
    """In float32 no cast stands between the mapping and the sum."""
    stored = {networks["unet"].source(n).key: networks["unet"].original(n).float() for n in networks["unet"].names()}
    with open_checkpoint(tiny_folder() / BASE).file as file:
        rest = {key: file.tensor(key) for key in file.header.tensors if key not in stored}
        save_file(stored | rest, tmp_path / "wide.safetensors")
    unet = open_checkpoint(tmp_path / "wide.safetensors").load("unet")
    before = unet.original("conv_in.weight").clone()
    assert before.dtype == torch.float32
    apply_loras({"unet": unet}, [(write(tmp_path / "a.safetensors", pair(networks, CONV_IN)), 1.0)])
    assert torch.equal(unet.original("conv_in.weight"), before)
    assert not torch.equal(unet.module.get_parameter("conv_in.weight"), before)


def test_sums_are_rounded_once(networks: dict[str, Network], tmp_path: Path) -> None:
    """A hundred additions, each too small for float16 to see, add up."""
    kind, name = WEIGHTS[TIME]
    out, inner = shape_of(networks, TIME)
    small = write(tmp_path / "small.safetensors", {f"{TIME}.diff": torch.full((out, inner), 1e-6)})
    apply_loras(networks, [(small, 1.0)] * 100)
    original = networks[kind].original(name)
    result = networks[kind].module.get_parameter(name)
    assert result.dtype == torch.float16
    # Half a step of float16, and of a hundred sums in float32.
    assert torch.allclose(result.double(), original.double() + 1e-4, rtol=2**-11, atol=1e-6)
    assert (result != original).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_of_the_parameter_is_kept(networks: dict[str, Network], three: list[Lora], dtype: torch.dtype) -> None:
    others = load(dtype)
    apply_loras(others, [(three[0], 1.0)])
    exact = load(torch.float32)
    apply_loras(exact, [(three[0], 1.0)])
    kind, name = WEIGHTS[CONV_IN]
    assert torch.equal(others[kind].module.get_parameter(name), exact[kind].module.get_parameter(name).to(dtype))
    apply_loras(others, [])
    assert torch.equal(others[kind].module.get_parameter(name), others[kind].original(name).to(dtype))


def test_report(networks: dict[str, Network], tmp_path: Path) -> None:
    tensors = pair(networks, CONV_IN, TEXT) | {"lora_unet_nowhere.diff": random(2), "strange": random(1)}
    tensors |= {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.diff_b": random(64)}  # to_q has no bias
    lora = write(tmp_path / "mixed.safetensors", tensors)
    [report] = apply_loras(networks, [(lora, 1.0)])
    assert (report.name, report.matched, report.total) == ("mixed", 2, 5)
    assert set(report.unmatched) == {
        "strange",
        "lora_unet_nowhere",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    }
    [report] = apply_loras({"unet": networks["unet"]}, [(lora, 1.0)])
    assert report.matched == 1 and TEXT in report.unmatched


def test_weight_zero_is_skipped(networks: dict[str, Network], three: list[Lora]) -> None:
    assert apply_loras(networks, [(three[0], 0.0)]) == []
    assert_original(networks)
    reports = apply_loras(networks, [(three[0], 0.0), (three[1], 1.0)])
    assert reports == [LoraReport("loha", matched=1, total=1, unmatched=())]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_numbers_that_are_not_finite(
    networks: dict[str, Network], three: list[Lora], tmp_path: Path, key: str, bad: float
) -> None:
    tensors = {**pair(networks, CONV_IN, TEXT), f"{TEXT}.alpha": torch.tensor(1.0)}
    tensors[f"{TEXT}.{key}"].view(-1)[-1] = bad
    broken = write(tmp_path / "broken.safetensors", tensors)
    apply_loras(networks, [(three[0], 1.0)])
    before = values(networks)
    for _ in range(2):
        with pytest.raises(UnreadableModel, match=rf"broken\.safetensors .* {TEXT}\.{key}"):
            apply_loras(networks, [(three[1], 1.0), (broken, 1.0)])
    assert_same(values(networks), before)


def test_nothing_matches(networks: dict[str, Network], three: list[Lora], tmp_path: Path) -> None:
    stranger = write(tmp_path / "stranger.safetensors", {"lora_unet_elsewhere.diff": random(4, 4)})
    apply_loras(networks, [(three[0], 1.0)])
    before = values(networks)
    with pytest.raises(IncompatibleLora, match=r"Nothing in stranger\.safetensors fits .* lora_unet_elsewhere"):
        apply_loras(networks, [(three[1], 1.0), (stranger, 1.0)])
    assert_same(values(networks), before)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{TIME}.diff": (128, 31)}, "is for 128x31, the model's is 128x32"),
        (
            {f"{TIME}.lora_up.weight": (96, 2), f"{TIME}.lora_down.weight": (2, 32)},
            "is for 96x32, the model's is 128x32",
        ),
        ({f"{CONV_IN}.lora_up.weight": (32, 2), f"{CONV_IN}.lora_down.weight": (2, 4)}, "the model's is 32x4x3x3"),
        ({f"{TIME}.diff_b": (4,)}, "is for 4, the model's is 128"),
        ({f"{TIME}.diff_b": (1, 128)}, "is for 1x128, the model's is 128"),
        ({f"{TIME}.diff": (128, 32), f"{TIME}.dora_scale": (32, 1)}, "other DoRA magnitudes"),
        ({f"{TIME}.diff": (128, 32), f"{TIME}.dora_scale": (1, 128)}, "other DoRA magnitudes"),
        ({f"{TIME}.diff": (128, 32), f"{TIME}.lora_magnitude_vector": (32,)}, "other DoRA magnitudes"),
        ({"lora_unet_out_0.w_norm": (32,), "lora_unet_out_0.dora_scale": (32,)}, "other DoRA magnitudes"),
    ],
)
def test_another_shape(
    networks: dict[str, Network], tmp_path: Path, tensors: dict[str, tuple[int, ...]], words: str
) -> None:
    good = pair(networks, TEXT)
    lora = write(tmp_path / "wide.safetensors", good | {name: random(*shape) for name, shape in tensors.items()})
    with pytest.raises(IncompatibleLora) as caught:
        apply_loras(networks, [(lora, 1.0)])
    assert "wide.safetensors does not fit this model" in caught.value.sentence
    assert words in caught.value.sentence
    assert_original(networks)


def test_a_lora_of_another_family_is_refused_by_its_name(networks: dict[str, Network], tmp_path: Path) -> None:
    """Without any notes the width of the text tells."""
    to_k = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    old = {f"{to_k}.lora_down.weight": random(2, 768), f"{to_k}.lora_up.weight": random(64, 2)}
    with pytest.raises(IncompatibleLora, match=r"old\.safetensors .* It was made for Stable Diffusion 1\."):
        apply_loras(networks, [(write(tmp_path / "old.safetensors", old), 1.0)])


def test_a_lora_of_the_base_is_refused_by_the_refiner() -> None:
    refiner = open_checkpoint(tiny_folder() / REFINER)
    networks = {kind: refiner.load(kind) for kind in ("unet", "text_g")}
    with pytest.raises(IncompatibleLora, match=r"tiny_offset_lora\.safetensors does not fit this model"):
        apply_loras(networks, [(read_lora(tiny_folder() / LORA), 0.5)])
    assert not any(network.patches for network in networks.values())


def test_a_zero_row_stays_zero_under_dora(networks: dict[str, Network], tmp_path: Path) -> None:
    kind, name = WEIGHTS[TIME]
    diff = torch.zeros(128, 32)
    diff[3] = -networks[kind].original(name)[3].float()
    scale = torch.full((128, 1), 5.0)
    apply_loras(
        networks, [(write(tmp_path / "a.safetensors", {f"{TIME}.diff": diff, f"{TIME}.dora_scale": scale}), 1.0)]
    )
    result = networks[kind].module.get_parameter(name).float()
    assert result[3].abs().max() == 0
    assert torch.allclose(result.norm(dim=1)[4:], torch.tensor(5.0), rtol=1e-3)


SHAPES = st.lists(st.sampled_from([1, 2, 4, 8, 32, 128]), max_size=4)
SETS = (
    ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "dora_scale"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha"),
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "lora_magnitude_vector"),
    ("diff", "w_norm", "diff_b", "b_norm", "dora_scale", "alpha"),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_parts_of_any_shape_are_added_or_refused(
    networks: dict[str, Network], tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever is in a file, the answer is a result or a sentence, and a refusal changes nothing."""
    parts = data.draw(st.sampled_from(SETS).flatmap(lambda parts: st.sets(st.sampled_from(parts), min_size=1)))
    module = data.draw(st.sampled_from([TIME, CONV_IN, "lora_unet_out_0"]))
    tensors = {f"{module}.{part}": torch.ones(data.draw(SHAPES)) for part in sorted(parts)}
    try:
        apply_loras(networks, [(write(tmp_path / "any.safetensors", tensors), 1.0)])
    except ModelError:
        assert not any(network.patches for network in networks.values())
    finally:
        apply_loras(networks, [])


def test_wrong_calls(networks: dict[str, Network], three: list[Lora]) -> None:
    with pytest.raises(ValueError, match="finite"):
        apply_loras(networks, [(three[0], math.nan)])
    with pytest.raises(ValueError, match="one kind"):
        apply_loras({"base": networks["unet"], "refiner": networks["unet"]}, [])

"""Every way of naming a module times every method, against formulas written out here with loops over indices.

The networks are the miniature checkpoint's, in float32, so that the tolerance shows the formula and not the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.lora import LoraReport, apply_loras, read_lora
from fooocus.loading.network import Network
from tests.tiny import BASE, tiny_folder

Array = NDArray[np.float64]
Parts = dict[str, Tensor]
Kind = Callable[[Array], tuple[Parts, Array]]

TOLERANCE = 2e-6
"""Largest error against float64, of weights near 1 in size; float32 keeps 6e-8 of each of a few dozen terms."""

WEIGHT = -0.7

LINEAR = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
)
OUT = ("up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
       "output_blocks.1.1.transformer_blocks.0.attn1.to_out.0")  # fmt: skip
CONV = ("down_blocks.1.resnets.0.conv1", "input_blocks.4.0.in_layers.2")
CONV_1X1 = ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection")


@pytest.fixture(scope="module")
def loaded() -> dict[str, Network]:
    checkpoint = open_checkpoint(tiny_folder() / BASE)
    return {kind: checkpoint.load(kind, dtype=torch.float32) for kind in ("unet", "text_l", "text_g")}


@pytest.fixture
def networks(loaded: dict[str, Network]) -> Iterator[dict[str, Network]]:
    yield loaded
    apply_loras(loaded, [])


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + sum(n * 31**i for i, n in enumerate(shape)))
    return torch.randn(shape, generator=generator) * 0.3


def f64(tensor: Tensor) -> Array:
    return tensor.double().numpy()


# The methods. Each takes the original weight and gives the parts of a module and the delta they stand for, by formula.


def plain(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    parts = {"down": draw(3, inner, *kernel), "up": draw(out, 3, *[1] * len(kernel)), "alpha": torch.tensor(1.5)}
    delta = np.zeros(weight.shape)
    for r in range(3):
        delta += np.multiply.outer(f64(parts["up"]).reshape(out, 3)[:, r], f64(parts["down"])[r])
    return parts, delta * 1.5 / 3


def plain_without_alpha(weight: Array) -> tuple[Parts, Array]:
    parts, delta = plain(weight)
    del parts["alpha"]
    return parts, delta * 2


def tucker(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    ones = [1] * len(kernel)
    parts = {
        "down": draw(3, inner, *ones),
        "mid": draw(2, 3, *kernel),
        "up": draw(out, 2, *ones),
        "alpha": torch.tensor(2.0),
    }
    up, mid, down = f64(parts["up"]).reshape(out, 2), f64(parts["mid"]), f64(parts["down"]).reshape(3, inner)
    delta = np.zeros(weight.shape)
    for a in range(2):
        for b in range(3):
            delta += np.multiply.outer(np.multiply.outer(up[:, a], down[b]), mid[a, b])
    return parts, delta * 2 / 3


def loha(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    flat = inner * math.prod(kernel)
    parts = {
        "hada_w1_a": draw(out, 4),
        "hada_w1_b": draw(4, flat),
        "hada_w2_a": draw(out, 4) + 0.1,
        "hada_w2_b": draw(4, flat) - 0.1,
        "alpha": torch.tensor(1.0),
    }
    first, second = (f64(parts[f"hada_w{n}_a"]) @ f64(parts[f"hada_w{n}_b"]) for n in (1, 2))
    return parts, (first * second).reshape(weight.shape) / 4


def loha_tucker(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    parts: Parts = {"alpha": torch.tensor(3.0)}
    product = np.ones(weight.shape)
    for n in (1, 2):
        parts |= {
            f"hada_w{n}_a": draw(2, out) + n,
            f"hada_w{n}_b": draw(2, inner) - n,
            f"hada_t{n}": draw(2, 2, *kernel) + n / 9,
        }
        a, b, t = (f64(parts[f"hada_{name}"]) for name in (f"w{n}_a", f"w{n}_b", f"t{n}"))
        factor = np.zeros(weight.shape)
        for i in range(2):
            for j in range(2):
                factor += np.multiply.outer(np.multiply.outer(a[i], b[j]), t[i, j])
        product *= factor
    return {name: part / 2 for name, part in parts.items()}, product * (1 / 2) ** 6 * (3 / 2) / 2


def kron(first: Array, second: Array) -> Array:
    """W[i * c + k, j * d + l, ...] = first[i, j] * second[k, l, ...]"""
    (a, b), (c, d) = first.shape, second.shape[:2]
    result = np.zeros((a * c, b * d, *second.shape[2:]))
    for i in range(a):
        for j in range(b):
            result[i * c : (i + 1) * c, j * d : (j + 1) * d] = first[i, j] * second
    return result


def lokr_whole(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    # Alpha means nothing where no factor is split; LyCORIS writes a huge one.
    parts = {"lokr_w1": draw(4, 2), "lokr_w2": draw(out // 4, inner // 2, *kernel), "alpha": torch.tensor(1e9)}
    return parts, kron(f64(parts["lokr_w1"]), f64(parts["lokr_w2"]))


def lokr_split(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    c, d = out // 4, inner // 2
    parts = {
        "lokr_w1_a": draw(4, 2),
        "lokr_w1_b": draw(2, 2),
        "lokr_w2_a": draw(c, 2),
        "lokr_w2_b": draw(2, d * math.prod(kernel)),
        "alpha": torch.tensor(1.0),
    }
    first = f64(parts["lokr_w1_a"]) @ f64(parts["lokr_w1_b"])
    second = (f64(parts["lokr_w2_a"]) @ f64(parts["lokr_w2_b"])).reshape(c, d, *kernel)
    return parts, kron(first, second) / 2


def lokr_tucker(weight: Array) -> tuple[Parts, Array]:
    out, inner, *kernel = weight.shape
    c, d = out // 4, inner // 2
    parts = {"lokr_w1": draw(4, 2), "lokr_w2_a": draw(3, c), "lokr_w2_b": draw(3, d), "lokr_t2": draw(3, 3, *kernel)}
    a, b, t = (f64(parts[name]) for name in ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
    second = np.zeros((c, d, *kernel))
    for i in range(3):
        for j in range(3):
            second += np.multiply.outer(np.multiply.outer(a[i], b[j]), t[i, j])
    return parts, kron(f64(parts["lokr_w1"]), second)


def difference(weight: Array) -> tuple[Parts, Array]:
    diff = draw(*weight.shape)
    return {"diff": diff}, f64(diff)


def dora(part: str, *, on_input: bool) -> Callable[[Kind], Kind]:
    """DoRA, eq. 5: W' = m (W + delta) / |W + delta|, the norm of each output row, or of each input column."""

    def over(kind: Kind) -> Kind:
        def adapted(weight: Array) -> tuple[Parts, Array]:
            parts, delta = kind(weight)
            axis = 1 if on_input else 0
            shape = [1] * weight.ndim
            shape[axis] = weight.shape[axis]
            magnitude = draw(*shape).abs() + 0.5
            directions = np.moveaxis(weight + delta, axis, 0).copy()
            for n, row in enumerate(directions):
                directions[n] = row / math.sqrt((row**2).sum()) * f64(magnitude).flat[n]
            stored = magnitude.flatten() if part == "magnitude" else magnitude
            return {**parts, part: stored}, np.moveaxis(directions, 0, axis) - weight

        return adapted

    return over


KINDS: dict[str, Kind] = {
    "plain": plain,
    "plain without alpha": plain_without_alpha,
    "tucker": tucker,
    "loha": loha,
    "loha tucker": loha_tucker,
    "lokr whole": lokr_whole,
    "lokr split": lokr_split,
    "lokr tucker": lokr_tucker,
    "difference": difference,
    "dora, output norms": dora("dora_scale", on_input=False)(plain),
    "dora, input norms": dora("dora_scale", on_input=True)(plain),
    "dora of peft": dora("magnitude", on_input=False)(plain),
    "dora over loha": dora("dora_scale", on_input=True)(loha),
    "dora over lokr": dora("dora_scale", on_input=False)(lokr_split),
}

# The namings: (diffusers path, original path) -> module as written, and how the parts of plain LoRA are called.

KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight", "mid": ".lora_mid.weight"}
PROCESSOR = {"down": "_lora.down.weight", "up": "_lora.up.weight"}
LINEAR_LAYER = {"down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight"}
DIFFUSERS = {"down": ".lora.down.weight", "up": ".lora.up.weight"}
PEFT = {"down": ".lora_A.weight", "up": ".lora_B.weight", "magnitude": ".lora_magnitude_vector"}
ADAPTER = {
    "down": ".lora_A.default.weight",
    "up": ".lora_B.default.weight",
    "magnitude": ".lora_magnitude_vector.default.weight",
}


def under(path: str) -> str:
    return path.replace(".", "_")


def processor(path: str) -> str:
    return path.removesuffix(".0").replace(".to_", ".processor.to_") if ".attn" in path else path


NAMINGS: dict[str, tuple[Callable[[str, str], str], dict[str, str]]] = {
    "kohya, original blocks": (lambda new, old: "lora_unet_" + under(old), KOHYA),
    "kohya, diffusers blocks": (lambda new, old: "lora_unet_" + under(new), KOHYA),
    "dotted": (lambda new, old: "lora_unet." + new, KOHYA),
    "original, dotted": (lambda new, old: "diffusion_model." + old, PEFT),
    "checkpoint": (lambda new, old: "model.diffusion_model." + old, KOHYA),
    "diffusers, processors": (lambda new, old: "unet." + processor(new), PROCESSOR),
    "diffusers, linear layers": (lambda new, old: "unet." + new, LINEAR_LAYER),
    "diffusers": (lambda new, old: "unet." + new, DIFFUSERS),
    "diffusers, bare": (lambda new, old: new, DIFFUSERS),
    "peft": (lambda new, old: "unet." + new, PEFT),
    "peft, adapter named": (lambda new, old: "unet." + new, ADAPTER),
    "peft, wrapped": (lambda new, old: "base_model.model.unet." + new, PEFT),
    "peft, wrapped inside": (lambda new, old: "unet.base_model.model." + new, PEFT),
    "peft, bare": (lambda new, old: "base_model.model." + new, PEFT),
}


def written(module: str, parts: Parts, suffixes: Mapping[str, str]) -> Parts:
    every = {**KOHYA, "magnitude": ".lora_magnitude_vector", **suffixes}
    return {module + every.get(part, f".{part}"): tensor.contiguous() for part, tensor in parts.items()}


def apply(networks: dict[str, Network], tensors: Parts, folder: Path, weight: float, **notes: str) -> LoraReport:
    save_file(tensors, folder / "some.safetensors", metadata=notes)
    [report] = apply_loras(networks, [(read_lora(folder / "some.safetensors"), weight)])
    return report


def check(network: Network, path: str, delta: Array, weight: float = WEIGHT) -> None:
    name = f"{path}.weight"
    expected = f64(network.original(name)) + weight * delta
    assert np.abs(f64(network.module.get_parameter(name)) - expected).max() < TOLERANCE * max(1, np.abs(expected).max())
    assert np.abs(weight * delta).max() > 1e-3, "the delta is too small to be seen"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_method_in_every_naming(networks: dict[str, Network], tmp_path: Path, naming: str, kind: str) -> None:
    name, suffixes = NAMINGS[naming]
    unet = networks["unet"]
    places = [LINEAR, OUT, CONV, CONV_1X1]
    tensors: Parts = {}
    deltas = []
    for new, old in places:
        parts, delta = KINDS[kind](f64(unet.original(f"{new}.weight")))
        tensors |= written(name(new, old), parts, suffixes)
        deltas.append(delta)
    report = apply(networks, tensors, tmp_path, WEIGHT)
    assert (report.matched, report.total, report.unmatched) == (4, 4, ())
    for (new, _), delta in zip(places, deltas, strict=True):
        check(unet, new, delta)
    assert len(unet.patches) == 4


TEXT_NAMINGS = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": ("text_l", KOHYA),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": ("text_l", KOHYA),
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": ("text_g", KOHYA),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": ("text_l", LINEAR_LAYER),
    "text_encoder.text_model.encoder.layers.0.self_attn.to_q": ("text_l", PROCESSOR),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj": ("text_g", PEFT),
    "text_encoder.base_model.model.text_model.encoder.layers.0.self_attn.q_proj": ("text_l", ADAPTER),
    "text_encoder_2.encoder.layers.0.self_attn.q_proj": ("text_g", PEFT),
}


@pytest.mark.parametrize("kind", ["plain", "loha", "lokr split", "dora of peft"])
@pytest.mark.parametrize("module", TEXT_NAMINGS)
def test_text_encoders(networks: dict[str, Network], tmp_path: Path, module: str, kind: str) -> None:
    encoder, suffixes = TEXT_NAMINGS[module]
    path = (
        "encoder.layers.0.self_attn.q_proj" if encoder == "text_l" else "text_model.encoder.layers.0.self_attn.q_proj"
    )
    parts, delta = KINDS[kind](f64(networks[encoder].original(f"{path}.weight")))
    report = apply(networks, written(module, parts, suffixes), tmp_path, WEIGHT)
    assert (report.matched, report.total) == (1, 1)
    check(networks[encoder], path, delta)


def test_text_names_without_a_number_mean_the_only_encoder(networks: dict[str, Network], tmp_path: Path) -> None:
    """A refiner has only the large encoder."""
    path = "text_model.encoder.layers.1.mlp.fc1"
    parts, delta = plain(f64(networks["text_g"].original(f"{path}.weight")))
    tensors = written("lora_te_text_model_encoder_layers_1_mlp_fc1", parts, KOHYA)
    apply({"text_g": networks["text_g"]}, tensors, tmp_path, WEIGHT)
    check(networks["text_g"], path, delta)


def test_projections_written_as_convolutions_fit_matrices(networks: dict[str, Network], tmp_path: Path) -> None:
    path = "down_blocks.1.attentions.0.proj_in"
    parts, delta = plain(f64(networks["unet"].original(f"{path}.weight")))
    parts |= {"down": parts["down"][:, :, None, None], "up": parts["up"][:, :, None, None]}
    apply(networks, written("lora_unet_down_blocks_1_attentions_0_proj_in", parts, KOHYA), tmp_path, WEIGHT)
    check(networks["unet"], path, delta)


def test_biases_and_norms(networks: dict[str, Network], tmp_path: Path) -> None:
    unet = networks["unet"]
    tensors = {
        "lora_unet_input_blocks_1_0_in_layers_0.w_norm": draw(32),
        "lora_unet_input_blocks_1_0_in_layers_0.b_norm": draw(32) + 1,
        "lora_unet_out_2.diff_b": draw(4),
        "lora_unet_time_embed_0.diff": draw(128, 32),
        "lora_unet_time_embed_0.diff_b": draw(128),
    }
    report = apply(networks, tensors, tmp_path, WEIGHT)
    assert (report.matched, report.total) == (3, 3)
    for name, key in {
        "down_blocks.0.resnets.0.norm1.weight": "lora_unet_input_blocks_1_0_in_layers_0.w_norm",
        "down_blocks.0.resnets.0.norm1.bias": "lora_unet_input_blocks_1_0_in_layers_0.b_norm",
        "conv_out.bias": "lora_unet_out_2.diff_b",
        "time_embedding.linear_1.weight": "lora_unet_time_embed_0.diff",
        "time_embedding.linear_1.bias": "lora_unet_time_embed_0.diff_b",
    }.items():
        expected = unet.original(name).float() + WEIGHT * tensors[key]
        assert torch.allclose(unet.module.get_parameter(name), expected, rtol=0, atol=TOLERANCE)
    assert len(unet.patches) == 5


@pytest.mark.parametrize(
    ("notes", "factor"),
    [
        ({}, 1.5 / 3),
        ({"ss_network_args": '{"rs_lora": "True"}'}, 1.5 / 3**0.5),
        ({"ss_network_args": '{"rs_lora": "False"}'}, 1.5 / 3),
        ({"ss_network_args": "[1, 2"}, 1.5 / 3),
        ({"lora_adapter_metadata": '{"unet.use_rslora": true}'}, 1.5 / 3**0.5),
        # The tensor wins over the notes.
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 24}'}, 1.5 / 3),
    ],
)
def test_scale_by_alpha(networks: dict[str, Network], tmp_path: Path, notes: dict[str, str], factor: float) -> None:
    parts, delta = plain(f64(networks["unet"].original(f"{LINEAR[0]}.weight")))
    apply(networks, written(f"unet.{LINEAR[0]}", parts, PEFT), tmp_path, WEIGHT, **notes)
    check(networks["unet"], LINEAR[0], delta / 0.5 * factor)


@pytest.mark.parametrize(
    ("notes", "factor"),
    [
        ('{"unet.lora_alpha": 24, "unet.r": 3}', 8),
        ('{"unet.lora_alpha": 24, "unet.alpha_pattern": {"attn2.to_k": 6}}', 2),
        ('{"unet.lora_alpha": 24, "unet.alpha_pattern": {"n2.to_k": 6}}', 8),
        ('{"text_encoder.lora_alpha": 24}', 1),
        ('{"unet.lora_alpha": NaN}', 1),
        ('{"unet.lora_alpha": 1' + "0" * 400 + "}", 1),
    ],
)
def test_alpha_from_the_notes(networks: dict[str, Network], tmp_path: Path, notes: str, factor: float) -> None:
    parts, delta = plain_without_alpha(f64(networks["unet"].original(f"{LINEAR[0]}.weight")))
    apply(networks, written(f"unet.{LINEAR[0]}", parts, PEFT), tmp_path, WEIGHT, lora_adapter_metadata=notes)
    check(networks["unet"], LINEAR[0], delta * factor)

"""The offset LoRA, miniature and real: every one of its modules finds its weight, and gets what the formula says."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from fooocus.families.detect import recognise
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.lora import LoraReport, apply_loras, read_lora
from fooocus.loading.lora_deltas import delta_size, method_of
from fooocus.loading.lora_names import locate, module_table
from fooocus.loading.network import Network, empty_module
from tests.tiny import BASE, LORA, REPOSITORY, tiny_folder


def _exact(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().numpy()


def test_miniature_offset_lora_matches_completely() -> None:
    """Every one of 306 modules, in the checkpoint's float16, equal to the formula rounded once."""
    checkpoint = open_checkpoint(tiny_folder() / BASE)
    networks = {kind: checkpoint.load(kind) for kind in ("unet", "text_l", "text_g")}
    [report] = apply_loras(networks, [(read_lora(tiny_folder() / LORA), 0.5)])
    assert report == LoraReport(name="tiny_offset_lora", matched=306, total=306, unmatched=())
    assert sum(len(network.patches) for network in networks.values()) == 306

    tensors = load_file(tiny_folder() / LORA)
    stored = {key: name for name, key in _stored_unet_names(networks["unet"]).items()}
    for module in {key.partition(".")[0] for key in tensors}:
        if not module.startswith("lora_unet_"):
            continue
        name = stored[module.removeprefix("lora_unet_")]
        up, down, alpha = (
            _exact(tensors[f"{module}.{part}"]) for part in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        original = _exact(networks["unet"].original(name))
        product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        expected = original + 0.5 * alpha / len(down) * product.reshape(original.shape)
        result = _exact(networks["unet"].module.get_parameter(name))
        half_a_step = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64) / 2
        assert (np.abs(result - expected) <= half_a_step + 1e-7).all(), module  # 1e-7: sums in float32, weights below 1


def _stored_unet_names(unet: Network) -> dict[str, str]:
    names = {name: unet.source(name).key for name in unet.names() if name.endswith(".weight")}
    return {
        name: key.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
        for name, key in names.items()
    }


def test_real_offset_lora_matches_completely(tmp_path: Path) -> None:
    """All 788 modules of the published file find a weight of the full-size UNet, of the right shape."""
    headers = json.loads(gzip.decompress((REPOSITORY / "fooocus/bench/data/real_headers.json.gz").read_bytes()))
    base, offset = (headers[f"sd_xl_{name}_1.0.safetensors"] for name in ("base", "offset_example-lora"))
    path = tmp_path / "offset.safetensors"
    _write_hollow(path, _shapes(offset["tensors"]), offset["metadata"])
    lora = read_lora(path)
    assert (len(lora.modules), lora.unknown, lora.family) == (788, (), "Stable Diffusion XL")

    blueprint = recognise(_shapes(base["tensors"]), {}, file="base").blueprints["unet"]
    shapes = {name: tuple(parameter.shape) for name, parameter in empty_module(blueprint).named_parameters()}
    tables = {"unet": module_table("unet", {name: source.key for name, source in blueprint.sources.items()})}
    found = {module: locate(module, tables) for module in lora.modules}
    assert all(found.values()) and len(set(found.values())) == 788
    for module, place in found.items():
        assert place is not None
        weight = shapes[f"{place[1]}.weight"]
        method = method_of(lora.modules[module])
        assert method == "lora" and delta_size(method, lora.shapes(module)) == (weight[0], math.prod(weight[1:]))


def _shapes(groups: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(int(n) for n in shape.split("x") if n) for shape, names in groups.items() for name in names}


def _write_hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
    """Write a file of the true layout whose data is a hole."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)

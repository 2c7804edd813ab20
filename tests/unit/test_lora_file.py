"""What a LoRA file tells about itself, and files that are refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fooocus.errors import FooocusError, MissingModel, UnreadableModel, UnsupportedModel
from fooocus.loading.lora_file import SDXL, Lora, read_lora

TO_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def pair(module: str, out: int = 8, inner: int = 8) -> dict[str, Tensor]:
    return {f"{module}.lora_down.weight": torch.ones(2, inner), f"{module}.lora_up.weight": torch.ones(out, 2)}


def read(folder: Path, tensors: dict[str, Tensor], **notes: str) -> Lora:
    save_file(tensors, folder / "my lora.safetensors", metadata=notes)
    return read_lora(folder / "my lora.safetensors")


def test_facts(tmp_path: Path) -> None:
    lora = read(
        tmp_path, {**pair(TO_K, inner=2048), "some.thing": torch.ones(1)}, ss_base_model_version="sdxl_base_v1-0"
    )
    assert lora.name == "my lora"
    assert lora.path == tmp_path / "my lora.safetensors"
    assert lora.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert lora.family == SDXL
    assert lora.modules == {TO_K: {"down": f"{TO_K}.lora_down.weight", "up": f"{TO_K}.lora_up.weight"}}
    assert lora.unknown == ("some.thing",)
    assert lora.trigger_words == ()


def test_stamp_changes_with_the_file(tmp_path: Path) -> None:
    first = read(tmp_path, pair(TO_K))
    assert read_lora(first.path).stamp == first.stamp
    assert read(tmp_path, pair(TO_K, inner=16)).stamp != first.stamp


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"modelspec.trigger_phrase": "cool style, blue , "}, ("cool style", "blue")),
        ({"ss_tag_frequency": json.dumps({"1_a": {"cat": 3, "dog": 9}, "2_b": {" cat": 7}})}, ("cat", "dog")),
        (
            {"ss_tag_frequency": json.dumps({"a": {str(n): n for n in range(99)}})},
            tuple(str(n) for n in range(98, 88, -1)),
        ),
        ({"ss_tag_frequency": json.dumps({"a": 5, "b": {"x": "many"}})}, ("x",)),
        ({"ss_tag_frequency": "{not json"}, ()),
        ({"ss_tag_frequency": "[" * 100_000}, ()),
        ({"ss_tag_frequency": "[1]"}, ()),
    ],
)
def test_trigger_words(tmp_path: Path, notes: dict[str, str], words: tuple[str, ...]) -> None:
    assert read(tmp_path, pair(TO_K), **notes).trigger_words == words


@pytest.mark.parametrize(
    ("width", "notes", "family"),
    [
        (768, {}, "Stable Diffusion 1"),
        (1024, {}, "Stable Diffusion 2"),
        (2048, {}, SDXL),
        (2048, {"ss_base_model_version": "sd_v1"}, SDXL),  # notes are copied about, a width is not
        (1280, {}, "the Stable Diffusion XL refiner"),
        (192, {}, ""),
        (192, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, SDXL),
        (768, {"ss_base_model_version": "sdxl_base_v1-0"}, SDXL),  # a miniature may have any width
        (192, {"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"}, "the Stable Diffusion XL refiner"),
    ],
)
def test_family(tmp_path: Path, width: int, notes: dict[str, str], family: str) -> None:
    assert read(tmp_path, pair(TO_K, inner=width), **notes).family == family


@pytest.mark.parametrize(
    ("module", "width", "notes", "family"),
    [
        (TO_K, 8, {"ss_base_model_version": "sd_v1"}, "Stable Diffusion 1"),
        (TO_K, 8, {"ss_base_model_version": "sd_1.5"}, "Stable Diffusion 1"),
        (TO_K, 8, {"ss_base_model_version": "sd_v2_768_v"}, "Stable Diffusion 2"),
        (TO_K, 8, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "Stable Diffusion 1"),
        (TO_K, 8, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "Stable Diffusion 2"),
        (TO_K, 8, {"modelspec.architecture": "stable-diffusion-3/lora"}, "Stable Diffusion 3"),
        (TO_K, 8, {"modelspec.architecture": "Flux.1-dev/lora"}, "Flux"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 8, {}, "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_k", 8, {}, "Flux"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv", 8, {}, "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.to_k", 8, {}, "Flux, Stable Diffusion 3 or another transformer"),
    ],
)
def test_other_families_are_refused(
    tmp_path: Path, module: str, width: int, notes: dict[str, str], family: str
) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        read(tmp_path, pair(module, inner=width), **notes)
    assert caught.value.sentence.startswith(f"my lora.safetensors is a LoRA for {family}, ")


def one(name: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        (one("model.diffusion_model.out.2.weight"), UnsupportedModel, "is a whole checkpoint, not a LoRA"),
        (one("clip_l"), UnsupportedModel, "is an embedding"),
        (one("emb_params"), UnsupportedModel, "is an embedding"),
        (one("control_model.a.weight"), UnsupportedModel, "is a ControlNet"),
        (one("lora_controlnet"), UnsupportedModel, "is a ControlNet"),
        (one("fc.weight"), UnsupportedModel, "is not a LoRA: it holds fc.weight"),
        ({**pair("a"), **one("b.oft_blocks")}, UnsupportedModel, "was trained with the method OFT"),
        ({**pair("a"), **one("a.lora.up.weight")}, UnsupportedModel, "several LoRAs in one file"),
        (one("a.lora_up.weight"), UnreadableModel, "is incomplete: of a it has only up"),
        (one("a.alpha"), UnreadableModel, "is incomplete: of a it has only alpha"),
        (one("a.hada_w1_a"), UnreadableModel, "is incomplete"),
        ({**pair("a"), **one("a.lokr_w1")}, UnreadableModel, "is incomplete"),
        ({**pair("a"), **one("a.alpha")}, UnreadableModel, "is damaged: the tensors of a do not fit each other"),
        (
            {"a.lora_down.weight": torch.ones(3, 8), "a.lora_up.weight": torch.ones(8, 2)},
            UnreadableModel,
            "the tensors of a do not fit each other",
        ),
        (
            {"a.lora_down.weight": torch.ones(0, 8), "a.lora_up.weight": torch.ones(8, 0)},
            UnreadableModel,
            "the tensors of a do not fit each other",
        ),
        (
            {"a.lora_down.weight": torch.ones(()), "a.lora_up.weight": torch.ones(())},
            UnreadableModel,
            "the tensors of a do not fit each other",
        ),
        (
            {f"a.hada_w{n}_{side}": torch.ones(4, 4) for n in (1, 2) for side in "ab"} | one("a.hada_t1"),
            UnreadableModel,
            "is incomplete",
        ),
        (
            {
                "a.lora_down.weight": torch.ones(2, 8),
                "a.lora_up.weight": torch.ones(8, 2),
                "a.lora_mid.weight": torch.ones(3, 3),
            },
            UnreadableModel,
            "do not fit each other",
        ),
    ],
)
def test_refused(tmp_path: Path, tensors: dict[str, Tensor], kind: type[FooocusError], words: str) -> None:
    with pytest.raises(kind) as caught:
        read(tmp_path, tensors)
    assert words in caught.value.sentence
    assert "my lora.safetensors" in caught.value.sentence
    assert caught.value.remedy


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MissingModel):
        read_lora(tmp_path / "none.safetensors")
    lora = read(tmp_path, pair(TO_K))
    (tmp_path / "cut.safetensors").write_bytes(lora.path.read_bytes()[:-4])
    with pytest.raises(UnreadableModel, match="cut off"):
        read_lora(tmp_path / "cut.safetensors")


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fooocus.loading.lora_file.TENSOR_LIMIT", 3)
    with pytest.raises(UnsupportedModel, match="4 tensors"):
        read(tmp_path, {**pair("a"), **pair("b")})

"""Files that are no models, or not the right ones: each is refused with a sentence of its own and a remedy."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fooocus.errors import MissingModel, ModelError, UnreadableModel, UnsupportedModel
from fooocus.loading.checkpoint import open_checkpoint, open_vae
from fooocus.loading.tensors import TensorFile
from fooocus.models.header import HEADER_LIMIT_BYTES, read_header
from tests import layouts
from tests.layouts import real_file, unet_shapes, write_sparse
from tests.tiny import BASE, LORA, REFINER, tiny_folder, tiny_shapes


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = safetensors({"a": entry([2], 0, 4), "b": entry([1], 4, 6)}, bytes(6))

UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(4096), "holds only zeros"),
    "short": (b"\x05\0\0\0\0", "too short"),
    "web page": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "web page"),
    "web page after blanks": (b"\xef\xbb\xbf\r\n <HTML><body>404</body></HTML>", "web page"),
    "server's answer": (b'{"error": "Access to model is restricted"}', "server's answer"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:31e35c80fc4829\nsize 6938078334\n",
        "git-lfs pointer",
    ),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
    "pickle": (pickle.dumps({"state_dict": list(range(200))}), "can run any code"),
    "noise": (bytes(range(7, 250)), "not a safetensors file"),
    "oversize header": (safetensors({}, length=HEADER_LIMIT_BYTES + 1), "claims a header of 10.0 MB"),
    "absurd header": (safetensors({}, length=2**62), "claims a header of"),
    "header breaks off": (GOOD[:40], "breaks off inside its header"),
    "data breaks off": (GOOD[:-1], "cut off"),
    "too long": (GOOD + b"more", "goes on for 4 bytes"),
    "no JSON": (safetensors(b'{"a": {"dtype": "F16", "shape": [2'), "damaged header"),
    "no text": (safetensors(b'{"\xff\xfe": 1}'), "damaged header"),
    "deep JSON": (safetensors(b'{"a":' + b"[" * 100_000), "damaged header"),
    "list in place of tensor": (safetensors({"a": []}), "damaged header"),
    "no offsets": (safetensors({"a": {"dtype": "F16", "shape": [2]}}), "damaged header"),
    "unknown numbers": (safetensors({"a": entry([2], 0, 1, "F4")}, bytes(1)), "number format F4"),
    "negative shape": (safetensors({"a": entry([-2, -1], 0, 4)}, bytes(4)), "whole numbers"),
    "shape of fractions": (safetensors({"a": {**entry([], 0, 4), "shape": [2.0]}}, bytes(4)), "whole numbers"),
    "size disagrees": (safetensors({"a": entry([3], 0, 4)}, bytes(4)), "disagree"),
    "gap": (safetensors({"a": entry([2], 0, 4), "b": entry([2], 6, 10)}, bytes(10)), "overlap or leave a gap"),
    "overlap": (safetensors({"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, bytes(6)), "overlap or leave a gap"),
    "twice the same name": (
        safetensors(b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{}}', bytes(2)),
        "used twice",
    ),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "damaged header"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_is_no_model_is_refused_in_words(tmp_path: Path, case: str) -> None:
    content, words = UNREADABLE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnreadableModel) as caught:
        open_checkpoint(path)
    assert words in caught.value.sentence
    assert caught.value.sentence.startswith("model.safetensors ")
    assert caught.value.remedy


def test_the_good_one_among_them_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    assert read_header(tmp_path / "model.safetensors").shapes == {"a": (2,), "b": (1,)}


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".PT"])
def test_pickles_are_refused_by_their_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(GOOD)
    with pytest.raises(UnreadableModel, match="can run any code"):
        open_checkpoint(path)


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_pickle_under_another_name_is_refused_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    if form == "zip":
        torch.save({"weight": torch.zeros(3), "trap": _Trap()}, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UnreadableModel, match="can run any code"):
        open_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_half_a_download_says_how_much_is_there(tmp_path: Path) -> None:
    real = real_file(layouts.BASE)
    path = write_sparse(tmp_path / layouts.BASE, real.shapes, real.metadata, file_bytes=real.bytes)
    os.truncate(path, 3_100_000_000)
    with pytest.raises(UnreadableModel, match=r"3\.1 of 6\.9 GB"):
        open_checkpoint(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match=r"nothing\.safetensors"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(MissingModel):
        open_checkpoint(tmp_path / "nothing.ckpt")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="is a folder"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_index.json").touch()
    with pytest.raises(UnreadableModel, match="diffusers layout"):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UnreadableModel, match="pipe"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so the mode bits would not do
    with pytest.raises(UnreadableModel, match="denies access"):
        open_checkpoint(path)


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UnreadableModel, match="Input/output error"):
        open_checkpoint(path)


def _prefixed(prefix: str, *names: str) -> dict[str, tuple[int, ...]]:
    return {prefix + name: (4, 4) for name in names}


_IN_DIFFUSERS = ("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight", "mid_block.resnets.0.conv1.weight")
UNSUPPORTED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "SD 1.5": (
        _prefixed("model.diffusion_model.", "input_blocks.0.0.weight")
        | _prefixed("cond_stage_model.transformer.text_model.", "embeddings.token_embedding.weight"),
        "Stable Diffusion 1.x",
    ),
    "SD 2.1": (
        _prefixed("model.diffusion_model.", "input_blocks.0.0.weight")
        | _prefixed("cond_stage_model.model.", "token_embedding.weight"),
        "Stable Diffusion 2.x",
    ),
    "SD 3": (_prefixed("model.diffusion_model.", "joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    "Flux": (_prefixed("", "double_blocks.0.img_attn.qkv.weight"), "Flux"),
    "diffusers UNet": (_prefixed("", *_IN_DIFFUSERS), "diffusers layout"),
    "UNet alone": (unet_shapes(layouts.SDXL), "without text encoders"),
    "real LoRA": (real_file(layouts.LORA).shapes, "LoRA"),
    "peft LoRA": (_prefixed("unet.down_blocks.1.attentions.0.proj_in.", "lora_A.weight", "lora_B.weight"), "LoRA"),
    "LoHa": (_prefixed("lora_unet_input_blocks_4_1_proj_in.", "hada_w1_a", "hada_w1_b"), "LoRA"),
    "ControlNet": (_prefixed("control_model.", "input_blocks.0.0.weight"), "ControlNet"),
    "embedding": ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "embedding"),
    "VAE": (
        {k: s for k, s in tiny_shapes("tiny_base").items() if k.startswith("first_stage_model.")},
        "VAE and nothing else",
    ),
    "Playground 2.5": (tiny_shapes("tiny_base") | {"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)}, "Playground"),
    "nothing": ({}, "no tensors"),
    "something else": ({"bert.embeddings.weight": (5, 5)}, "of no kind known here"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_a_model_of_another_kind_is_refused_by_its_own_name(tmp_path: Path, case: str) -> None:
    shapes, words = UNSUPPORTED[case]
    path = write_sparse(tmp_path / "model.safetensors", shapes, {})
    with pytest.raises(UnsupportedModel) as caught:
        open_checkpoint(path)
    assert words in caught.value.sentence
    assert "model.safetensors" in caught.value.sentence
    assert caught.value.remedy


def test_a_lora_or_a_refiner_is_no_base() -> None:
    with pytest.raises(UnsupportedModel, match="LoRA"):
        open_checkpoint(tiny_folder() / LORA, role="base")
    with pytest.raises(UnsupportedModel, match="refiner"):
        open_checkpoint(tiny_folder() / REFINER, role="base")
    with pytest.raises(UnsupportedModel, match="base"):
        open_checkpoint(tiny_folder() / BASE, role="refiner")


def test_a_lora_is_no_vae() -> None:
    with pytest.raises(UnsupportedModel, match="LoRA"):
        open_vae(tiny_folder() / LORA)


def test_all_sentences_differ() -> None:
    words = [words for _, words in UNSUPPORTED.values()]
    assert len(set(words) - {"LoRA"}) == len([word for word in words if word != "LoRA"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6), cut=st.integers(0, 9))
def test_damage_never_gives_anything_but_a_model_error(tmp_path: Path, edits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(GOOD)
    for place, value in edits:
        content[place] = value
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[: len(content) - cut])
    try:
        file = TensorFile(path)
        assert sum(file.tensor(name).numel() for name in file.header.tensors) == 3
    except ModelError as error:
        assert error.sentence and error.remedy


@settings(max_examples=60, deadline=None)
@given(lost=st.sets(st.sampled_from(sorted(tiny_shapes("tiny_base"))), min_size=1, max_size=400))
def test_any_lost_tensors_give_an_answer_or_a_model_error(lost: set[str]) -> None:
    from fooocus.families.detect import recognise

    kept = {key: shape for key, shape in tiny_shapes("tiny_base").items() if key not in lost}
    try:
        recognise(kept, {}, file="model.safetensors")
    except ModelError as error:
        assert error.sentence.startswith("model.safetensors ")


@settings(max_examples=60, deadline=None)
@given(
    bent=st.dictionaries(
        st.sampled_from(sorted(tiny_shapes("tiny_base"))),
        st.lists(st.integers(0, 200), max_size=5).map(tuple),
        min_size=1,
        max_size=300,
    )
)
def test_any_bent_shapes_give_an_answer_or_a_model_error(bent: dict[str, tuple[int, ...]]) -> None:
    from fooocus.families.detect import recognise

    try:
        recognise(tiny_shapes("tiny_base") | bent, {}, file="model.safetensors")
    except ModelError as error:
        assert error.sentence.startswith("model.safetensors ")


def test_a_good_file_is_good_after_all_this(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "x.safetensors")
    assert TensorFile(tmp_path / "x.safetensors").tensor("a").tolist() == [1, 1, 1]

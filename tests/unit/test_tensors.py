"""A good safetensors file: its header, its mapped tensors. Bad files are in tests/fault/test_bad_models.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fooocus.errors import UnreadableModel
from fooocus.loading.tensors import TensorFile, TensorInfo, read_header
from tests.layouts import LORA, real_file, write_sparse
from tests.tiny import BASE, tiny_folder, tiny_shapes


def test_header_of_a_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.bfloat16)}, tmp_path / "x.safetensors", {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.tensors == {"a": TensorInfo("F32", (2, 3), 24), "b": TensorInfo("BF16", (), 2)}
    assert header.metadata == {"k": "v"}


def test_header_of_the_miniature() -> None:
    header = read_header(tiny_folder() / BASE)
    assert header.shapes == tiny_shapes("tiny_base")


def test_header_of_a_file_without_metadata_and_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert (dict(header.tensors), dict(header.metadata)) == ({}, {})


def test_header_of_the_real_lora(tmp_path: Path) -> None:
    real = real_file(LORA)
    path = write_sparse(tmp_path / LORA, real.shapes, real.metadata, file_bytes=real.bytes)
    assert path.stat().st_size == 49_553_604
    header = read_header(path)
    assert header.shapes == real.shapes
    assert header.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_every_number_format_that_torch_writes_can_be_read(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    stored = {str(kind): torch.ones(3).to(kind) for kind in (*kinds, torch.float8_e4m3fn, torch.float8_e5m2)}
    save_file(stored, tmp_path / "x.safetensors")
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert {name: file.tensor(name).dtype for name in file.header.tensors} == {n: t.dtype for n, t in stored.items()}


def test_tensors_are_mapped_and_not_copied() -> None:
    with TensorFile(tiny_folder() / BASE) as file:
        name = "model.diffusion_model.input_blocks.0.0.weight"
        assert file.tensor(name).data_ptr() == file.tensor(name).data_ptr()
        assert file.tensor(name).shape == (32, 4, 3, 3)


def test_writing_into_a_tensor_never_reaches_the_file_or_another_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4)}, path)
    with TensorFile(path) as one, TensorFile(path) as two:
        one.tensor("a").zero_()
        assert two.tensor("a").tolist() == [1, 1, 1, 1]
    assert path.read_bytes().endswith(b"\x00\x00\x80\x3f")


def test_names_with_any_letters_work(tmp_path: Path) -> None:
    path = tmp_path / "mögliche Größe 模型" / "übung.safetensors"
    path.parent.mkdir()
    save_file({"a": torch.ones(4)}, path)
    with TensorFile(path) as file:
        assert file.tensor("a").tolist() == [1, 1, 1, 1]


def test_a_file_that_is_swapped_between_header_and_mapping_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4)}, path)
    header = read_header(path)
    path.write_bytes(b"no longer a model")
    monkeypatch.setattr("fooocus.loading.tensors.read_header", lambda _: header)
    with pytest.raises(UnreadableModel, match=r"x\.safetensors"):
        TensorFile(path)

"""A good safetensors file: its header, its mapped tensors. Bad files are in tests/fault/test_bad_models.py."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fooocus.errors import UnreadableModel
from fooocus.loading.tensors import TensorFile
from fooocus.models.header import TensorInfo, read_header
from tests.layouts import LORA, real_file, write_sparse
from tests.tiny import BASE, REFINER, tiny_folder, tiny_shapes
from tests.tiny import LORA as MINIATURE_LORA


def test_header_of_a_file(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.bfloat16)}, tmp_path / "x.safetensors", {"k": "v"}
    )
    header = read_header(tmp_path / "x.safetensors")
    start = (tmp_path / "x.safetensors").stat().st_size - 26
    assert header.tensors == {"a": TensorInfo("F32", (2, 3), 24, start), "b": TensorInfo("BF16", (), 2, start + 24)}
    assert header.metadata == {"k": "v"}


DIGESTS = {
    BASE: "55a774ba974cd470224c70a5165fd9b294bc8c00e3e99d7bb0cbdf3e29a39200",
    REFINER: "7b82e52a66ae58111e4c0b282c276b9be9f11527332de5291e1d0432407480f9",
    MINIATURE_LORA: "a841eec821e6ae3d1445951343269815f6271e3e9f00bc7ba3371bd601ad5aac",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_miniatures_are_the_same_bytes_everywhere(name: str) -> None:
    with (tiny_folder() / name).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == DIGESTS[name]


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
        assert {name: file.tensor(name).dtype for name in file.header.tensors} == {
            n: t.dtype for n, t in stored.items()
        }


def test_tensors_are_mapped_and_not_copied() -> None:
    with TensorFile(tiny_folder() / BASE) as file:
        name = "model.diffusion_model.input_blocks.0.0.weight"
        assert file.tensor(name).data_ptr() == file.tensor(name).data_ptr()
        assert file.tensor(name).shape == (32, 4, 3, 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the mappings from /proc")
def test_the_mapping_is_read_only_so_that_no_memory_must_be_promised_for_it() -> None:
    with TensorFile(tiny_folder() / BASE):
        mappings = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(BASE)]
        assert {line.split()[1][:2] for line in mappings} == {"r-"}


def test_two_readers_may_map_one_file_and_tensors_outlive_them(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4)}, path)
    with TensorFile(path) as one, TensorFile(path) as two:
        first, second = one.tensor("a"), two.tensor("a")
    assert first.tolist() == second.tolist() == [1, 1, 1, 1]


def test_values_of_every_tensor_are_those_that_the_safetensors_library_reads() -> None:
    reference = load_file(tiny_folder() / BASE)
    with TensorFile(tiny_folder() / BASE) as file:
        assert file.header.tensors.keys() == reference.keys()
        assert all(torch.equal(file.tensor(name), value) for name, value in reference.items())


def test_data_that_is_not_aligned_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.arange(4.0)}, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" "
    while len(header) % 4 != 1:
        header += b" "
    (tmp_path / "y.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    with TensorFile(tmp_path / "y.safetensors") as file:
        assert file.tensor("a").tolist() == [0, 1, 2, 3]


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

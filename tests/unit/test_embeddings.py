"""Textual-inversion files: what is found, what is read, what is refused and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fooocus.errors import MismatchedModel, MissingModel, UnreadableModel, UnsupportedModel
from fooocus.loading.embeddings import Embeddings, read_embedding


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    both = {"clip_l": torch.full((2, 64), 1.5), "clip_g": torch.full((2, 128), 2.5)}
    (tmp_path / "style").mkdir()
    save_file(both, tmp_path / "style" / "Ink-Wash.safetensors")
    save_file(both, tmp_path / "badhands.v2.safetensors")
    save_file({"emb_params": torch.ones(3, 64, dtype=torch.float16)}, tmp_path / "plain.safetensors")
    save_file({"<concept>": torch.ones(128)}, tmp_path / "single.safetensors")
    (tmp_path / "old.pt").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Ink-Wash", "style/Ink-Wash.safetensors"),
        ("ink-wash", "style/Ink-Wash.safetensors"),
        ("style/ink-wash", "style/Ink-Wash.safetensors"),
        ("style\\ink-wash.safetensors", "style/Ink-Wash.safetensors"),
        ("badhands.v2", "badhands.v2.safetensors"),
    ],
)
def test_names(folder: Path, name: str, file: str) -> None:
    assert Embeddings((folder / "none", folder)).find(name) == folder / file


def test_a_path_wins_over_the_same_name_deeper(folder: Path) -> None:
    for place in ("a/x.safetensors", "x.safetensors"):
        (folder / place).parent.mkdir(exist_ok=True)
        save_file({"v": torch.ones(64)}, folder / place)
    assert Embeddings((folder,)).find("x") == folder / "x.safetensors"


@pytest.mark.parametrize("name", ["ink_wash", "inkwash", "stile/ink-wash"])
def test_a_missing_one_names_the_nearest(folder: Path, name: str) -> None:
    with pytest.raises(MissingModel) as caught:
        Embeddings((folder,)).read(name)
    assert name in caught.value.sentence
    assert "style/Ink-Wash" in caught.value.remedy


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "style/../plain", "*", ".", "style"])
def test_no_name_leads_elsewhere(folder: Path, name: str) -> None:
    save_file({"v": torch.ones(64)}, folder / "style" / "secret.safetensors")
    with pytest.raises(MissingModel):
        Embeddings((folder / "style", folder / "style" / "none")).find(name)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_one_behind_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other disk").mkdir()
    (tmp_path / "other disk" / "far.safetensors").touch()
    (folder / "more").symlink_to(tmp_path / "other disk", target_is_directory=True)
    assert Embeddings((folder,)).find("more/far") == folder / "more" / "far.safetensors"


@pytest.mark.parametrize("name", ["old", "old.pt"])
def test_pickles_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UnreadableModel, match=r"old\.pt.*hidden programs.*safetensors"):
        Embeddings((folder,)).read(name)
    save_file({"v": torch.ones(64)}, folder / "old.safetensors")
    assert Embeddings((folder,)).find("old").name == "old.safetensors"


def test_vectors_by_encoder(folder: Path) -> None:
    embedding = Embeddings((folder,)).read("ink-wash")
    for kind, width, value in (("l", 64, 1.5), ("g", 128, 2.5)):
        vectors = embedding.vectors(kind, width)
        assert vectors is not None
        assert torch.equal(vectors, torch.full((2, width), value))
    with pytest.raises(MismatchedModel, match=r"Ink-Wash\.safetensors is 64 wide for CLIP-L.*768 wide"):
        embedding.vectors("l", 768)


def test_vectors_by_width(folder: Path) -> None:
    plain = Embeddings((folder,)).read("plain")
    vectors = plain.vectors("l", 64)
    assert vectors is not None
    assert vectors.dtype == torch.float32
    assert vectors.shape == (3, 64)
    assert plain.vectors("g", 128) is None
    single = Embeddings((folder,)).read("single").vectors("g", 128)
    assert single is not None
    assert single.shape == (1, 128)


def test_a_file_for_one_encoder_has_nothing_for_the_other(tmp_path: Path) -> None:
    save_file({"clip_g": torch.ones(1, 128)}, tmp_path / "g.safetensors")
    assert read_embedding(tmp_path / "g.safetensors").vectors("l", 128) is None


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html></html>", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UnreadableModel, match=r"x\.safetensors"):
        read_embedding(tmp_path / "x.safetensors")


def test_a_cut_file_is_refused(folder: Path) -> None:
    whole = (folder / "plain.safetensors").read_bytes()
    (folder / "plain.safetensors").write_bytes(whole[:-10])
    with pytest.raises(UnreadableModel, match=r"plain\.safetensors"):
        Embeddings((folder,)).read("plain")


OTHERS = {
    "nothing": {},
    "two": {"a": torch.ones(4), "b": torch.ones(4)},
    "three axes": {"v": torch.ones(1, 2, 3)},
    "no vectors": {"v": torch.ones(0, 64)},
    "a number": {"v": torch.tensor(1.0)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_refused(tmp_path: Path, kind: str) -> None:
    save_file(OTHERS[kind], tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedModel, match=r"x\.safetensors is not a textual-inversion embedding"):
        read_embedding(tmp_path / "x.safetensors")


def test_values_must_be_finite(tmp_path: Path) -> None:
    save_file({"v": torch.tensor([1.0, float("nan")])}, tmp_path / "x.safetensors")
    with pytest.raises(UnreadableModel, match="not finite"):
        read_embedding(tmp_path / "x.safetensors")

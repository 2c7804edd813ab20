"""What is there: recognised by header, found by name, remembered while unchanged, and copies elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from fooocus.errors import MissingModel, ModelError, Stopped, StorageError
from fooocus.models import scan
from fooocus.models.catalogue import CATALOGUE, Entry, Kind, choose, load_catalogue
from fooocus.models.elsewhere import Copy, find_copies, link, placed, use_in_place, usual_places
from fooocus.models.hashes import Content, FileMemory, Stamp
from fooocus.models.recognise import recognise, recognise_file
from fooocus.models.scan import Shelves
from tests.layouts import BASE, LORA, REFINER, real_file, write_sparse

Shapes = Mapping[str, tuple[int, ...]]
LORA_SHAPES: Shapes = {"lora_unet_middle_block_1_attn2_to_k.lora_down.weight": (8, 2048)}


def model(path: Path, shapes: Shapes = LORA_SHAPES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sparse(path, shapes, {})


@pytest.fixture
def memory(tmp_path: Path) -> FileMemory:
    return FileMemory(tmp_path / "data" / "models.sqlite")


@pytest.fixture
def shelves(tmp_path: Path, memory: FileMemory) -> Shelves:
    folders: dict[Kind, tuple[Path, ...]] = {
        "checkpoint": (tmp_path / "checkpoints",),
        "lora": (tmp_path / "loras", tmp_path / "more"),
    }
    return Shelves(folders, memory)


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [(BASE, "checkpoint", "sdxl_base"), (REFINER, "checkpoint", "sdxl_refiner"), (LORA, "lora", "sdxl")],
)
def test_the_published_files_are_recognised(name: str, kind: str, family: str) -> None:
    known = real_file(name)
    assert recognise(known.shapes, known.metadata) == Content(kind, family)


@pytest.mark.parametrize(
    ("shapes", "kind", "family"),
    [
        ({"lora_unet_x_attn2_to_k.lora_down.weight": (4, 768)}, "lora", "sd1"),
        ({"unet.x.attn2.to_k.lora_A.weight": (4, 2048)}, "lora", "sdxl"),
        ({"lora_te2_text_model.lora_up.weight": (1280, 4)}, "lora", "sdxl"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)}, "lora", "flux"),
        ({"model.diffusion_model.a": (1,), "cond_stage_model.transformer.b": (1,)}, "checkpoint", "sd1"),
        ({"model.diffusion_model.a": (1,), "cond_stage_model.model.b": (1,)}, "checkpoint", "sd2"),
        ({"model.diffusion_model.joint_blocks.0.a": (1,)}, "checkpoint", "sd3"),
        ({"model.diffusion_model.double_blocks.0.a": (1,)}, "checkpoint", "flux"),
        ({"model.diffusion_model.a": (1,)}, "unknown", ""),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "vae", ""),
        ({"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}, "vae", ""),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "embedding", "sdxl"),
        ({"emb_params": (2, 768)}, "embedding", "sd1"),
        ({"down_blocks.0.a": (1,)}, "unknown", ""),
        ({"control_model.a": (1,)}, "unknown", ""),
        ({"something": (4096, 4096)}, "unknown", ""),
        ({}, "unknown", ""),
    ],
)
def test_kind_and_family_are_read_off_the_names(shapes: Shapes, kind: str, family: str) -> None:
    found = recognise(shapes, {})
    assert (found.kind, found.family) == (kind, family)
    assert bool(found.problem) == (kind == "unknown")


def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    page = tmp_path / "x.safetensors"
    page.write_bytes(b"<!DOCTYPE html><html>" + bytes(600))
    assert "web page" in recognise_file(page).problem


def test_files_are_known_by_what_they_are_and_not_by_their_folder(shelves: Shelves, tmp_path: Path) -> None:
    model(tmp_path / "checkpoints" / "wrong place.safetensors")
    model(tmp_path / "loras" / "people" / "ann.safetensors")
    (tmp_path / "loras" / "old.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / "loras" / "begun.safetensors.part").write_bytes(b"x")
    (tmp_path / "loras" / ".hidden.safetensors").write_bytes(b"x")
    shelves.refresh()
    assert shelves.names("lora") == ["people/ann.safetensors", "wrong place.safetensors"]
    assert shelves.names("checkpoint") == []
    assert shelves.resolve("lora", "Wrong Place").misplaced
    assert not shelves.resolve("lora", "ann").misplaced
    (problem,) = [file for file in shelves.found if file.content.problem]
    assert problem.name == "old.ckpt" and "pickle" in problem.content.problem


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret", "C:\\x", "", "ann/../../x", "\x00"])
def test_a_name_is_never_a_path(shelves: Shelves, tmp_path: Path, name: str) -> None:
    model(tmp_path / "secret.safetensors")
    model(tmp_path / "loras" / "ann.safetensors")
    shelves.refresh()
    with pytest.raises(MissingModel, match="There is no LoRA named"):
        shelves.resolve("lora", name)


def test_names_fit_with_and_without_suffix_folder_and_capitals(shelves: Shelves, tmp_path: Path) -> None:
    path = model(tmp_path / "loras" / "people" / "Ann.safetensors")
    model(tmp_path / "loras" / "bob.safetensors")
    model(tmp_path / "more" / "bob.safetensors")
    model(tmp_path / "loras" / "a" / "two.safetensors")
    model(tmp_path / "loras" / "b" / "two.safetensors")
    shelves.refresh()
    for name in ("people/Ann.safetensors", "people\\Ann", "Ann", "ann", "ANN.SAFETENSORS"):
        assert shelves.resolve("lora", name).path == path
    assert shelves.resolve("lora", "bob").folder == tmp_path / "loras"  # the first folder wins
    with pytest.raises(ModelError, match=r"a/two.safetensors, b/two.safetensors"):
        shelves.resolve("lora", "two")
    with pytest.raises(MissingModel, match=r"Did you mean people/Ann.safetensors"):
        shelves.resolve("lora", "anne")


def test_a_file_that_vanishes_while_chosen_is_named(shelves: Shelves, tmp_path: Path) -> None:
    path = model(tmp_path / "loras" / "ann.safetensors")
    shelves.refresh()
    path.unlink()
    with pytest.raises(MissingModel, match=r"ann.safetensors was there and is gone"):
        shelves.resolve("lora", "ann")
    shelves.refresh()
    assert shelves.names("lora") == []


def test_only_new_and_changed_files_are_opened(
    shelves: Shelves, tmp_path: Path, memory: FileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(path: Path) -> Content:
        opened.append(path.name)
        return recognise_file(path)

    monkeypatch.setattr(scan, "recognise_file", counted)
    first, second = model(tmp_path / "loras" / "a.safetensors"), model(tmp_path / "loras" / "b.safetensors")
    shelves.refresh()
    shelves.refresh()
    assert sorted(opened) == ["a.safetensors", "b.safetensors"]
    os.utime(first, ns=(1, 1))
    model(second, {"decoder.conv_in.weight": (512, 4, 3, 3)})
    shelves.refresh()
    assert sorted(opened[2:]) == ["a.safetensors", "b.safetensors"]
    assert shelves.names("vae") == ["b.safetensors"]


def test_five_thousand_files_are_listed_in_under_two_seconds(shelves: Shelves, tmp_path: Path) -> None:
    source = model(tmp_path / "source.safetensors")
    for number in range(5000):
        target = tmp_path / "loras" / f"{number % 50}" / f"{number}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    shelves.refresh()
    began = time.process_time()
    assert len(shelves.refresh()) == 5000
    assert len(shelves.names("lora")) == 5000
    assert time.process_time() - began < 2.0


def test_a_link_that_leads_upwards_ends(shelves: Shelves, tmp_path: Path) -> None:
    model(tmp_path / "loras" / "ann.safetensors")
    (tmp_path / "loras" / "again").symlink_to(tmp_path / "loras", target_is_directory=True)
    (tmp_path / "loras" / "broken.safetensors").symlink_to(tmp_path / "nothing")
    shelves.refresh()
    assert shelves.names("lora") == ["ann.safetensors"]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 30, b""])
def test_a_damaged_memory_only_costs_time(tmp_path: Path, content: bytes) -> None:
    file, path = tmp_path / "models.sqlite", tmp_path / "x"
    path.write_bytes(b"hello")
    file.write_bytes(content)
    memory, stop = FileMemory(file), threading.Event()
    for _ in range(3):
        assert memory.sha256(path, stop) == hashlib.sha256(b"hello").hexdigest()
    assert memory.known_sha256(Stamp.of(path)) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_do_not_hide_the_others(shelves: Shelves, memory: FileMemory, tmp_path: Path) -> None:
    model(tmp_path / "loras" / "ann.safetensors")
    odd = model(Path(os.fsdecode(os.fsencode(tmp_path / "loras") + b"/\xff.safetensors")))
    shelves.refresh()
    assert shelves.names("lora") == ["ann.safetensors"]
    digest = memory.sha256(odd, threading.Event())
    memory.remember_contents([(Stamp.of(odd), Content("lora", "sdxl"))])
    assert digest == memory.sha256(odd, threading.Event()) and memory.known_sha256(Stamp.of(odd)) is None


def test_hashes_are_kept_until_the_file_changes(tmp_path: Path, memory: FileMemory) -> None:
    path, stop = tmp_path / "x", threading.Event()
    path.write_bytes(b"hello")
    first = memory.sha256(path, stop)
    stamp = Stamp.of(path)
    memory.remember_sha256(stamp, "f" * 64)
    assert memory.sha256(path, stop) == "f" * 64  # from memory
    os.utime(path, ns=(5, 5))
    assert memory.sha256(path, stop) == first
    stop.set()
    path.write_bytes(b"other")
    with pytest.raises(Stopped):
        memory.sha256(path, stop)


# Copies that other programs have.


def wanted(content: bytes, name: str = "wanted.safetensors") -> Entry:
    return Entry(name, "checkpoint", "owner/model", "main", len(content), hashlib.sha256(content).hexdigest())


def test_a_copy_under_any_name_is_found_by_its_content(tmp_path: Path, memory: FileMemory) -> None:
    home, root = tmp_path / "home", tmp_path / "apps" / "ours"
    right = home / "ComfyUI" / "models" / "checkpoints" / "renamed.safetensors"
    wrong = home / "Fooocus_win64" / "Fooocus" / "models" / "checkpoints" / "wanted.safetensors"
    cached = home / ".cache" / "huggingface" / "hub" / "models--a--b" / "snapshots" / "1" / "c.safetensors"
    neighbour = tmp_path / "apps" / "stable-diffusion-webui" / "models" / "x.safetensors"
    contents = {right: b"right", wrong: b"wrong", neighbour: b"neighbour", root / "models" / "own.safetensors": b"own"}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    blob = home / ".cache" / "huggingface" / "hub" / "models--a--b" / "blobs" / "abc"
    for path in (blob, cached):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"cached!")
    cached.symlink_to(blob)
    entries = [wanted(text, text.decode()) for text in (b"right", b"neighbour", b"cached!", b"own")]
    places = usual_places({"HF_HOME": str(home / ".cache" / "huggingface")}, root, home)
    found = {copy.entry.name: copy.path for copy in find_copies(entries, places, memory, threading.Event())}
    assert found == {"right": right, "neighbour": neighbour, "cached!": blob}


def test_a_copy_is_linked_or_used_in_place(tmp_path: Path, memory: FileMemory) -> None:
    source = model(tmp_path / "other" / "renamed.safetensors")
    entry = Entry("wanted.safetensors", "lora", "owner/model", "main", source.stat().st_size, "0" * 64)
    copy = Copy(entry, source)
    target = link(copy, tmp_path / "models")
    assert target == tmp_path / "models" / "loras" / "wanted.safetensors" and target.samefile(source)
    with pytest.raises(StorageError, match="there already"):
        link(copy, tmp_path / "models")
    assert placed(tmp_path / "data") == {}
    use_in_place(copy, tmp_path / "data")
    use_in_place(copy, tmp_path / "data")
    assert placed(tmp_path / "data") == {"lora": {"wanted.safetensors": source}}
    shelves = Shelves({}, memory, lambda: placed(tmp_path / "data"))
    shelves.refresh()
    assert shelves.resolve("lora", "wanted").path == source
    source.unlink()
    assert shelves.refresh() == ()


# The catalogue.


def test_the_catalogue_holds_the_default_files() -> None:
    entries = load_catalogue()
    assert {name: entry.size_bytes for name, entry in entries.items()} == {
        BASE: 6938078334,
        REFINER: 6075981930,
        LORA: 49553604,
    }
    assert {name: real_file(name).bytes for name in entries} == {n: e.size_bytes for n, e in entries.items()}
    assert all(entry.sha256 and entry.licence and entry.purpose for entry in entries.values())
    assert choose([LORA], entries) == [entries[LORA]]
    assert entries[LORA].target(Path("models")) == Path("models/loras") / LORA
    with pytest.raises(MissingModel, match="not in the catalogue"):
        choose(["x"], entries)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sha256": "ABC"}, "hexadecimal"),
        ({"size_bytes": 0}, "positive"),
        ({"kind": "model"}, "not one of"),
        ({"repository": "x"}, "owner/name"),
        ({"remote": "../x"}, "out of the repository"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, object], problem: str, tmp_path: Path) -> None:
    values = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    values[LORA] |= change
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(Exception, match=problem):
        load_catalogue(file)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".x", "C:x", ""])
def test_a_name_with_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    values = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps({name: values[LORA]}), encoding="utf-8")
    with pytest.raises(Exception, match="without a folder"):
        load_catalogue(file)

"""Which file a name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fooocus.errors import MissingModel, ModelError
from fooocus.loading.catalog import Catalog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "juggernaut.safetensors",
        "Photo/real.safetensors",
        "photo-b/real.safetensors",
        "old.ckpt",
        "notes.txt",
    ):
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "secret.safetensors").touch()
    return tmp_path / "checkpoints"


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    return Catalog({"checkpoint": (folder,), "lora": (folder.parent / "loras",)})


def test_names_are_the_safetensors_files_sorted(catalog: Catalog) -> None:
    assert catalog.names("checkpoint") == [
        "juggernaut.safetensors",
        "photo-b/real.safetensors",
        "Photo/real.safetensors",
    ]


def test_a_folder_that_is_not_there_is_an_empty_one(catalog: Catalog) -> None:
    assert catalog.names("lora") == []
    assert catalog.names("vae") == []


@pytest.mark.parametrize("name", ["juggernaut", "juggernaut.safetensors", "Juggernaut", "JUGGERNAUT.SAFETENSORS"])
def test_a_name_is_found_with_and_without_suffix_and_in_other_capitals(
    catalog: Catalog, folder: Path, name: str
) -> None:
    assert catalog.resolve("checkpoint", name) == folder / "juggernaut.safetensors"


@pytest.mark.parametrize("name", ["Photo/real", "Photo\\real.safetensors", "photo/REAL"])
def test_a_name_in_a_subfolder_is_found(catalog: Catalog, folder: Path, name: str) -> None:
    assert catalog.resolve("checkpoint", name) == folder / "Photo" / "real.safetensors"


def test_a_name_that_fits_two_files_is_asked_back(catalog: Catalog) -> None:
    with pytest.raises(ModelError, match=r"Photo/real\.safetensors, photo-b/real\.safetensors"):
        catalog.resolve("checkpoint", "real")


def test_the_exact_name_wins_over_other_capitals(catalog: Catalog, folder: Path) -> None:
    if (folder / "JUGGERNAUT.safetensors").exists():
        pytest.skip("this file system does not tell capitals apart")
    (folder / "JUGGERNAUT.safetensors").touch()
    assert catalog.resolve("checkpoint", "juggernaut") == folder / "juggernaut.safetensors"


def test_the_first_of_several_folders_wins(folder: Path) -> None:
    second = folder.parent / "more"
    second.mkdir()
    (second / "juggernaut.safetensors").touch()
    (second / "other.safetensors").touch()
    catalog = Catalog({"checkpoint": (folder, second)})
    assert catalog.resolve("checkpoint", "juggernaut") == folder / "juggernaut.safetensors"
    assert catalog.resolve("checkpoint", "other") == second / "other.safetensors"


def test_only_an_absolute_path_is_taken_as_it_is(
    catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = folder.parent / "secret.safetensors"
    assert catalog.resolve("checkpoint", outside) == outside
    assert catalog.resolve("checkpoint", str(outside)) == outside
    monkeypatch.chdir(folder.parent)
    with pytest.raises(MissingModel):  # a relative path may come from a prompt or from a stranger's picture
        catalog.resolve("checkpoint", "secret.safetensors")


def test_a_file_that_comes_later_is_found(catalog: Catalog, folder: Path) -> None:
    with pytest.raises(MissingModel):
        catalog.resolve("checkpoint", "late")
    (folder / "late.safetensors").touch()
    assert catalog.resolve("checkpoint", "late") == folder / "late.safetensors"


def test_a_missing_name_is_answered_with_the_nearest_and_the_folder(catalog: Catalog, folder: Path) -> None:
    with pytest.raises(MissingModel, match=r"Did you mean juggernaut\.safetensors\?") as caught:
        catalog.resolve("checkpoint", "jugernaut.safetensors")
    assert str(folder) in caught.value.remedy


def test_a_missing_name_that_is_like_none_is_answered_with_all_where_they_are_few(tmp_path: Path) -> None:
    for name in ("b", "A"):
        (tmp_path / f"{name}.safetensors").touch()
    catalog = Catalog({"lora": (tmp_path,)})
    with pytest.raises(MissingModel) as caught:
        catalog.resolve("lora", "elsewhere")
    assert caught.value.sentence == "There is no LoRA named elsewhere. Known are A.safetensors, b.safetensors."
    for number in range(20):
        (tmp_path / f"{number}.safetensors").touch()
    with pytest.raises(MissingModel) as caught:
        catalog.resolve("lora", "elsewhere")
    assert caught.value.sentence == "There is no LoRA named elsewhere."


def test_a_missing_path_is_answered_as_a_path(catalog: Catalog, folder: Path) -> None:
    with pytest.raises(MissingModel, match="no file"):
        catalog.resolve("checkpoint", folder / "nothing.safetensors")


@pytest.mark.parametrize("name", ["../nothing", "a/../../nothing", "..\\nothing", "", ".", "\0", "x" * 5000])
def test_a_name_never_leads_out_of_the_folders(
    catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError):
        catalog.resolve("checkpoint", name)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_files_and_hidden_things(catalog: Catalog, folder: Path) -> None:
    (folder / "linked.safetensors").symlink_to(folder.parent / "secret.safetensors")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "part.safetensors").touch()
    (folder.parent / "other disk").mkdir()
    (folder.parent / "other disk" / "far.safetensors").touch()
    (folder / "more").symlink_to(folder.parent / "other disk", target_is_directory=True)
    (folder / "more" / "round").symlink_to(folder, target_is_directory=True)
    names = catalog.names("checkpoint")
    assert "linked.safetensors" in names and [name for name in names if "far" in name] == ["more/far.safetensors"]
    assert catalog.resolve("checkpoint", "more/far") == folder / "more" / "far.safetensors"
    assert not any("part" in name for name in catalog.names("checkpoint"))


def test_only_the_paths_that_the_page_was_started_with_may_be_asked_for(folder: Path) -> None:
    inside, secret = folder.parent / "mine.safetensors", folder.parent / "secret.safetensors"
    inside.touch()
    secret.touch()
    catalog = Catalog({"checkpoint": (folder,)}, outside=[str(inside)])
    assert catalog.resolve("checkpoint", str(inside)) == inside
    for path in (str(secret), r"\\stranger\share\x.safetensors"):
        with pytest.raises(ModelError):
            catalog.resolve("checkpoint", path)


def test_a_file_that_is_used_where_it_lies_has_its_name(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere.safetensors"
    there.touch()
    catalog = Catalog({"checkpoint": (folder,)}, lambda: {"checkpoint": {"known.safetensors": there}})
    assert catalog.resolve("checkpoint", "known") == there

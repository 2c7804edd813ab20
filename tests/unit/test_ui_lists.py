"""The lists that the panels draw, and the text that styles make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.config import ROOT, Config
from fooocus.models.catalogue import FOLDERS
from fooocus.models.hashes import FileMemory
from fooocus.models.scan import Shelves
from fooocus.prompt.styles import load_styles
from fooocus.request import Request
from fooocus.ui.choices import style_title, style_titles, style_words
from fooocus.ui.data import add_data_routes
from fooocus.ui.lists import Lists
from fooocus.ui.styled import styled
from tests.layouts import write_sparse

LORA = {"lora_unet_middle_block_1_attn2_to_k.lora_down.weight": (8, 2048)}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("checkpoints", "loras/people", "vae"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "styles").mkdir()
    return Config(models=tmp_path / "models", styles_folder=tmp_path / "styles", data=tmp_path / "data")


def names(models: dict[str, Any], use: str) -> list[str]:
    return [one["name"] for one in models[use]]


def test_files_come_with_family_size_words_and_the_reason_why_not(config: Config) -> None:
    write_sparse(config.models / "loras/people/ann.safetensors", LORA, {"modelspec.trigger_phrase": "ann, smile"})
    write_sparse(config.models / "loras/old.safetensors", {next(iter(LORA)): (8, 768)}, {})
    (config.models / "loras/page.safetensors").write_bytes(b"<!DOCTYPE html><html>" + bytes(600))
    models = Lists(config, Request()).answer("models")
    assert models is not None
    assert names(models, "lora") == ["old.safetensors", "page.safetensors", "people/ann.safetensors"]
    old, page, ann = models["lora"]
    assert "Stable Diffusion 1.5" in old["why"] and "web page" in page["why"] and not ann["why"]
    assert ann["title"] == "ann" and ann["words"] == ["ann", "smile"]
    assert ann["about"] == "people · SDXL · 33 kB"
    assert models["fetchable"] == [] and models["looking"] is False
    assert models["own"]["sd_xl_base_1.0.safetensors"]["loras"][0][1] == 0.5


def test_a_file_that_was_dropped_in_appears_at_a_fresh_look_and_leaves_again(config: Config) -> None:
    shelves = Shelves(
        {kind: config.folders(folder) for kind, folder in FOLDERS.items()}, FileMemory(config.data / "models.sqlite")
    )
    lists = Lists(config, Request(), shelves)
    assert names(lists.answer("models") or {}, "vae") == []
    file = write_sparse(config.models / "vae" / "soft.safetensors", {"decoder.conv_in.weight": (512, 4, 3, 3)}, {})
    assert names(lists.answer("models", fresh=True) or {}, "vae") == ["soft.safetensors"]
    assert "sd_xl_base_1.0.safetensors" in (lists.answer("models") or {})["fetchable"]
    file.unlink()
    assert names(lists.answer("models", fresh=True) or {}, "vae") == []


def test_a_model_that_was_given_by_its_path_may_be_chosen(config: Config, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.touch()
    lists = Lists(config, Request(base=str(mine), vae="/nowhere/x.safetensors"))
    assert (lists.answer("models") or {})["given"] == [str(mine)]


def test_styles_have_names_families_and_descriptions(config: Config) -> None:
    answer = Lists(Config(), Request()).answer("styles") or {}
    by_name = {style["name"]: style for style in answer["styles"]}
    assert len(by_name) > 100 and answer["problems"] == []
    assert by_name["photo-film noir"]["title"] == "Film noir"
    assert by_name["photo-film noir"]["family"] == "Photography"
    assert by_name["cinematic-default"]["about"].startswith("movie still of … motivated")
    assert all(style["about"] and style["title"] and not style["own"] for style in by_name.values())
    own = config.styles_folder / "my_own.json"
    own.write_text(json.dumps([{"name": "ink \ud800", "prompt": "", "negative_prompt": "photo"}]), encoding="ascii")
    (config.styles_folder / "broken.json").write_text("[", encoding="utf-8")
    answer = Lists(config, Request()).answer("styles") or {}
    assert answer["styles"][0] | {"name": ""} == {
        "name": "",
        "title": "Ink \ud800",
        "family": "My own",
        "about": "Keeps out: photo",
        "own": True,
    }
    assert "broken.json" in answer["problems"][0]


def test_titles_are_what_people_read() -> None:
    assert style_title("sai-3d-model", "sai") == "3D model"
    assert style_title("photo-tilt-shift", "photo") == "Tilt-shift"
    assert style_title("my-family-thing", "mine") == "My-family-thing"


def test_no_two_styles_are_called_the_same(config: Config) -> None:
    shipped = load_styles(ROOT / "styles")
    titles = style_titles(shipped)
    assert len({title.casefold() for title in titles.values()}) == len(titles)
    assert titles["cinematic-default"] == "Cinematic · House style"
    assert titles["sai-cinematic"] == "Cinematic · Classics"
    assert style_words("photo-film noir:0.5", shipped, titles) == "Film noir (0.5)"
    assert style_words("SAI Cinematic", shipped, titles) == "Cinematic · Classics"
    assert style_words("of another:9.5", shipped, titles) == "of another:9.5"
    for file, name in (("mine", "ink"), ("yours", "Ink")):
        (config.styles_folder / f"{file}.json").write_text(json.dumps([{"name": name, "prompt": "x"}]))
    answer = Lists(config, Request()).answer("styles") or {}
    assert [style["title"] for style in answer["styles"]] == ["Ink · Mine", "Ink · Yours"]


def test_an_answer_that_the_browser_has_is_not_sent_again(config: Config) -> None:
    app = Starlette()
    add_data_routes(app, Lists(config, Request()))
    client = TestClient(app)
    (config.styles_folder / "own.json").write_text('[{"name": "\\ud800", "prompt": "x"}]', encoding="utf-8")
    first = client.get("/ui/lists/styles")
    assert first.status_code == 200 and first.json()["styles"][0]["name"] == "?"
    assert client.get("/ui/lists/styles", headers={"if-none-match": first.headers["etag"]}).status_code == 304
    assert client.get("/ui/lists/secrets").status_code == 404


def ask(**values: Any) -> str:
    return json.dumps({"prompt": "", "negative": "", "styles": [], "seed": ""} | values)


def test_what_styles_make_of_a_prompt_is_shown_with_the_persons_words_marked() -> None:
    config = Config(styles_folder=ROOT / "styles")
    shown = styled(ask(prompt="a <b>fox", negative="blur", styles=["cinematic-default:0.5"]), config)
    assert "(movie still of:0.5) <mark>a &lt;b&gt;fox</mark>, " in shown
    assert "<mark>blur</mark>" in shown
    assert styled(ask(prompt="a fox"), config) == ""
    assert "one of them" in styled(ask(prompt="a fox", styles=["random-style"]), config)
    assert "one of them" not in styled(ask(prompt="a fox", styles=["random-style"], seed="7"), config)
    assert "There is no style" in styled(ask(styles=["<i>"]), config) and "<i>" not in styled(
        ask(styles=["<i>"]), config
    )


@pytest.mark.parametrize("asked", ["", "[", "[]", "{}", ask(prompt=3), ask(styles="x"), ask(styles=[1]), "[" * 100_000])
def test_what_is_no_question_gets_no_answer(asked: str) -> None:
    assert styled(asked, Config()) == ""

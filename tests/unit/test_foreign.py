"""Settings out of other programs' pictures: samples built by hand from the published layouts, and hostile ones."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fooocus.errors import RequestError
from fooocus.images.findings import Known
from fooocus.images.foreign import read_pasted, read_settings
from fooocus.images.metadata import encode, record
from fooocus.request import MAX_PROMPT_CHARACTERS, LoraUse, Recipe, Request, Size

DATA = Path(__file__).resolve().parents[1] / "data"
ORIGINS = ("fooocus", "a1111", "comfyui")
SAMPLES = [
    pytest.param(origin, sample, id=f"{origin}: {sample['name']}")
    for origin in ORIGINS
    for sample in json.loads((DATA / f"foreign_{origin}.json").read_text(encoding="utf-8"))
]
KNOWN = Known(
    bases=(
        "sd_xl_base_1.0.safetensors",
        "sd_xl_base_1.0_0.9vae.safetensors",
        "sd_xl_refiner_1.0_0.9vae.safetensors",
        "juggernautXL_v8Rundiffusion.safetensors",
    ),
    loras=("sd_xl_offset_example-lora_1.0.safetensors", "looks/film-grain.safetensors"),
    vaes=("sdxl_vae.safetensors",),
    styles=("sai-anime", "misc-stained glass"),
)
MINE = Recipe(
    prompt="a fox",
    negative="text",
    styles=("sai-anime",),
    positive_text="drawing of a fox",
    negative_text="photo, text",
    size=Size(1152, 896),
    seed=7,
    steps=30,
    switch=21,
    guidance=7.0,
    sampler="dpmpp_2m_sde",
    schedule="karras",
    base="sd_xl_base_1.0.safetensors",
    refiner="sd_xl_refiner_1.0_0.9vae.safetensors",
    loras=(LoraUse("looks/film-grain.safetensors", 0.5),),
    vae=None,
    clip_skip=2,
    size_positive=1.5,
    size_negative=0.8,
    size_until=1.0,
)


def picture_with(where: str, texts: dict[str, str]) -> bytes:
    """Write the texts as the program named in ``where`` does."""
    image, buffer = Image.new("RGB", (8, 8)), io.BytesIO()
    if where == "png":
        info = PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        image.save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()
    kind, program = where.split("-")
    exif = Image.Exif()
    if program == "fooocus":
        exif[0x9286], exif[0x927C], exif[0x0131] = texts["parameters"], texts["fooocus_scheme"], "Fooocus v2.5.5"
    elif program == "a1111":
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
    else:
        exif[0x010F], exif[0x0110] = 'Workflow:{"nodes": []}', "Prompt:" + texts["prompt"]
    image.save(buffer, kind.upper(), exif=exif)
    return buffer.getvalue()


def test_there_are_thirty_samples() -> None:
    assert len(SAMPLES) >= 30


@pytest.mark.parametrize(("origin", "sample"), SAMPLES)
def test_foreign_samples_are_read(origin: str, sample: dict[str, Any]) -> None:
    if sample["where"] == "paste":
        found = read_pasted(sample["texts"]["paste"], KNOWN)
    else:
        found = read_settings(picture_with(sample["where"], sample["texts"]), KNOWN)
    assert found is not None
    # The a1111 scheme of Fooocus 2 is the general layout.
    assert found.origin == ("a1111" if sample["name"] == "a1111 scheme" else origin)
    assert dict(found.values) == sample["expect"]
    assert len(found.warnings) == len(sample["warnings"]), found.warnings
    for words in sample["warnings"]:
        assert any(words in warning for warning in found.warnings), (words, found.warnings)
    Request.from_json(found.values)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_our_own_pictures_are_read_whole(format: Any) -> None:
    found = read_settings(encode(Image.new("RGB", (8, 8)), MINE, format), Known())
    assert found is not None and found.recipe is not None
    assert found.origin == "ours" and found.warnings == ()
    assert found.recipe.loras == (LoraUse("film-grain.safetensors", 0.5),)
    assert Request.from_json(found.values) == found.recipe.to_request()


def test_our_block_is_enough_when_a_site_has_dropped_our_record() -> None:
    from_block = read_pasted(_block(), KNOWN)
    assert from_block is not None
    request = Request.from_json(from_block.values)
    assert request == Request.from_json(
        {
            **MINE.to_request().to_json(),
            "prompt": MINE.positive_text,
            "negative": MINE.negative_text,
            "styles": [],
        }
    )


def _block() -> str:
    with Image.open(io.BytesIO(encode(Image.new("RGB", (8, 8)), MINE, "png"))) as image:
        return str(image.info["parameters"])


def test_pasted_records_and_requests_of_ours() -> None:
    found = read_pasted("\n " + record(MINE), Known())
    assert found is not None and found.recipe is not None and found.recipe.prompt == "a fox"
    part = read_pasted('{"prompt": "a fox", "size": "64x64"}', Known())
    assert part is not None and part.values == {"prompt": "a fox", "size": "64x64"}
    with pytest.raises(RequestError):
        read_pasted('{"prompt": "a fox", "size": "1x1"}', Known())


@pytest.mark.parametrize("text", ["", "a fox", "{a fox}", "{}", '{"a": 1}', "[1]", "Steps: many", "{" * 10_000])
def test_plain_prompts_are_no_settings(text: str) -> None:
    assert read_pasted(text, Known()) is None


def test_a_picture_without_settings() -> None:
    assert read_settings(picture_with("png", {"parameters": "just words"}), KNOWN) is None
    assert read_settings(picture_with("png", {"other": "x"}), KNOWN) is None


def test_a_damaged_record_falls_back_to_the_block() -> None:
    texts = {"fooocus": "{}", "parameters": _block()}
    found = read_settings(picture_with("png", {**texts, "fooocus": '{"layout":1,"recipe":{"prompt":1}}'}), KNOWN)
    assert found is not None and found.origin == "a1111" and found.values["seed"] == 7
    assert any("lacks" in warning for warning in found.warnings)


def test_unchecked_names_are_kept_without_folders() -> None:
    text = "a <lora:some/where/x:1>\nSteps: 5, Sampler: Euler, Model: /home/me/y.safetensors"
    found = read_pasted(text, Known())
    assert found is not None
    assert (found.values["base"], found.values["loras"]) == ("y.safetensors", [["x", 1.0]])


def test_what_means_something_here_alone_stays_text() -> None:
    found = read_pasted("a [[red, blue]] __hat__\nNegative prompt: __x__\nSteps: 5, Clip skip: 1", Known())
    assert found is not None
    assert (found.values["prompt"], found.values["negative"]) == ("a [ [red, blue] ] _hat_", "_x_")
    assert found.values["clip_skip"] == 2
    assert len(found.warnings) == 2
    ours = read_pasted("a\nSteps: 5, Clip skip: 1, Version: Fooocus", Known())
    assert ours is not None and ours.values["clip_skip"] == 1


def test_a_sampler_put_together_from_parts() -> None:
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="b.safetensors"),
        "2": node("CLIPTextEncode", text="a fox"),
        "3": node("CLIPTextEncode", text="text"),
        "4": node("RandomNoise", noise_seed=9),
        "5": node("CFGGuider", model=["1", 0], positive=["2", 0], negative=["3", 0], cfg=6),
        "6": node("KSamplerSelect", sampler_name="euler"),
        "7": node("KarrasScheduler", steps=12),
        "8": node("SplitSigmas", sigmas=["7", 0], step=3),
        "9": node(
            "SamplerCustomAdvanced", noise=["4", 0], guider=["5", 0], sampler=["6", 0], sigmas=["8", 0], latent_image=[]
        ),
    }
    found = read_pasted(json.dumps(graph), Known())
    assert found is not None and found.warnings == ()
    expect = {"prompt": "a fox", "negative": "text", "seed": 9, "steps": 12, "guidance": 6.0, "base": "b.safetensors"}
    assert {**found.values, **expect, "sampler": "euler", "schedule": "karras"} == found.values
    bare = read_pasted(json.dumps({"9": node("SamplerCustomAdvanced")}), Known())
    assert bare is not None and len(bare.warnings) == 4


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_the_longest_prompts_keep_their_recipe() -> None:
    text = "\U0001f98a" * MAX_PROMPT_CHARACTERS
    longest = dataclasses.replace(MINE, prompt=text, negative=text, positive_text=text + " x" * 500, negative_text=text)
    found = read_settings(encode(Image.new("RGB", (8, 8)), longest, "png"), Known())
    assert found is not None and found.recipe is not None and found.recipe.positive_text == longest.positive_text


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SAMPLES) - 1), st.integers(0, 2**32))
def test_mutated_texts_give_settings_or_nothing(number: int, seed: int) -> None:
    texts = SAMPLES[number].values[1]["texts"]  # type: ignore[index]
    generator = random.Random(seed)
    for text in texts.values():
        characters = list(text)
        for _ in range(generator.randint(1, 8)):
            place = generator.randrange(len(characters))
            characters[place] = generator.choice('",:{}[]()<>\n\\0-9é\ud83d\x00')
        try:
            found = read_pasted("".join(characters), KNOWN)
        except RequestError:
            continue
        if found is not None:
            Request.from_json(found.values)

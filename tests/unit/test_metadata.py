"""Recipe into a picture file and out again; hostile files change nothing and stop nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fooocus.errors import RequestError
from fooocus.images.a1111 import SAMPLER_LABELS, SCHEDULE_LABELS
from fooocus.images.containers import A1111, OURS, read_texts, strict_json
from fooocus.images.metadata import encode, fits, parse_record, read_recipe, record, without_folders
from fooocus.request import SAMPLERS, SCHEDULES, LoraUse, Recipe, Size

FORMATS = ("png", "jpeg", "webp")
ODD = 'Füchse, 狐 🦊 \ud83d half, "quoted" <b>&amp;</b> \\ \x00 \x1b\n--> Negative prompt: no'


def recipe(**changes: Any) -> Recipe:
    plain = Recipe(
        prompt="a fox",
        negative="text",
        styles=("cinematic-default",),
        positive_text="film still of a fox",
        negative_text="drawing, text",
        size=Size(64, 64),
        seed=2**63 - 1,
        steps=30,
        switch=21,
        guidance=7.0,
        sampler="dpmpp_2m_sde",
        schedule="karras",
        base="base.safetensors",
        refiner="refiner.safetensors",
        loras=(LoraUse("offset.safetensors", 0.5),),
        vae=None,
        clip_skip=2,
        size_positive=1.5,
        size_negative=0.8,
        size_until=1.0,
    )
    return dataclasses.replace(plain, **changes)


def picture() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB")


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = encode(picture(), recipe(), "png", metadata=False)
    extra = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return whole[:33] + extra + whole[33:]


@pytest.mark.parametrize("format", FORMATS)
def test_a_recipe_comes_back_from_every_format(format: Any) -> None:
    odd = recipe(prompt=ODD, negative=ODD, positive_text=ODD, negative_text=ODD)
    data = encode(picture(), odd, format)
    assert read_recipe(data) == odd
    assert data == encode(picture(), odd, format), "the same picture and recipe give the same bytes"
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == format.upper()


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_can_be_left_out(format: Any) -> None:
    data = encode(picture(), recipe(), format, metadata=False)
    assert read_recipe(data) is None
    assert read_texts(data) == {}
    assert b"fox" not in data


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=60), st.sampled_from(FORMATS))
def test_any_text_survives(text: str, format: Any) -> None:
    tiny = Image.new("RGB", (8, 8))
    some = recipe(prompt=text, negative=text, positive_text=text, negative_text=text)
    assert read_recipe(encode(tiny, some, format)) == some


def test_pixels_of_png_are_kept() -> None:
    with Image.open(io.BytesIO(encode(picture(), recipe(), "png"))) as image:
        assert image.tobytes() == picture().tobytes()


def test_no_folder_of_the_person_is_written() -> None:
    private = recipe(
        base="/home/someone/models/base.safetensors",
        refiner="C:\\Users\\someone\\refiner.safetensors",
        vae="/home/someone/vae/",
        loras=(LoraUse("someone/x.safetensors", 1.0),),
    )
    for format in FORMATS:
        data = encode(picture(), private, format)  # type: ignore[arg-type]
        assert b"someone" not in data and "someone".encode("utf-16-be") not in data
        back = read_recipe(data)
        assert back == without_folders(private)
        assert back is not None and (back.base, back.refiner, back.vae) == (
            "base.safetensors",
            "refiner.safetensors",
            "vae",
        )


@pytest.mark.parametrize("format", FORMATS)
def test_the_block_that_other_programs_read(format: Any) -> None:
    hashes = {"base.safetensors": "31e35c80fc4829d14f90153f4c74cd59" * 2, "offset.safetensors": "ab" * 32}
    text = read_texts(encode(picture(), recipe(), format, hashes=hashes))[A1111]
    assert text == (
        "film still of a fox <lora:offset:0.5>\n"
        "Negative prompt: drawing, text\n"
        "Steps: 30, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7, Seed: 9223372036854775807, "
        'Size: 64x64, ADM Guidance: "(1.5, 0.8, 1)", '
        "Model hash: 31e35c80fc, Model: base, Clip skip: 2, Refiner: refiner, Refiner switch at: 0.7, "
        'Lora hashes: "offset: ababababab", Version: Fooocus'
    )
    if format == "png":
        with Image.open(io.BytesIO(encode(picture(), recipe(), "png"))) as image:
            assert image.info["parameters"].startswith("film still of a fox")


def test_every_sampler_and_schedule_has_a_label() -> None:
    assert tuple(SAMPLER_LABELS) == SAMPLERS
    assert tuple(SCHEDULE_LABELS) == SCHEDULES


def test_a_recipe_too_long_for_jpeg_still_gives_a_picture() -> None:
    long = recipe(prompt="狐" * 20_000)
    assert not fits(long, "jpeg") and fits(long, "png") and fits(long, "webp") and fits(recipe(), "jpeg")
    assert read_recipe(encode(picture(), long, "jpeg")) is None
    assert read_recipe(encode(picture(), long, "png")) == long
    assert read_recipe(encode(picture(), long, "webp")) == long


def test_the_longest_recipe_fits_into_png() -> None:
    most = "🦊" * 200_000
    longest = recipe(prompt=most, positive_text=most)
    assert read_recipe(encode(Image.new("RGB", (8, 8)), longest, "png")) == longest


def test_a_recipe_saved_beside_its_picture(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(record(recipe()), encoding="utf-8")
    assert read_recipe(tmp_path / "a.json") == recipe()
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError):
        read_recipe(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 2**63}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "30"}, "steps"),
        ({"size": "63x64"}, "size"),
        ({"size": "__import__('os')"}, "size"),
        ({"guidance": -1.0}, "guidance"),
        ({"sampler": "exec"}, "sampler"),
        ({"refiner": None}, "switch"),
        ({"loras": [["x"]]}, "loras"),
        ({"prompt": 7}, "prompt"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], field: str) -> None:
    values = json.loads(record(recipe()))
    values["recipe"].update(change)
    with pytest.raises(RequestError) as caught:
        parse_record(json.dumps(values))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"layout":1}',
        '{"layout":2,"recipe":{}}',
        '{"layout":1,"recipe":{}}',
        "[" * 100_000,
        record(recipe()).replace('"guidance":7.0', '"guidance":NaN'),
        record(recipe()).replace('"guidance":7.0', '"guidance":1e999'),
        record(recipe()).replace('"steps":30', '"steps":' + "9" * 5000),
    ],
)
def test_damaged_records_are_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_record(text)
    with pytest.raises(RequestError):
        read_recipe(png_with((b"iTXt", b"fooocus\0\0\0\0\0" + text.encode()))) if text else parse_record(text)


def test_strict_json_keeps_ordinary_values() -> None:
    assert strict_json('{"a":[1,-2.5,1e3,null,true,"x"]}') == {"a": [1, -2.5, 1000.0, None, True, "x"]}


def test_other_files_are_refused(tmp_path: Path) -> None:
    gif = io.BytesIO()
    picture().save(gif, "GIF")
    for data in (b"", b"<html>", gif.getvalue(), b"RIFF1234WAVE"):
        with pytest.raises(RequestError, match="no PNG, JPEG or WebP") as caught:
            read_recipe(data)
        assert caught.value.field == "picture"
    with pytest.raises(RequestError, match=r"gone\.png cannot be read"):
        read_recipe(tmp_path / "gone.png")


def test_bombs_are_not_opened() -> None:
    bomb = zlib.compress(b"a" * 50_000_000, 9)
    assert read_texts(png_with((b"zTXt", b"parameters\0\0" + bomb))) == {}
    assert read_texts(png_with((b"iTXt", b"parameters\0\1\0\0\0" + bomb))) == {}
    assert read_texts(png_with((b"tEXt", b"parameters\0" + b"a" * 300_000))) == {}
    flood = [(b"tEXt", b"k%d\0x" % number) for number in range(64)]
    assert read_texts(png_with(*flood, (b"tEXt", b"parameters\0late"))) == {}
    assert read_texts(png_with(*flood[:63], (b"tEXt", b"parameters\0in time"))) == {"parameters": "in time"}
    wrong_sum = png_with((b"tEXt", b"parameters\0abc")).replace(b"abc", b"abd")
    assert read_texts(wrong_sum) == {}


def test_texts_of_all_three_png_kinds() -> None:
    assert read_texts(png_with((b"tEXt", b"parameters\0caf\xe9"))) == {"parameters": "café"}
    assert read_texts(png_with((b"zTXt", b"parameters\0\0" + zlib.compress(b"caf\xe9")))) == {"parameters": "café"}
    assert read_texts(png_with((b"iTXt", b"parameters\0\0\0de\0x\0" + "狐".encode()))) == {"parameters": "狐"}
    assert read_texts(png_with((b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress("狐".encode())))) == {
        "parameters": "狐"
    }


@pytest.mark.parametrize("format", FORMATS)
def test_mutated_files_never_break_the_reader(format: Any) -> None:
    data = bytearray(encode(Image.new("RGB", (8, 8)), recipe(), format))
    generator = random.Random(1)
    for _ in range(700):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 12)):
            broken[generator.randrange(12, len(broken))] = generator.randrange(256)
        del broken[generator.randrange(12, len(broken)) :: generator.choice([len(broken), 97, 1])]
        try:
            found = read_recipe(bytes(broken))
        except RequestError:
            continue
        assert found is None or isinstance(found, Recipe)


def test_the_record_is_ascii_and_found_under_its_name() -> None:
    odd = recipe(prompt=ODD)
    assert record(odd).isascii()
    assert read_texts(encode(picture(), odd, "png"))[OURS] == record(odd)

"""What may be chosen for what, in words; and the notes that a LoRA's maker left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fooocus.models.fitting import Use, caution, offered, why_not
from fooocus.models.hashes import Content, Stamp
from fooocus.models.notes import trigger_words
from fooocus.models.scan import Found


def found(name: str, shelf: str, kind: str, family: str = "", *, folder: str = "m", problem: str = "") -> Found:
    path = f"/{folder}/{name}"
    return Found(name, shelf, Path(folder), Stamp(path, 1, 1), Content(kind, family, problem))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("use", "content", "words"),
    [
        ("base", Content("checkpoint", "sdxl_base"), ""),
        ("base", Content("checkpoint", "sdxl_refiner"), "refiner"),
        ("base", Content("checkpoint", "sd1"), "Stable Diffusion 1.5"),
        ("base", Content("checkpoint", "flux"), "Flux"),
        ("base", Content("lora", "sdxl"), "It is a LoRA; move it to the folder loras."),
        ("base", Content("unknown", "", "x is empty."), "x is empty."),
        ("base", Content("unknown", "", "It is of no kind known here."), ""),
        ("refiner", Content("checkpoint", "sdxl_refiner"), ""),
        ("refiner", Content("checkpoint", "sdxl_base"), "cannot be the refiner"),
        ("lora", Content("lora", "sdxl"), ""),
        ("lora", Content("lora", ""), ""),
        ("lora", Content("lora", "sd1"), "Stable Diffusion 1.5"),
        ("lora", Content("lora", "sdxl_refiner"), "made for the refiner"),
        ("lora", Content("checkpoint", "sdxl_base"), "checkpoints"),
        ("lora", Content("embedding", "sdxl"), "embeddings"),
        ("vae", Content("vae", ""), ""),
        ("vae", Content("checkpoint", "sdxl_base"), ""),
        ("vae", Content("checkpoint", "sd1"), "Stable Diffusion 1.5"),
    ],
)
def test_what_does_not_fit_says_why(use: Use, content: Content, words: str) -> None:
    assert why_not(content, use) == words or (words and words in why_not(content, use))


def test_only_what_is_certain_is_refused() -> None:
    assert caution(Content("unknown", "", "It is of no kind known here."))
    assert not caution(Content("unknown", "", "x is empty.")) and not caution(Content("lora", "sdxl"))


def test_a_folder_of_several_kinds_lists_each_file_once() -> None:
    files = [
        found("z.safetensors", "checkpoint", "checkpoint", "sdxl_base"),
        found("z.safetensors", "lora", "checkpoint", "sdxl_base"),
        found("A.safetensors", "lora", "lora", "sdxl"),
        found("A.safetensors", "checkpoint", "lora", "sdxl"),
        found("stray.safetensors", "checkpoint", "lora", "sdxl", folder="checkpoints"),
    ]
    assert [file.name for file in offered(files, "base")] == ["stray.safetensors", "z.safetensors"]
    assert [file.name for file in offered(files, "lora")] == ["A.safetensors"]


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": " ink wash ,sumi-e,, ink wash"}, ("ink wash", "sumi-e")),
        ({"ss_trigger_words": "x" * 500}, ()),
        ({"modelspec.trigger_phrase": "half \ud800 sign, bell\x07, good"}, ("good",)),
        ({"ss_tag_frequency": json.dumps({"a": {"fox": 3, "den": 9}, "b": {"fox": 10}})}, ("fox", "den")),
        ({"ss_tag_frequency": json.dumps({"a": {"fox": "many"}, "b": 7})}, ("fox",)),
        ({"ss_tag_frequency": "[" * 100_000}, ()),
    ],
)
def test_trigger_words(notes: dict[str, str], words: tuple[str, ...]) -> None:
    assert trigger_words(notes) == words

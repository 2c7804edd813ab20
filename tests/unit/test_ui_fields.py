"""Every field of a request has a control, and controls give back exactly the request they were set from."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fooocus.errors import RequestError
from fooocus.request import LoraUse, Request, Size
from fooocus.ui import fields

FULL = Request(
    prompt="a fox",
    negative="blur",
    styles=("sai-anime", "mre-comic"),
    performance="quality",
    lines="each",
    format="webp",
    size=Size(1024, 768),
    count=4,
    seed=2**62 + 1,
    steps=12,
    switch=8,
    guidance=5.5,
    sampler="euler",
    schedule="normal",
    base="one.safetensors",
    refiner="two.safetensors",
    loras=(LoraUse("a.safetensors", 0.5), LoraUse("sub/b.safetensors", -1.25)),
    vae="v.safetensors",
    clip_skip=1,
    size_positive=1.25,
    size_negative=0.5,
    size_until=0.3,
)


def test_every_field_has_exactly_one_row() -> None:
    assert sorted(row.name for row in fields.ROWS) == sorted(field.name for field in dataclasses.fields(Request))


@pytest.mark.parametrize("request_", [Request(seed=7), FULL, Request(seed=0, styles=(), loras=(), refiner="none")])
def test_controls_give_the_request_back(request_: Request) -> None:
    assert fields.to_request(fields.to_values(request_), Request()) == request_


def test_a_lora_that_is_switched_off_or_not_chosen_yet_stays_in_its_row_but_not_in_the_request() -> None:
    rows = [
        {"name": "a.safetensors", "weight": 1, "on": False},
        {"name": "", "weight": 1, "on": True},
        {"name": "b.safetensors", "weight": -1.25, "on": True},
    ]
    asked = fields.to_request({"loras": json.dumps({"own": False, "rows": rows})}, Request())
    assert asked.loras == (LoraUse("b.safetensors", -1.25),)
    own = fields.to_request({"loras": json.dumps({"own": True, "rows": rows})}, Request(loras=()))
    assert own.loras is None


def test_the_full_request_differs_everywhere_from_the_defaults() -> None:
    same = [f.name for f in dataclasses.fields(Request) if getattr(FULL, f.name) == getattr(Request(), f.name)]
    assert same == []


def test_what_is_not_shown_comes_from_the_defaults() -> None:
    defaults = Request(guidance=3.0, base="mine.safetensors", seed=1)
    assert fields.to_request({"prompt": "x"}, defaults) == dataclasses.replace(defaults, prompt="x")


def test_an_empty_seed_is_drawn_before_the_job_is_stored() -> None:
    seeds = {fields.to_request({"seed": ""}, Request()).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(seed is not None and 0 <= seed < fields.SEED_RANGE for seed in seeds)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"size": "1150x896"}, "size"),
        ({"size": "wide"}, "size"),
        ({"size": None}, "size"),
        ({"seed": "12a"}, "seed"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "٣"}, "seed"),
        ({"seed": "9" * 5000}, "seed"),
        ({"seed": str(2**63)}, "seed"),
        ({"steps": "2.5"}, "steps"),
        ({"steps": "0"}, "steps"),
        ({"count": 2.5}, "count"),
        ({"count": True}, "count"),
        ({"count": 0}, "count"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": "7"}, "guidance"),
        ({"guidance": None}, "guidance"),
        ({"sampler": "magic"}, "sampler"),
        ({"styles": "one"}, "styles"),
        ({"loras": [["x", None]]}, "loras"),
        ({"loras": "[{"}, "loras"),
        ({"loras": '{"own": false, "rows": [7]}'}, "loras"),
        ({"loras": '{"own": false, "rows": [{"name": 3, "weight": 1}]}'}, "loras"),
        ({"styles": "["}, "styles"),
        ({"styles": "7"}, "styles"),
        ({"base": None}, "base"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 300_000}, "prompt"),
        ({"switch": "5", "refiner": "none"}, "switch"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_values_name_their_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        fields.to_request(values, Request())
    assert caught.value.field == field
    assert caught.value.sentence


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", "-5", "seed is -5. It must lie between 0 and 9223372036854775807."),
        ("seed", "9" * 26, f"seed is {'9' * 26}. It must lie between 0 and 9223372036854775807."),
        ("seed", "9" * 5000, f"seed is {'9' * 40}…. It must lie between 0 and 9223372036854775807."),
        ("steps", "-1", "steps is -1. It must lie between 1 and 1000."),
        ("seed", "5-", "Seed: '5-' is no whole number. Type digits, or clear it."),
    ],
)
def test_a_whole_number_that_does_not_fit_is_told_its_range(name: str, value: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        fields.to_request({name: value}, Request())
    assert str(caught.value) == said


def test_what_no_file_can_hold_is_dropped_from_texts() -> None:
    request = fields.to_request({"prompt": "a\x00b\ud800c\x1b\td\ne", "seed": "1"}, Request())
    assert request.prompt == "abc\td\ne"


def test_whole_numbers_may_come_as_floats() -> None:
    assert fields.to_request({"count": 3.0, "clip_skip": 1.0}, Request()).count == 3

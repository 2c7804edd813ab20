"""Requests are refused at the door, with the field named, before any job is made or weight is touched."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fooocus.diffusion.samplers import SAMPLERS as SAMPLER_ROWS
from fooocus.diffusion.schedules import SCHEDULES as SCHEDULE_ROWS
from fooocus.errors import RequestError
from fooocus.request import (
    SAMPLERS,
    SCHEDULES,
    LoraUse,
    Request,
    Size,
    parse_lora,
    parse_size,
)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"size": "1151x896"}, "size"),
        ({"size": "1152x900"}, "size"),
        ({"size": "0x0"}, "size"),
        ({"size": "8000x8000"}, "size"),
        ({"size": "wide"}, "size"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"guidance": -1}, "guidance"),
        ({"loras": [["a", math.nan]]}, "loras"),
        ({"loras": [["a", math.inf]]}, "loras"),
        ({"loras": [["", 1.0]]}, "loras"),
        ({"loras": ["x:heavy"]}, "loras"),
        ({"loras": [["x"]]}, "loras"),
        ({"switch": 5, "refiner": "none"}, "switch"),
        ({"switch": 5, "base": "other.safetensors"}, "switch"),
        ({"switch": 5, "refiner": "None"}, "switch"),
        ({"guidance": 10**400}, "guidance"),
        ({"loras": [["a", 10**400]]}, "loras"),
        ({"switch": 31, "steps": 30}, "switch"),
        ({"switch": -1}, "switch"),
        ({"sampler": "euler_z"}, "sampler"),
        ({"schedule": "linear"}, "schedule"),
        ({"performance": "warp"}, "performance"),
        ({"count": 0}, "count"),
        ({"clip_skip": 0}, "clip_skip"),
        ({"size_until": 1.5}, "size_until"),
        ({"prompt": "x" * 200_001}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"base": " "}, "base"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_value_names_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request.from_json(values)
    assert caught.value.field == field
    assert caught.value.sentence and caught.value.sentence.endswith((".", "!", "?"))


def test_names_are_those_of_the_tables() -> None:
    assert set(SAMPLERS) == set(SAMPLER_ROWS)
    assert set(SCHEDULES) == set(SCHEDULE_ROWS)


text = st.text(max_size=30)
uses = st.lists(st.builds(LoraUse, st.text("abc", min_size=1), st.floats(-5, 5)), max_size=3).map(tuple)


@given(
    prompt=text,
    negative=text,
    seed=st.none() | st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(31, 1000),
    switch=st.none() | st.integers(0, 30),
    guidance=st.floats(0, 100),
    loras=st.none() | uses,
    width=st.integers(8, 512),
)
def test_json_and_back_is_the_identity(width: int, **values: Any) -> None:
    request = Request(size=Size(width * 8, 896), **values)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("width", "remedy"),
    [
        (9999, "between 64 and 4096"),
        (10, "between 64 and 4096"),
        (4095, "Try 4096"),
        (67, "Try 64"),
        (1150, "Try 1152"),
    ],
)
def test_what_is_advised_for_a_wrong_size_is_accepted(width: int, remedy: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(size=Size(width, 896))
    assert caught.value.field == "size" and remedy in caught.value.remedy


@pytest.mark.parametrize("written", ["1152x896", "1152 × 896", "1152*896", " 1152X896 "])
def test_sizes_are_read_as_people_write_them(written: str) -> None:
    assert parse_size(written) == Size(1152, 896)


@pytest.mark.parametrize(
    ("written", "name", "weight"),
    [
        ("ink:0.5", "ink", 0.5),
        ("ink:-1", "ink", -1.0),
        ("ink", "ink", 1.0),
        (r"C:\loras\ink.safetensors:0.5", r"C:\loras\ink.safetensors", 0.5),
        (r"C:\loras\ink.safetensors", r"C:\loras\ink.safetensors", 1.0),
        ("/loras/ink.safetensors", "/loras/ink.safetensors", 1.0),
    ],
)
def test_loras_are_read_as_people_write_them(written: str, name: str, weight: float) -> None:
    assert parse_lora(written) == LoraUse(name, weight)

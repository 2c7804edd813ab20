"""What a browser remembered is used only as far as it still means something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fooocus.config import Config
from fooocus.request import Request
from fooocus.ui.choices import choices
from fooocus.ui.controls import initial, restorable
from fooocus.ui.fields import BY_NAME


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("checkpoints/one.safetensors", "checkpoints/sub/two.safetensors", "checkpoints/old.ckpt"):
        file = tmp_path / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return Config(models=tmp_path / "models", styles_folder=tmp_path / "styles")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("prompt", "half a sent", True),
        ("size", "1150x", True),
        ("seed", "12", True),
        ("count", 4, True),
        ("count", 32, True),
        ("count", 33, False),
        ("count", "4", False),
        ("guidance", None, False),
        ("base", "sub/two.safetensors", True),
        ("base", "gone.safetensors", False),
        ("base", "old.ckpt", False),
        ("base", "/etc/passwd", False),
        ("base", "../../secret.safetensors", False),
        ("refiner", "none", True),
        ("styles", ["no-such-style"], False),
        ("styles", [["x"]], False),
        ("styles", [], True),
        ("sampler", "euler", True),
        ("sampler", "magic", False),
        ("loras.own", False, True),
        ("loras.own", "no", False),
        ("loras.2.on", False, True),
        ("loras.2.on", 0, False),
        ("loras.1.weight", 0.5, True),
        ("loras.1.weight", 50, False),
        ("loras.1.name", "gone.safetensors", False),
        ("prompt", {"a": 1}, False),
        ("colour", "red", False),
    ],
)
def test_remembered_values(config: Config, name: str, value: Any, kept: bool) -> None:
    assert restorable({name: value}, config, Request()) == ({name: value} if kept else {})


def test_every_default_is_restorable(config: Config) -> None:
    defaults = Request(base="/elsewhere/mine.safetensors", clip_skip=40, seed=3)
    assert restorable(initial(defaults), config, defaults) == initial(defaults)


def test_model_lists_hold_only_what_lies_there(config: Config) -> None:
    offered = [name for _, name in choices(BY_NAME["base"], config, Request(base="one.safetensors"))]
    assert offered == ["one.safetensors", "sub/two.safetensors"]

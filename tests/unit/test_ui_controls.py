"""What a browser remembered is used only as far as it still means something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fooocus.config import Config
from fooocus.request import Request
from fooocus.ui.controls import initial, restorable


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
        ("base", "gone.safetensors", True),  # its panel says that it has vanished
        ("base", "", True),
        ("base", 5, False),
        ("base", "two\nlines", False),
        ("base", "C:\\secret.safetensors", False),
        ("base", "//server/share/x.safetensors", False),
        ("base", "/etc/passwd", False),
        ("base", "../../secret.safetensors", False),
        ("refiner", "none", True),
        ("styles", '["gone-style", "mine:0.5"]', True),
        ("styles", '["two\\nlines"]', False),
        ("styles", '[["x"]]', False),
        ("styles", "[", False),
        ("styles", '{"a": 1}', False),
        ("styles", ["x"], False),
        ("styles", "[]", True),
        ("sampler", "euler", True),
        ("sampler", "magic", False),
        ("loras", '{"own": false, "rows": [{"name": "a.safetensors", "weight": 0.5, "on": false}]}', True),
        ("loras", '{"own": true, "rows": []}', True),
        ("loras", '{"own": "no", "rows": []}', False),
        ("loras", '{"own": false, "rows": [{"name": "/etc/passwd", "weight": 1, "on": true}]}', False),
        ("loras", '{"own": false, "rows": [{"name": "a", "weight": 1e9, "on": true}]}', False),
        ("loras", '{"own": false, "rows": [{"name": "a", "weight": NaN, "on": true}]}', False),
        ("loras", '{"own": false, "rows": [{"name": "a", "weight": true, "on": true}]}', False),
        ("loras", '{"own": false, "rows": [{"name": "a", "weight": 1}]}', False),
        ("loras", '{"own": false, "rows": "x"}', False),
        ("loras", "[" * 100_000, False),
        ("prompt", {"a": 1}, False),
        ("colour", "red", False),
    ],
)
def test_remembered_values(config: Config, name: str, value: Any, kept: bool) -> None:
    assert restorable({name: value}, config, Request()) == ({name: value} if kept else {})


def test_every_default_is_restorable(config: Config) -> None:
    defaults = Request(base="/elsewhere/mine.safetensors", clip_skip=40, seed=3)
    assert restorable(initial(defaults), config, defaults) == initial(defaults)

"""Settings come from four places, and every mistake is told at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fooocus.config import Config, load_config
from fooocus.errors import ConfigError


def test_argument_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"port": 1, "device": "cpu", "outputs": str(tmp_path / "a")}), encoding="utf-8")
    config = load_config({"port": 3, "host": None}, {"FOOOCUS_PORT": "2", "FOOOCUS_DEVICE": "mps", "PORT": "9"}, file)
    assert (config.port, config.device, config.outputs, config.host) == (3, "mps", tmp_path / "a", "127.0.0.1")


def test_every_mistake_is_told_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"colour": "red", "port": 70000}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config({"dtype": "float8"}, {"FOOOCUS_BROWSER": "maybe"}, file)
    told = str(caught.value)
    for mark in ("config.json: colour", "config.json: port", "FOOOCUS_BROWSER", "--dtype"):
        assert mark in told
    assert len(caught.value.problems) == 4


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        load_config({}, {}, file)


def test_a_mark_at_the_beginning_of_the_file_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"port": 7000}', encoding="utf-8-sig")  # as some editors save it
    assert load_config({}, {}, file).port == 7000


def test_listening_wants_a_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password"):
        load_config({"listen": "yes"}, {}, tmp_path / "none.json")
    assert load_config({"listen": True, "password": "s"}, {}, tmp_path / "none.json").host == "0.0.0.0"


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({"outputs": "pictures"}, {}, tmp_path / "none.json")
    assert config.outputs == tmp_path / "pictures"
    assert Config().folders("loras")[0].name == "loras"


def test_extra_folders_are_looked_through_by_kind(tmp_path: Path) -> None:
    ours, comfy, webui, flat, gone = (tmp_path / name for name in ("models", "comfy", "webui", "flat", "gone"))
    for folder in (comfy / "checkpoints", webui / "Stable-diffusion", webui / "embeddings", flat):
        folder.mkdir(parents=True)
    extra = os.pathsep.join([str(comfy), f" {webui} ", "", str(flat), str(gone)])
    config = load_config({"models": str(ours), "extra_models": extra}, {}, tmp_path / "none.json")
    assert config.folders("checkpoints") == (
        ours / "checkpoints",
        ours / "pocket",
        comfy / "checkpoints",
        webui / "Stable-diffusion",
        flat,
    )
    # A folder that is sorted by kind, and has none of this, offers nothing: its checkpoints are no LoRAs.
    assert config.folders("loras") == (ours / "loras", ours / "pocket", flat)
    assert config.extra_folders == (comfy, webui, flat, gone)


def test_limits_of_numbers_hold(tmp_path: Path) -> None:
    assert load_config({}, {"FOOOCUS_RATE_LIMIT": "5"}, tmp_path / "none.json").rate_limit == 5
    with pytest.raises(ConfigError, match="rate_limit"):
        load_config({"rate_limit": "-1"}, {}, tmp_path / "none.json")


def test_requests_begin_with_what_the_config_file_says(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"request": {"guidance": 5, "size": "896x1152"}}), encoding="utf-8")
    assert load_config({}, {}, file).request == {"guidance": 5, "size": "896x1152"}
    file.write_text(json.dumps({"request": {"steps": 0}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: request: steps is 0"):
        load_config({}, {}, file)

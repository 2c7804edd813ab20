"""The line under the prompt."""

from __future__ import annotations

from pathlib import Path

from fooocus.config import Config
from fooocus.ui.hints import hints

CONFIG = Config()


def test_a_prompt_in_order_says_nothing() -> None:
    assert hints("", CONFIG) == hints("a (red:1.2) fox, __animal__ --ar 16:9", CONFIG) == ""


def test_what_will_not_work_is_quoted_and_escaped(tmp_path: Path) -> None:
    config = Config(models=tmp_path)
    said = hints("a (red fox <lora:<b>:1> __nolist__ embedding:nobody [[", config)
    assert said.startswith('<p class="hint" role="status">')
    assert "and " in said and "more" in said
    assert "<b>" not in said


def test_a_lora_that_is_there_is_known(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "ink.safetensors").touch()
    assert hints("a fox <lora:ink:0.5>", Config(models=tmp_path)) == ""
    assert "inc" in hints("a fox <lora:inc:0.5>", Config(models=tmp_path))


def test_a_miniature_says_what_it_does_not_know() -> None:
    said = hints("a lighthouse at dusk", CONFIG, "pocket_base.safetensors")
    assert "draws only circles" in said and said.startswith('<p class="hint" role="status">')
    assert hints("a lighthouse at dusk", CONFIG, "sd_xl_base_1.0.safetensors") == ""
    assert hints("a red circle", CONFIG, "pocket_base.safetensors") == ""

"""From the click to the PNG with the real engine and the miniature models, and through the death of the worker."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fooocus import cli
from fooocus.images.metadata import read_recipe
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit

PROGRAM = (sys.executable, str(FAKES / "app_page.py"))
STYLES = Path(__file__).resolve().parents[2] / "styles"


@pytest.fixture(scope="module")
def server(page_server: StartPage, tiny: Path) -> PageServer:
    defaults: dict[str, Any] = {
        "base": str(tiny / "tiny_base.safetensors"),
        "refiner": str(tiny / "tiny_refiner.safetensors"),
        "loras": [[str(tiny / "tiny_offset_lora.safetensors"), 0.5]],
        "size": "256x192",
        "seed": 1,
    }
    return page_server(config={"styles_folder": str(STYLES)}, defaults=defaults, program=PROGRAM)


def test_the_page_makes_the_command_lines_picture(
    server: PageServer, visit: Visit, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visitor = visit(server.url)
    visitor.generate("a red circle")
    visitor.wait_phase("running", 60)
    visitor.wait_step(2)
    visitor.wait_phase("finished", 120)
    (picture,) = server.pictures()
    recipe = read_recipe(picture)
    assert recipe is not None and (recipe.prompt, recipe.seed, recipe.switch) == ("a red circle", 1, 21)
    with Image.open(picture) as image:
        assert image.size == (256, 192)

    arguments = ["generate", "--prompt", "a red circle", "--size", "256x192", "--seed", "1", "--out", str(tmp_path)]
    arguments += ["--base", str(tiny / "tiny_base.safetensors"), "--refiner", str(tiny / "tiny_refiner.safetensors")]
    arguments += ["--lora", f"{tiny / 'tiny_offset_lora.safetensors'}:0.5"]
    assert cli.main(arguments) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == picture.read_bytes()
    visitor.shoot("whole-way")


def test_a_killed_worker_costs_one_job_only(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    before = len(server.pictures())
    visitor.generate("a blue square")
    visitor.wait_phase("running", 60)
    visitor.wait_step(3)
    os.kill(_worker_pid(server), signal.SIGKILL)
    visitor.wait_phase("failed", 30)
    assert len(server.pictures()) == before

    visitor.generate("a green star")
    visitor.wait_phase("finished", 120)
    fresh = server.pictures()[before:]
    assert [recipe.prompt for recipe in map(read_recipe, fresh) if recipe] == ["a green star"]


def _worker_pid(server: PageServer) -> int:
    """Find the page process's only child that runs the engine."""
    import psutil

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in psutil.Process(server.process.pid).children(recursive=True):
            if "fooocus.app" in child.cmdline():
                return child.pid
        time.sleep(0.05)
    pytest.fail(f"no worker below {json.dumps(server.settings)}")

"""The first minute without any download: the page's own defaults, the miniature that comes with the program."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fooocus import cli
from fooocus.config import ROOT
from fooocus.images.metadata import read_recipe
from fooocus.models.catalogue import load_catalogue, wanted_by
from fooocus.request import DEFAULT_BASE, DEFAULT_STYLE, Request
from pocket.checker import backdrop_colours, only_thing
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit, Visitor
from tests.fakes.fake_lora import lora_file

PROGRAM = (sys.executable, str(FAKES / "app_page.py"))
POCKET = ROOT / "models" / "pocket"
_BASE_IS = "name => document.querySelector('#field-base textarea, #field-base input')?.value === name"
PROMPT = "a red circle on a blue background"

pytestmark = pytest.mark.skipif(
    not (POCKET / "pocket_base.safetensors").is_file(), reason="Pocket's files are not here"
)


@pytest.fixture(scope="module")
def server(page_server: StartPage, tmp_path_factory: pytest.TempPathFactory) -> PageServer:
    models = tmp_path_factory.mktemp("clone") / "models"
    shutil.copytree(POCKET, models / "pocket")
    config = {"models": str(models), "styles_folder": str(ROOT / "styles")}
    defaults = {"size": str(Request().size), "seed": 3}
    return page_server(config=config, defaults=defaults, program=PROGRAM)


def wait_hint(visitor: Visitor, words: str) -> None:
    visitor.page.wait_for_function("words => document.querySelector('#hint')?.innerText.includes(words)", arg=words)


def wait_base(visitor: Visitor, name: str) -> None:
    """Wait until the hidden box of the base model holds a file's name."""
    visitor.page.wait_for_function(_BASE_IS, arg=name)


def test_a_fresh_clone_draws_at_once_and_goes_over_when_the_models_come(
    server: PageServer, visit: Visit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visitor = visit(server.url)
    page = visitor.page
    page.wait_for_selector(".welcome .meanwhile")
    visitor.shoot("1440-light-meanwhile")
    page.click(".welcome .meanwhile button")  # what is offered there is what this test asks for
    assert page.input_value("#field-prompt textarea").lower() == PROMPT
    page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("finished", 120)
    (picture,) = server.pictures()
    recipe = read_recipe(picture)
    assert recipe is not None and recipe.base == "pocket_base.safetensors"
    assert recipe.styles and recipe.styles[0] == DEFAULT_STYLE
    with Image.open(picture) as image:
        pixels = np.asarray(image)
    seen = only_thing(pixels)
    assert seen is not None and (seen.shape, seen.colour) == ("circle", "red")
    assert backdrop_colours(pixels) == ("blue", "blue")
    visitor.shoot("1440-light-meanwhile-done")
    options = ["--style", DEFAULT_STYLE, "--seed", "3", "--models", server.settings["config"]["models"]]
    assert cli.main(["generate", recipe.prompt, "--preset", "pocket", *options, "--out", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == picture.read_bytes()  # of another process

    visitor.type_prompt("a lighthouse at dusk")
    wait_hint(visitor, "draws only circles")
    visitor.shoot("1440-light-outside-its-world")
    visitor.open_advanced("Models")
    wait_base(visitor, "pocket_base.safetensors")
    for entry in wanted_by(Request(), load_catalogue()):
        target = entry.target(Path(server.settings["config"]["models"]))
        target.parent.mkdir(exist_ok=True)
        file = lora_file(entry.name, 20)  # small, but a model file: an empty one would be refused
        target.write_bytes(file.read(0, file.size))
    wait_hint(visitor, "The models are here")
    wait_base(visitor, DEFAULT_BASE)
    assert page.input_value("#field-prompt textarea") == "a lighthouse at dusk"
    visitor.shoot("1440-light-arrived")

"""The first minute without any download: the page's own defaults, the miniature that comes with the program."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fooocus import cli
from fooocus.config import ROOT
from fooocus.images.metadata import read_recipe
from fooocus.models.catalogue import load_catalogue, wanted_by
from fooocus.request import DEFAULT_BASE, DEFAULT_STYLE, Request
from pocket.drawing import Frame
from pocket.exams import Case, score_in_look
from pocket.world import LOOK_OF_STYLE, Backdrop, Scene, place
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit, Visitor

PROGRAM = (sys.executable, str(FAKES / "app_page.py"))
POCKET = ROOT / "models" / "pocket"
_BASE_IS = "name => document.querySelector('#field-base textarea, #field-base input')?.value === name"
FIELD = ":is(input, textarea)"
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
    server: PageServer, visit: Visit, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    height, width = pixels.shape[:2]
    circle = place("circle", "red", Frame(width, height).half)
    asked = Scene("single", (circle,), Backdrop("plain", ("blue",)), look=LOOK_OF_STYLE[DEFAULT_STYLE])
    assert score_in_look(Case(asked, PROMPT), pixels) == {"shape": True, "colour": True, "backdrop": True}
    visitor.shoot("1440-light-meanwhile-done")
    options = ["--style", DEFAULT_STYLE, "--seed", "3", "--models", server.settings["config"]["models"]]
    assert cli.main(["generate", recipe.prompt, "--preset", "pocket", *options, "--out", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == picture.read_bytes()  # of another process

    visitor.type_prompt("a lighthouse at dusk")
    wait_hint(visitor, "draws only circles")
    visitor.shoot("1440-light-outside-its-world")
    visitor.open_advanced("Settings")
    assert not page.is_visible("#place-size .back"), "nobody has changed it"
    page.fill(f"#field-size {FIELD}", "112x144")
    page.click("#place-size .back")
    page.wait_for_function(f"document.querySelector('#field-size {FIELD}').value === '144x112'")
    visitor.open_advanced("Models")
    wait_base(visitor, "pocket_base.safetensors")
    arrive(server, tiny)
    wait_hint(visitor, "The models are here")
    wait_base(visitor, DEFAULT_BASE)
    page.reload()  # before the browser has told the server all of it
    visitor.page.wait_for_selector("#stage .stage")
    wait_base(visitor, DEFAULT_BASE)
    assert page.input_value("#field-prompt textarea") == "a lighthouse at dusk"
    assert page.input_value(f"#field-size {FIELD}") == str(Request().size)
    visitor.shoot("1440-light-arrived")

    # The real models draw, and the job is found again by a page that is opened anew.
    page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("running", 180)
    visitor.wait_step(1, seconds=180)  # the models are read before it
    job = page.get_attribute("#stage .stage", "data-job")
    for again in (visitor, visit(server.url, storage_state={"cookies": visitor.context.cookies(), "origins": []})):
        again.page.reload()
        again.page.wait_for_selector("#stage .stage")
        begun = time.monotonic()
        again.wait_phase("running")
        assert time.monotonic() - begun < 2
        assert again.page.get_attribute("#stage .stage", "data-job") == job
        wait_base(again, DEFAULT_BASE)
    page.click("#stop")
    visitor.wait_phase("cancelled")


def arrive(server: PageServer, tiny: Path) -> None:
    """Put a file into the place of every wanted one: small ones, which an engine can draw with all the same."""
    kinds = {"refiner": "tiny_refiner", "lora": "tiny_offset_lora"}
    for entry in wanted_by(Request(), load_catalogue()):
        target = entry.target(Path(server.settings["config"]["models"]))
        target.parent.mkdir(exist_ok=True)
        kind = next((kinds[word] for word in kinds if word in entry.name), "tiny_base")
        shutil.copyfile(tiny / f"{kind}.safetensors", target)

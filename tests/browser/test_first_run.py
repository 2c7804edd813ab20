"""The first start in a browser: what is missing is said and fetched with one button, then the page is as ever."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fooocus.models.catalogue import Entry
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit, Visitor
from tests.fakes.fake_hub import FakeHub, RemoteFile, until
from tests.fakes.fake_lora import lora_file

PROGRAM = (sys.executable, str(FAKES / "first_run_page.py"))
NOWHERE = "http://127.0.0.1:9"  # the discard port, at which nobody listens
BASE = lora_file("small_base.safetensors", 1500)
LORA = lora_file("small_lora.safetensors", 170)

Start = Callable[..., PageServer]


def entry(file: RemoteFile, kind: Any, purpose: str) -> dict[str, Any]:
    made = Entry(file.name, kind, "owner/model", "main", file.size, file.sha256, "free", purpose)
    return dataclasses.asdict(made)


@pytest.fixture(scope="module")
def start(page_server: StartPage, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return a function that starts a page which wants two files, in a person's environment and home folder."""

    def begin(environment: dict[str, str], home: Path | None = None) -> PageServer:
        home = home or tmp_path_factory.mktemp("home")
        given = {
            "entries": [
                entry(BASE, "lora", "the base model: paints the picture"),
                entry(LORA, "lora", "the offset LoRA: deeper blacks and brighter lights"),
            ],
            "environment": {"HF_HOME": str(home / "hf"), **environment},
            "home": str(home),
            "patience": {"connect_seconds": 1.0, "tries": 2, "first_wait_seconds": 0.1},
        }
        return page_server(program=PROGRAM, settings={"first_run": given})

    return begin


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """Return a hub of this attempt alone: what an earlier one asked for is none of its business."""
    with FakeHub(BASE, LORA) as hub:
        yield hub


def shown(visitor: Visitor, words: str, seconds: float = 60.0) -> None:
    """Wait until the first screen says ``words``."""
    visitor.page.wait_for_function(
        "words => document.querySelector('.welcome')?.innerText.includes(words)", arg=words, timeout=seconds * 1000
    )


def models(server: PageServer) -> Path:
    return Path(server.settings["config"]["models"])


def test_missing_files_are_fetched_with_one_button(start: Start, hub: FakeHub, visit: Visit) -> None:
    server = start({"HF_ENDPOINT": hub.url})
    visitor = visit(server.url)
    shown(visitor, "Fetch 2 files, 6.8 MB")
    words = visitor.page.inner_text(".welcome")
    for part in ("Before the first picture", "a picture", "Where this time comes from", "The base model", BASE.name):
        assert part in words
    assert not visitor.page.is_visible(".examples") and hub.asked == []
    visitor.shoot("1440-light-first-run")
    assert visitor.barriers() == []
    ground = "getComputedStyle(document.querySelector('#go')).backgroundColor"
    quiet = visitor.page.evaluate(ground)
    visitor.type_prompt("a first one")  # Generate steps back only while there is nothing to generate
    assert visitor.page.evaluate(ground) != quiet
    visitor.type_prompt("")
    assert visitor.page.evaluate(ground) == quiet

    hub.rate = 0.2e6  # half a minute, so that a busy machine comes to the pause before the end
    visitor.page.click('[data-order="fetch"]')
    shown(visitor, "B/s")
    visitor.page.click(".welcome summary >> nth=0")  # what was unfolded stays so while the numbers move
    visitor.shoot("1440-light-fetching")
    visitor.page.click('[data-order="pause"]')
    shown(visitor, "Paused")
    visitor.page.wait_for_timeout(1500)
    assert visitor.page.locator(".welcome details[open]").count() == 1
    assert visitor.barriers() == []
    sent = hub.sent
    visitor.page.reload()  # all of this is the server's, so a reloaded page knows it
    shown(visitor, "Paused")
    assert hub.sent == sent and not (models(server) / "loras" / BASE.name).exists()
    hub.rate = 20e6
    visitor.page.click('[data-order="resume"]')

    visitor.page.wait_for_selector(".examples", state="visible")
    assert visitor.page.locator(".welcome").count() == 0
    assert (models(server) / "loras" / BASE.name).read_bytes() == BASE.read(0, BASE.size)
    assert (models(server) / "loras" / LORA.name).stat().st_size == LORA.size
    visitor.page.wait_for_selector("#status p")
    assert "picture" not in visitor.page.inner_text("#status")
    visitor.shoot("1440-light-all-here")
    visitor.generate("a first one")
    visitor.wait_phase("finished")


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_without_a_network_it_says_how_to_do_it_by_hand(start: Start, visit: Visit, theme: str) -> None:
    server = start({"HF_ENDPOINT": NOWHERE})
    visitor = visit(server.url, width=360, height=740, theme=theme)
    shown(visitor, "Fetch 2 files")
    visitor.shoot(f"360-{theme}-first-run")
    visitor.page.click('[data-order="fetch"]')
    shown(visitor, "Not everything could be fetched", 40)
    words = visitor.page.inner_text(".welcome")
    assert f"There is no connection to {NOWHERE}" in words and "Try again" in words
    assert f"into {models(server) / 'loras'}" in words
    assert visitor.page.get_attribute(".hand a", "href") == f"{NOWHERE}/owner/model/resolve/main/{BASE.name}"
    assert visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert visitor.page.evaluate("document.querySelector('#first').scrollWidth - innerWidth") <= 0
    visitor.shoot(f"360-{theme}-no-network")
    assert visitor.barriers() == []

    visitor.page.click('[data-models="hide"]')
    visitor.page.wait_for_selector(".examples", state="visible")
    quiet = visitor.page.inner_text("#status .missing button")
    assert quiet == f"Fetching failed. There is no connection to {NOWHERE}."
    visitor.shoot(f"360-{theme}-no-network-hidden")
    visitor.page.click("#status .missing button")
    shown(visitor, "Get the files by hand")
    visitor.page.keyboard.press("Escape")
    visitor.page.wait_for_selector(".examples", state="visible")
    line = "[...document.querySelectorAll('#foot, #status .missing')].map(one => one.offsetHeight)"
    for width in (360, 1024):
        visitor.page.set_viewport_size({"width": width, "height": 740})
        visitor.page.check("#advanced-switch input")
        visitor.page.wait_for_selector("#advanced", state="visible")
        foot, missing = visitor.page.evaluate(line)
        assert missing < 32 and foot < (72 if width == 360 else 40), "neither the separator nor the words hang alone"
        visitor.shoot(f"{width}-{theme}-foot")
        visitor.page.uncheck("#advanced-switch input")
    visitor.page.set_viewport_size({"width": 360, "height": 740})
    visitor.page.click("#status .missing button")
    shown(visitor, "Get the files by hand")
    visitor.generate("broken")  # an error takes the first screen's place; the way back stays
    visitor.wait_phase("failed")
    visitor.page.click("#status .missing button")
    shown(visitor, "Get the files by hand")
    for file, folder in ((BASE, "loras"), (LORA, "loras")):  # put there by hand, as it says
        (models(server) / folder).mkdir(exist_ok=True)
        (models(server) / folder / file.name).write_bytes(file.read(0, file.size))
    visitor.page.wait_for_selector("#stage .fault", state="visible")
    assert visitor.page.locator(".welcome").count() == 0


def test_a_copy_on_the_disk_is_linked_and_offline_is_respected(
    start: Start, hub: FakeHub, visit: Visit, tmp_path: Path
) -> None:
    there = tmp_path / "ComfyUI" / "models" / "loras" / "other-name.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(LORA.read(0, LORA.size))
    asked = len(hub.asked)
    server = start({"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}, tmp_path)
    visitor = visit(server.url, theme="dark")
    shown(visitor, "Use the copy in loras")
    shown(visitor, "HF_HUB_OFFLINE is set")
    assert visitor.page.locator('[data-order="fetch"]').count() == 0
    visitor.shoot("1440-dark-first-run-offline")
    assert visitor.barriers() == []
    visitor.page.click('[data-order="use"]')
    until(lambda: (models(server) / "loras" / LORA.name).exists())
    assert (models(server) / "loras" / LORA.name).samefile(there)
    shown(visitor, "ready")
    assert len(hub.asked) == asked

"""The queue in a real browser: pause and resume on the stage, the panel by keyboard and mouse, a restart in between."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import PageServer, StartPage, Visit, Visitor, restart


@pytest.fixture(scope="module")
def server(page_server: StartPage) -> PageServer:
    return page_server()


def paused_at(visitor: Visitor) -> int:
    visitor.wait_phase("paused")
    found = re.search(r"Paused at step (\d+) of 5000", visitor.page.inner_text(".progress .now"))
    assert found
    return int(found[1])


def row(visitor: Visitor, prompt: str) -> Any:
    return visitor.page.locator("#queue-panel li", has_text=prompt)


def press(visitor: Visitor, prompt: str, label: str) -> None:
    """Press a button of a row, whose buttons come forward under the mouse."""
    row(visitor, prompt).hover()
    row(visitor, prompt).get_by_label(label, exact=True).click()


def wait_rows(visitor: Visitor, *names: str) -> None:
    visitor.page.wait_for_function(
        "names => JSON.stringify([...document.querySelectorAll('#queue-panel li .asked')].map(n => n.textContent))"
        " === JSON.stringify(names)",
        arg=list(names),
    )


def add(visitor: Visitor, *prompts: str) -> None:
    """Add jobs while one runs, each seen in the foot line before the next."""
    for number, prompt in enumerate(prompts, start=1):
        visitor.generate(prompt)
        visitor.page.wait_for_selector(f'#queue-open:has-text("{number} waiting")')


def test_jobs_are_added_ordered_edited_cancelled_and_taken_back(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("endless one")
    visitor.wait_phase("running")
    add(visitor, "red", "green", "blue")
    visitor.page.click("#queue-open")
    wait_rows(visitor, "endless one", "red", "green", "blue")
    grip = row(visitor, "blue").locator(".sign-grip")
    assert grip.get_attribute("aria-label") == "Move, 3 of 3"
    grip.focus()
    visitor.page.keyboard.press("ArrowUp")
    wait_rows(visitor, "endless one", "red", "blue", "green")
    visitor.page.keyboard.press("Home")
    wait_rows(visitor, "endless one", "blue", "red", "green")
    assert visitor.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Move, 1 of 3"
    drag_below(visitor, "blue", "green")
    wait_rows(visitor, "endless one", "red", "green", "blue")
    visitor.shoot("1440-light-queue")

    # An edited job: its settings come into the page, and the changed one takes its place.
    press(visitor, "green", "Edit")
    visitor.page.wait_for_function("document.querySelector('#field-prompt textarea').value === 'green'")
    assert visitor.page.is_visible("#edits") and not visitor.page.is_visible("#queue-panel")
    visitor.shoot("1440-light-editing")
    visitor.generate("violet")
    visitor.page.wait_for_selector("#edits", state="hidden")
    visitor.page.click("#queue-open")
    wait_rows(visitor, "endless one", "red", "violet", "blue")
    assert "3 waiting" in visitor.page.inner_text("#queue-open")

    press(visitor, "red", "Cancel")
    wait_rows(visitor, "endless one", "violet", "blue")
    visitor.page.click("#queue-panel .queue-said button")
    wait_rows(visitor, "endless one", "red", "violet", "blue")
    press(visitor, "red", "Pause")
    wait_rows(visitor, "endless one", "violet", "blue", "red")
    visitor.page.click("#queue-panel header >> text=Cancel all")
    wait_rows(visitor, "endless one")
    visitor.page.click("#queue-panel .queue-said button")
    wait_rows(visitor, "endless one", "violet", "blue", "red")
    visitor.open_advanced()
    visitor.page.click("#queue-open")
    visitor.page.keyboard.press("Escape")  # closes what is above, and nothing else
    assert not visitor.page.is_visible("#queue-panel") and visitor.page.is_visible("#advanced")
    visitor.page.keyboard.press("Escape")
    visitor.page.wait_for_selector("#advanced", state="hidden")
    visitor.page.reload()
    visitor.page.wait_for_selector('#queue-open:has-text("2 waiting · 1 paused")')
    visitor.page.click("#queue-open")
    press(visitor, "red", "Resume")
    press(visitor, "endless", "Stop")
    visitor.page.wait_for_selector("#queue-panel .nothing", state="visible")
    assert made(server) == ["red", "violet", "blue"]  # what was paused is back in its place


def made(server: PageServer) -> list[str]:
    """Return the prompts of all pictures in the order in which they were made."""
    files = {path.name: path for path in server.pictures()}
    names = (server.outputs / "made.log").read_text(encoding="utf-8").split()
    return [re.findall(rb'"prompt": "([^"]*)"', files[name].read_bytes())[0].decode() for name in names]


def drag_below(visitor: Visitor, prompt: str, other: str) -> None:
    """Take a row by its grip and put it below another one."""
    low = row(visitor, other).bounding_box()
    handle = row(visitor, prompt).locator(".sign-grip").bounding_box()
    assert low and handle
    visitor.page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    visitor.page.mouse.down()
    visitor.page.mouse.move(handle["x"] + 8, low["y"] + low["height"] + 4, steps=5)
    visitor.page.mouse.up()


def test_a_paused_picture_and_a_waiting_queue_survive_a_crash(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("endless fox")
    visitor.wait_step(5)
    visitor.page.click("#pause")
    reached = paused_at(visitor)
    frame = visitor.page.get_attribute(".frame img", "src")
    assert frame and frame.startswith("/preview/"), "the picture so far stays in sight"
    assert visitor.page.is_visible("#resume") and visitor.page.is_visible("#go") and visitor.page.is_visible("#stop")
    assert not visitor.page.is_visible("#pause")
    visitor.shoot("1440-light-paused")
    visitor.generate("quick owl")  # the card is free for it
    visitor.page.wait_for_selector('#stage .stage[data-title="Done – quick owl"]')
    visitor.generate("endless owl")
    visitor.page.wait_for_selector('#stage .stage[data-title$="endless owl"][data-phase="running"]')
    add(visitor, "late", "later")
    visitor.page.click("#queue-open")
    wait_rows(visitor, "endless owl", "late", "later", "endless fox")
    press(visitor, "later", "Up")
    wait_rows(visitor, "endless owl", "later", "late", "endless fox")

    restart(server)
    visitor.page.goto(server.url)
    visitor.page.wait_for_selector('#stage .stage[data-title$="endless owl"][data-phase="running"]')
    visitor.page.click("#queue-open")
    wait_rows(visitor, "endless owl", "later", "late", "endless fox")
    press(visitor, "endless owl", "Stop")
    wait_rows(visitor, "endless fox")
    assert made(server)[-3:] == ["quick owl", "later", "late"]
    visitor.page.reload()
    assert paused_at(visitor) == reached
    visitor.page.wait_for_function("document.querySelector('.frame img')?.naturalWidth > 0")
    # Cancelled and taken back, it is shown again although the tab has heard the end of it.
    visitor.page.click("#queue-open")
    press(visitor, "endless fox", "Cancel")
    visitor.wait_phase("cancelled")
    visitor.page.click("#queue-panel .queue-said button")
    assert paused_at(visitor) == reached
    visitor.page.keyboard.press("Escape")
    visitor.page.press("#resume", "Enter")
    visitor.wait_phase("running")
    visitor.wait_step(reached + 1)
    now = re.search(r"step (\d+)", visitor.page.inner_text(".progress .count"))
    assert now and reached < int(now[1]) < 5000
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled")


def test_a_held_queue_says_so_and_two_people_do_not_see_each_other(server: PageServer, visit: Visit) -> None:
    one, two = visit(server.url, width=360, height=740), visit(server.url)
    one.generate("endless first")
    one.wait_phase("running")
    add(one, "later")
    one.page.click("#queue-open")
    one.page.click("#queue-panel header >> text=Pause all")
    one.page.wait_for_selector('#queue-panel .held:has-text("not even after a restart")')
    one.shoot("360-light-queue-paused")
    overflow = one.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    two.generate("somebody else")
    two.wait_phase("finished")
    assert not two.page.is_visible("#queue-open")
    one.page.click("#queue-panel >> css=[aria-label=Close]")
    one.page.wait_for_selector('#queue-open:has-text("Queue paused")')
    one.page.reload()
    one.page.wait_for_selector("#resume", state="visible")
    one.page.click("#resume")
    one.wait_phase("running")
    one.page.click("#stop")
    one.page.wait_for_selector('#stage .stage[data-title="Done – later"]')

"""The queue in a real browser: pause and resume on the stage, the panel by keyboard and mouse, restarts in between."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import PageServer, StartPage, Visit, Visitor, restart

pytestmark = pytest.mark.slow  # a worker that is never idle, watched by several pages


@pytest.fixture(scope="module")
def server(page_server: StartPage) -> PageServer:
    return page_server()


def paused_at(visitor: Visitor) -> int:
    visitor.wait_phase("paused")
    found = re.search(r"Paused at step (\d+) of 5000", visitor.page.inner_text(".progress .now"))
    assert found
    return int(found[1])


def rows(visitor: Visitor) -> list[str]:
    return [text.strip() for text in visitor.page.locator("#queue-panel li .asked").all_inner_texts()]


def wait_rows(visitor: Visitor, *names: str) -> None:
    visitor.page.wait_for_function(
        "names => JSON.stringify([...document.querySelectorAll('#queue-panel li .asked')].map(n => n.textContent))"
        " === JSON.stringify(names)",
        arg=list(names),
    )


def test_a_picture_is_paused_survives_a_crash_and_goes_on(page_server: StartPage, visit: Visit) -> None:
    server = page_server()
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
    visitor.generate("quick owl")
    visitor.page.wait_for_selector('#stage .stage[data-title="Done – quick owl"]')

    restart(server)
    visitor.page.goto(server.url)
    assert paused_at(visitor) == reached
    visitor.page.wait_for_function("document.querySelector('.frame img').naturalWidth > 0")
    visitor.page.press("#resume", "Enter")
    visitor.wait_phase("running")
    visitor.wait_step(reached + 1)
    assert int(re.findall(r"step (\d+)", visitor.page.inner_text(".progress .count"))[0]) < reached + 200
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled")


def test_the_panel_orders_cancels_and_takes_back(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("endless one")
    visitor.wait_phase("running")
    for name in ("red", "green", "blue"):
        visitor.generate(name)
        visitor.page.wait_for_selector(f'#queue-open:has-text("{["red", "green", "blue"].index(name) + 1} waiting")')
    visitor.page.click("#queue-open")
    wait_rows(visitor, "endless one", "red", "green", "blue")
    grip = visitor.page.locator("#queue-panel li", has_text="blue").locator(".sign-grip")
    assert grip.get_attribute("aria-label") == "Move, 3 of 3"
    grip.focus()
    visitor.page.keyboard.press("ArrowUp")
    wait_rows(visitor, "endless one", "red", "blue", "green")
    visitor.page.keyboard.press("Home")
    wait_rows(visitor, "endless one", "blue", "red", "green")
    assert visitor.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Move, 1 of 3"

    low = visitor.page.locator("#queue-panel li", has_text="green").bounding_box()
    handle = visitor.page.locator("#queue-panel li", has_text="blue").locator(".sign-grip").bounding_box()
    assert low and handle
    visitor.page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    visitor.page.mouse.down()
    visitor.page.mouse.move(handle["x"] + 8, low["y"] + low["height"] + 4, steps=5)
    visitor.page.mouse.up()
    wait_rows(visitor, "endless one", "red", "green", "blue")
    visitor.shoot("1440-light-queue")

    visitor.page.locator("#queue-panel li", has_text="red").get_by_label("Pause").click()
    wait_rows(visitor, "endless one", "green", "blue", "red")
    visitor.page.click("#queue-panel header >> text=Cancel all")
    wait_rows(visitor, "endless one")
    visitor.page.click("#queue-panel .queue-said button")
    wait_rows(visitor, "endless one", "green", "blue", "red")
    visitor.page.keyboard.press("Escape")
    assert not visitor.page.is_visible("#queue-panel")
    visitor.page.reload()
    visitor.page.wait_for_selector('#queue-open:has-text("2 waiting · 1 paused")')
    visitor.page.click("#queue-open")
    visitor.page.locator("#queue-panel li", has_text="red").get_by_label("Resume").click()
    visitor.page.locator("#queue-panel li", has_text="endless").get_by_label("Stop").click()
    visitor.page.wait_for_selector("#queue-panel .nothing", state="visible")
    assert {path.read_bytes().count(b'"prompt": "blue"') for path in server.pictures()} >= {1}


def test_a_held_queue_says_so_and_two_people_do_not_see_each_other(server: PageServer, visit: Visit) -> None:
    one, two = visit(server.url, width=360, height=740), visit(server.url)
    one.generate("endless first")
    one.wait_phase("running")
    one.generate("later")
    one.page.click('#queue-open:has-text("1 waiting")')
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

"""The page for those who do not see it, or use no mouse: axe-core finds no barrier, keys suffice, progress is said."""

from __future__ import annotations

import pytest

from tests.browser.conftest import PageServer, Visit, Visitor


@pytest.fixture(scope="module")
def server(shared_server: PageServer) -> PageServer:
    return shared_server


class Inspector:
    """Look at one state after another, in both themes, and collect the barriers of all of them."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.found: dict[str, list[str]] = {}

    def look(self, state: str) -> None:
        page = self.visitor.page
        self.found[state] = self.visitor.barriers()
        page.emulate_media(color_scheme="dark")  # of another theme only the colours can be a barrier
        page.wait_for_selector("body.dark")  # Gradio's own colours follow a moment later
        self.found[f"{state}, dark"] = self.visitor.barriers("color-contrast")
        page.emulate_media(color_scheme="light")
        page.wait_for_selector("body:not(.dark)")

    def finish(self) -> None:
        assert {state: problems for state, problems in self.found.items() if problems} == {}


def test_no_state_of_the_stage_and_its_column_has_a_barrier(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, reduced_motion="reduce")  # a colour on its way to another is no barrier
    inspector = Inspector(visitor)
    page = visitor.page

    inspector.look("empty")
    visitor.generate("two pictures --repeat 2")
    visitor.wait_phase("finished", 60)
    inspector.look("done")
    assert page.get_attribute(".frame img", "alt") == "two pictures --repeat 2"
    visitor.generate("broken (")
    visitor.wait_phase("failed", 60)
    inspector.look("error, with a hint")
    for tab in ("Settings", "Styles", "Models", "More"):
        visitor.open_advanced(tab)
        inspector.look(tab)
    page.get_by_role("tab", name="Settings").click()
    page.click('fooocus-presets button:has-text("Save as")')
    page.click("fooocus-presets .picker-button")
    inspector.look("Settings, with what unfolds there")
    page.keyboard.press("Escape")
    page.fill("#field-size input", "1150x896")
    visitor.generate("never made")
    page.wait_for_selector("#problem .problem")
    inspector.look("wrong size")
    page.fill("#field-size input", "128x64")
    page.get_by_role("tab", name="More").click()
    page.click("#device-open")
    page.wait_for_selector("#device[open] button")
    inspector.look("another device")
    inspector.finish()


def test_no_state_of_queue_and_pictures_has_a_barrier(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, reduced_motion="reduce")
    inspector = Inspector(visitor)
    page = visitor.page

    visitor.generate("two to compare --repeat 2")
    visitor.wait_phase("finished", 60)
    visitor.generate("endless lighthouse --repeat 3")
    visitor.wait_phase("running", 60)
    visitor.generate("later")
    page.wait_for_selector('#queue-open:has-text("1 waiting")')
    inspector.look("running")
    page.click("#queue-open")
    page.wait_for_selector("#queue-panel li .about")
    page.locator("#queue-panel li", has_text="later").hover()
    inspector.look("queue")
    page.click("#queue-panel header >> text=Pause all")
    page.wait_for_selector("#queue-panel .held", state="visible")
    visitor.wait_phase("paused", 60)
    inspector.look("queue, held")
    page.keyboard.press("Escape")
    inspector.look("paused")

    page.click("#history-open")
    page.wait_for_selector("#history .tile img")
    inspector.look("history")
    page.locator("#history .tile").first.click()
    page.wait_for_selector("#lightbox dl dt")
    inspector.look("one picture")
    page.keyboard.press("c")
    page.wait_for_selector("#history.picking .said")
    inspector.look("choosing another one")
    page.locator("#history .tile:not(.picked)").first.click()
    page.wait_for_selector("#compare .differences dt")
    inspector.look("two pictures")
    page.click("#compare .sign-compare")
    inspector.look("two pictures under a slider")
    page.keyboard.press("Escape")
    page.fill("#history input[type=search]", "nothing is called so")
    page.wait_for_selector("#history .none button")
    inspector.look("history, nothing found")
    page.click("#history .sign-close")
    page.wait_for_selector("#history", state="hidden")
    inspector.finish()


def test_a_barrier_would_be_found(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, width=360, height=740)
    assert visitor.barriers() == []
    picture = "<img src=/ui/icon.svg>"
    visitor.page.evaluate("html => document.querySelector('.empty').insertAdjacentHTML('beforeend', html)", picture)
    assert any(problem.startswith("image-alt: ") for problem in visitor.barriers("image-alt"))


def test_progress_is_said_and_keys_suffice(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    page.evaluate("""() => {
      window.heard = []
      const region = document.querySelector("#heard[role=status]")
      new MutationObserver(() => heard.push(region.textContent)).observe(region, {childList: true})
    }""")
    page.wait_for_function("document.activeElement?.matches('#field-prompt textarea')")
    page.keyboard.type("by keys --repeat 2")
    page.keyboard.press("Enter")
    visitor.wait_phase("finished", 60)
    heard = page.evaluate("heard.filter((words, i) => words !== heard[i - 1])")
    assert heard[-1] == "Done" and len(heard) < 8
    assert set(heard) <= {"Waiting", "Drawing", "Picture 1 of 2 is done", "Done"}
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement?.matches('.caption .save')"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_download():
        page.keyboard.press("Enter")

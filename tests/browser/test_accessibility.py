"""The page for those who do not see it, or use no mouse: axe-core finds no barrier, keys suffice, progress is said."""

from __future__ import annotations

import pytest

from tests.browser.conftest import PageServer, StartPage, Visit


@pytest.fixture(scope="module")
def server(page_server: StartPage) -> PageServer:
    return page_server()


def test_no_state_has_a_barrier(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, reduced_motion="reduce")  # a colour on its way to another is no barrier
    found: dict[str, list[str]] = {}

    def look(state: str) -> None:
        found[state] = visitor.barriers()
        visitor.page.emulate_media(color_scheme="dark")  # of another theme only the colours can be a barrier
        visitor.page.wait_for_selector("body.dark")  # Gradio's own colours follow a moment later
        found[f"{state}, dark"] = visitor.barriers("color-contrast")
        visitor.page.emulate_media(color_scheme="light")
        visitor.page.wait_for_selector("body:not(.dark)")

    look("empty")
    visitor.generate("two pictures --repeat 2")
    visitor.wait_phase("finished", 60)
    look("done")
    assert visitor.page.get_attribute(".frame img", "alt") == "two pictures --repeat 2"
    visitor.generate("broken (")
    visitor.wait_phase("failed", 60)
    look("error")
    for tab in ("Settings", "Styles", "Models", "More"):
        visitor.open_advanced(tab)
        look(tab)
    visitor.set_count(20)
    visitor.generate("slow lighthouse")
    visitor.wait_phase("running", 60)
    look("running")
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled", 60)
    assert {state: problems for state, problems in found.items() if problems} == {}


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

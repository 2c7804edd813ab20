"""The stage's HTML: every value from outside is text and stays text."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fooocus.errors import RequestError
from fooocus.events import Cancelled, Failed, Finished, Notice, Saved, Step
from fooocus.ui import views
from fooocus.ui.stream import Phase, View, fold

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</section><iframe src=javascript:alert(1)>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}} `",
    "&lt;script&gt;",
)
OURS = {"section", "div", "p", "b", "a", "i", "img", "figure", "span", "button"}


class Tags(HTMLParser):
    """Collects tags, attribute names and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("phase", ["empty", "waiting", "running", "paused", "finished", "failed", "cancelled"])
def test_hostile_text_stays_text(evil: str, phase: Phase) -> None:
    view = View(evil, "running", evil, (64, 64), pictures=2)
    for event in (Step(1, 2, 1, 2, b"j"), Saved(1, 2, f"/out/2026-01-02/{evil}", 1), Saved(2, 2, "/out/d/2.png", 2)):
        view = fold(view, event, 1.0, Path("/out"))
    view = dataclasses.replace(view, phase=phase, sentence=evil, remedy=evil, notice=evil)
    html = views.stage(view) + views.problem(RequestError("x", evil, evil)) + views.status("down", evil)
    seen = Tags(html)
    assert set(seen.tags) <= OURS
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert not [v for v in seen.attributes.get("href", []) + seen.attributes.get("src", []) if not v.startswith("/")]
    assert evil in seen.text


def test_the_line_about_the_worker_says_no_more_than_there_is() -> None:
    assert Tags(views.status("restarting", "")).text == "The engine is starting again."
    assert Tags(views.status("restarting", "It crashed.")).text == "The engine is starting again. It crashed."
    assert views.status("ready", "") == views.status("busy", "") == ""
    assert Tags(views.status("ready", "The disk is full.")).text == "The disk is full.", "else the queue stands still"


def test_progress_reads_like_a_sentence() -> None:
    view = View("j", "running", "x", (64, 64), picture=2, pictures=4, step=17, steps=30)
    assert views.progress_words(view) == "picture 2 of 4 · step 17 of 30"
    timed = dataclasses.replace(view, pictures=2, left=6.0)
    assert views.progress_words(timed) == "picture 2 of 2 · step 17 of 30 · 6 s left"
    assert views.progress_words(dataclasses.replace(view, phase="waiting", ahead=2)) == "Waiting, 2 ahead"


def test_a_paused_picture_says_where_it_is_and_stays_in_sight() -> None:
    view = View("j", "paused", "fox", (64, 64), picture=2, pictures=4, step=12, steps=30, preview=7, pace=1.0)
    html = views.stage(view)
    assert "Paused at step 12 of 30" in html and "picture 2 of 4" in html and " left" not in html
    assert "/preview/j?frame=7" in html and 'data-title="Paused – fox"' in html and " data-active" in html
    assert "Your queue is paused" in views.stage(dataclasses.replace(view, phase="waiting", held=True))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0 s"), (0.2, "1 s"), (89.0, "89 s"), (120.0, "2 min"), (7200.0, "2.0 h")]
)
def test_times_are_in_the_unit_a_person_would_use(seconds: float, words: str) -> None:
    assert views.duration(seconds) == words


def test_the_title_carries_the_state_and_100_percent_means_done() -> None:
    view = View("j", "running", "fox in snow", (64, 64), fraction=0.999)
    assert 'data-title="99 % – fox in snow"' in views.stage(view)
    done = fold(view, Finished((), 1.0), 1.0, Path("/out"))
    assert 'data-title="Done – fox in snow"' in views.stage(done)


def test_a_job_that_failed_keeps_the_pictures_it_made() -> None:
    view = View("j", "running", "x", (64, 64), pictures=2)
    view = fold(view, Saved(1, 2, "/out/2026-01-02/1.png", 5), 1.0, Path("/out"))
    html = views.stage(fold(view, Failed("X", "The worker died.", "Generate again."), 2.0, Path("/out")))
    assert "/pictures/2026-01-02/1.png" in html
    assert "The worker died." in html and "Generate again." in html


def test_the_latest_notice_is_one_quiet_line() -> None:
    view = fold(View("j", "running", "x", (64, 64)), Notice("The LoRA fits: 722 of 722."), 1.0, Path("/out"))
    assert 'class="notice" title="The LoRA fits: 722 of 722.">The LoRA fits: 722 of 722.</p>' in views.stage(view)
    done = fold(fold(view, Saved(1, 1, "/out/2026-01-02/1.png", 5), 1.0, Path("/out")), Finished((), 1.0), 1.0, Path())
    assert "722 of 722" in views.stage(done)


def test_a_missing_model_leads_to_the_screen_that_fetches_it() -> None:
    view = View("j", "running", "x", (64, 64))
    missing = fold(view, Failed("MissingModel", "There is no checkpoint.", "Put it there."), 1.0, Path("/out"))
    assert 'data-remedy="fetch"' in views.stage(missing, offers=frozenset(("fetch",)))
    assert 'data-remedy="fetch"' not in views.stage(missing)
    assert 'data-remedy="fetch"' not in views.stage(fold(view, Failed("X", "No.", ""), 1.0, Path("/out")))


def test_a_stopped_job_says_how_far_it_came_and_begins_again_at_a_press() -> None:
    view = fold(View("j", "running", "fox", (64, 64), pictures=2), Step(1, 2, 7, 30, b"j"), 1.0, Path("/out"))
    html = views.stage(fold(view, Cancelled(), 2.0, Path("/out")))
    assert "Stopped at step 7 of 30." in html and "/preview/j?frame=1" in html and 'data-remedy="again"' in html
    never_begun = views.stage(fold(View("j", "waiting", "fox"), Cancelled(), 2.0, Path("/out")))
    assert "Stopped." in never_begun and "<img" not in never_begun and 'data-remedy="again"' in never_begun
    saved = fold(view, Saved(1, 2, "/out/2026-01-02/1.png", 5), 2.0, Path("/out"))
    assert "Nothing was saved." not in views.stage(fold(saved, Cancelled(), 3.0, Path("/out")))

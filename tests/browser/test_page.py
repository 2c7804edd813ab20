"""The page as a person meets it: a real browser, a real server process, a worker with a fake engine."""

from __future__ import annotations

import re
import signal
import sys
import time
import urllib.request
from typing import Any

import pytest

from fooocus.ui.files import STATIC
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit, Visitor, end, restart

PASSWORD = "open sesame"
KEY = {"username": "any", "password": PASSWORD}


@pytest.fixture(scope="module")
def server(shared_server: PageServer) -> PageServer:
    return shared_server


@pytest.fixture(scope="module")
def mortal(page_server: StartPage) -> PageServer:
    """A page process that its tests may kill, that asks for a password, and whose engine starts slowly."""
    worker = (sys.executable, str(FAKES / "page_engine.py"), "{outputs}", "--slow", "2")
    return page_server(worker, config={"password": PASSWORD})


def fraction(visitor: Visitor) -> float:
    style = visitor.page.get_attribute("#stage .bar i", "style")
    return float(re.findall(r"[\d.]+", style)[0])


def step(visitor: Visitor) -> int:
    return int(re.findall(r"step (\d+)", visitor.page.inner_text("#stage .count"))[0])


def job(visitor: Visitor) -> str:
    return str(visitor.page.get_attribute("#stage .stage", "data-job"))


def test_from_a_sentence_to_a_picture_on_disk(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    assert visitor.page.inner_text(".empty p") == "What would you like to see?"
    visitor.generate("slow lighthouse in rain")
    visitor.wait_phase("running")
    seen: list[float] = []
    frames: set[str] = set()
    titles: set[str] = set()
    while visitor.page.get_attribute("#stage .stage", "data-phase") == "running" and len(seen) < 60:
        seen.append(visitor.page.evaluate("Number(document.querySelector('#stage .bar')?.ariaValueNow ?? 'NaN')"))
        frames.add(visitor.page.evaluate("document.querySelector('#stage .frame img')?.getAttribute('src') ?? ''"))
        titles.add(visitor.page.title())
        time.sleep(0.05)
    visitor.wait_phase("finished")
    moved = [value for value in seen if value == value]  # the last look may find the bar gone: NaN
    assert moved == sorted(moved) and len(set(moved)) > 10
    assert len([frame for frame in frames if frame.startswith("/preview/")]) > 5
    assert any(re.fullmatch(r"\d+ % – slow lighthouse in rain", title) for title in titles)
    visitor.page.wait_for_function("document.querySelector('#stage .frame img').naturalWidth === 256")
    assert visitor.page.title() == "Done – slow lighthouse in rain"
    saved = server.pictures()[-1]
    assert b"slow lighthouse in rain" in saved.read_bytes()
    seed = visitor.page.inner_text(".caption .seed")
    assert saved.stem.endswith(f"_{seed}")
    with visitor.page.expect_download() as download:
        visitor.page.click(".caption .save")
    assert download.value.path().read_bytes() == saved.read_bytes()
    assert visitor.page.is_visible("#go")


def test_the_button_does_what_enter_does_and_shift_enter_makes_a_line(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.type_prompt("first line")
    visitor.page.press("#field-prompt textarea", "End")
    visitor.page.press("#field-prompt textarea", "Shift+Enter")
    visitor.page.type("#field-prompt textarea", "second")
    assert visitor.page.input_value("#field-prompt textarea") == "first line\nsecond"
    visitor.page.wait_for_timeout(300)
    assert visitor.page.get_attribute("#stage .stage", "data-phase") == "empty"
    visitor.page.click("#go")
    visitor.wait_phase("finished")
    assert b"first line\\nsecond" in server.pictures()[-1].read_bytes()


def test_jobs_asked_for_before_the_first_is_answered_are_all_followed(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.type_prompt("pressed and pressed")
    visitor.page.wait_for_timeout(500)  # what is asked while somebody types is over
    held: list[Any] = []
    visitor.page.route("**/gradio_api/run/*", lambda route: held.append(route))
    visitor.page.click("#go")
    visitor.page.click("#go")
    visitor.page.focus("#field-prompt textarea")
    for _ in range(5):  # held down, Enter asks once
        visitor.page.keyboard.down("Enter")
    visitor.page.keyboard.up("Enter")
    visitor.page.wait_for_timeout(500)
    assert len(held) >= 3
    assert visitor.page.input_value("#field-prompt textarea") == "pressed and pressed"
    while held:  # answered all at once; what is asked now is not kept waiting any more
        held.pop().continue_()
    visitor.page.unroute_all()
    visitor.page.wait_for_function("fooocusBoxes.read('tab').split(' ').length >= 3")
    visitor.wait_phase("finished")
    assert len(set(visitor.page.input_value("#tab textarea").split())) == 3


def test_an_example_fills_the_prompt(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    words = visitor.page.inner_text(".examples button >> nth=1")
    visitor.page.click(".examples button >> nth=1")
    assert visitor.page.input_value("#field-prompt textarea") == words
    visitor.page.keyboard.press("Enter")
    visitor.wait_phase("finished")
    assert words.encode() in server.pictures()[-1].read_bytes()


# Measures in the page itself, in milliseconds, how long after the press it says that the job has stopped.
_TIME_STOP = """() => {
  window.stopped = new Promise((done) => {
    let pressed = 0
    addEventListener("click", (event) => { if (event.target.closest("#stop")) pressed = performance.now() }, true)
    new MutationObserver(() => {
      const phase = document.querySelector("#stage .stage")?.dataset.phase
      if (pressed && phase === "cancelled") done(performance.now() - pressed)
    }).observe(document.body, { subtree: true, childList: true, attributes: true })
  })
}"""


def test_stop_ends_the_job_and_the_next_one_works(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.page.evaluate(_TIME_STOP)
    visitor.generate("heavy one to stop")
    visitor.page.wait_for_function("document.querySelector('#stage .now')?.textContent === 'Drawing'")
    visitor.page.click("#stop")
    assert visitor.page.evaluate("stopped") < 1000, "in the middle of a step that takes a minute"
    assert visitor.page.is_visible("#go") and not visitor.page.is_visible("#stop")
    visitor.generate("after the stop")
    visitor.wait_phase("finished")


def test_skip_goes_on_with_the_next_picture(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.set_count(3)
    visitor.generate("slow three")
    visitor.wait_step(4)
    visitor.page.click("#skip")
    visitor.wait_step(3, picture=2)
    visitor.page.click("#skip")
    visitor.wait_phase("finished")
    assert visitor.page.locator(".strip button").count() <= 1
    assert b"slow three" in server.pictures()[-1].read_bytes()


def test_the_strip_chooses_the_large_picture(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.set_count(3)
    visitor.generate("three pictures")
    visitor.wait_phase("finished")
    assert visitor.page.locator(".strip button").count() == 3
    seeds = []
    for number in (1, 2, 3):
        visitor.page.click(f'.strip button[aria-label="Picture {number}"]')
        seeds.append(int(visitor.page.inner_text(".caption .seed")))
        shown = visitor.page.get_attribute(".frame img", "src")
        assert shown == visitor.page.get_attribute(".caption .save", "href")
        assert f"_{seeds[-1]}.png" in shown
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    visitor.page.keyboard.press("ArrowLeft")
    assert int(visitor.page.inner_text(".caption .seed")) == seeds[1]


def test_an_error_is_a_sentence_with_a_remedy_and_the_next_job_works(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("broken")
    visitor.wait_phase("failed")
    assert visitor.page.inner_text(".fault b") == "The card's memory ran out at 1152×896."
    assert "Choose a smaller size" in visitor.page.inner_text(".fault span")
    visitor.generate("works again")
    visitor.wait_phase("finished")


def test_a_processor_that_draws_beside_a_card_is_said_loudly_with_the_reason(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("endless on the processor")
    visitor.wait_step(5)
    shown = visitor.page.locator(".banner:visible")
    assert "The processor draws, although a graphics card is there." in shown.inner_text()
    assert (
        "The installed torch cannot use the NVIDIA card." in shown.inner_text() and "--torch cuda" in shown.inner_text()
    )
    for width, height in ((1440, 900), (360, 740)):
        visitor.page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=theme)
            visitor.shoot(f"{width}-{theme}-processor")
        assert visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    visitor.page.click(".banner:visible [data-banner-close]")
    shown.wait_for(state="detached")
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled")


def test_a_killed_worker_leaves_a_page_that_makes_the_next_picture(mortal: PageServer, visit: Visit) -> None:
    visitor = visit(mortal.url, http_credentials=KEY)
    visitor.generate("die")
    visitor.wait_phase("failed", 30)
    assert visitor.page.inner_text(".fault b")
    visitor.page.wait_for_selector('#status :text("The engine is starting again.")')
    visitor.shoot("1440-light-worker-restarts")
    visitor.generate("alive")
    visitor.wait_phase("finished", 30)


def test_what_is_typed_while_the_page_loads_is_kept(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    # Types at the very moment in which the page looks up what it remembers.
    visitor.page.add_init_script(
        """const read = Storage.prototype.getItem
        Storage.prototype.getItem = function (key) {
          const box = key === "fooocus.values" && document.querySelector("#field-prompt textarea")
          if (box && !window.typed) {
            window.typed = true
            box.value = "early bird"
            box.dispatchEvent(new Event("input", { bubbles: true }))
          }
          return read.call(this, key)
        }"""
    )
    visitor.open()
    visitor.page.wait_for_function("window.typed")
    visitor.page.wait_for_timeout(300)
    assert visitor.page.input_value("#field-prompt textarea") == "early bird"
    visitor.page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("finished")
    assert b"early bird" in server.pictures()[-1].read_bytes()


def test_an_invalid_size_answers_beside_its_field_and_makes_no_job(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.open_advanced("Settings")
    visitor.page.fill("#field-size input", "1150x896")
    visitor.page.get_by_role("tab", name="More").click()
    before = len(server.pictures())
    visitor.generate("never made")
    visitor.page.wait_for_selector("#field-size.wrong", state="visible")
    assert "Width 1150 is no multiple of 8. Try 1152." in visitor.page.inner_text("#field-size")
    assert "Width 1150 is no multiple of 8." in visitor.page.inner_text("#problem")
    assert visitor.page.get_attribute("#stage .stage", "data-phase") == "empty"
    visitor.page.fill("#field-size input", "128x64")
    visitor.generate("made now")
    visitor.wait_phase("finished")
    assert visitor.page.locator("#field-size.wrong").count() == 0
    assert visitor.page.inner_text("#problem").strip() == ""
    assert len(server.pictures()) == before + 1


def test_a_reload_in_mid_job_finds_it_again(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.open_advanced("Settings")
    visitor.page.fill("#field-negative textarea", "blur and noise")
    visitor.page.press("#field-negative textarea", "Tab")
    visitor.generate("endless fox")
    visitor.wait_step(5)
    id, reached = job(visitor), fraction(visitor)
    visitor.page.reload()
    visitor.page.wait_for_selector("#stage .stage")
    begun = time.monotonic()
    visitor.wait_phase("running")
    assert time.monotonic() - begun < 2
    assert job(visitor) == id and fraction(visitor) >= reached
    assert visitor.page.is_visible("#stop")
    assert visitor.page.input_value("#field-prompt textarea") == "endless fox"
    assert visitor.page.input_value("#field-negative textarea") == "blur and noise"
    assert visitor.page.is_checked("#advanced-switch input")
    visitor.page.click("#stop")
    look_at_stopped(visitor)
    visitor.page.reload()
    look_at_stopped(visitor)
    assert job(visitor) == id
    visitor.page.get_by_role("button", name="Start again").click()
    visitor.wait_phase("running")
    assert job(visitor) != id


def look_at_stopped(visitor: Visitor) -> None:
    """A job that was stopped before a picture was saved leaves its last frame in sight, and how far it came."""
    visitor.wait_phase("cancelled")
    visitor.page.wait_for_function("document.querySelector('.frame.unfinished img')?.naturalWidth > 0")
    assert re.match(r"Stopped at step \d+ of 5000\.\s+Nothing was saved", visitor.page.inner_text("#stage .stopped"))


def test_a_closed_tab_ends_nothing_and_a_new_one_finds_the_job(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.generate("endless closed")
    visitor.wait_step(2)
    id = job(visitor)
    visitor.page.close()
    visitor.page = visitor.context.new_page()
    visitor.open()
    visitor.wait_phase("running")
    assert job(visitor) == id


def test_two_people_do_not_see_each_other(server: PageServer, visit: Visit) -> None:
    one, two = visit(server.url), visit(server.url)
    one.generate("endless red")
    one.wait_phase("running")
    two.generate("blue")
    two.wait_phase("waiting")
    assert "Waiting, 1 ahead" in two.page.inner_text(".progress")
    assert job(one) != job(two)
    preview = (
        one.page.evaluate("document.querySelector('.frame img')?.getAttribute('src') ?? ''") or f"/preview/{job(one)}"
    )
    assert two.page.evaluate("url => fetch(url).then(answer => answer.status)", preview) == 404
    two.page.click("#stop")
    two.wait_phase("cancelled")
    assert one.page.get_attribute("#stage .stage", "data-phase") == "running"
    one.page.click("#stop")
    one.wait_phase("cancelled")


# Takes the connections that tabs may hold, as three further tabs of the same browser would.
_TAKE = """() => Promise.all([1, 2, 3].map((number) => new Promise((taken) => {
  const source = new EventSource(`/live?tab=&page=${number}`)
  source.onopen = taken
  source.onerror = () => source.close();
  (window.taken ??= []).push(source)
})))"""


def test_two_tabs_of_one_person_never_mix_results(server: PageServer, visit: Visit) -> None:
    one = visit(server.url)
    two = Visitor(one.context, one.context.new_page(), server.url)
    two.open()
    asked: list[str] = []
    one.page.on("request", lambda request: asked.append(request.url))
    one.page.evaluate(_TAKE)
    while sum("waits=1" in url for url in asked) < 3:  # the oldest is sent away and only looks now and then
        one.page.wait_for_timeout(500)
    one.generate("endless red")
    one.wait_phase("running")
    two.generate("blue")
    two.wait_phase("waiting")
    assert job(one) != job(two)
    one.generate("green")
    one.page.wait_for_selector('#queue-open:has-text("2 waiting")')
    one.page.click("#stop")  # its own job alone
    two.page.wait_for_selector('#stage .stage[data-title="Done – blue"]')
    one.page.wait_for_selector('#stage .stage[data-title="Done – green"]')
    assert two.page.title() == "Done – blue"


# As a browser that keeps nothing of any site: reading a storage is refused, and so is the cookie.
_KEEPS_NOTHING = """for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied.", "SecurityError") } })
}"""


def test_a_browser_that_keeps_nothing_can_do_all_but_remember(server: PageServer, chromium: Any) -> None:
    with chromium.new_context() as context:
        context.set_default_timeout(60_000)
        context.add_init_script(_KEEPS_NOTHING)
        with urllib.request.urlopen(server.url) as answer:  # playwright's own way of asking would keep the cookie
            document = answer.read()
        context.route(server.url, lambda route: route.fulfill(body=document, content_type="text/html"))
        one, two = (Visitor(context, context.new_page(), server.url) for _ in range(2))
        broken: list[str] = []
        for visitor in (one, two):
            visitor.page.on("pageerror", lambda error: broken.append(str(error)))
            visitor.open()
            visitor.page.wait_for_function("document.querySelector('#me textarea')?.value.startsWith('page-')")
        one.generate("endless without cookies")
        one.wait_phase("running")
        one.page.wait_for_function("document.querySelector('.frame img')?.naturalWidth > 0")
        two.generate("beside it")
        two.page.wait_for_selector('#stage .stage[data-title$="beside it"]')
        one.page.click("#pause")
        one.wait_phase("paused")
        two.wait_phase("finished")
        one.page.click("#queue-open")
        one.page.wait_for_selector('#queue-panel li:has-text("endless without cookies")')
        assert one.page.locator("#queue-panel li").count() == 1
        one.open_advanced("More")
        one.page.select_option("#language select", "de")
        one.page.wait_for_selector('#go:has-text("Generieren")')
        one.page.click("#stop")
        one.wait_phase("cancelled")
        assert broken == [] and context.cookies() == []


def test_hostile_prompts_are_shown_as_text(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    for evil in ('<img src=x onerror="alert(1)">', "</section><script>alert(2)</script>", "${alert(3)} {{alert(4)}} `"):
        visitor.generate(evil)
        visitor.page.wait_for_function(
            "t => document.title.includes(t) && document.title.startsWith('Done')", arg=evil[:20]
        )
    assert visitor.page.locator("#stage script").count() == 0


def test_where_nothing_happens_nothing_is_drawn(server: PageServer, visit: Visit) -> None:
    """A page that lies open costs nothing: not a frame is asked for, and no event of Gradio's is pending."""
    visitor = visit(
        server.url,
        before="""() => {
          const frames = window.requestAnimationFrame.bind(window)
          window.asked = 0
          window.requestAnimationFrame = (then) => { window.asked += 1; return frames(then) }
        }""",
    )
    visitor.generate("a quick one")
    visitor.wait_phase("finished")
    visitor.page.wait_for_function(
        "window.asked === window.before || ((window.before = window.asked), false)", polling=1500
    )
    assert not any("queue/" in url for url in visitor.requests if "gradio_api" in url)


@pytest.mark.slow
def test_more_tabs_than_a_browser_has_connections(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    others = []
    for _ in range(6):
        page = visitor.context.new_page()
        others.append(Visitor(visitor.context, page, server.url))
        others[-1].open()
    others[-1].generate("slow in the last")
    others[-1].wait_phase("running")
    others[-1].wait_phase("finished")
    for other in others[:-1]:
        other.generate("in every other as well")
        other.wait_phase("finished")


def test_nothing_is_asked_of_anybody_else(server: PageServer, visit: Visit) -> None:
    """Every part of the page is opened while each request of another computer would be recorded, and fail."""
    visitor = visit(server.url)
    page = visitor.page
    tried: list[str] = []
    visitor.context.route(
        lambda url: not url.startswith((server.url, "data:", "blob:")),
        lambda route: (tried.append(route.request.url), route.abort()),
    )
    for tab in ("Settings", "Styles", "Models", "More"):
        visitor.open_advanced(tab)
    for language in ("de", "es", "zh", "en"):
        page.evaluate("tag => fooocusWords.choose(tag)", language)
    page.click("#device-open")
    page.click("#device button")
    visitor.generate("private")
    visitor.wait_phase("finished")
    page.click("#history-open")
    page.locator("#history .tile").first.click()
    page.wait_for_selector("#lightbox dl dt")
    page.wait_for_function("document.querySelector('#lightbox .frame-large img').naturalWidth > 0")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.reload()
    visitor.wait_phase("finished")
    asked = {url.removeprefix(server.url).partition("?")[0] for url in visitor.requests}
    ours = {f"ui/{file.relative_to(STATIC).as_posix()}" for file in STATIC.rglob("*.*")}
    # A Chromium without windows has no place for a page's icon.
    assert ours - asked <= {"ui/icon.svg"}, "a file of ours that this test does not load"
    assert {"pictures", "thumbnails", "history"} <= {path.partition("/")[0] for path in asked}
    assert tried == [] and visitor.foreign() == []


def test_who_has_not_the_password_is_told_so(mortal: PageServer, chromium: Any) -> None:
    wrong = {"username": "any", "password": "open barley"}
    for theme, locale, words in (
        ("light", "en-US", "asks for a password"),
        ("dark", "de-DE", "fragt nach einem Passwort"),
    ):
        with chromium.new_context(http_credentials=wrong, color_scheme=theme, locale=locale) as context:
            visitor = Visitor(context, context.new_page(), mortal.url)
            answer = visitor.page.goto(mortal.url)
            assert answer.status == 401 and words in visitor.page.inner_text("h1")
            assert visitor.page.get_by_role("link").count() == 1
            visitor.shoot(f"1280-{theme}-password")
            assert visitor.barriers() == []


def test_a_crashed_server_comes_back_and_the_open_page_shows_the_end(mortal: PageServer, visit: Visit) -> None:
    visitor = visit(mortal.url, http_credentials=KEY)
    before = len(mortal.pictures())
    visitor.generate("slow through the crash")
    visitor.wait_step(3)
    end(mortal)
    visitor.page.wait_for_selector("#away", state="visible")
    assert visitor.page.locator("#away .problem:visible").count() == 1
    assert "this page goes on by itself" in visitor.page.inner_text("#away")
    assert visitor.page.locator(".toast-body:visible").count() == 0
    # What was going on may have ended: nothing says that it goes on.
    visitor.page.wait_for_function("document.title === 'No answer'")
    assert visitor.page.locator("#stage .progress p").evaluate("one => getComputedStyle(one).visibility") == "hidden"
    visitor.shoot("1440-light-away")
    restart(mortal)
    visitor.page.wait_for_selector("#away", state="hidden")
    visitor.wait_phase("finished", 30)
    assert visitor.page.title() == "Done – slow through the crash"
    assert len(mortal.pictures()) == before + 1
    # What stands between the two is something else, and is said so.
    visitor.page.route("**/queue", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    visitor.page.evaluate("fooocusQueue.look()")
    visitor.page.wait_for_selector("#away .other", state="visible")
    assert not visitor.page.is_visible('#away :text("does not answer")')
    visitor.shoot("1440-light-replaced")
    visitor.page.unroute_all()
    visitor.page.wait_for_selector("#away", state="hidden")
    # What answers serves another page, as after an update: this one is loaded again, once, and what was typed stays.
    visitor.type_prompt("typed before the update")
    visitor.page.evaluate("window.older = true")
    other = 'event: page\ndata: "another"\n\n'
    visitor.page.route("**/live?*", lambda route: route.fulfill(content_type="text/event-stream", body=other), times=1)
    visitor.page.evaluate("fooocusLive.listen()")
    visitor.page.wait_for_function("!window.older")
    visitor.page.wait_for_function(
        "document.querySelector('#field-prompt textarea')?.value === 'typed before the update'"
    )
    visitor.wait_phase("finished")
    # A changed password is none of the two. (A browser would ask for the new one by itself first.)
    visitor.page.route("**/queue", lambda route: route.fulfill(status=401, body="Please log in."))
    visitor.page.evaluate("fooocusQueue.look()")
    visitor.page.wait_for_selector("#away .locked", state="visible")
    assert visitor.page.locator("#away .problem:visible").count() == 1
    visitor.page.unroute_all()
    visitor.page.wait_for_selector("#away", state="hidden")


def test_what_is_typed_and_set_while_the_program_is_away_stays(mortal: PageServer, visit: Visit) -> None:
    visitor = visit(mortal.url, http_credentials=KEY)
    visitor.set_count(1)
    visitor.page.wait_for_timeout(500)
    visitor.page.evaluate("window.older = true")
    end(mortal)
    visitor.type_prompt("typed while nobody was there")
    visitor.page.press("#field-prompt textarea", "Enter")  # nobody hears it
    visitor.page.wait_for_selector("#away", state="visible")
    visitor.set_count(2)
    visitor.type_prompt("a fox, typed while nobody was there")
    restart(mortal)
    visitor.page.wait_for_selector("#away", state="hidden")
    visitor.page.wait_for_timeout(3000)  # Gradio itself would look every two seconds and load the page again
    assert visitor.page.evaluate("window.older") is True
    assert visitor.page.locator(".toast-body:visible").count() == 0
    assert visitor.page.input_value("#field-prompt textarea") == "a fox, typed while nobody was there"
    assert visitor.page.input_value("#field-count input[type=number]") == "2"
    visitor.page.click("#go")
    visitor.wait_phase("finished")
    assert all(b"a fox, typed while nobody was there" in file.read_bytes() for file in mortal.pictures()[-2:])
    visitor.page.reload()
    visitor.page.wait_for_function("document.querySelector('#field-count input[type=number]')?.value === '2'")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal as Ctrl-C sends it is a POSIX matter")
def test_ctrl_c_closes_everything_while_a_page_is_open(mortal: PageServer, visit: Visit) -> None:
    visitor = visit(mortal.url, http_credentials=KEY)
    visitor.generate("endless and interrupted")
    visitor.wait_step(2)
    mortal.process.send_signal(signal.SIGINT)
    assert mortal.process.wait(timeout=60) == 0
    assert mortal.process.stdout is not None and mortal.process.stdout.read().strip() == "closed"


def test_a_preset_sets_everything_and_reset_takes_it_back(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.type_prompt("keeps its words")
    visitor.open_advanced("Settings")
    size = visitor.page.locator("#field-size input, #field-size textarea")

    def shape() -> str:
        return visitor.page.inner_text("#shapes label.selected")

    visitor.page.click("fooocus-presets .picker-button")
    visitor.page.get_by_role("option", name="Pocket").click()
    visitor.page.wait_for_function(
        "document.querySelector('#field-size input, #field-size textarea').value === '144x112'"
    )
    visitor.page.wait_for_selector("#shapes label.selected")
    assert shape() == "4:3"
    visitor.page.get_by_text("16:9", exact=True).click()
    visitor.page.wait_for_function(
        "document.querySelector('#field-size input, #field-size textarea').value === '168x96'"
    )
    visitor.page.click("#every-shape")
    assert visitor.page.locator("#shapes label:visible").count() == 26
    visitor.shoot("1440-light-shapes")
    visitor.page.click("#every-shape")
    visitor.page.wait_for_timeout(300)
    visitor.shoot("1440-light-presets")
    visitor.page.get_by_role("tab", name="Models").click()
    assert visitor.page.inner_text('fooocus-model[field="base"] .picked') == "pocket_base"
    visitor.page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("finished")
    assert b"pocket_base.safetensors" in server.pictures()[-1].read_bytes()
    visitor.page.get_by_role("tab", name="Settings").click()
    visitor.page.click("#reset")
    visitor.page.wait_for_function(
        "document.querySelector('#field-size input, #field-size textarea').value === '256x192'"
    )
    assert size.input_value() == "256x192"
    assert visitor.page.input_value("#field-prompt textarea") == "keeps its words"


def test_a_finished_picture_can_be_looked_at_while_the_next_forms(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.set_count(2)
    visitor.generate("a lingering pair")
    visitor.wait_step(2, picture=2)
    first = '.strip button[aria-label="Picture 1"]'
    visitor.page.click(first)
    url = visitor.page.get_attribute(first, "data-url")
    begun = step(visitor)
    for later in (2, 4, 6):
        visitor.wait_step(begun + later, picture=2)
        assert visitor.page.get_attribute(".frame img", "src") == url
        assert visitor.page.get_attribute(first, "aria-pressed") == "true"
    visitor.page.click(first)
    visitor.page.wait_for_function("document.querySelector('.frame img').getAttribute('src').startsWith('/preview/')")
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled")
    assert visitor.page.get_attribute(".frame img", "src") == url


@pytest.mark.parametrize(
    ("width", "theme"),
    [
        (360, "dark"),
        (1440, "light"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((360, "light"), (768, "light"), (1024, "dark"))),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
    ],
)
def test_the_main_states_fit_and_are_drawn(server: PageServer, visit: Visit, width: int, theme: str) -> None:
    visitor = visit(server.url, width=width, height=740 if width < 768 else 900, theme=theme)
    name = f"{width}-{theme}"

    def look(state: str) -> None:
        visitor.page.wait_for_timeout(200)
        visitor.shoot(f"{name}-{state}")
        overflow = visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{state}: {overflow} px too wide"
        desk: dict[str, Any] = visitor.page.locator("#ask").bounding_box()
        assert desk["y"] + desk["height"] <= visitor.page.viewport_size["height"], (
            f"{state}: the prompt is out of sight"
        )

    look("empty")
    visitor.set_count(3)
    visitor.page.fill("#field-size input", "1152x896")
    look("advanced")
    visitor.page.uncheck("#advanced-switch input")
    visitor.generate("endless sunset over the sea, a long sentence that goes on and on until it needs a second line")
    visitor.wait_step(20)
    look("running")
    visitor.page.click("#stop")
    visitor.wait_phase("cancelled")
    look("stopped")
    visitor.generate("three quick ones")
    visitor.page.wait_for_selector('#stage .stage[data-title="Done – three quick ones"]')
    look("done")
    visitor.generate("broken")
    visitor.wait_phase("failed")
    look("error")


def test_what_will_not_work_is_said_while_it_is_typed(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.page.type("#field-prompt textarea", "a (red fox with __nolist__")
    visitor.page.wait_for_selector("#hint .hint code")
    visitor.page.wait_for_function("document.querySelector('#hint').innerText.includes('__nolist__')")
    visitor.shoot("1440-light-hint")
    visitor.page.reload()  # what comes back is said to be wrong as what is typed is
    visitor.page.wait_for_function("document.querySelector('#hint')?.innerText.includes('__nolist__')")
    visitor.type_prompt("a (red) fox with __animal__")
    visitor.page.wait_for_function("!document.querySelector('#hint .hint')")

"""What happens to pictures after they were made: history among 5,000, one picture large, restoring, dropping."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fooocus.request import LoraUse
from tests.browser.conftest import ROOT, PageServer, StartPage, Visit, Visitor
from tests.pictures import Maker, recipe

DATA = Path(__file__).resolve().parents[1] / "data"
MANY = 5000
DAYS = 25
MAKER = Maker()
EVIL = '<img src=x onerror="alert(1)"></p><script>alert(2)</script>{{alert(3)}}'
BLOCK = "a cat\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 5, Seed: 3, Size: 640x512, Model: gone"
WORDS = ("fox", "snow", "lighthouse", "dusk", "rain", "sailor", "window", "teapot", "moss", "river", "castle", "robot")


@pytest.fixture(scope="module")
def server(page_server: StartPage) -> PageServer:
    server = page_server(config={"styles_folder": str(ROOT / "styles")})
    models = Path(server.settings["config"]["models"])
    for file in ("checkpoints/mine.safetensors", "loras/grain.safetensors"):
        (models / file).parent.mkdir(exist_ok=True)
        (models / file).touch()
    draw = random.Random(1)
    for number in range(MANY):
        day = f"2026-01-{1 + number % DAYS:02d}"
        prompt = " ".join(draw.choices(WORDS, k=12))
        base = "mine.safetensors" if number % 10 == 0 else "gone.safetensors"
        made = recipe(prompt=prompt, seed=number, base=base, styles=("sai-cinematic:0.5",) if number % 20 == 0 else ())
        MAKER.put(server.outputs / day / f"{number % 24:02d}-00-00-{number // 24:03d}_001_{number}.png", made, number)
    MAKER.put(
        server.outputs / "2026-02-01" / "10-00-00-000_001_1.png",
        recipe(prompt=f"Čapek's café, 雪の猫 {EVIL}", negative=EVIL, seed=2**62 + 1, base="mine.safetensors", steps=31),
        3,
    )
    return server


def open_history(visitor: Visitor) -> Any:
    """Open the history and wait until its first pictures are there and all were read."""
    page = visitor.page
    page.click("#history-open")
    page.wait_for_selector("#history .tile img")
    page.wait_for_function("document.querySelector('#history .reading').hidden", timeout=60_000)
    return page


def search(page: Any, words: str, pictures: str) -> None:
    page.fill("#history input[type=search]", words)
    page.wait_for_function("n => document.querySelector('#history .count').textContent === n", arg=pictures)
    page.wait_for_selector("#history .tile img")


def count(server: PageServer) -> int:
    return sum(1 for _ in server.outputs.glob("2*/*.png"))


def label(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''"))


def test_five_thousand_pictures_are_searched_walked_and_opened_by_keyboard(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = open_history(visitor)
    page.wait_for_function("document.querySelector('#history .count').textContent === '5,001 pictures'")
    for share in (0.3, 0.7, 1):
        page.evaluate(
            "part => { const b = document.querySelector('#history .scroll'); b.scrollTop = b.scrollHeight * part }",
            share,
        )
        page.wait_for_function(  # the heading of the day stays in sight
            """() => {
              const top = (one) => one.getBoundingClientRect().top
              const box = top(document.querySelector("#history .scroll"))
              return document.querySelectorAll("#history .tile img").length > 20
                && [...document.querySelectorAll("#history h3")].some((head) => Math.abs(top(head) - box) < 2)
            }"""
        )
        assert page.locator("#history .tile").count() < 200
    search(page, "capek 雪の猫", "1 picture")
    page.keyboard.press("ArrowDown")
    assert label(page).startswith("Čapek's café")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lightbox dl dt")
    assert (
        EVIL in page.inner_text("#lightbox .prompt") and page.locator("#lightbox script, #lightbox p img").count() == 0
    )
    assert str(2**62 + 1) in page.inner_text("#lightbox .rest")
    page.keyboard.press("f")
    page.wait_for_selector('#lightbox .sign-heart[aria-pressed="true"]')
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    assert label(page).endswith("Favourite")
    search(page, "", "5,001 pictures")
    page.click("#history .chip.sign-heart")
    page.wait_for_function("document.querySelector('#history .count').textContent === '1 picture'")
    page.click("#history .chip.sign-heart")
    page.select_option("#history select[aria-label=Model]", "mine")
    page.wait_for_function("document.querySelector('#history .count').textContent === '501 pictures'")
    visitor.shoot("1440-light-history")
    page.select_option("#history select[aria-label=Day]", "2026-01-11")  # of the days that this model drew on
    page.wait_for_function("document.querySelector('#history .count').textContent === '100 pictures'")
    assert page.locator("#history h3").all_inner_texts() == ["Sunday, January 11, 2026\n100"]
    assert page.locator("#history select[aria-label=Day] option").count() == 1 + 5 + 1
    page.select_option("#history select[aria-label=Day]", "")
    page.wait_for_function("document.querySelector('#history .count').textContent === '501 pictures'")
    page.select_option("#history select[aria-label=Style]", label="Cinematic · Classics (250)")
    page.wait_for_function("document.querySelector('#history .count').textContent === '250 pictures'")
    page.click("#history .chip.sign-heart")  # all filters together: of this model one is a favourite, and has no style
    page.wait_for_selector('#history .none:has-text("No picture is like that.")')
    assert options(page, "Style") == ["All styles", "Cinematic · Classics (0)"]  # what is chosen stays in sight
    page.click("#history .chip.sign-heart")
    page.wait_for_function("document.querySelector('#history .count').textContent === '250 pictures'")
    page.locator("#history .tile").first.click()
    page.wait_for_selector("#lightbox dl dt")
    style = page.locator('#lightbox dt:text-is("Styles") + dd')
    assert style.inner_text() == "Cinematic · Classics (0.5)" and style.get_attribute("title") == "sai-cinematic:0.5"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#lightbox .place').textContent === '2 of 250'")
    page.wait_for_function("document.querySelector('#lightbox .frame-large img').naturalWidth === 64")
    visitor.shoot("1440-light-lightbox")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#compare .differences dd")
    assert "Seed" in page.inner_text("#compare .differences")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("#history", state="hidden")
    search_box = page.locator("#field-prompt textarea")
    assert search_box.is_visible()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("h")
    page.wait_for_selector("#history[open]")
    assert page.input_value("#history input[type=search]") == "", "the letter that opens it is not typed into it"


def test_a_deleted_picture_comes_back_with_undo(server: PageServer, visit: Visit) -> None:
    page = open_history(visit(server.url))
    search(page, "capek", "1 picture")
    file = server.outputs / "2026-02-01" / "10-00-00-000_001_1.png"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    page.wait_for_selector('#history .none:has-text("No picture is like that.")')
    assert not file.exists()
    page.click(".said button")
    page.wait_for_selector("#history .tile img")
    assert file.exists()
    assert options(page, "Model") == ["All models", "mine (1)"]  # as the search says, like the days
    # Large, the next picture takes its place, and the one before it where it was the last; all counts go with it.
    search(page, "", "5,001 pictures")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    at_place(page, "1 of 5,001")
    page.keyboard.press("Delete")
    at_place(page, "1 of 5,000")
    page.wait_for_function("!document.querySelector('#lightbox .frame-large img').alt.startsWith('Čapek')")
    assert not file.exists()
    assert options(page, "Model") == ["All models", "gone (4,500)", "mine (500)"]
    page.click("#lightbox .said button")
    at_place(page, "1 of 5,001")
    page.wait_for_function("document.querySelector('#lightbox .frame-large img').alt.startsWith('Čapek')")
    assert file.exists() and options(page, "Model")[-1] == "mine (501)"
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox img:not([src])", state="attached")  # closed, and the focus where it was
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    at_place(page, "5,001 of 5,001")
    page.keyboard.press("Delete")
    at_place(page, "5,000 of 5,000")
    page.click("#lightbox .said button")
    at_place(page, "5,000 of 5,001")


def at_place(page: Any, place: str) -> None:
    page.wait_for_function("place => document.querySelector('#lightbox .place').textContent === place", arg=place)
    page.wait_for_selector("#lightbox dl dt")


def options(page: Any, label: str) -> list[str]:
    return list(page.locator(f"#history select[aria-label={label}] option").all_inner_texts())


def test_settings_are_restored_what_is_missing_is_named_and_all_of_it_can_be_undone(
    server: PageServer, visit: Visit
) -> None:
    visitor = visit(server.url)
    visitor.type_prompt("my own words")
    visitor.open_advanced("More")
    visitor.page.fill("#field-steps :is(input, textarea)", "12")
    page = open_history(visitor)
    search(page, "capek", "1 picture")
    page.locator("#history .tile").first.click()
    page.click("#lightbox .restoring .sign-same")
    page.wait_for_selector('#restored .restored:has-text("Settings restored.")')
    page.wait_for_function("document.querySelector('#field-steps :is(input, textarea)').value === '31'")
    assert page.locator("dialog[open]").count() == 0
    assert page.input_value("#field-prompt textarea").startswith("Čapek's café")
    visitor.open_advanced("Settings")
    assert page.input_value("#field-seed :is(input, textarea)") == str(2**62 + 1)
    visitor.open_advanced("Models")
    assert page.input_value("#field-base :is(input, textarea)") == "mine.safetensors"
    assert "is not here" not in page.inner_text("#restored")
    visitor.shoot("1440-light-restored")
    page.click('#restored [data-restore="undo"]')
    page.wait_for_function("document.querySelector('#field-prompt textarea').value === 'my own words'")
    visitor.open_advanced("More")
    assert page.input_value("#field-steps :is(input, textarea)") == "12"
    open_history(visitor)
    search(page, "", "5,001 pictures")
    page.select_option("#history select[aria-label=Model]", "gone")
    page.wait_for_function("document.querySelector('#history .count').textContent === '4,500 pictures'")
    page.locator("#history .tile").first.click()
    page.click("#lightbox .restoring .sign-new")
    page.wait_for_selector("#restored .restored:has-text(\"The model 'gone.safetensors' is not here.\")")
    visitor.open_advanced("Settings")
    assert page.input_value("#field-seed :is(input, textarea)") == ""


def drop(page: Any, name: str, data: bytes) -> None:
    page.evaluate(
        """([name, data]) => {
          const moved = new DataTransfer()
          moved.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, { type: "image/png" }))
          for (const kind of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true }))
          }
        }""",
        [name, base64.b64encode(data).decode()],
    )


def with_texts(texts: dict[str, str]) -> bytes:
    """Return a small PNG that carries texts as another program writes them."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def paste(page: Any, text: str) -> None:
    page.evaluate(
        """text => {
          const moved = new DataTransfer()
          moved.setData("text/plain", text)
          document.querySelector("#field-prompt textarea").dispatchEvent(
            new ClipboardEvent("paste", { clipboardData: moved, bubbles: true, cancelable: true }))
        }""",
        text,
    )


def test_dropped_pictures_and_pasted_texts_show_a_card_and_nothing_happens_by_itself(
    server: PageServer, visit: Visit, tmp_path: Path
) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.type_prompt("before")
    made = recipe(prompt=f"dropped {EVIL}", loras=(LoraUse("grain.safetensors", 0.4), LoraUse("lost.safetensors", 1.0)))
    drop(page, f"{EVIL}.png", MAKER.png(made))
    page.wait_for_selector("dialog.card[open]")
    assert EVIL in page.inner_text("dialog.card .prompt") and "'lost.safetensors' is not here" in page.inner_text(
        "dialog.card"
    )
    visitor.shoot("1440-light-card")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.card", state="detached")
    assert page.input_value("#field-prompt textarea") == "before"
    drop(page, "plain.png", MAKER.png(None))
    page.wait_for_selector('.said[role=alert]:has-text("No settings were found in it.")')
    drop(page, "no.png", b"<html>no</html>")
    page.wait_for_selector('.said:has-text("no PNG, JPEG or WebP picture")')
    for program in ("fooocus", "a1111"):
        foreign = json.loads((DATA / f"foreign_{program}.json").read_text(encoding="utf-8"))[0]
        drop(page, f"{program}.png", with_texts(foreign["texts"]))
        page.wait_for_selector(f'dialog.card[open] .prompt:text-is("{foreign["expect"]["prompt"]}")')
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog.card", state="detached")
    paste(page, "just a prompt, nothing else")
    paste(page, BLOCK)
    page.wait_for_selector("dialog.card[open]")
    page.click("dialog.card .main")
    page.wait_for_function("document.querySelector('#field-prompt textarea').value === 'a cat'")
    assert "The model 'gone' is not here." in page.inner_text("#restored")
    file = MAKER.put(tmp_path / "chosen.png", recipe(prompt="chosen by file"))
    visitor.open_advanced("More")
    with page.expect_file_chooser() as chooser:
        page.click("#read-picture")
    chooser.value.set_files(file)
    page.click("dialog.card .main")
    page.wait_for_function("document.querySelector('#field-prompt textarea').value === 'chosen by file'")


def test_the_picture_on_the_stage_opens_large_and_has_the_same_actions(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.set_count(2)
    visitor.generate("two on the stage")
    visitor.wait_phase("finished")
    assert page.get_attribute("#stage .frame img", "alt") == "two on the stage"
    page.click("#stage .frame .open")
    page.wait_for_selector("#lightbox dl dt")
    assert page.inner_text("#lightbox .place") == "2 of 2" and "two on the stage" in page.inner_text(
        "#lightbox .prompt"
    )
    page.keyboard.press("Delete")  # the one before it is shown, alone
    page.wait_for_function("document.querySelector('#lightbox .place').textContent === ''")
    page.click("#lightbox .said button")
    at_place(page, "1 of 2")
    page.keyboard.press("Escape")
    page.click('#stage [data-do="favourite"]')
    page.wait_for_selector('#stage [data-do="favourite"][aria-pressed="true"]')
    seed = page.inner_text(".caption .seed")
    visitor.type_prompt("something else")
    page.click('#stage [data-do="same"]')
    page.wait_for_function("document.querySelector('#field-prompt textarea').value === 'two on the stage'")
    assert page.input_value("#field-seed :is(input, textarea)") == seed
    before = count(server)
    page.click('#stage [data-do="delete"]')
    page.wait_for_selector(".frame.gone")
    assert count(server) == before - 1
    said, desk = page.locator(".said").bounding_box(), page.locator("#desk").bounding_box()
    assert said["y"] + said["height"] <= desk["y"], "what is said lies on the prompt"
    page.click(".said button")
    page.wait_for_selector(".frame:not(.gone) .open")
    assert count(server) == before
    page.click("#history-open")
    page.wait_for_selector("#history .tile.favourite")
    assert page.locator("#history .tile").first.get_attribute("aria-label").startswith("two on the stage")


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_on_a_phone_it_fits_and_a_swipe_goes_on(server: PageServer, visit: Visit, theme: str) -> None:
    visitor = visit(server.url, width=360, height=740, theme=theme, has_touch=True)
    page = open_history(visitor)
    visitor.shoot(f"360-{theme}-history")
    page.locator("#history .tile").nth(2).click()
    page.wait_for_selector("#lightbox dl dt")
    visitor.shoot(f"360-{theme}-lightbox")
    swipe(page, -150)
    page.wait_for_function("document.querySelector('#lightbox .place').textContent.startsWith('4 of')")
    swipe(page, 150)
    page.wait_for_function("document.querySelector('#lightbox .place').textContent.startsWith('3 of')")
    for selector in ("#lightbox .acts .act", "#lightbox .restoring .act"):
        for box in (page.locator(selector).nth(i).bounding_box() for i in range(page.locator(selector).count())):
            assert box["height"] >= 40 and box["width"] >= 40 and box["y"] > 370 and box["x"] + box["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def swipe(page: Any, by: int) -> None:
    page.evaluate(
        """by => {
          const frame = document.querySelector("#lightbox .frame-large")
          frame.setPointerCapture = () => {}
          const say = (kind, x) => frame.dispatchEvent(
            new PointerEvent(kind, { pointerId: 1, clientX: x, clientY: 300, bubbles: true }))
          say("pointerdown", 180), say("pointermove", 180 + by), say("pointerup", 180 + by)
        }""",
        by,
    )

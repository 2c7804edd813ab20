"""What is behind the Advanced checkbox: styles, models, LoRAs, presets, as a person meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import ROOT, PageServer, StartPage, Visit, Visitor
from tests.layouts import write_sparse

_KEPT_LOVED = "name => fetch('/kept').then(told => told.json()).then(told => told.values?.loved?.includes(name))"
_KEPT_OPEN = "() => JSON.parse(localStorage.getItem('fooocus.values')).advanced === true"
TEXT_KEY = "lora_unet_middle_block_1_attn2_to_k.lora_down.weight"


def lora(server: PageServer, name: str, words: str = "", width: int = 2048) -> Path:
    file = Path(server.settings["config"]["models"]) / "loras" / name
    file.parent.mkdir(exist_ok=True)
    return write_sparse(file, {TEXT_KEY: (8, width)}, {"modelspec.trigger_phrase": words} if words else {})


@pytest.fixture(scope="module")
def server(page_server: StartPage, tmp_path_factory: pytest.TempPathFactory) -> PageServer:
    styles = tmp_path_factory.mktemp("words") / "styles"
    shutil.copytree(ROOT / "styles", styles)
    server = page_server(config={"styles_folder": str(styles)})
    lora(server, "ink.safetensors", "ink wash, sumi-e")
    lora(server, "grain.safetensors")
    lora(server, "old.safetensors", width=768)
    return server


def control(visitor: Visitor, name: str) -> Any:
    return json.loads(visitor.page.input_value(f"#field-{name} textarea, #field-{name} input"))


def test_loras_are_added_weighed_switched_off_and_their_words_go_into_the_prompt(
    server: PageServer, visit: Visit
) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.type_prompt("a fox,")
    visitor.open_advanced("Models")
    page.click("fooocus-loras .add")
    old = page.get_by_role("option", name="old")
    assert old.get_attribute("aria-disabled") == "true"
    assert "made for Stable Diffusion 1.5" in old.inner_text()
    page.keyboard.type("ink")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="sumi-e").click()
    assert page.input_value("#field-prompt textarea") == "a fox, sumi-e"
    page.wait_for_selector('.word[aria-pressed="true"]')
    page.get_by_label("Weight of LoRA 1").last.fill("0.65")
    page.click("fooocus-loras .add")
    page.keyboard.type("grain")
    page.keyboard.press("Enter")
    page.get_by_label("Use LoRA 2").uncheck()
    visitor.shoot("1440-light-loras")
    page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("finished")
    saved = server.pictures()[-1].read_bytes()
    assert b'["ink.safetensors", 0.65]' in saved and b"grain.safetensors" not in saved
    page.click("[data-keep-seed]")
    page.wait_for_selector('[data-keep-seed][aria-pressed="true"]')
    assert page.input_value("#field-seed textarea, #field-seed input") == page.inner_text("#stage .caption .seed")
    page.reload()
    page.get_by_role("tab", name="Models").click()
    page.wait_for_function("document.querySelectorAll('fooocus-loras .lora').length === 2")
    assert not page.get_by_label("Use LoRA 2").is_checked()
    (Path(server.settings["config"]["models"]) / "loras" / "ink.safetensors").unlink()
    page.click("fooocus-model .refresh")
    page.wait_for_selector('.lora:has-text("It is not in its folder.")')
    page.locator("fooocus-loras .picker-button").last.click()
    assert page.get_by_role("option", name="ink").count() == 0
    lora(server, "ink.safetensors", "ink wash, sumi-e")  # and comes back by itself, also into an open list
    page.get_by_role("option", name="ink").wait_for()
    assert page.evaluate("document.activeElement.className").startswith("picker-search")
    page.keyboard.press("Escape")
    page.wait_for_selector('.lora:has-text("It is not in its folder.")', state="detached")
    page.get_by_role("button", name="Remove LoRA 1").click()
    assert [row["name"] for row in control(visitor, "loras")["rows"]] == ["grain.safetensors"]


def test_styles_are_searched_weighed_ordered_and_shown_in_the_prompt(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.type_prompt("a red fox")
    visitor.open_advanced("Styles")
    page.fill("fooocus-cards .search", "film noir")
    page.wait_for_selector('fooocus-cards .count:has-text("1 found")')
    page.keyboard.press("Tab")  # to the one card that is left
    page.keyboard.press("Enter")
    assert control(visitor, "styles") == ["cinematic-default", "photo-film noir"]
    page.get_by_label("Strength of Film noir").last.fill("0.5")
    page.get_by_role("button", name="Earlier: Film noir").click()
    assert control(visitor, "styles") == ["photo-film noir:0.5", "cinematic-default"]
    page.wait_for_selector('#styled dd:has-text("(film noir photograph of:0.5) a red fox")')
    assert page.inner_text("#styled mark") == "a red fox"
    page.get_by_role("button", name="Favourite: Film noir").click()
    assert page.inner_text("fooocus-cards h3 >> nth=0") == "Favourites"
    visitor.shoot("1440-light-styles")
    page.wait_for_function(_KEPT_LOVED, arg="film noir")
    phone = visit(server.url, storage_state={"cookies": visitor.context.cookies(), "origins": []})
    assert phone.page.input_value("#field-prompt textarea") == "a red fox"
    phone.page.get_by_role("tab", name="Styles").click()
    phone.page.wait_for_selector('fooocus-cards h3:has-text("Favourites")')
    assert phone.page.get_by_role("button", name="Favourite: Film noir").get_attribute("aria-pressed") == "true"
    page.press("#field-prompt textarea", "Enter")
    visitor.wait_phase("finished")
    assert b'["photo-film noir:0.5", "cinematic-default"]' in server.pictures()[-1].read_bytes()
    own = Path(server.settings["config"]["styles_folder"]) / "mine.json"
    own.write_text(json.dumps([{"name": "my <b>ink", "prompt": "ink {prompt}"}]), encoding="utf-8")
    page.fill("fooocus-cards .search", "my")
    page.wait_for_selector('.card-name:has-text("My <b>ink")')  # by itself


def test_a_preset_is_saved_found_changed_renamed_and_deleted(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.open_advanced("Settings")
    page.fill("#field-negative textarea", "blur")
    visitor.set_count(3)
    page.click('fooocus-presets button:has-text("Save as")')
    page.keyboard.type("con")
    page.keyboard.press("Enter")
    page.wait_for_selector('.preset-says:has-text("con cannot be the name of a file.")')
    page.fill("fooocus-presets .inline input", "My portraits")
    page.keyboard.press("Enter")
    page.wait_for_selector('.preset-says:has-text("Saved.")')
    file = Path(server.settings["config"]["styles_folder"]) / "presets" / "My portraits.json"
    assert json.loads(file.read_text(encoding="utf-8"))["request"]["count"] == 3
    page.wait_for_timeout(600)
    page.reload()
    page.wait_for_selector('fooocus-presets .picked:has-text("My portraits")')
    page.wait_for_timeout(600)
    assert "Changed since" not in page.inner_text("fooocus-presets")
    page.click("#reset")
    page.wait_for_function("document.querySelector('#field-count input[type=number]').value === '1'")
    page.click("fooocus-presets .picker-button")
    page.get_by_role("option", name="My portraits").click()
    page.wait_for_function("document.querySelector('#field-count input[type=number]').value === '3'")
    page.wait_for_timeout(300)  # the page is done with the reset before it is with the preset
    assert page.input_value("#field-negative textarea") == "blur"
    page.click("#reset")
    page.wait_for_function("document.querySelector('#field-negative textarea').value === ''")
    page.click('.preset-says button:has-text("Undo")')  # what was lost may have been much work
    page.wait_for_function("document.querySelector('#field-negative textarea').value === 'blur'")
    page.wait_for_selector('fooocus-presets .picked:has-text("My portraits")')
    page.wait_for_function("document.querySelector('#field-count input[type=number]').value === '3'")
    page.wait_for_timeout(600)
    visitor.set_count(4)
    page.wait_for_selector('fooocus-presets:has-text("Changed since")')
    assert page.is_visible("#place-count.changed .back")
    page.click("#place-count .back")
    page.wait_for_function("document.querySelector('#field-count input[type=number]').value === '1'")
    visitor.shoot("1440-light-own-preset")
    page.click('fooocus-presets button:has-text("Rename")')
    page.keyboard.type("People")
    page.keyboard.press("Enter")
    page.wait_for_selector('fooocus-presets .picked:has-text("People")')
    page.click('fooocus-presets button:has-text("Delete")')
    page.keyboard.press("Enter")
    page.wait_for_selector('fooocus-presets .picked:has-text("None chosen")')
    assert not file.exists() and not file.with_name("People.json").exists()


def test_an_errors_button_works_and_the_report_holds_no_words_of_the_person(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.generate("broken Kunigunde in the cellar")
    visitor.wait_phase("failed")
    page.click("[data-report]")
    page.wait_for_selector('[data-report]:has-text("Copied")')
    report = page.evaluate("navigator.clipboard.readText()")
    assert "memory ran out" in report and "Python" in report and "fooocus/jobs/worker.py" in report
    assert "Kunigunde" not in report and str(server.outputs.parent) not in report and str(ROOT) not in report
    first = page.get_attribute("#stage .stage", "data-job")
    page.click('[data-remedy="smaller"]')
    page.wait_for_function("id => document.querySelector('#stage .stage').dataset.job !== id", arg=first)
    visitor.wait_phase("failed")
    assert page.input_value("#field-prompt textarea") == "broken Kunigunde in the cellar"
    other = visit(server.url)
    assert other.page.evaluate("id => fetch(`/ui/report/${id}`).then(answer => answer.status)", first) == 404
    visitor.generate("modelless")
    page.click('[data-remedy="models"]')
    page.wait_for_selector('#tabs [role="tab"][aria-selected="true"]:text-is("Models")')
    page.wait_for_function("document.activeElement?.matches('fooocus-model[field=base] .picker-button')")
    assert page.is_visible('fooocus-model[field="base"] .picker-button')


def test_by_keyboard_alone_on_a_phone(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, width=360, height=740, theme="dark")
    page = visitor.page
    page.focus("#advanced-switch input")
    page.keyboard.press("Space")
    page.wait_for_selector("#advanced", state="visible")
    choose_by_keys(page)
    page.get_by_role("tab", name="Models").focus()
    page.keyboard.press("Enter")
    page.focus('fooocus-model[field="vae"] .picker-button')
    page.keyboard.press("ArrowDown")
    page.wait_for_selector('fooocus-model[field="vae"] .picker-sheet')
    page.keyboard.press("Escape")  # closes the list, not the column
    assert page.is_visible("#advanced")
    focused = page.evaluate("document.activeElement.className")
    assert focused == "picker-button"
    for tab in ("Settings", "Styles", "Models", "More"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        wide = page.evaluate(
            "[...document.querySelectorAll('#advanced *')].filter(one => one.offsetParent && "
            "one.getBoundingClientRect().right > innerWidth + 1).map(one => one.className || one.tagName)"
        )
        assert wide == [], tab
        visitor.shoot(f"360-dark-{tab.lower()}")
    page.keyboard.press("Escape")
    page.wait_for_selector("#advanced", state="hidden")
    # A job that is asked for from the sheet is not hidden by it; on a wide window it would still be open.
    visitor.open_advanced()
    page.wait_for_function(_KEPT_OPEN)
    visitor.generate("endless on a phone")
    page.wait_for_selector("#advanced", state="hidden")
    assert not page.is_checked("#advanced-switch input")
    visitor.wait_phase("running")
    assert page.evaluate(_KEPT_OPEN)
    page.reload()
    visitor.wait_phase("running")
    assert not page.is_visible("#advanced") and page.evaluate(_KEPT_OPEN)
    visitor.open_advanced()
    page.keyboard.press("Escape")
    page.wait_for_selector("#advanced", state="hidden")
    page.wait_for_function(f"!({_KEPT_OPEN})()")


def choose_by_keys(page: Any) -> None:
    """Arrows, Home and End choose among the options of a field, which is one stop for Tab."""
    page.focus("#field-performance input:checked")
    for key, chosen in (("ArrowRight", "Quality"), ("ArrowRight", "Speed"), ("End", "Quality"), ("Home", "Speed")):
        page.keyboard.press(key)
        page.wait_for_selector(f'#field-performance label.selected:has-text("{chosen}")')
        assert page.evaluate("document.activeElement === document.querySelector('#field-performance input:checked')")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('#field-performance *')")
    page.focus("#shapes input")
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('#field-size :is(input, textarea)').value === '192x336'")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#shapes label.selected')?.innerText === '2:3'")


def test_the_end_of_a_job_is_heard_and_seen_only_if_it_is_wished(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page = visitor.page
    visitor.context.grant_permissions(["notifications"])
    page.evaluate(
        """() => {
          window.heard = 0; window.told = []
          const Real = window.AudioContext
          window.AudioContext = class extends Real { constructor() { super(); window.heard += 1 } }
          window.Notification = Object.assign(class { constructor(words) { window.told.push(words) } },
            { permission: "granted", requestPermission: async () => "granted" })
          Object.defineProperty(document, "hidden", { get: () => window.away === true })
        }"""
    )
    visitor.generate("one in silence")
    visitor.wait_phase("finished")
    assert page.evaluate("[window.heard, window.told.length]") == [0, 0]
    visitor.open_advanced("More")
    page.get_by_label("Play a sound").check()  # and it is heard at once how it sounds
    page.get_by_label("Show a notification and mark the tab").check()
    page.evaluate("window.away = true")
    visitor.generate("one to be told of")
    page.wait_for_function("window.heard === 2 && window.told.length === 1")
    assert page.title().startswith("● Done")
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    assert page.title() == "Done – one to be told of"
    page.reload()
    page.wait_for_selector("#field-prompt textarea")
    assert page.evaluate("localStorage.getItem('fooocus.notice')") == '{"sound":true,"note":true}'

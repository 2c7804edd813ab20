"""The page in other languages: before it is painted, without a reload, and never what the person wrote."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import PageServer, Visit, Visitor

# Notes the word that the button has when it is seen first.
_WATCH = """() => {
  const look = () => {
    const go = document.querySelector("#go")
    if (go?.checkVisibility({visibilityProperty: true})) window.seen = go.innerText
    else requestAnimationFrame(look)
  }
  look()
}"""
# What has no translation and needs none: names, the fake engine's own words, and what Gradio says of itself.
_NAMES = re.compile(
    r"(Fooocus|PNG|JPEG|WebP|VAE|LoRA( \d|s)|fake engine.*|Textbox|queue:.*|processing.*|(Loading|Laden|加载中)\.\.\.)"
)


@pytest.fixture(scope="module")
def server(shared_server: PageServer) -> PageServer:
    return shared_server


def missed(visitor: Visitor) -> list[str]:
    return [text for text in visitor.page.evaluate("[...fooocusWords.missed]") if not _NAMES.fullmatch(text)]


def choose(visitor: Visitor, language: str) -> None:
    visitor.page.evaluate("tag => fooocusWords.choose(tag)", language)


def test_it_begins_in_the_browsers_language_and_leaves_own_words_alone(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url, locale="de-AT", before=_WATCH)
    page: Any = visitor.page
    assert page.inner_text(".empty p") == "Was soll zu sehen sein?"
    assert page.inner_text(".examples button >> nth=0") == "A lighthouse at dusk, soft rain"
    assert page.get_attribute("#field-prompt textarea", "placeholder") == "Das Bild beschreiben"
    assert page.get_attribute("html", "lang") == "de"
    assert page.evaluate("seen") == "Generieren"
    assert not page.is_visible("#queue-open")  # there is nothing in it
    page.check("#advanced-switch input")
    page.get_by_role("tab", name="Mehr").click()
    page.wait_for_function("document.querySelector('#field-lines input').value === 'Zusammen'")
    page.get_by_role("tab", name="Einstellungen").click()
    page.fill("#field-count input[type=number]", "9")
    page.press("#field-count input[type=number]", "Tab")

    visitor.generate("slow Styles")  # a word of the dictionary as a prompt
    visitor.wait_phase("running")
    page.wait_for_function(
        "/^Bild [0-9] von 9 · Schritt [0-9]+ von 30 · noch [0-9]+ (s|min)$/"
        ".test(document.querySelector('.count')?.innerText)"
    )
    page.wait_for_function("document.querySelector('.frame img')?.alt === 'Das Bild bis jetzt: slow Styles'")
    visitor.generate("Settings")
    page.wait_for_selector('#queue-open:has-text("1 in der Warteschlange")')
    assert (
        page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--word-stopping')") == '"Hält an"'
    )
    page.click("#stop")
    page.wait_for_selector('#stage .stage[data-title="Done – Settings"]')
    page.wait_for_function("document.title === 'Fertig – Settings'")
    assert page.get_attribute(".frame img", "alt") == "Settings"
    assert page.input_value("#field-prompt textarea") == "Settings"

    page.fill("#field-size input", "1150x896")
    visitor.generate("x")
    page.wait_for_selector("#problem .problem")
    assert page.inner_text("#problem") == "Breite 1150 ist kein Vielfaches von 8. 1152 versuchen."
    assert page.inner_text("#field-size .info-text") == "Breite 1150 ist kein Vielfaches von 8. 1152 versuchen."
    assert missed(visitor) == []


def test_it_changes_without_a_reload_and_is_remembered(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    page: Any = visitor.page
    assert page.inner_text("#go") == "Generate" and page.get_attribute("html", "lang") == "en"
    page.check("#advanced-switch input")
    page.get_by_role("tab", name="More").click()
    page.select_option("#language select", "zh")
    page.wait_for_function("document.querySelector('#go').innerText === '生成'")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert page.inner_text("#language .language span") == "语言"
    visitor.shoot("1440-light-chinese")
    page.reload()
    visitor.open()
    page.get_by_role("tab", name="更多").click()
    assert page.inner_text("#go") == "生成" and page.input_value("#language select") == "zh"
    assert missed(visitor) == []
    before = len(visitor.requests)
    page.select_option("#language select", "es")
    page.wait_for_function("document.querySelector('#go').innerText === 'Generar'")
    page.select_option("#language select", "en")
    page.wait_for_function("document.querySelector('#go').innerText === 'Generate'")
    assert page.get_by_role("tab", name="Settings").count() == 1
    assert [url for url in visitor.requests[before:] if not url.endswith("/ui/words/es.json")] == []
    page.select_option("#language select", "")
    assert page.evaluate("localStorage.getItem('fooocus.language')") is None


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("Fetching 3.1 GB of 13.1 GB, 11 MB/s, 15 min left", "Laden: 3,1 GB von 13,1 GB, 11 MB/s, noch 15 min"),
        (
            "about 12 s – RTX 3060, base and refiner take turns",
            "etwa 12 s – RTX 3060, Basis und Refiner wechseln sich ab",
        ),
        (
            "There is no checkpoint named a b.safetensors. Did you mean a.safetensors?",
            "checkpoint a b.safetensors ist nicht vorhanden. War a.safetensors gemeint?",
        ),
        ("my model.safetensors is made for Flux.", "my model.safetensors ist für Flux gemacht."),
        ("guidance is 99.0. It must lie between 0.0 and 30.0.", "Guidance ist 99.0. Erlaubt ist 0.0 bis 30.0."),
        (
            "The worker process was ended by the system, most likely because memory ran out.",
            "Der Arbeitsprozess wurde vom System beendet, wohl weil der Speicher ausging.",
        ),
        ("The engine is starting again. Something new.", "Die Engine startet neu. Something new."),
        (
            "There is no connection to https://huggingface.co. Trying again in 16 s.",
            "Keine Verbindung zu https://huggingface.co. Neuer Versuch in 16 s.",
        ),
        (
            "Fetching failed. There is no connection to https://huggingface.co.",
            "Das Laden ist fehlgeschlagen. Keine Verbindung zu https://huggingface.co.",
        ),
        (
            "There is no word list __anymal__. Did you mean __animal__, __metal__?",
            "Die Wortliste __anymal__ gibt es nicht. War __animal__, __metal__ gemeint?",
        ),
        ("seed is -5. It must lie between 0 and 9.", "Seed ist -5. Erlaubt ist 0 bis 9."),
        (
            "Everything fits on the card; the picture is decoded in stripes.",
            "Alles passt auf die Karte; das Bild wird in Streifen entwickelt.",
        ),
        (
            "Computes on the processor, because there is no graphics card"
            "; the models are read from their files as they are used.",
            "Der Prozessor rechnet, denn es gibt keine Grafikkarte"
            "; die Modelle werden bei Bedarf aus ihren Dateien gelesen.",
        ),
        ("Go to the sea", "Go to the sea"),
        ("What nobody translated.", "What nobody translated."),
        ("  Done\n", "  Fertig\n"),
    ],
)
def test_sentences_are_put_together(server: PageServer, german_page: Visitor, english: str, german: str) -> None:
    assert german_page.page.evaluate("text => fooocusWords.say(text)", english) == german


@pytest.fixture(scope="module")
def german_page(server: PageServer, chromium: Any) -> Any:
    context = chromium.new_context(locale="de-DE")
    visitor = Visitor(context, context.new_page(), server.url)
    visitor.open()
    yield visitor
    context.close()


def test_a_dictionary_that_does_not_come_leaves_english(server: PageServer, visit: Visit) -> None:
    visitor = visit(server.url)
    visitor.page.route("**/ui/words/*.json", lambda route: route.fulfill(status=500, body="no"))
    choose(visitor, "de")
    assert visitor.page.evaluate("fooocusWords.language()") == "en"
    assert visitor.page.inner_text("#go") == "Generate" and visitor.page.get_attribute("html", "data-words") is None

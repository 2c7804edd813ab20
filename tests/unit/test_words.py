"""The page's dictionaries: complete, without dead keys, and faithful to the holes of their keys."""

from __future__ import annotations

import ast
import re

import pytest

from fooocus.ui.languages import LANGUAGE_CHOICE, LANGUAGES
from tests import page_words
from tests.page_words import STATIC, WORDS, dictionary, elsewhere, found, wanted

_HOLE = re.compile(r"\{\*?(\d)\}")
# In English the verb of the first hole is a letter of the second one.
_FEWER_HOLES = {"Try again: {1}{2}"}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return found()


@pytest.fixture(scope="module")
def keys(texts: dict[str, str]) -> dict[str, str]:
    return wanted(texts)


@pytest.mark.parametrize("language", page_words.LANGUAGES)
def test_every_text_of_the_page_is_translated(keys: dict[str, str], language: str) -> None:
    words = dictionary(language)
    missing = [f"{place}: {key}" for key, place in keys.items() if key not in words]
    stale = [key for key in words if key not in keys]
    assert missing == [], f"{language}.json lacks them; `python -m tests.page_words` lists them"
    assert stale == [], f"nothing says them any more: take them out of {language}.json"


def test_what_is_passed_over_is_still_there(texts: dict[str, str]) -> None:
    assert [text for text in elsewhere() if text not in texts] == []


def test_what_the_command_line_says_too_names_no_button(texts: dict[str, str]) -> None:
    """And on the page a file that has failed is fetched by another button than one that is paused."""
    assert [text for text, place in texts.items() if place.startswith("fooocus/models/") and "press" in text] == []


@pytest.mark.parametrize("language", page_words.LANGUAGES)
def test_a_translation_fills_the_holes_of_its_key(language: str) -> None:
    for key, value in dictionary(language).items():
        wanted_holes, holes = sorted(_HOLE.findall(key)), sorted(_HOLE.findall(value))
        if key in _FEWER_HOLES:
            assert set(holes) < set(wanted_holes)
        else:
            assert holes == wanted_holes, f"{key} -> {value}"
        assert value.strip() == value and value, key
        assert not re.search(r"</?[a-z]+[ >]", value) or "<" in key, f"a dictionary holds texts, no HTML: {key}"


@pytest.mark.parametrize("language", ["de", "es"])
def test_a_sentence_stays_a_sentence(language: str) -> None:
    for key, value in dictionary(language).items():
        assert key.endswith((".", "…")) == value.endswith((".", "…")), f"{key} -> {value}"


def test_the_languages_offered_are_those_there_are() -> None:
    script = (STATIC / "words.js").read_text(encoding="utf-8")
    listed = ast.literal_eval(re.findall(r"const LANGUAGES = (\[.*?\]);", script)[0])
    assert sorted(listed) == sorted(LANGUAGES) == sorted(["en", *(file.stem for file in WORDS.glob("*.json"))])
    assert all(f'<option value="{tag}"' in LANGUAGE_CHOICE for tag in LANGUAGES)


def test_texts_of_the_stylesheet_are_known_to_the_script() -> None:
    style = "".join(file.read_text(encoding="utf-8") for file in sorted(STATIC.glob("*.css")))
    used = dict(re.findall(r'var\((--word-[\w-]+), "([^"]+)"\)', style))
    script = (STATIC / "words.js").read_text(encoding="utf-8")
    told = dict(re.findall(r'"(--word-[\w-]+)": "([^"]+)"', script))
    assert used == told and used
    assert not re.findall(r'content: "[^"]*[A-Za-z]', style), "texts in the stylesheet go through a --word- variable"


def test_texts_are_found_in_every_form() -> None:
    source = '''
def f(n, x):
    """Not a docstring's text."""
    log.info("not what a log says")
    raise SomeError(f"There {'is' if n == 1 else 'are'} {n} of {x}.", "Close some " + x)
    return f'<p class="a b" title="Be quick">Look here<i>{x}</i> and there</p>' + "<b>paused</b>"
'''
    texts = [key for text, _ in page_words._texts(ast.parse(source), "ui/x.py") for key in page_words._keys(text, True)]
    assert set(texts) == {
        "There is {1} of {2}.",
        "There are {1} of {2}.",
        "Close some {1}",
        "Be quick",
        "Look here",
        "and there",
    }
    script = 'const a = "Copy the report."; // not this one\nconst b = `${n} pictures chosen`; q("#stage .stage p")'
    said = [text for text, _ in page_words._script_texts(script)]
    assert said == ["Copy the report.", f"{page_words._HOLE} pictures chosen"]

"""The day's page: appended to, escaped, and whole again after a crash."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from fooocus.errors import StorageError
from fooocus.images.foreign import Known, read_pasted
from fooocus.images.log import append_to_log
from fooocus.request import LoraUse, Recipe, Size

VECTORS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></details><iframe src=javascript:alert(1)>",
    "--><script>alert(1)</script><!--",
    "<!-- end of block -->\n<script>alert(1)</script>",
    "]]><a href=javascript:alert(1)>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<style>@import 'http://x'</style>",
    "<base href=//x>",
    "<meta http-equiv=refresh content=0>",
    "\x00<scr\x00ipt>",
    "\ud83d<b>half</b>",
    "<\u017fcript>",
)
WRAPS = (
    "{}",
    "a {} b",
    '"{}"',
    "'{}'",
    "{}\n{}",
    "<{}>",
    "${{{}}}",
    "%3C{}",
    "&{};",
    "={}",
    "`{}`",
    "{}/*",
    "//{}",
    ")({}",
)


def recipe(text: str = "a fox") -> Recipe:
    return Recipe(
        prompt=text,
        negative=text,
        styles=(text,),
        positive_text=text,
        negative_text=text,
        size=Size(64, 64),
        seed=7,
        steps=30,
        switch=21,
        guidance=7.0,
        sampler="euler",
        schedule="karras",
        base=text,
        refiner="r",
        loras=(LoraUse(text, 0.5),),
        vae=text,
        clip_skip=2,
        size_positive=1.5,
        size_negative=0.8,
        size_until=1.0,
    )


class Reader(HTMLParser):
    """Collect tags with their attributes, and the text of prompts and recipes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.texts: dict[str, list[str]] = {"p": [], "pre": []}
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.texts:
            self.texts[self.inside][-1] += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_pictures_are_appended(tmp_path: Path) -> None:
    page = append_to_log(tmp_path / "a 1.png", recipe("one"))
    first = page.read_bytes()
    append_to_log(tmp_path / "b.png", recipe("two"))
    assert page == tmp_path / "index.html"
    assert page.read_bytes().startswith(first), "what was written is not touched"
    reader = read(page)
    assert reader.texts["p"] == ["one", "two"]
    assert reader.addresses == ["a%201.png"] * 2 + ["b.png"] * 2
    whole = page.read_bytes()
    append_to_log(tmp_path / "b.png", recipe("two"))
    assert page.read_bytes() == whole, "a picture is listed once"


def test_the_recipe_can_be_pasted_back(tmp_path: Path) -> None:
    odd = recipe('Füchse <b>&amp; "狐" \ud83d')
    found = read_pasted(read(append_to_log(tmp_path / "a.png", odd)).texts["pre"][0], Known())
    assert found is not None and found.recipe == odd


def test_nothing_in_a_recipe_becomes_markup(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    clean = read(append_to_log(tmp_path / "clean" / "a.png", recipe()))
    payloads = [wrap.replace("{}", vector) for vector, wrap in itertools.product(VECTORS, WRAPS)]
    assert len(payloads) >= 200
    for number, payload in enumerate(payloads):
        page = append_to_log(tmp_path / f"{number}.png", recipe(payload.replace("/", "|")))
        append_to_log(tmp_path / payload.replace("/", "|").replace("\x00", "")[:60], recipe(payload))
    reader = read(page)
    blocks = 2 * len(payloads)
    article = clean.tags.index(next(tag for tag in clean.tags if tag[0] == "article"))
    head, block = clean.tags[:article], clean.tags[article:]
    body = reader.tags[len(head) :]
    assert reader.tags[: len(head)] == head
    assert set(body) == set(block)
    for name in ("article", "img", "pre", "p", "a"):
        assert sum(tag == name for tag, _ in body) == blocks
    assert all(":" not in address and not address.startswith("/") for address in reader.addresses)
    assert unquote(reader.addresses[-1]) == payloads[-1].replace("/", "|")[:60]


def test_a_torn_block_is_removed(tmp_path: Path) -> None:
    page = append_to_log(tmp_path / "a.png", recipe("one"))
    whole = page.read_bytes()
    append_to_log(tmp_path / "b.png", recipe("two"))
    both = page.read_bytes()
    for cut in (len(whole) + 1, len(whole) + 60, len(both) - 1):
        page.write_bytes(both[:cut])
        append_to_log(tmp_path / "c.png", recipe("three"))
        assert read(page).texts["p"] == ["one", "three"]
    page.write_bytes(whole[:100])
    append_to_log(tmp_path / "c.png", recipe("three"))
    assert read(page).texts["p"] == ["three"]


def test_what_somebody_else_wrote_is_never_deleted(tmp_path: Path) -> None:
    for foreign in (b"<html>my page</html>", b"<!DOCTYPE html>\n<html><article id='x'>"):
        (tmp_path / "index.html").write_bytes(foreign)
        page = append_to_log(tmp_path / "a.png", recipe("one"))
        assert page == tmp_path / "index_2.html" and read(page).texts["p"] == ["one"]
        assert (tmp_path / "index.html").read_bytes() == foreign
    note = page.read_bytes() + b"<p>my note</p>\n"
    page.write_bytes(note)
    assert append_to_log(tmp_path / "b.png", recipe("two")).read_bytes().startswith(note)


def test_a_torn_block_of_the_same_picture_is_written_again(tmp_path: Path) -> None:
    page = append_to_log(tmp_path / "a.png", recipe("one"))
    whole = page.read_bytes()
    page.write_bytes(whole[:-40])
    assert append_to_log(tmp_path / "a.png", recipe("one")).read_bytes() == whole


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"index\.html"):
        append_to_log(tmp_path / "gone" / "a.png", recipe())

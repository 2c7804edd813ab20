"""Say what in a prompt will not work, while it is typed: nothing here raises, everything comes with its place."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fooocus.errors import RequestError
from fooocus.prompt import language, wildcards
from fooocus.prompt.language import file_key
from fooocus.prompt.styles import Styles
from fooocus.prompt.wildcards import WordLists
from fooocus.request import MAX_PROMPT_CHARACTERS

MAX_PROBLEMS = 50  # nobody reads more at once

_BRACKET = re.compile(r"\\[()]|[()]")
_ARRAY_MARK = re.compile(r"\[\[|\]\]")
_EMBEDDING = re.compile(r"embedding:([^\s,:()<>\[\]]{1,200})", re.IGNORECASE)
_LORA_START = re.compile(r"<lora\b(?!:[^<>]*>)", re.IGNORECASE)


class Problem(NamedTuple):
    """A place in a prompt, ``[start, end)`` in characters, and a sentence for the person."""

    span: tuple[int, int]
    sentence: str


@dataclasses.dataclass(frozen=True)
class Names:
    """Hold what a prompt may refer to. Files may be given with folder and suffix."""

    styles: Styles = dataclasses.field(default_factory=Styles)
    lists: WordLists = dataclasses.field(default_factory=WordLists)
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()


def check(text: str, names: Names) -> list[Problem]:
    """Return the problems of a prompt by place, at most :data:`MAX_PROBLEMS`."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        return [Problem((MAX_PROMPT_CHARACTERS, len(text)), f"Only {MAX_PROMPT_CHARACTERS} characters are read.")]
    checks: tuple[Callable[[str, Names], Iterator[Problem]], ...] = (
        _brackets,
        _arrays,
        _lists,
        _loras,
        _embeddings,
        _flags,
    )
    return sorted(problem for one in checks for problem in one(text, names))[:MAX_PROBLEMS]


def _brackets(text: str, _: Names) -> Iterator[Problem]:
    opened: list[int] = []
    for match in _BRACKET.finditer(text):
        if match[0] == "(":
            opened.append(match.start())
        elif match[0] == ")" and opened:
            opened.pop()
        elif match[0] == ")":
            yield Problem(match.span(), "This bracket closes nothing and is read as text.")
    for place in opened:
        yield Problem((place, place + 1), "This bracket is never closed and is read as text.")


def _arrays(text: str, _: Names) -> Iterator[Problem]:
    opened: int | None = None
    for match in _ARRAY_MARK.finditer(text):
        if match[0] == "[[":
            if opened is not None:
                yield Problem((opened, opened + 2), "This array is never closed and is read as text.")
            opened = match.start()
        elif opened is None:
            yield Problem(match.span(), "These brackets close no array and are read as text.")
        else:
            if "," not in text[opened : match.start()]:
                yield Problem((opened, match.end()), "An array of one item is read as text; write [[red, green]].")
            opened = None
    if opened is not None:
        yield Problem((opened, opened + 2), "This array is never closed and is read as text.")


def _lists(text: str, names: Names) -> Iterator[Problem]:
    for match in wildcards.PATTERN.finditer(text):
        try:
            names.lists.find(match[1])
        except RequestError as error:
            yield Problem(match.span(), str(error))


def _loras(text: str, names: Names) -> Iterator[Problem]:
    seen: set[str] = set()
    for start, end, inside in language.lora_tags(text):
        try:
            use = language.lora_use(inside)
        except RequestError as error:
            yield Problem((start, end), str(error))
            continue
        key = file_key(use.name)
        if key in seen:
            yield Problem((start, end), f"The LoRA {use.name} was named before; this tag is not used.")
        elif sentence := _unknown("LoRA", use.name, names.loras):
            yield Problem((start, end), sentence)
        seen.add(key)
    for match in _LORA_START.finditer(text):
        yield Problem(match.span(), "This is read as text; a LoRA is written <lora:name:0.5>.")


def _embeddings(text: str, names: Names) -> Iterator[Problem]:
    for match in _EMBEDDING.finditer(text):
        if sentence := _unknown("embedding", match[1], names.embeddings):
            yield Problem(match.span(), sentence)


def _flags(text: str, names: Names) -> Iterator[Problem]:
    for flag in language.flags(text):
        span = (flag.start, flag.end)
        if not flag.known:
            yield Problem(span, f"--{flag.name} has no meaning here and is left out.")
            continue
        try:
            asked = language.take_directions(text[flag.start : flag.end])[1]
            for style in asked.styles or ():
                names.styles.choose((style,), 0)
        except RequestError as error:
            yield Problem(span, str(error))
    for start, end, name in language.unknown_flags(text):
        yield Problem((start, end), f"--{name} is not a flag and is read as text.")


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence naming near files when ``name`` is none of ``known``, else nothing."""
    keys = {file_key(file): file for file in known}
    if file_key(name) in keys:
        return ""
    near = difflib.get_close_matches(file_key(name)[:100], keys, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(keys[key] for key in near)}?" if near else ""
    return f"There is no {kind} named {name[:60]}.{hint}"

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
LARGEST_USEFUL_WEIGHT = 5.0  # beyond it the picture falls apart

_BRACKET = re.compile(r"\\[()]|[()]")
_NUMBER_LIKE = re.compile(r"\s*[+-]?[.,]*\d[\d.,]*\s*")
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
    previous = 0
    for match in _BRACKET.finditer(text):
        if match[0] == "(":
            opened.append(match.start())
        elif match[0] == ")" and opened:
            yield from _weight(text, max(opened.pop() + 2, previous), match.start())
        elif match[0] == ")":
            yield Problem(match.span(), "This bracket closes nothing and is read as text.")
        previous = match.end()
    for place in opened:
        yield Problem((place, place + 1), "This bracket is never closed and is read as text.")


def _weight(text: str, start: int, end: int) -> Iterator[Problem]:
    """Judge the number behind the last colon between two brackets."""
    colon = text.rfind(":", start, end)
    number = text[colon + 1 : end]
    if colon < 0 or len(number) > 40 or not _NUMBER_LIKE.fullmatch(number):
        return
    try:
        too_large = abs(float(number)) > LARGEST_USEFUL_WEIGHT
    except ValueError:
        yield Problem((colon + 1, end), "This weight is no number and is read as text; write (fox:1.2).")
        return
    if too_large:
        yield Problem((colon + 1, end), f"A weight over {LARGEST_USEFUL_WEIGHT:g} spoils the picture; try 1.2.")


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
            if len(language.array_items(text[opened + 2 : match.start()])) < 2:
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
    yield from _tags(text, 0, names)
    for place, item in language.items_in_place(text):
        yield from _tags(item, place, names)
    for match in _LORA_START.finditer(text):
        yield Problem(match.span(), "This is read as text; a LoRA is written <lora:name:0.5>.")


def _tags(text: str, place: int, names: Names) -> Iterator[Problem]:
    """Check the tags of the prompt, or those of an item at ``place``."""
    seen: set[str] = set()
    for start, end, inside in language.lora_tags(text):
        span = (place + start, place + end)
        try:
            use = language.lora_use(inside)
        except RequestError as error:
            yield Problem(span, str(error))
            continue
        key = file_key(use.name)
        if key in seen:
            yield Problem(span, f"The LoRA {use.name} was named before; this tag is not used.")
        elif sentence := _unknown("LoRA", use.name, names.loras):
            yield Problem(span, sentence)
        seen.add(key)


def _embeddings(text: str, names: Names) -> Iterator[Problem]:
    for match in _EMBEDDING.finditer(text):
        if sentence := _unknown("embedding", match[1], names.embeddings):
            yield Problem(match.span(), sentence)


def _flags(text: str, names: Names) -> Iterator[Problem]:
    yield from _flags_of(text, 0, names)
    for place, item in language.items_in_place(text):
        yield from _flags_of(item, place, names, in_array=True)


def _flags_of(text: str, place: int, names: Names, *, in_array: bool = False) -> Iterator[Problem]:
    """Check the flags of the prompt, or those of an item at ``place``."""
    seen: set[str] = set()
    at = 0
    for flag in language.flags(text):
        span = (place + flag.start, place + flag.end)
        if "\n" in text[at : flag.start]:
            seen.clear()  # lines may be prompts of their own
        at = flag.end
        if sentence := _flag_problem(flag, text[flag.start : flag.end], names, in_array=in_array):
            yield Problem(span, sentence)
        elif flag.name in seen:
            yield Problem(span, f"--{flag.name} was said before; the first one counts.")
        if flag.name != "no":  # what several of these name is joined
            seen.add(flag.name)
    for start, end, name in language.unknown_flags(text):
        yield Problem((place + start, place + end), f"--{name} is not a flag and is read as text.")


def _flag_problem(flag: language.Flag, text: str, names: Names, *, in_array: bool) -> str:
    if not flag.known:
        return f"--{flag.name} has no meaning here and is left out."
    try:
        asked = language.take_directions(text)[1]
        for style in asked.styles or ():
            names.styles.choose((style,), 0)
    except RequestError as error:
        return str(error)
    return language.whole_sentence(flag.name) if in_array and asked.whole else ""


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence naming near files when ``name`` is none of ``known``, else nothing."""
    keys = {file_key(file): file for file in known}
    if file_key(name) in keys:
        return ""
    near = difflib.get_close_matches(file_key(name)[:100], keys, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(keys[key] for key in near)}?" if near else ""
    return f"There is no {kind} named {name[:60]}.{hint}"

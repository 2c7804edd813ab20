"""Styles: text templates put around a prompt, read from JSON files that a person can add to.

A file holds a list of ``{"name", "prompt", "negative_prompt"}``; ``{prompt}`` in a template marks where the person's
words go. This is the format that style files for SDXL have been shared in since 2023, so they can be dropped in as they
are. A file that cannot be read is reported in :attr:`Styles.problems` and costs nobody the other styles.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fooocus.errors import RequestError
from fooocus.request import NONE

PLACE = "{prompt}"
RANDOM = "random-style"  # the name by which a person asks for a style drawn by seed
# Ours are read first, so that a person's file of the same style names wins.
SHIPPED = ("default", "sai", "ads", "artstyle", "futuristic", "game", "misc", "papercraft", "photo")
MAX_FILE_BYTES = 4 * 2**20  # the largest shared collections are a quarter of this
MAX_STRENGTH = 4.0


@dataclasses.dataclass(frozen=True)
class Style:
    """Hold one template. ``file`` is the name of the file it came from."""

    name: str
    prompt: str
    negative: str = ""
    file: str = ""


class StyleUse(NamedTuple):
    """A style and the weight at which its own words count; 1 writes the template as it stands."""

    style: Style
    strength: float = 1.0

    @property
    def reference(self) -> str:
        """The text by which :meth:`Styles.use` finds this use again."""
        return self.style.name if self.strength == 1.0 else f"{self.style.name}:{self.strength:g}"


@dataclasses.dataclass(frozen=True)
class Styles:
    """Hold the styles of a folder by name, in reading order, and what was wrong with its files."""

    by_name: Mapping[str, Style] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names in reading order."""
        return tuple(self.by_name)

    def find(self, name: str) -> Style:
        """Return the style called ``name``; case, hyphens and underscores do not matter (``SAI Anime``: sai-anime).

        Raises :class:`~fooocus.errors.RequestError` naming the nearest styles.
        """
        if name in self.by_name:
            return self.by_name[name]
        keys = {_key(known): style for known, style in self.by_name.items()}
        if _key(name) in keys:
            return keys[_key(name)]
        raise RequestError("styles", f"There is no style {name[:60]!r}.", self._remedy(name))

    def use(self, reference: str) -> StyleUse:
        """Return the style of ``name`` or ``name:strength``; a name that holds a colon itself is tried first."""
        name, colon, number = reference.rpartition(":")
        if not colon or reference in self.by_name:
            return StyleUse(self.find(reference))
        if not re.fullmatch(r"\s*\d{1,2}(\.\d{0,6})?\s*", number):
            return StyleUse(self.find(reference))
        strength = float(number)
        if strength > MAX_STRENGTH:
            raise RequestError(
                "styles", f"The strength of {name[:60]} is {number}.", f"It must lie between 0 and {MAX_STRENGTH:g}."
            )
        return StyleUse(self.find(name), strength)

    def choose(self, references: Sequence[str], seed: int) -> tuple[StyleUse, ...]:
        """Return the uses for one picture; each ``random-style`` is drawn by ``seed``."""
        generator = random.Random(f"styles {seed}")  # a sequence apart from the one that word lists draw from
        return tuple(
            self._draw(generator) if _key(reference) == _key(RANDOM) else self.use(reference)
            for reference in references
            if _key(reference) not in ("", NONE)
        )

    def _draw(self, generator: random.Random) -> StyleUse:
        styles = tuple(self.by_name.values())
        if not styles:
            raise RequestError("styles", "There is no style to draw from.", "Put a style file into the styles folder.")
        # random() is the one method whose sequence is promised to stay the same in every Python version.
        return StyleUse(styles[int(generator.random() * len(styles))])

    def _remedy(self, name: str) -> str:
        keys = {_key(known): known for known in self.by_name}
        near = difflib.get_close_matches(_key(name)[:100], keys, n=3, cutoff=0.5)
        if near:
            return f"Did you mean {', '.join(keys[key] for key in near)}?"
        return "Choose one from the list of styles, or none."


def load_styles(folder: Path) -> Styles:
    """Read every ``*.json`` directly in ``folder``: ours first, then the others by name; a later name wins."""
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem not in SHIPPED, _rank(file.stem), file.name))
    by_name: dict[str, Style] = {}
    problems: list[str] = []
    for file in files:
        for style in _read_file(file, problems):
            if _key(style.name) != NONE:  # many shared files begin with a "None" that changes nothing
                by_name[style.name] = style
    return Styles(by_name, tuple(problems))


def apply_styles(prompt: str, negative: str, styles: Iterable[Style | StyleUse]) -> tuple[str, str]:
    """Return the positive and the negative text.

    Each template takes the text so far in the place of ``{prompt}``, so the first style is the innermost; a template
    without that place is added behind a comma. Blanks, commas and full stops at the end of the text are left out before
    words follow it. Negative texts follow in the order of the styles, the person's last,
    joined by commas; empty parts are left out, so that two empty negatives stay the empty text (the first Fooocus
    encoded a lone comma there). Without styles both texts come back as they were given.
    """
    negatives: list[str] = []
    for item in styles:
        style, strength = item if isinstance(item, StyleUse) else StyleUse(item)
        if strength == 0.0:
            continue
        if style.prompt:
            prompt = prompt.rstrip(" \t\r\n,.")
        before, place, after = style.prompt.partition(PLACE)
        if not place:
            prompt = _join((prompt, _weigh(style.prompt, strength)))
        else:
            prompt = _weigh(before, strength) + prompt + _weigh(after.replace(PLACE, prompt), strength)
        negatives.append(_weigh(style.negative, strength))
    return prompt, _join((*negatives, negative))


def _weigh(text: str, strength: float) -> str:
    """Give ``text`` a weight; spaces and commas at its ends stay outside of the brackets."""
    if strength == 1.0:
        return text
    core = text.strip(" ,.")
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}({core}:{strength:g}){text[start + len(core) :]}"


def _join(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


def _key(name: str) -> str:
    return re.sub(r"[-_\s]+", " ", name).strip().casefold()


def _rank(stem: str) -> int:
    return SHIPPED.index(stem) if stem in SHIPPED else len(SHIPPED)


def _read_file(file: Path, problems: list[str]) -> list[Style]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is larger than 4 MB")
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(entries, list):
            raise ValueError("it must hold a list of styles")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"Style file {file.name} was left out: {error}.")
        return []
    styles = []
    for number, entry in enumerate(entries, start=1):
        try:
            styles.append(_read_style(entry, file.name))
        except ValueError as error:
            problems.append(f"Style {number} of {file.name} was left out: {error}.")
    return styles


def _read_style(entry: Any, file: str) -> Style:
    if not isinstance(entry, dict):
        raise ValueError('it is not of the form {"name": ..., "prompt": ..., "negative_prompt": ...}')
    values = []
    for key in ("name", "prompt", "negative_prompt"):
        value = entry.get(key, "")
        if not isinstance(value, str):
            raise ValueError(f"{key} is not text")
        values.append(value)
    name, prompt, negative = values
    name = name.strip()
    if not name:
        raise ValueError("it has no name")
    if not prompt and not negative:
        raise ValueError(f"{name[:60]} is empty")
    if _key(name) == _key(RANDOM):
        raise ValueError(f"{name} is a word of the program")
    return Style(name, prompt, negative, file)

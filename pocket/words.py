"""Pocket's vocabulary: the few hundred of CLIP's 49,408 tokens that its captions and style templates are made of.

Training works on a table with one row for each of them and one row for all others, "the stranger", which is sprinkled
into captions so that unknown words come to mean nothing. Only :mod:`pocket.export` writes out the table of full length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fooocus.families.tokenizer import BOS, EOS, VOCABULARY, WINDOW, clip_tokenizer
from fooocus.prompt.styles import Style, StyleUse, apply_styles, load_styles
from pocket.world import LOOK_OF_STYLE, LOOKS, MIXES, Level, Scene, caption, scene

STRANGER = 0
_LISTENED = 6000  # captions that are heard to learn all words there are; the rarest comes 40 times
PAD_G = 0  # CLIP's id of "!", with which SDXL fills G's windows
STYLES_FOLDER = Path(__file__).resolve().parent.parent / "styles"

EMPTY, NEGATIVE = 0.06, 0.05  # parts of the captions that say nothing, or only what a style does not want
OTHER_STYLE, STRANGERS, CROWD = 0.15, 0.25, 0.1  # wrapped in a style that shows nothing; with few or many strangers


class Words:
    """Turns texts into token ids, with the numbers of the short table or with CLIP's."""

    def __init__(self) -> None:
        styles = load_styles(STYLES_FOLDER)
        self.drawn: dict[str, list[Style]] = {look: [] for look in LOOKS}
        self.other: list[Style] = []
        for name, style in styles.by_name.items():
            (self.drawn[LOOK_OF_STYLE[name]] if name in LOOK_OF_STYLE else self.other).append(style)
        texts = [f"{style.prompt} {style.negative}" for found in self.drawn.values() for style in found]
        rng = np.random.default_rng(0)
        texts += [caption(scene(rng, 9, 7), rng) for _ in range(_LISTENED)]
        self._heard: dict[str, tuple[int, ...]] = {}
        known = {token for text in texts for token in self._tokens(text.replace("{prompt}", " "))}
        self.known = sorted({PAD_G, BOS, EOS, *known})
        """CLIP's id of each row of the short table, from row 1 on."""
        self._row = np.zeros(VOCABULARY, np.int64)
        self._row[self.known] = np.arange(1, len(self.known) + 1)

    def __len__(self) -> int:
        return len(self.known) + 1

    @property
    def begin(self) -> int:
        """The row of the sign that begins a text."""
        return int(self._row[BOS])

    @property
    def end(self) -> int:
        """The row of the sign that ends a text; the last one."""
        return int(self._row[EOS])

    def rows(self, texts: Sequence[str], rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (B, 77) for L and for G, which differ in the padding; ``rng`` adds strangers."""
        rows_l = np.full((len(texts), WINDOW), self.end, np.int64)
        rows_g = np.full((len(texts), WINDOW), self._row[PAD_G], np.int64)
        for number, text in enumerate(texts):
            tokens = self._row[self._tokens(text)] if text.strip() else np.zeros(0, np.int64)
            if rng is not None:
                tokens = _with_strangers(tokens, rng)
            tokens = np.concatenate([[self.begin], tokens[: WINDOW - 2], [self.end]])
            rows_l[number, : len(tokens)] = rows_g[number, : len(tokens)] = tokens
        return rows_l, rows_g

    def text(self, shown: Scene, level: Level, rng: np.random.Generator, *, background: bool = True) -> str:
        """Say a scene in one of its phrasings, often with a style's template around it.

        A template stands for the look in place of its word. Templates that show nothing, here or at this level of the
        world, are put around any caption, so that they come to mean nothing.
        """
        mute = self.mute(level)
        if shown.look and self.drawn[shown.look] and rng.random() < 0.5:
            style = _one(self.drawn[shown.look], rng)
            return _wrap(style, caption(_plain(shown), rng, background=background))
        text = caption(shown, rng, background=background)
        return _wrap(_one(mute, rng), text) if rng.random() < OTHER_STYLE else text

    def mute(self, level: Level) -> list[Style]:
        """Return the styles that show nothing at this level of the world."""
        worn = MIXES[level].worn
        return [*self.other, *(style for look, found in self.drawn.items() if look not in worn for style in found)]

    def _unlike(self, look: str) -> list[Style]:
        """Return the styles of all other looks: what they do not want says nothing against this one."""
        return [style for other, found in self.drawn.items() if other != look for style in found]

    def heard(self, shown: Scene, level: Level, rng: np.random.Generator, *, background: bool = True) -> str:
        """Return :meth:`text`, or now and then nothing or what a style does not want: then any picture will do."""
        chance = rng.random()
        if chance < EMPTY:
            return ""
        if chance < EMPTY + NEGATIVE:
            return _one([*self.other, *self._unlike(shown.look)], rng).negative
        return self.text(shown, level, rng, background=background)

    def _tokens(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self._heard:
                self._heard[word] = tuple(clip_tokenizer().word(word))
        return [token for word in text.split() for token in self._heard[word]]


def _wrap(style: Style, text: str) -> str:
    return apply_styles(text, "", [StyleUse(style)])[0]


def _one(styles: Sequence[Style], rng: np.random.Generator) -> Style:
    return styles[int(rng.integers(len(styles)))]


def _plain(shown: Scene) -> Scene:
    return dataclasses.replace(shown, look="")


def _with_strangers(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    chance = rng.random()
    if chance < CROWD:  # in one place: in front, behind, or in the midst of what is meant
        place = int(rng.choice([0, len(tokens), rng.integers(0, len(tokens) + 1)]))
        return np.insert(tokens, [place] * int(rng.integers(5, 40)), STRANGER)
    if chance < CROWD + STRANGERS:
        places = rng.integers(0, len(tokens) + 1, int(rng.integers(1, 4)))
        return np.insert(tokens, places, STRANGER)
    return tokens

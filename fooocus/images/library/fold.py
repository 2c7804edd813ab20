"""Texts as a search compares them: without case, accents and the width of letters."""

from __future__ import annotations

import unicodedata

MAX_TERMS = 16
MAX_CHARACTERS = 20_000  # of a prompt that can be found by; what comes later is not searched

# Letters that Unicode takes for whole, though people type them as two or without their stroke.
_WHOLE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ŧ": "t"}
)


def fold(text: str) -> str:
    """Return ``text`` so that two spellings of one word are equal: ``Čapek`` and ``capek``, ``ＣＡＴ`` and ``cat``."""
    text = text[:MAX_CHARACTERS].casefold()
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in apart if unicodedata.category(c) not in ("Mn", "Cs")).casefold().translate(_WHOLE)
    return text.replace("\0", " ")


def terms(query: str) -> tuple[str, ...]:
    """Return the words that a picture must have, in any order, each once; a word may be a part of a longer one."""
    return tuple(dict.fromkeys(fold(query[:1000]).split()))[:MAX_TERMS]

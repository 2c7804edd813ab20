"""The notes that a maker leaves in a model file's header: free texts, shown and never trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TRIGGER_TAGS = 10  # of the trainer's tag counts, how many are worth showing
LONGEST_WORD = 120  # a longer "word" is a caption or a mistake
_SAID = ("modelspec.trigger_phrase", "trigger_phrase", "ss_trigger_words")


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words its maker says a LoRA listens to, else the tags it was trained with most; often none."""
    for key in _SAID:
        if phrase := metadata.get(key, "").strip():
            words = (word.strip() for word in phrase.split(","))
            return tuple(dict.fromkeys(word for word in words if _is_word(word)))
    counts: dict[str, int] = {}
    for tags in json_note(metadata.get("ss_tag_frequency")).values():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if _is_word(word := tag.strip()):
                counts[word] = counts.get(word, 0) + (count if isinstance(count, int) else 0)
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:TRIGGER_TAGS])


def json_note(text: str | None) -> dict[str, Any]:
    """Parse a note that should be a JSON object; anything else counts as empty."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_word(text: str) -> bool:
    """Whether a text can be shown and kept: a header may hold control characters and lone surrogates."""
    return 0 < len(text) <= LONGEST_WORD and text.isprintable()

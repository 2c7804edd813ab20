"""All word files of a folder in one value: styles, and below it ``wildcards/`` and ``presets/``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fooocus.prompt.presets import Presets, load_presets
from fooocus.prompt.styles import Styles, load_styles
from fooocus.prompt.wildcards import WordLists, load_word_lists


@dataclasses.dataclass(frozen=True)
class Stock:
    """Hold what prompts and requests may name."""

    styles: Styles = dataclasses.field(default_factory=Styles)
    lists: WordLists = dataclasses.field(default_factory=WordLists)
    presets: Presets = dataclasses.field(default_factory=Presets)

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with the files, one sentence each."""
        return self.styles.problems + self.lists.problems + self.presets.problems


def load_stock(folder: Path) -> Stock:
    """Read the styles folder; a file that cannot be read is a problem, a missing folder is an empty one."""
    return Stock(load_styles(folder), load_word_lists(folder / "wildcards"), load_presets(folder / "presets"))

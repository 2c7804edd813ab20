"""All word files of a folder in one value: styles, and below it ``wildcards/`` and ``presets/``."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from fooocus.prompt.presets import Presets, load_presets
from fooocus.prompt.styles import Styles, load_styles
from fooocus.prompt.wildcards import WordLists, load_word_lists

_LISTS, _PRESETS = "wildcards", "presets"


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
    """Read the styles folder; a file that cannot be read is a problem, a missing folder is an empty one.

    Somebody who types asks for it at every key, so files are read again only when one of them has changed.
    """
    return _load(folder, tuple(_stamps(folder)))


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield path, time and size of every file in a folder and below."""
    # A walk enters no links but the one it begins at, and word lists or presets are shared with other programs so.
    linked = (folder / name for name in (_LISTS, _PRESETS) if (folder / name).is_symlink())
    for parent, folders, names in itertools.chain(*map(os.walk, (folder, *linked))):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                found = os.stat(path)
                yield path, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _load(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Stock:
    return Stock(load_styles(folder), load_word_lists(folder / _LISTS), load_presets(folder / _PRESETS))

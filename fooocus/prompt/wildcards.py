"""Word lists: ``__animal__`` in a prompt becomes a line of ``animal.txt``.

Lists are read once, by a scan of their folder, and looked up by name in a dictionary; a name in a prompt never becomes
a path. Lists may name other lists. A list that names itself, directly or around a corner, is an error in words.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
import re
from collections.abc import Mapping
from pathlib import Path

from fooocus.errors import RequestError
from fooocus.request import MAX_PROMPT_CHARACTERS

# The length bound keeps the search linear: without it, every "__" could be compared with the whole rest of the text.
PATTERN = re.compile(r"__([^\W_](?:[\w/-]{0,80}?[^\W_])?)__")
MAX_FILE_BYTES = 2**20
MAX_FILES = 5000
MAX_DEPTH = 64
MAX_REPLACEMENTS = 10_000


@dataclasses.dataclass(frozen=True)
class WordLists:
    """Hold the lines of each list by its name (``flower``, ``places/city``), and what was wrong with the files."""

    by_name: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(self.by_name)

    def find(self, name: str) -> str:
        """Return the full name of the list that ``name`` means: with its folder, or without where that is unique.

        Raises :class:`~fooocus.errors.RequestError` naming near lists.
        """
        if name in self.by_name:
            return name
        wanted = name.casefold()
        found = [known for known in self.by_name if wanted in (known.casefold(), known.rpartition("/")[2].casefold())]
        if len(found) == 1:
            return found[0]
        near = found or difflib.get_close_matches(name, self.by_name, n=3, cutoff=0.5)
        remedy = f"Did you mean {', '.join(f'__{known}__' for known in near)}?" if near else "See the list of names."
        raise RequestError("prompt", f"There is no word list __{name}__.", remedy)


def load_word_lists(folder: Path) -> WordLists:
    """Read every ``*.txt`` below ``folder``: one entry a line; empty lines and lines that start with # are skipped."""
    root = folder.resolve()
    by_name: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    for file in sorted(folder.rglob("*.txt"))[:MAX_FILES]:
        name = file.relative_to(folder).with_suffix("").as_posix()
        try:
            if not file.resolve().is_relative_to(root):
                raise ValueError("it leads out of the folder")
            if not PATTERN.fullmatch(f"__{name}__"):
                raise ValueError("its name may hold letters, digits, - and _ only")
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("it is larger than 1 MB")
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, ValueError) as error:
            problems.append(f"Word list {name} was left out: {error}.")
            continue
        entries = tuple(line for line in lines if line and not line.startswith("#"))
        if entries:
            by_name[name] = entries
        else:
            problems.append(f"Word list {name} was left out: it is empty.")
    return WordLists(by_name, tuple(problems))


@dataclasses.dataclass
class Drawer:
    """Replace list names for picture ``index`` of a job: by lines drawn by ``seed``, or line ``index`` in order."""

    lists: WordLists
    seed: int
    index: int = 0
    in_order: bool = False
    replaced: int = 0

    def __post_init__(self) -> None:
        self._generator = random.Random(self.seed)

    def fill(self, text: str, inside: tuple[str, ...] = ()) -> str:
        """Return ``text`` with every list name replaced, and those in the replacements too.

        Raises :class:`~fooocus.errors.RequestError` for an unknown list, a list inside itself and a text without end.
        """
        filled = PATTERN.sub(lambda match: self._line(match[1], inside), text)
        if len(filled) > MAX_PROMPT_CHARACTERS:
            raise RequestError("prompt", "The word lists make the prompt too long.", "Use fewer of them.")
        return filled

    def _line(self, name: str, inside: tuple[str, ...]) -> str:
        name = self.lists.find(name)
        self.replaced += 1
        if name in inside:
            raise RequestError("prompt", f"The word list {name} contains itself.", f"Correct {name}.txt.")
        if len(inside) >= MAX_DEPTH or self.replaced > MAX_REPLACEMENTS:
            raise RequestError("prompt", "The word lists are nested without end.", "Correct the lists.")
        lines = self.lists.by_name[name]
        # random() is the one method whose sequence is promised to stay the same in every Python version.
        number = self.index if self.in_order else int(self._generator.random() * len(lines))
        return self.fill(lines[number % len(lines)], (*inside, name))

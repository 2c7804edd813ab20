"""Which pictures a person has marked. This cannot be rebuilt from anything, so it is no part of the index.

A line per mark is appended and forced to the disk: ``+ day/name`` or ``- day/name``. A mark that a crash cut off is as
if it were not there; one that lacks only the end of its line counts. Lines of another kind are carried along as they
are.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from fooocus.errors import StorageError
from fooocus.images.library.places import Place, parse_place

_SPARE_LINES = 2000  # so many lines that say nothing any more are carried along before the file is written anew


class Favourites:
    """The marks in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._marked, self._others, lines, torn = _read(path)
        self._torn = torn  # the next line must not become a part of one that was cut off
        if torn or lines > len(self._marked) + len(self._others) + _SPARE_LINES:
            self._rewrite()

    def __contains__(self, place: object) -> bool:
        return place in self._marked

    def all(self) -> frozenset[Place]:
        """Return all marked pictures, also of folders that are not there now."""
        with self._lock:
            return frozenset(self._marked)

    def mark(self, place: Place, *, on: bool) -> None:
        """Mark a picture or take its mark away; it is on disk when this returns.

        Raises :class:`~fooocus.errors.StorageError`.
        """
        with self._lock:
            if (place in self._marked) == on:
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{chr(10) * self._torn}{'+' if on else '-'} {place}\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise StorageError(
                    f"The favourite could not be saved in {self._path.name}: {error.strerror or error}.",
                    "Free some space, or make the data folder writable.",
                ) from error
            self._torn = False
            (self._marked.add if on else self._marked.discard)(place)

    def _rewrite(self) -> None:
        """Write the file anew without what says nothing any more; when that fails the old one stays."""
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{line}\n" for line in self._others)
                file.writelines(f"+ {place}\n" for place in sorted(self._marked))
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
            self._torn = False
        except OSError as error:
            logging.getLogger("fooocus.library").warning("%s was not tidied: %s", self._path, error)


def _read(path: Path) -> tuple[set[Place], list[str], int, bool]:
    """Return the marked pictures, the lines of another kind, the number of all, and whether the last has no end."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return set(), [], 0, False
    except OSError as error:  # the file stays as it is; only new marks are added to it
        logging.getLogger("fooocus.library").warning("The favourites %s cannot be read: %s", path, error)
        return set(), [], 0, False
    marked: set[Place] = set()
    others: list[str] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        place = parse_place(line[2:].rstrip("\r"))
        if place and line[:2] == "+ ":
            marked.add(place)
        elif place and line[:2] == "- ":
            marked.discard(place)
        elif line.strip() and not (number == len(lines) and line[0] in "+-"):  # the last may be a mark cut off
            others.append(line)
    return marked, others, len(lines) - 1, lines[-1] != ""

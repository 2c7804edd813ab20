"""What was found out about files once, kept until they change: SHA-256, kind and family.

A file counts as unchanged while its path, size and modification time are. Hashing SDXL takes a minute on a slow disk,
and so does reading the headers of a few thousand LoRAs, so both are worth a small database. It is a cache: if it is
damaged or cannot be written, things get slow and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from fooocus.errors import MissingModel, Stopped, UnreadableModel

_READ_BYTES = 1 << 20
_TABLES = """
CREATE TABLE IF NOT EXISTS digest (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, sha256 TEXT);
DROP TABLE IF EXISTS content;
CREATE TABLE content (
    path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, kind TEXT, family TEXT, problem TEXT, words TEXT
);
PRAGMA user_version = 2;
"""
_VERSION = 2
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """By which an unchanged file is known; ``mtime_ns`` in nanoseconds."""

    path: str
    size_bytes: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> Stamp:
        """Look at a file. Raises ``OSError``."""
        status = path.stat()
        return Stamp(str(path), status.st_size, status.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file's header says it is; ``problem`` is a sentence where it is no model that can be used.

    ``words`` are those that a LoRA listens to, with ", " between, as far as its maker noted them.
    """

    kind: str
    family: str
    problem: str = ""
    words: str = ""


def is_text(path: str) -> bool:
    """Say whether a path can be written as UTF-8; on Linux a name may be any bytes, which no database or page takes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256_of(path: Path, stop: threading.Event) -> str:
    """Return the SHA-256 of a file.

    Raises :class:`~fooocus.errors.Stopped` when ``stop`` is set, :class:`~fooocus.errors.MissingModel` or
    :class:`~fooocus.errors.UnreadableModel`.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                if stop.is_set():
                    raise Stopped("Stopped.")
                digest.update(data)
    except FileNotFoundError as error:
        raise MissingModel(f"There is no file {path} any more.", "Refresh the list of models.") from error
    except OSError as error:
        raise UnreadableModel(f"{path} cannot be read: {error.strerror or error}.", "Check the disk.") from error
    return digest.hexdigest()


class FileMemory:
    """The cache, in an SQLite file. Safe to use from several threads and processes."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def sha256(self, path: Path, stop: threading.Event) -> str:
        """Return the SHA-256 of a file, from memory if it has not changed. Raises like :func:`sha256_of`."""
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            raise MissingModel(f"There is no file {path} any more.", "Refresh the list of models.") from error
        if (known := self.known_sha256(stamp)) is not None:
            return known
        digest = sha256_of(path, stop)
        self.remember_sha256(stamp, digest)
        return digest

    def known_sha256(self, stamp: Stamp) -> str | None:
        """Return the SHA-256 of an unchanged file, None if it was never computed."""
        if not is_text(stamp.path):
            return None
        query = "SELECT sha256 FROM digest WHERE path = ? AND size = ? AND mtime = ?"
        rows = self._do(lambda base: base.execute(query, dataclasses.astuple(stamp)).fetchall())
        return str(rows[0][0]) if rows else None

    def remember_sha256(self, stamp: Stamp, digest: str) -> None:
        """Keep a hash."""
        if not is_text(stamp.path):
            return
        row = (*dataclasses.astuple(stamp), digest)
        self._do(lambda base: base.execute("INSERT OR REPLACE INTO digest VALUES (?, ?, ?, ?)", row).fetchall())

    def contents(self) -> dict[Stamp, Content]:
        """Return all that is known of headers."""
        query = "SELECT path, size, mtime, kind, family, problem, words FROM content"
        return {Stamp(*row[:3]): Content(*row[3:]) for row in self._do(lambda base: base.execute(query).fetchall())}

    def remember_contents(self, found: Iterable[tuple[Stamp, Content]]) -> None:
        """Keep what headers said."""
        kept = [(stamp, content) for stamp, content in found if is_text(stamp.path)]
        rows = [(*dataclasses.astuple(stamp), *dataclasses.astuple(content)) for stamp, content in kept]
        command = "INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?, ?, ?)"
        if rows:
            self._do(lambda base: base.executemany(command, rows).fetchall())

    def _do(self, action: Callable[[sqlite3.Connection], list[Any]]) -> list[Any]:
        """Do something with the open database; do nothing, with a line in the log, if there is none to be had."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=5)) as base, base:
                if base.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    base.executescript(_TABLES)
                return action(base)
        except sqlite3.OperationalError as error:  # locked, read-only or on a full disk
            _log.warning("the memory of model files %s cannot be used now: %s", self._file, error)
        except sqlite3.DatabaseError as error:
            _log.warning("the memory of model files %s is damaged and begun anew: %s", self._file, error)
            self._file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the memory of model files %s cannot be opened: %s", self._file, error)
        return []

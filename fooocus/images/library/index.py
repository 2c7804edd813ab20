"""The index of all pictures: one SQLite file that may be thrown away, because the pictures hold everything in it.

A file that is damaged, foreign or of another version is deleted and begun anew; so is one that turns out to be damaged
while it is used. One connection writes and another reads, each behind its own lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fooocus.errors import StorageError
from fooocus.images.library.entry import MAX_EXCERPT, Entry
from fooocus.images.library.fold import fold
from fooocus.images.library.places import Place, Seen
from fooocus.images.library.search import Query, conditions

_VERSION = 1  # another number, another layout: the index is built anew
_APPLICATION_ID = 0x466F6C69  # "Foli"
_BUSY_SECONDS = 10.0
_CACHE_KIB = 32 * 1024
_COLUMNS = (
    "day, name, mtime_ns, size_bytes, clock_ms, width, height, prompt, negative, model, styles, seed, origin, favourite"
)
_SCHEMA = (
    """CREATE TABLE pictures (
        id INTEGER PRIMARY KEY,
        day TEXT NOT NULL,
        name TEXT NOT NULL,
        mtime_ns INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        clock_ms INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        prompt TEXT NOT NULL,
        negative TEXT NOT NULL,
        model TEXT NOT NULL,
        styles TEXT NOT NULL,
        seed TEXT NOT NULL,
        origin TEXT NOT NULL,
        favourite INTEGER NOT NULL,
        UNIQUE (day, name))""",
    "CREATE INDEX in_order ON pictures (day, clock_ms, name)",
    "CREATE INDEX by_model ON pictures (model, day, clock_ms, name)",
    "CREATE INDEX by_favourite ON pictures (day, clock_ms, name) WHERE favourite",
    "CREATE TABLE styles (style TEXT, id INTEGER, PRIMARY KEY (style, id)) WITHOUT ROWID",
    # What is searched lies by itself, so that a search reads nothing else.
    "CREATE TABLE words (id INTEGER PRIMARY KEY, day TEXT NOT NULL, seed TEXT NOT NULL, folded TEXT NOT NULL)",
    # Files that look like pictures and are none; they are not opened again until they change.
    "CREATE TABLE refused (day TEXT, name TEXT, mtime_ns INTEGER, size_bytes INTEGER, PRIMARY KEY (day, name))",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


class Row(NamedTuple):
    """A file that was looked at: a picture, or ``None`` for a file that is none."""

    place: Place
    seen: Seen
    entry: Entry | None


class Index:
    """The index in the SQLite file ``path``. Methods raise :class:`~fooocus.errors.StorageError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rebuilt = 0  # how often it was begun anew while in use
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    def close(self) -> None:
        """Close the file."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def put(self, rows: Sequence[Row]) -> None:
        """Take in files that were looked at; what was known of them before is replaced."""
        with self._writing() as db:
            for place, seen, entry in rows:
                _forget(db, place)
                if entry is None:
                    db.execute("INSERT INTO refused VALUES (?, ?, ?, ?)", (*place, *seen))
                    continue
                cursor = db.execute(f"INSERT INTO pictures ({_COLUMNS}) VALUES ({','.join('?' * 14)})", _values(entry))
                id = cursor.lastrowid
                words = (id, place.day, entry.seed, fold(entry.prompt))
                db.execute("INSERT INTO words VALUES (?, ?, ?, ?)", words)
                styles = ((style, id) for style in dict.fromkeys(entry.styles))
                db.executemany("INSERT OR IGNORE INTO styles VALUES (?, ?)", styles)

    def forget(self, places: Iterable[Place]) -> None:
        """Take files out that are there no more."""
        with self._writing() as db:
            for place in places:
                _forget(db, place)

    def mark(self, places: Iterable[Place], *, on: bool) -> None:
        """Note favourites."""
        with self._writing() as db:
            marks = ((on, *place) for place in places)
            db.executemany("UPDATE pictures SET favourite = ? WHERE day = ? AND name = ?", marks)

    def days(self) -> set[str]:
        """Return the days that anything is known of."""
        with self._reading() as db:
            return {row[0] for row in db.execute("SELECT day FROM pictures UNION SELECT day FROM refused")}

    def known(self, day: str) -> dict[str, Seen]:
        """Return the files of a day as they were when they were looked at."""
        columns = "SELECT name, mtime_ns, size_bytes FROM"
        with self._reading() as db:
            rows = db.execute(
                f"{columns} pictures WHERE day = ? UNION ALL {columns} refused WHERE day = ?", (day, day)
            ).fetchall()
        return {name: Seen(mtime_ns, size_bytes) for name, mtime_ns, size_bytes in rows}

    def count(self) -> int:
        """Return the number of pictures."""
        with self._reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM pictures").fetchone()[0])

    def days_of(self, query: Query) -> list[tuple[str, int, int]]:
        """Return how many pictures each day has that answer to ``query``, the newest day first.

        The third number is another one when there are others, even if they are as many.
        """
        source, where, values = conditions(query)
        with self._reading() as db:
            return db.execute(
                f"SELECT day, COUNT(*), MAX(id) FROM {source}{where} GROUP BY day ORDER BY day DESC", values
            ).fetchall()

    def page(self, query: Query, day: str, skip: int, take: int) -> list[Entry]:
        """Return up to ``take`` pictures of ``day`` that answer to ``query``, without the ``skip`` newest."""
        source, where, values = conditions(query, day=day, rows=True)
        order = "ORDER BY clock_ms DESC, name DESC LIMIT ? OFFSET ?"
        with self._reading() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM {source}{where} {order}", (*values, take, skip)).fetchall()
        return [_entry(row) for row in rows]

    def find(self, place: Place) -> Entry | None:
        """Return one picture."""
        with self._reading() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM pictures WHERE day = ? AND name = ?", place).fetchone()
        return _entry(row) if row else None

    def models(self, query: Query, day: str = "") -> list[tuple[str, int]]:
        """Return the models of the pictures that answer to all of ``query`` but its model, the most used first."""
        source, where, values = conditions(dataclasses.replace(query, model=""), day=day, rows=True)
        return self._counted(f"SELECT model, COUNT(*) FROM {source}{where} GROUP BY model HAVING model <> ''", values)

    def styles(self, query: Query, day: str = "") -> list[tuple[str, int]]:
        """Return the styles of the pictures that answer to all of ``query`` but its style, the most used first."""
        source, where, values = conditions(dataclasses.replace(query, style=""), day=day, rows=True)
        chosen = f" WHERE id IN (SELECT id FROM {source}{where})" if where else ""
        return self._counted(f"SELECT style, COUNT(*) FROM styles{chosen} GROUP BY style", values)

    def all_seen(self) -> Iterator[tuple[Place, Seen]]:
        """Return every picture, newest first, without holding the index for long."""
        for day, _, _ in self.days_of(Query()):
            with self._reading() as db:
                rows = db.execute(
                    "SELECT name, mtime_ns, size_bytes FROM pictures WHERE day = ? ORDER BY clock_ms DESC, name DESC",
                    (day,),
                ).fetchall()
            yield from ((Place(day, name), Seen(mtime, size)) for name, mtime, size in rows)

    def _counted(self, select: str, values: tuple[str, ...]) -> list[tuple[str, int]]:
        with self._reading() as db:
            return db.execute(f"{select} ORDER BY 2 DESC, 1 LIMIT 500", values).fetchall()

    def _open(self) -> None:
        """Open the file, or begin a new one when it cannot be used."""
        try:
            self._writer = self._connected()
        except (sqlite3.DatabaseError, _Unusable) as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise
            logging.getLogger("fooocus.library").warning("The index %s is begun anew: %s", self.path, error)
            for ending in ("-wal", "-shm", ""):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
            self._writer = self._connected()
        self._reader = _connect(self.path)

    def _connected(self) -> sqlite3.Connection:
        db = _connect(self.path)
        try:
            tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if tables:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version != _VERSION or db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                    raise _Unusable("it has another layout")
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise _Unusable("it is damaged")
            db.execute("PRAGMA journal_mode = WAL")
            if not tables:
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, or none of it."""
        with self._explained(), self._write_lock:
            db = self._writer
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._read_lock:
            yield self._reader

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say SQLite's errors and the system's in words; an index that is damaged is begun anew at once."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if _is_damage(error) and self._begin_anew():
                raise StorageError("The list of pictures was damaged and is made anew.", "Wait a moment.") from error
            raise StorageError(
                f"The list of pictures {self.path.name} cannot be used: {error}.",
                "Free some space, or make the data folder writable; the pictures themselves are safe.",
            ) from error

    def _begin_anew(self) -> bool:
        with self._write_lock, self._read_lock:
            try:
                self._reader.close()
                self._writer.close()
                for ending in ("-wal", "-shm", ""):
                    self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
                self._open()
            except (sqlite3.Error, OSError) as error:
                logging.getLogger("fooocus.library").warning("The index %s: %s", self.path, error)
                return False
            self.rebuilt += 1
            return True


class _Unusable(Exception):
    """The file is not our index, or is damaged."""


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is found again by the next look
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return db


def _is_damage(error: BaseException) -> bool:
    code = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _forget(db: sqlite3.Connection, place: Place) -> None:
    row = db.execute("SELECT id, styles FROM pictures WHERE day = ? AND name = ?", place).fetchone()
    if row:
        db.execute("DELETE FROM pictures WHERE id = ?", row[:1])
        db.execute("DELETE FROM words WHERE id = ?", row[:1])
        styles = ((style, row[0]) for style in json.loads(row[1]))
        db.executemany("DELETE FROM styles WHERE style = ? AND id = ?", styles)
    db.execute("DELETE FROM refused WHERE day = ? AND name = ?", place)


def _values(entry: Entry) -> tuple[Any, ...]:
    return (
        *entry.place,
        *entry.seen,
        entry.clock_ms,
        entry.width,
        entry.height,
        entry.prompt[:MAX_EXCERPT],
        entry.negative[:MAX_EXCERPT],
        entry.model,
        json.dumps(entry.styles),
        entry.seed,
        entry.origin,
        entry.favourite,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    day, name, mtime_ns, size_bytes, clock, width, height, prompt, negative, model, styles, seed, origin, mark = row
    return Entry(
        Place(day, name),
        Seen(mtime_ns, size_bytes),
        clock,
        width,
        height,
        prompt,
        negative,
        model,
        tuple(json.loads(styles)),
        seed,
        origin,
        bool(mark),
    )

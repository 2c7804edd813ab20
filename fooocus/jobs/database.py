"""The database file under the job store: open and check it, bring its schema up to date, say its errors in words.

A file that is damaged, foreign or from a newer version of this program is not written to: it is set aside, whole,
under another name. Trouble with the disk is no reason to set a file aside; it is told and the file stays.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import time
from pathlib import Path

from fooocus.errors import StorageError

_APPLICATION_ID = 0x466F6F63  # "Fooc": tells our file from any other SQLite file
_BUSY_SECONDS = 10.0  # another program (a backup, a virus scanner) may hold the file for a moment


# One entry per schema version; version n is reached by running the first n entries.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            key TEXT UNIQUE,
            request TEXT NOT NULL,
            state TEXT NOT NULL,
            position INTEGER NOT NULL,
            created_ms INTEGER NOT NULL UNIQUE,
            attempts INTEGER NOT NULL DEFAULT 0,
            started_ms INTEGER,
            ended_ms INTEGER,
            terminal TEXT)""",
        "CREATE INDEX jobs_queue ON jobs (state, position)",
        """CREATE TABLE pictures (
            job TEXT NOT NULL,
            picture INTEGER NOT NULL,
            event TEXT NOT NULL,
            PRIMARY KEY (job, picture))""",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        f"PRAGMA application_id = {_APPLICATION_ID}",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN paused TEXT",  # where the job was when it was paused last
        "CREATE TABLE holds (owner TEXT PRIMARY KEY)",  # people whose jobs shall not begin
    ),
)


class UnusableFile(Exception):
    """The file is not our database; the text completes the sentence 'The list of jobs FILE ...'."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for several threads; the caller sees to it that one uses it at a time, and begins transactions."""
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = 1")  # macOS: without it a sync ends in the drive's cache
    return db


def open_checked(path: Path) -> sqlite3.Connection:
    """Open the file, check it and bring its schema up to date. Raises :class:`UnusableFile` and ``sqlite3.Error``."""
    db = None
    try:
        db = connect(path)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise UnusableFile("belongs to another program")
        if version > len(_MIGRATIONS):
            raise UnusableFile("was made by a newer version of this program")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise UnusableFile("is damaged")
        db.execute("PRAGMA journal_mode = WAL")
        if version < len(_MIGRATIONS):
            db.execute("BEGIN IMMEDIATE")
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            db.execute("COMMIT")
        return db
    except (sqlite3.Error, UnusableFile) as error:
        if db is not None:
            db.close()
        if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise UnusableFile("is damaged") from error
        raise


def set_aside(path: Path) -> Path:
    """Rename the database out of the way and return its new path.

    The log files go first, because beside a new database an old log would be played into it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.stem}.aside-{stamp}-{secrets.token_hex(2)}{path.suffix}")
    for ending in ("-wal", "-shm", ""):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.replace(aside.with_name(aside.name + ending))
    return aside


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 for errors that have none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def explain(path: Path, error: Exception) -> StorageError:
    """Say an error of SQLite or of the system in words."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            free_mb = _free_bytes(path.parent) / 1e6
            return StorageError(
                f"The disk is full: the list of jobs {path} cannot grow ({free_mb:.0f} MB are free).",
                "Free some space on that disk; waiting jobs are kept and go on by themselves.",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(
                f"The list of jobs {path} cannot be written.",
                "Make the folder writable or choose another data folder.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageError(f"Another program holds the list of jobs {path}.", "Close it and try again.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StorageError(
                f"The list of jobs {path} is damaged.",
                "Start the program again: the file is then set aside and a new list is begun.",
            )
    return StorageError(
        f"The list of jobs {path} cannot be used: {error}.", "Check the disk, or choose another data folder."
    )


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0

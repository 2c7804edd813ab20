"""The durable job queue: one SQLite file that survives the death of the process at any instant.

The store is the only judge of a job's state. Every change is one transaction on disk before the method returns
(write-ahead log, synchronous FULL), and a change that does not fit the present state (finishing a job twice, recording
a picture twice) changes nothing and says so. So the code above may be killed between any two lines, and nothing is lost
or done twice.

One connection writes and another reads, each behind its own lock: in write-ahead mode a reader never waits for a
writer's fsync, which keeps watching jobs fast on slow disks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from fooocus import events
from fooocus.errors import RequestError
from fooocus.events import Cancelled, Event, Failed, Paused, Saved
from fooocus.jobs import database
from fooocus.jobs.census import Census

State = Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]
Terminal = events.Finished | events.Failed | events.Cancelled

MAX_ATTEMPTS = 2  # a job that took the page process with it twice, no picture saved between, is not tried once more
SECOND_THOUGHTS_MS = 10 * 60_000  # so long a cancelled job can be taken back where it was
_RUNNING: tuple[State, ...] = ("running",)
RESTING: tuple[State, ...] = ("waiting", "paused")
_FREE = "state = 'waiting' AND owner NOT IN (SELECT owner FROM holds)"  # what may begin
_COLUMNS = """id, owner, request, state, position, created_ms, attempts, started_ms, ended_ms, terminal, paused,
    (SELECT '[' || group_concat(event, ',') || ']' FROM pictures WHERE job = jobs.id)"""

_INTERRUPTED = Failed(
    "WorkerError",
    "The program ended twice while it worked on this job, so the job was not tried a third time.",
    "Pictures saved before are kept. Try a smaller size or other models, then generate again.",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the queue. ``request`` is opaque here; times are milliseconds since 1970.

    ``id`` sorts by creation and may stand in a URL. ``created_ms`` never repeats and never falls, even when the clock
    is set back, so file names may be built from it. ``attempts`` counts how often the job was handed to a worker;
    a saved picture makes it 1 again.
    ``paused`` is where it was when it was paused last, whatever its state is now.
    """

    id: str
    owner: str
    request: dict[str, Any]
    state: State
    position: int
    created_ms: int
    attempts: int
    started_ms: int | None
    ended_ms: int | None
    terminal: Event | None
    saved: tuple[Saved, ...]
    paused: Paused | None = None


class JobStore:
    """The queue in the SQLite file ``path``.

    A file that is damaged, foreign or from a newer version is set aside under a name with a time stamp, a new one is
    begun, and ``notices`` tells so. Every method raises :class:`~fooocus.errors.StorageError` when the file cannot be
    read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: tuple[str, ...] = ()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self.changes = 0  # how often something was written: what was read at the same number is still true
        self._census: tuple[int, Census] | None = None  # and what was counted after how many changes
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._writer = database.open_checked(path)
            except database.UnusableFile as fault:
                aside = database.set_aside(path)
                self.notices = (
                    f"The list of jobs {path} {fault}. It was kept as {aside.name} and a new list was begun.",
                )
                logging.getLogger("fooocus.jobs").warning("%s", self.notices[0])
                self._writer = database.open_checked(path)
            self._reader = database.connect(path)

    def close(self) -> None:
        """Close the file. Later calls raise :class:`StorageError`."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def submit(
        self, request: dict[str, Any], owner: str, *, key: str | None = None, replaces: str | None = None
    ) -> Job:
        """Append a job to the queue; it is on disk when this returns.

        A second submission with the same ``key`` (a click that was sent twice) returns the first job. A job that rests
        in the queue and belongs to the same owner may be named by ``replaces``: it is cancelled in the same moment,
        and the new one takes its place.
        """
        text = json.dumps(request, allow_nan=False)
        with self._writing() as db:
            known = db.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone() if key else None
            if known is None:
                latest, last = db.execute("SELECT MAX(created_ms), MAX(position) FROM jobs").fetchone()
                created_ms = max(_now_ms(), (latest or 0) + 1)
                id = f"{created_ms:013d}-{secrets.token_hex(4)}"
                db.execute(
                    "INSERT INTO jobs (id, owner, key, request, state, position, created_ms)"
                    " VALUES (?, ?, ?, ?, 'waiting', ?, ?)",
                    (id, owner, key, text, (last or 0) + 1, created_ms),
                )
                if replaces is not None:
                    _replace(db, replaces, id, owner)
            else:
                id = known[0]
            return _select(db, "WHERE id = ?", (id,))[0]

    def get(self, id: str) -> Job | None:
        """Return a job, or nothing when there is no such job."""
        found = self._read("WHERE id = ?", (id,))
        return found[0] if found else None

    def queue(self) -> tuple[str, ...]:
        """Return the ids of the waiting jobs that nobody holds back, the next one first."""
        with self._explained(), self._read_lock:
            rows = self._reader.execute(f"SELECT id FROM jobs WHERE {_FREE} ORDER BY position").fetchall()
        return tuple(row[0] for row in rows)

    def claim_next(self) -> Job | None:
        """Hand out the first job of the queue: it is running from now on and one attempt is counted."""
        with self._writing() as db:
            row = db.execute(f"SELECT id FROM jobs WHERE {_FREE} ORDER BY position LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_ms = ? WHERE id = ?",
                (_now_ms(), row[0]),
            )
            return _select(db, "WHERE id = ?", row)[0]

    def record(self, id: str, saved: Saved) -> bool:
        """Remember a saved picture of a running job; return whether it was new.

        It proves that the job gets on, so earlier attempts are forgotten; the next one is a second one all the same.
        """
        with self._writing() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO pictures (job, picture, event)"
                " SELECT id, ?, ? FROM jobs WHERE id = ? AND state = 'running'",
                (saved.picture, json.dumps(events.to_json(saved)), id),
            )
            if cursor.rowcount == 1:
                db.execute("UPDATE jobs SET attempts = 1 WHERE id = ?", (id,))
            return cursor.rowcount == 1

    def finish(self, id: str, event: Terminal, *, states: Collection[State] = _RUNNING) -> bool:
        """End a job that is in one of ``states`` with its terminal event; return whether it was."""
        with self._writing() as db:
            return _finish(db, id, event, states)

    def cancel(self, id: str) -> bool:
        """Take a waiting or paused job out of the queue; return whether it was one."""
        return self.finish(id, Cancelled(), states=RESTING)

    def restore(self, id: str, *, paused: bool = False) -> bool:
        """Undo :meth:`cancel`: put a cancelled job back where it was in the queue; return whether it was cancelled."""
        return self._change(
            "UPDATE jobs SET state = ?, terminal = NULL, ended_ms = NULL WHERE id = ? AND state = 'cancelled'",
            "paused" if paused else "waiting",
            id,
        )

    def pause(self, id: str) -> bool:
        """Let a waiting job rest until :meth:`resume`; return whether it was waiting."""
        return self._change("UPDATE jobs SET state = 'paused' WHERE id = ? AND state = 'waiting'", id)

    def resume(self, id: str) -> bool:
        """Let a paused job wait again, where it was in the queue; return whether it was paused."""
        return self._change("UPDATE jobs SET state = 'waiting' WHERE id = ? AND state = 'paused'", id)

    def rest(self, id: str, paused: Paused) -> bool:
        """Note that the worker has left a running job at a place where it can go on; return whether it was running.

        The attempt is not counted. The job is paused; if all of its owner's jobs are held, it waits with them.
        """
        return self._change(
            "UPDATE jobs SET attempts = attempts - 1, started_ms = NULL, paused = ?,"
            " state = CASE WHEN owner IN (SELECT owner FROM holds) THEN 'waiting' ELSE 'paused' END"
            " WHERE id = ? AND state = 'running'",
            json.dumps(events.to_json(paused)),
            id,
        )

    def release(self, id: str, paused: Paused | None = None) -> bool:
        """Put a running job back to the front of the queue without counting the attempt; return whether it ran.

        With ``paused`` it will go on from there.
        """
        return self._change(
            "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, started_ms = NULL,"
            " paused = COALESCE(?, paused),"
            " position = (SELECT MIN(position) FROM jobs) - 1 WHERE id = ? AND state = 'running'",
            paused and json.dumps(events.to_json(paused)),
            id,
        )

    def hold(self, owner: str) -> None:
        """Begin no more jobs of ``owner`` until :meth:`let_go`, be it in another life of the program."""
        self._change("INSERT OR IGNORE INTO holds VALUES (?)", owner)

    def let_go(self, owner: str) -> bool:
        """Undo :meth:`hold`; return whether there was one."""
        return self._change("DELETE FROM holds WHERE owner = ?", owner)

    def adopt(self, old: str, new: str) -> None:
        """Give every job of ``old`` to ``new``; a queue that ``old`` holds back stays held."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET owner = ? WHERE owner = ?", (new, old))
            db.execute("UPDATE OR REPLACE holds SET owner = ? WHERE owner = ?", (new, old))

    def held(self, owner: str) -> bool:
        """Return whether the jobs of ``owner`` are held back."""
        with self._explained(), self._read_lock:
            return self._reader.execute("SELECT 1 FROM holds WHERE owner = ?", (owner,)).fetchone() is not None

    def arrange(self, owner: str, ids: Sequence[str]) -> bool:
        """Bring the waiting jobs of ``owner`` into the order of ``ids``; return whether that changed anything.

        They exchange places among themselves, so nobody else's job comes sooner or later. Ids that do not wait are
        passed over; jobs that are not named follow in their present order.
        """
        with self._writing() as db:
            rows = db.execute(
                "SELECT id, position FROM jobs WHERE state = 'waiting' AND owner = ? ORDER BY position", (owner,)
            ).fetchall()
            present = [row[0] for row in rows]
            named = [id for id in dict.fromkeys(ids) if id in present]
            order = named + [id for id in present if id not in named]
            places = ((row[1], moved) for row, moved in zip(rows, order, strict=True))
            db.executemany("UPDATE jobs SET position = ? WHERE id = ?", places)
            return order != present

    def census(self) -> Census:
        """Return who has which jobs in the queue or on the card. As long as nothing was written it is the same one."""
        changes = self.changes  # looked at first: what is written meanwhile is counted the next time
        if self._census is None or self._census[0] != changes:
            with self._explained(), self._read_lock:
                rows = self._reader.execute("SELECT owner, id, state FROM jobs WHERE state IN ('waiting', 'running')")
                holds = self._reader.execute("SELECT owner FROM holds").fetchall()
                self._census = changes, Census(rows, {row[0] for row in holds})
        return self._census[1]

    def recover(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sort out what a dead page process left running; return the ids (queued again at the front, failed).

        Call once at the start, and only while holding the :class:`fooocus.jobs.lock.FolderLock` of the data folder.
        """
        again: list[str] = []
        failed: list[str] = []
        with self._writing() as db:
            rows = db.execute("SELECT id, attempts FROM jobs WHERE state = 'running' ORDER BY position DESC").fetchall()
            for id, attempts in rows:
                if attempts >= MAX_ATTEMPTS:
                    _finish(db, id, _INTERRUPTED, _RUNNING)
                    failed.append(id)
                    continue
                db.execute(
                    "UPDATE jobs SET state = 'waiting', position = (SELECT MIN(position) FROM jobs) - 1 WHERE id = ?",
                    (id,),
                )
                again.insert(0, id)
            db.execute(
                "UPDATE jobs SET paused = NULL"
                " WHERE state IN ('finished', 'failed') OR state = 'cancelled' AND ended_ms <= ?",
                (_now_ms() - SECOND_THOUGHTS_MS,),
            )
        return tuple(again), tuple(failed)

    def begin_life(self) -> int:
        """Count the starts of the page process, from 1; event numbers grow with it, whatever the clock does."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO counters VALUES ('lives', 0)")
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'lives'")
            return int(db.execute("SELECT value FROM counters WHERE name = 'lives'").fetchone()[0])

    def list(
        self, owner: str | None = None, states: Collection[State] | None = None, *, limit: int = 1000
    ) -> tuple[Job, ...]:
        """Return up to ``limit`` jobs: waiting ones in queue order, then the others, newest first.

        ``owner`` and ``states`` choose among them when given.
        """
        clauses, values = [], []
        if owner is not None:
            clauses.append("owner = ?")
            values.append(owner)
        if states is not None:
            clauses.append(f"state IN ({','.join('?' * len(states))})")
            values.extend(states)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        order = "ORDER BY state = 'waiting' DESC, CASE state WHEN 'waiting' THEN position ELSE -created_ms END LIMIT ?"
        return self._read(f"{where} {order}", (*values, limit))

    def _read(self, rest: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
        with self._explained(), self._read_lock:
            return _select(self._reader, rest, values)

    def _change(self, statement: str, *values: Any) -> bool:
        """Run one statement; return whether it changed a row."""
        with self._writing() as db:
            return db.execute(statement, values).rowcount == 1

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed and synced at the end of the block, or undone."""
        with self._explained(), self._write_lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
                self.changes += 1
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say SQLite's errors and the system's in words."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise database.explain(self.path, error) from error


def unknown(id: str) -> RequestError:
    """Say that there is no such job."""
    return RequestError("job", f"There is no job {id}.", "It may belong to another data folder.")


def _select(db: sqlite3.Connection, rest: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM jobs {rest}", values).fetchall()
    return tuple(_job(row) for row in rows)


def _job(row: tuple[Any, ...]) -> Job:
    id, owner, request, state, position, created_ms, attempts, started_ms, ended_ms, terminal, paused, saved = row
    place = events.from_json(json.loads(paused)) if paused else None
    pictures = [events.from_json(values) for values in json.loads(saved or "[]")]
    return Job(
        id=id,
        owner=owner,
        request=json.loads(request),
        state=state,
        position=position,
        created_ms=created_ms,
        attempts=attempts,
        started_ms=started_ms,
        ended_ms=ended_ms,
        terminal=events.from_json(json.loads(terminal)) if terminal else None,
        saved=tuple(sorted((p for p in pictures if isinstance(p, Saved)), key=lambda p: p.picture)),
        paused=place if isinstance(place, Paused) else None,
    )


def _replace(db: sqlite3.Connection, old: str, new: str, owner: str) -> None:
    row = db.execute("SELECT position FROM jobs WHERE id = ? AND owner = ?", (old, owner)).fetchone()
    if row is not None and _finish(db, old, Cancelled(), RESTING):
        db.execute("UPDATE jobs SET position = ? WHERE id = ?", (row[0], new))


def _finish(db: sqlite3.Connection, id: str, event: Terminal, states: Collection[State]) -> bool:
    marks = ",".join("?" * len(states))
    cursor = db.execute(
        f"UPDATE jobs SET state = ?, ended_ms = ?, terminal = ? WHERE id = ? AND state IN ({marks})",
        (type(event).__name__.lower(), _now_ms(), json.dumps(events.to_json(event)), id, *states),
    )
    return cursor.rowcount == 1


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

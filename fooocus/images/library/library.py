"""The library: what the outputs folder holds, kept up to date by one quiet thread and by whoever asks.

Who asks for pictures looks at the folders first, for a moment, so that a picture that was just made is there at once.
What takes longer (a folder of 50,000 pictures seen for the first time, their thumbnails) is the thread's work, newest
first, and it leaves most of a processor to others.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fooocus.errors import FooocusError
from fooocus.images.library.bin import Bin
from fooocus.images.library.entry import Entry, read_entry
from fooocus.images.library.favourites import Favourites
from fooocus.images.library.index import Index, Row
from fooocus.images.library.places import Place, Seen, days_in, find_picture, pictures_in
from fooocus.images.library.search import Query
from fooocus.images.library.thumbnails import Thumbnails, key_of

LOOK_SECONDS = 0.15  # longest that one who asks is kept waiting for new pictures
_BATCH = 100
_FRESH = 10_000  # new pictures whose thumbnails are made at once; those beyond wait until they are looked at
_PAUSE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.3
_ALL_EVERY_SECONDS = 600.0  # some file systems do not date a folder's changes, so now and then all are listed
_CLEAN_EVERY_SECONDS = 6 * 3600.0
_SETTLED_NS = 2_000_000_000  # a folder changed so lately may change again under the same date
_SHARE = 0.25  # of a processor that the thread takes


class State(NamedTuple):
    """Hold what a page asks now and then: another ``version`` means other pictures; ``unread`` files are to be read."""

    version: str
    pictures: int
    unread: int
    missing: bool


class _Folder(NamedTuple):
    """Hold what a folder has, and the names that are still to be read; ``settled``: listed long after its change."""

    date_ns: int
    settled: bool
    files: dict[str, Seen]
    fresh: list[str]


class Overview(NamedTuple):
    """Hold how many pictures of each day answer to a query, newest day first, and a number for which they are."""

    state: State
    days: list[tuple[str, int, int]]


class Library:
    """All pictures below ``outputs``; what is remembered of them lies in ``data``.

    Nothing runs by itself before :meth:`begin`. Methods may be called from any thread and raise
    :class:`~fooocus.errors.StorageError`.
    """

    def __init__(self, outputs: Path, data: Path, send: Callable[[Path], None] | None = None) -> None:
        self.outputs = outputs
        self.thumbnails = Thumbnails(outputs, data / "thumbnails")
        self._index = Index(data / "library.sqlite")
        self._favourites = Favourites(data / "favourites.txt")
        self._bin = Bin(outputs, data, send)
        self._start = secrets.token_hex(4)  # a page that outlives this process must not take our numbers for the old
        self._changes = 0
        self._rebuilt = 0
        self._unread = 0
        self._missing = False
        self._looking = threading.Lock()
        self._dates: dict[str, int] = {}  # of day folders, when they were last listed
        self._days: set[str] = set()
        self._unfinished: dict[str, _Folder] = {}
        self._fresh: deque[tuple[Place, Seen]] = deque(maxlen=_FRESH)  # pictures that need a thumbnail
        self._walked = False  # whether all others were seen to have one
        self._looked_at = -_LOOK_EVERY_SECONDS
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="library", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the index."""
        self._closing = True
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=10)
        self._index.close()

    def state(self) -> State:
        """Look for new pictures, for a moment at most, and say how things stand."""
        self.look(LOOK_SECONDS)
        return State(f"{self._start}-{self._changes}", self._index.count(), self._unread, self._missing)

    def overview(self, query: Query) -> Overview:
        """Return the days of all pictures that answer to ``query``."""
        state = self.state()
        return Overview(state, self._index.days_of(query))

    def page(self, query: Query, day: str, skip: int, take: int) -> list[Entry]:
        """Return pictures of a day, newest first, without the first ``skip``."""
        return self._index.page(query, day, skip, take)

    def models(self, query: Query, day: str = "") -> list[tuple[str, int]]:
        """Return the models to choose from among pictures that are as the rest of ``query`` says, and how many."""
        return self._index.models(query, day)

    def styles(self, query: Query, day: str = "") -> list[tuple[str, int]]:
        """Return the styles to choose from among pictures that are as the rest of ``query`` says, and how many."""
        return self._index.styles(query, day)

    def find(self, place: Place) -> Entry | None:
        """Return what is known of a picture whose file is there, read now if it is new."""
        file = find_picture(self.outputs, *place)
        if file is None:
            return None
        try:
            seen = _seen(file)
        except OSError:
            return None
        known = self._index.find(place)
        return known if known and known.seen == seen else self._read(place, seen)

    def mark(self, place: Place, *, on: bool) -> None:
        """Make a picture a favourite, or no longer one."""
        self._favourites.mark(place, on=on)
        self._index.mark([place], on=on)
        self._changes += 1

    def delete(self, places: Sequence[Place]) -> tuple[str, list[Place]]:
        """Delete pictures; return the token that undoes it and those that were there.

        Their blocks in the day's ``index.html``, with prompt and settings, are left.
        """
        with self._looking:
            token, taken = self._bin.hold(places)
            self._index.forget(taken)
            self._changes += 1
        return token, taken

    def undo(self, token: str) -> list[Place]:
        """Bring the pictures of one deletion back."""
        with self._looking:
            back = self._bin.undo(token)
            for place in back:
                self._dates.pop(place.day, None)
        self.look(LOOK_SECONDS, now=True)
        return back

    def look(self, seconds: float, *, now: bool = False) -> None:
        """Take in what has changed in the folders, for about ``seconds``; the thread does the rest."""
        begun = time.monotonic()
        if not now and begun - self._looked_at < _LOOK_EVERY_SECONDS:
            return
        if not self._looking.acquire(timeout=seconds if now else 0):
            return
        try:
            self._looked_at = begun
            self._unread = self._look(lambda: time.monotonic() - begun > seconds)
        finally:
            self._looking.release()
        if self._unread:
            self._wake.set()

    def _look(self, enough: Callable[[], bool]) -> int:
        """Go through the folders that have changed, newest first, until it is enough.

        Returns how many files are left to read, where that is known; of a folder that was not listed yet, one.
        """
        if self._index.rebuilt != self._rebuilt or not self._days:
            self._rebuilt = self._index.rebuilt
            self._dates.clear()
            self._days = self._index.days()
        try:
            days = days_in(self.outputs)
            self._missing = False
        except OSError:  # an unplugged disk is no reason to forget what is on it
            self._missing = True
            return 0
        for day in sorted(self._days - days.keys()):
            self._forget(day, self._index.known(day))
            self._dates.pop(day, None)
            self._unfinished.pop(day, None)
        self._days = set(days)
        left = 0
        for day in sorted(days, reverse=True):
            if self._dates.get(day) == days[day]:
                continue
            listed = not enough()
            if listed:
                self._look_at(day, days[day], enough)
            folder = self._unfinished.get(day)
            left += len(folder.fresh) if folder else not listed
        return left

    def _look_at(self, day: str, date_ns: int, enough: Callable[[], bool]) -> None:
        """List the folder of a day and read what is new in it, or go on with reading until it is enough."""
        folder = self._unfinished.pop(day, None)
        if folder is None or folder.date_ns != date_ns:
            listed_ns = time.time_ns()
            files, known = pictures_in(self.outputs, day), self._index.known(day)
            self._forget(day, {name: seen for name, seen in known.items() if name not in files})
            fresh = sorted((name for name, seen in files.items() if known.get(name) != seen), reverse=True)
            folder = _Folder(date_ns, listed_ns - date_ns > _SETTLED_NS, files, fresh)
        fresh = folder.fresh
        while fresh and not enough() and not self._closing:
            rows: list[Row] = []
            while fresh and len(rows) < _BATCH and not enough():
                place = Place(day, fresh.pop(0))
                seen = folder.files[place.name]
                rows.append(Row(place, seen, self._read(place, seen)))
            self._index.put(rows)
            self._fresh.extend((row.place, row.seen) for row in rows if row.entry)
            self._changes += 1
        if fresh:
            self._unfinished[day] = folder
        elif folder.settled:
            self._dates[day] = date_ns

    def _read(self, place: Place, seen: Seen) -> Entry | None:
        entry = read_entry(self.outputs / place.day / place.name, place, seen)
        return dataclasses.replace(entry, favourite=place in self._favourites) if entry else None

    def _forget(self, day: str, gone: dict[str, Seen]) -> None:
        if not gone:
            return
        self._index.forget(Place(day, name) for name in gone)
        for name, seen in gone.items():
            self.thumbnails.remove(Place(day, name), seen)
        self._changes += 1

    def _work(self) -> None:
        """Be the thread: look, empty the bin, make thumbnails; whatever goes wrong is tried again later."""
        cleaned = -_CLEAN_EVERY_SECONDS
        listed = time.monotonic()
        while not self._closing:
            self._wake.clear()
            now = time.monotonic()
            try:
                if now - listed > _ALL_EVERY_SECONDS:
                    listed = now
                    self._dates.clear()
                self._look_gently()
                self._empty_bin()
                if not self._unread and not self._missing and now - cleaned > _CLEAN_EVERY_SECONDS:
                    cleaned = now
                    self._clean()
                self._make_thumbnails()
            except (FooocusError, OSError) as error:
                logging.getLogger("fooocus.library").warning("The library: %s", error)
                self._wake.wait(_PAUSE_SECONDS)
            self._wake.wait(_PAUSE_SECONDS)

    def _look_gently(self) -> None:
        """Take in everything, in short goes with pauses between them."""
        while not self._closing:
            begun = time.monotonic()
            self.look(LOOK_SECONDS, now=True)
            if not self._unread:
                return
            self._rest(time.monotonic() - begun)

    def _make_thumbnails(self) -> None:
        """Make thumbnails of new pictures, and once of all, newest first, until there is something more urgent."""
        while self._fresh and not self._closing:
            self._make_thumbnail(*self._fresh.pop())
        if self._walked:
            return
        for place, seen in self._index.all_seen():
            if self._closing or self._wake.is_set():
                return
            self._make_thumbnail(place, seen)
        self._walked = True

    def _make_thumbnail(self, place: Place, seen: Seen) -> None:
        if self.thumbnails.missing(place, seen):
            begun = time.monotonic()
            self.thumbnails.get(place, seen)
            self._rest(time.monotonic() - begun)

    def _rest(self, worked_seconds: float) -> None:
        time.sleep(min(2.0, worked_seconds * (1 / _SHARE - 1)))

    def _empty_bin(self) -> None:
        for token in self._bin.due():
            with self._looking:  # else a look would see the pictures on their way through their old place
                self._bin.empty(token)

    def _clean(self) -> None:
        self.thumbnails.clean({key_of(place, seen) for place, seen in self._index.all_seen()})


def _seen(file: Path) -> Seen:
    stat = file.stat()
    return Seen(stat.st_mtime_ns, stat.st_size)

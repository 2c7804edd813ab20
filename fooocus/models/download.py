"""One file from a hub to its place, whatever the line, the hub or the disk do meanwhile.

The rules: a break costs what was on its way and no more; the name is given only when the SHA-256 is right; bytes that
are not the file's are never written; nothing of anybody else's is touched; and whoever fails says so in a sentence.
:class:`Patience` holds how long to wait for what.
"""

from __future__ import annotations

import dataclasses
import email.utils
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fooocus.errors import Stopped
from fooocus.models.catalogue import Entry
from fooocus.models.hashes import sha256_of
from fooocus.models.hub import Source, by_hand, cannot_ask, linked_hash, refusal, unreachable
from fooocus.models.partfile import Disk, PartFile, beside, discard, fetched_bytes, taken
from fooocus.models.troubles import (
    DownloadError,
    FileTaken,
    HubBusy,
    HubLacksFile,
    HubRefuses,
    NoConnection,
    TooSlow,
    WrongAnswer,
    WrongContent,
    too_little_room,
)
from fooocus.models.words import amount, duration

if TYPE_CHECKING:  # see hub.py
    import httpx

RESERVE_BYTES = 64_000_000  # left free on the disk, so that the system and this program can still write
_PROGRESS_BYTES = 64 * 1024  # a line that brings less before it breaks does not count as one that works
Phase = Literal["fetching", "retrying", "checking"]
Tell = Callable[[Phase, int, str], None]  # what is going on, bytes so far, a sentence where something is wrong


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds. The figures are taste, except that hubs ask for minutes at most."""

    connect_seconds: float = 15.0
    stall_seconds: float = 20.0  # without a byte, after which a new connection is tried
    window_seconds: float = 60.0  # over which a line must bring at least ``least_rate``
    least_rate: float = 1000.0  # bytes per second; less is a connection that died politely
    tries: int = 6  # at one source, in a row and without progress
    first_wait_seconds: float = 1.0  # doubled at every further try
    longest_wait_seconds: float = 30.0
    longest_retry_after_seconds: float = 600.0


class RateLimit:
    """A limit that all downloads share; None for none."""

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, size_bytes: int, stop: threading.Event) -> None:
        """Wait until ``size_bytes`` may have come, or ``stop`` is set."""
        if not self.bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            # Up to a tenth of a second unused may be caught up with; more would be a burst.
            self._free_at = max(self._free_at, now - 0.1) + size_bytes / self.bytes_per_second
            pause = self._free_at - now
        if pause > 0:
            stop.wait(pause)


class Downloader:
    """Fetches files, several at the same time from several threads. ``known`` tells the hash of a file on disk."""

    def __init__(
        self,
        sources: Sequence[Source],
        client: httpx.Client,
        *,
        patience: Patience | None = None,
        limit: RateLimit | None = None,
        disk: Disk | None = None,
        known: Callable[[Path, threading.Event], str] = sha256_of,
    ) -> None:
        self._sources = tuple(sources)
        self._client = client
        self._patience = patience or Patience()
        self._limit = limit or RateLimit()
        self._disk = disk or Disk()
        self._known = known

    def fetch(self, entry: Entry, target: Path, stop: threading.Event, tell: Tell) -> Path:
        """Have the file at ``target``, whole and right; return that path.

        ``entry`` must have its size and hash. Raises :class:`~fooocus.errors.Stopped` when ``stop`` is set (what came
        is kept), a :class:`~fooocus.models.troubles.DownloadError`, or :class:`~fooocus.errors.StorageError`.
        """
        assert entry.size_bytes is not None and entry.sha256 is not None
        if target.exists():
            return self._already_there(entry, target, stop, tell)
        if target.is_symlink():
            raise FileTaken(
                f"{target} is a link to {os.readlink(target)}, which is gone.", "Delete the link, then try again."
            )
        needed = entry.size_bytes - fetched_bytes(target) + RESERVE_BYTES
        if (free := self._disk.free_bytes(target.parent)) < needed:
            raise too_little_room(target.parent, needed, free)
        with PartFile(target, entry.size_bytes, entry.sha256, self._disk) as part:
            course = _Course(self._sources, self._patience, part.received)
            while not target.exists():  # another process may have been faster while we came to the lock
                self._receive_all(entry, part, course, stop, tell)
                tell("checking", part.received, "")
                if part.is_right(stop):
                    part.finish()
                    return target
                part.restart()
                course.blame(_wrong_content(entry, course.source), part.received)
        return self._already_there(entry, target, stop, tell)

    def _already_there(self, entry: Entry, target: Path, stop: threading.Event, tell: Tell) -> Path:
        tell("checking", 0, "")
        if target.stat().st_size != entry.size_bytes or self._known(target, stop) != entry.sha256:
            raise taken(target)
        if beside(target, ".part").exists():  # a kill between giving the name and tidying up
            discard(target)
        return target

    def _receive_all(self, entry: Entry, part: PartFile, course: _Course, stop: threading.Event, tell: Tell) -> None:
        """Go on until all bytes are there, over as many connections as it takes."""
        said = ""  # why the last try failed, which holds until bytes come again
        while part.received < part.size_bytes:
            if stop.is_set():
                raise Stopped("Stopped.")
            source = course.source
            try:
                tell("retrying" if said else "fetching", part.received, said)
                with self._connection(entry, source, part.received) as response:
                    self._receive(entry, source, part, response, stop, tell)
            except DownloadError as error:
                pause = course.blame(error, part.received)
                when = f"Trying again in {duration(pause)}." if pause >= 1 else "Trying again."
                tell("retrying", part.received, " ".join((error.sentence, when)))  # the page translates one by one
                said = " ".join((error.sentence, "Trying again."))
                stop.wait(pause)

    @contextmanager
    def _connection(self, entry: Entry, source: Source, offset: int) -> Iterator[httpx.Response]:
        """Ask for the bytes from ``offset`` on; every way in which that fails becomes a ``DownloadError``."""
        import httpx

        headers = source.headers() | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._client.stream("GET", source.address(entry), headers=headers) as response:
                _refuse_wrong(response, entry, source, offset)
                yield response
        except httpx.TooManyRedirects as error:
            raise WrongAnswer(f"{source.endpoint} sends in circles.", by_hand(entry, source)) from error
        except cannot_ask() as error:
            raise unreachable(error, source, entry) from error

    def _receive(
        self, entry: Entry, source: Source, part: PartFile, response: httpx.Response, stop: threading.Event, tell: Tell
    ) -> None:
        # A server without ranges begins at the beginning; what is there already is let pass, not fetched for keeps.
        to_skip = part.received if response.status_code == 200 else 0
        began, began_at, seen = time.monotonic(), 0, 0
        for chunk in response.iter_raw():
            if stop.is_set():
                raise Stopped("Stopped.")
            seen += len(chunk)
            self._limit.take(len(chunk), stop)
            fresh = chunk[min(to_skip, len(chunk)) :]
            to_skip -= len(chunk) - len(fresh)
            if part.received == 0 and fresh.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
                raise _page(entry, source)
            if part.received + len(fresh) > part.size_bytes:
                raise _wrong_length(entry, source, part.received + len(fresh))
            if fresh:
                part.append(fresh)
            tell("fetching", part.received, "")
            elapsed = time.monotonic() - began
            if elapsed > self._patience.window_seconds:
                if (seen - began_at) / elapsed < self._patience.least_rate:
                    raise TooSlow(f"{source.endpoint} hardly sends anything.", "Check the network, then try again.")
                began, began_at = time.monotonic(), seen
        if part.received < part.size_bytes:
            raise NoConnection(f"{source.endpoint} broke off.", "Check the network, then try again.")


class _Course:
    """Which source is asked, and how often still: sources that refuse are struck off, weak ones take turns.

    ``reached`` is how many bytes are there at the beginning.
    """

    def __init__(self, sources: Sequence[Source], patience: Patience, reached: int = 0) -> None:
        self._left = list(sources)
        self._patience = patience
        self._fails = dict.fromkeys(sources, 0)
        self._wrongs = dict.fromkeys(sources, 0)
        self._free_at = dict.fromkeys(sources, 0.0)  # by the monotonic clock: a source that is busy says when
        self._reached = reached
        self._first: DownloadError | None = None

    @property
    def source(self) -> Source:
        """The source to ask now."""
        return self._left[0]

    def blame(self, error: DownloadError, reached: int) -> float:
        """Note that the present source failed, having brought the file to ``reached``; return the seconds to wait.

        Raises the error, or the one that the first source gave, when there is nobody left to ask.
        """
        source = self.source
        progress = reached >= self._reached + _PROGRESS_BYTES
        if progress or reached < self._reached:
            self._reached = reached
        if progress and not isinstance(error, TooSlow):
            self._fails = dict.fromkeys(self._fails, 0)
            if isinstance(error, NoConnection):
                return 0.05  # an ordinary break: go on at once
        self._fails[source] += 1
        wanted = error.wait_seconds if isinstance(error, HubBusy) else None
        if wanted is not None:
            self._free_at[source] = time.monotonic() + wanted
        too_long = wanted is not None and wanted > self._patience.longest_retry_after_seconds
        if too_long or self._is_final(error, source) or self._fails[source] >= self._patience.tries:
            self._left.remove(source)
            if self._first is None:
                self._first = error
            if not self._left:
                raise self._first
            return self._take_turns()
        if wanted is not None or (len(self._left) > 1 and self._fails[source] % 2 == 0):  # busy, or twice in vain
            self._left.append(self._left.pop(0))
            pause = self._take_turns()
            if pause or self.source != source:
                return pause
        return min(self._patience.first_wait_seconds * 2 ** (self._fails[source] - 1), self._longest())

    def _take_turns(self) -> float:
        """Choose the first source that may be asked, or else the one that is free soonest; return how long until."""
        now = time.monotonic()
        self._left.sort(key=lambda source: max(now, self._free_at[source]))
        return max(0.0, self._free_at[self.source] - now)

    def _is_final(self, error: DownloadError, source: Source) -> bool:
        match error:
            case HubRefuses() | HubLacksFile():
                return True
            case WrongContent() | WrongAnswer():  # once is a faulty line or proxy, twice is what this source has
                self._wrongs[source] += 1
                return self._wrongs[source] > 1
        return False

    def _longest(self) -> float:
        return self._patience.longest_wait_seconds


def _refuse_wrong(response: httpx.Response, entry: Entry, source: Source, offset: int) -> None:
    """Raise unless the answer is the file from ``offset`` on, or all of it."""
    if (error := refusal(response.status_code, source, entry)) is not None:
        if isinstance(error, HubBusy):
            error.wait_seconds = _retry_after(response)
        raise error
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise _page(entry, source)
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise WrongAnswer(f"{source.endpoint} sent {entry.name} in a packed form.", by_hand(entry, source))
    told = next((digest for hop in [*response.history, response] if (digest := linked_hash(hop))), None)
    if told is not None and told != entry.sha256:
        raise WrongContent(
            f"{source.endpoint} has another {entry.name} now than the one in the catalogue.",
            "Update this program; until then a file fetched by hand can be used: " + by_hand(entry, source),
        )
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else entry.size_bytes
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise WrongAnswer(f"{source.endpoint} sent another part than was asked for.", by_hand(entry, source))
        total = entry.size_bytes if found[2] == "*" else int(found[2])
    if total != entry.size_bytes:
        raise _wrong_length(entry, source, total or 0)


def _retry_after(response: httpx.Response) -> float | None:
    """Read Retry-After, which is seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _page(entry: Entry, source: Source) -> WrongAnswer:
    return WrongAnswer(
        f"A web page came instead of {entry.name}: the network wants a login, or something stands in the way.",
        f"Open {source.endpoint} in a browser, sign in to the network, then try again.",
    )


def _wrong_length(entry: Entry, source: Source, size_bytes: int) -> WrongAnswer:
    return WrongAnswer(
        f"{source.endpoint} offers a {entry.name} of {amount(size_bytes)} ({size_bytes} bytes) where "
        f"{entry.size_bytes} were expected.",
        "Try again later or another mirror.",
    )


def _wrong_content(entry: Entry, source: Source) -> WrongContent:
    return WrongContent(
        f"{entry.name} came from {source.endpoint} with wrong content: its SHA-256 is not the one in the catalogue.",
        "Nothing of it was kept. Try another mirror, or another network if something on the way alters files.",
    )

"""The unfinished file on disk: what survives kill -9 and a power cut, and how it becomes the finished one.

Beside the target lie, only while it is fetched, ``<name>.part`` (the bytes so far), ``<name>.part.json`` (what they are
going to be, and how many of them are certainly on the disk) and ``<name>.part.lock`` (held by the process at work). The
state is written before the first byte and removed after the last rename; a ``.part`` without it is somebody else's and
is left alone. After any end the file is cut back to what the state vouches for, at most ``SYNC_BYTES`` ago.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, Self

from fooocus.models.digest import GrowingDigest
from fooocus.models.filelock import FileLock
from fooocus.models.troubles import FileTaken, disk_trouble
from fooocus.renames import retried

SYNC_BYTES = 8_000_000  # what a kill may lose here; as much again may be on its way in the system's buffers
SYNC_SECONDS = 2.0  # the same on a slow line
_log = logging.getLogger(__name__)


class Disk:
    """The system calls that fail when a disk is full, dying or held by a virus scanner. Tests replace them."""

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Write all of ``data`` to an unbuffered file."""
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    def sync(self, file: BinaryIO) -> None:
        """Return when what was written is on the disk."""
        os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        """Rename, over a file of this program's own."""
        retried(lambda: os.replace(source, target))

    def publish(self, source: Path, target: Path) -> None:
        """Rename, and raise ``FileExistsError`` rather than overwrite."""
        if sys.platform == "win32":
            retried(lambda: os.rename(source, target))
            return
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links; the moment between looking and renaming cannot be closed
            if target.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
            os.rename(source, target)
        else:
            os.unlink(source)
        _sync_folder(target.parent)

    def free_bytes(self, folder: Path) -> int:
        """Return the room on the disk of a folder that may not exist yet; 0 where the disk cannot be asked."""
        try:
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            return shutil.disk_usage(folder).free
        except OSError as error:  # a drive that is not plugged in, a share whose computer is off
            _log.debug("%s cannot be asked for its room: %s", folder, error)
            return 0


@dataclasses.dataclass(frozen=True)
class State:
    """What a part is going to be, and how many of its bytes are on the disk for certain."""

    sha256: str
    size_bytes: int
    synced_bytes: int

    @staticmethod
    def read(file: Path) -> State | None:
        """Read the state beside a part; None if there is none or it is not one of ours."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            size_bytes, synced_bytes = int(values["size_bytes"]), int(values["synced_bytes"])
            digest = str(values["sha256"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return State(digest, size_bytes, synced_bytes if 0 <= synced_bytes <= size_bytes else 0)


def is_there(path: Path) -> bool:
    """Tell whether a file is there and can be reached."""
    return os.path.isfile(path)  # Path.is_file raises on a share whose computer is off


def beside(target: Path, suffix: str) -> Path:
    """Return ``<name><suffix>`` in the target's folder."""
    return target.with_name(target.name + suffix)


def fetched_bytes(target: Path) -> int:
    """Return how much of an unfinished file is there to go on with."""
    state, part = State.read(beside(target, ".part.json")), beside(target, ".part")
    return min(state.synced_bytes, part.stat().st_size) if state and part.is_file() else 0


def discard(target: Path) -> None:
    """Delete the unfinished file, if this program wrote it.

    Raises :class:`FetchedElsewhere` while another process is at it, and :class:`~fooocus.errors.StorageError`.
    """
    state = beside(target, ".part.json")
    try:
        with FileLock(beside(target, ".part.lock")):
            if State.read(state):
                beside(target, ".part").unlink(missing_ok=True)
                state.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # no folder, no part
    except OSError as error:
        raise disk_trouble(target.parent, error, 0) from error


def tidy(target: Path) -> None:
    """Remove the second name that a kill left in the moment between giving a file its name and taking the old one."""
    part = beside(target, ".part")
    if part.exists() and target.exists() and part.samefile(target):
        discard(target)


class PartFile:
    """An unfinished file, locked, opened or continued. Every method raises :class:`~fooocus.errors.StorageError`."""

    def __init__(self, target: Path, size_bytes: int, sha256: str, disk: Disk) -> None:
        self.target, self.size_bytes, self.sha256 = target, size_bytes, sha256
        self.received = 0
        self._disk = disk
        self._path, self._state = beside(target, ".part"), beside(target, ".part.json")
        self._synced, self._synced_at = 0, time.monotonic()
        self._file: BinaryIO | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(beside(target, ".part.lock"))
        except OSError as error:
            raise disk_trouble(target.parent, error, size_bytes) from error
        try:
            self._open()
            self._digest = GrowingDigest(self._path, self.received)
        except OSError as error:
            self.close()
            raise disk_trouble(target.parent, error, size_bytes) from error
        except BaseException:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        assert self._file is not None
        try:
            self._disk.write(self._file, data)
            self.received += len(data)
            due = time.monotonic() - self._synced_at > SYNC_SECONDS
            if due or self.received - self._synced >= SYNC_BYTES:
                self._save()
        except OSError as error:
            raise disk_trouble(self.target.parent, error, self.size_bytes - self.received) from error
        self._digest.follow(self.received)

    def restart(self) -> None:
        """Throw away what is there."""
        assert self._file is not None
        self._digest.end()
        try:
            self._save_state(0)
            self._file.truncate(0)
            self._file.seek(0)
        except OSError as error:
            raise disk_trouble(self.target.parent, error, self.size_bytes) from error
        self.received = 0
        self._digest = GrowingDigest(self._path, 0)

    def is_right(self, stop: threading.Event) -> bool:
        """Compare the SHA-256 of the whole file. Raises :class:`~fooocus.errors.Stopped` if ``stop`` comes first."""
        return self.received == self.size_bytes and self._digest.result(stop) == self.sha256

    def finish(self) -> None:
        """Give the file its name. Raises :class:`FileTaken` if somebody put a file there meanwhile."""
        assert self._file is not None
        try:
            self._save()
            self._file.close()
            self._digest.end()  # Windows renames no file that is open
            self._disk.publish(self._path, self.target)
        except FileExistsError as error:
            raise taken(self.target) from error
        except OSError as error:
            raise disk_trouble(self.target.parent, error, 0) from error
        self._state.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go; what is there is kept for the next time."""
        if (digest := getattr(self, "_digest", None)) is not None:
            digest.end()
        if self._file is not None and not self._file.closed:
            try:
                self._save()
            except OSError as error:  # the disk is full or gone: the state saved before stands
                _log.warning("%s: the last bytes are not kept: %s", self._path.name, error)
            self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        state = State.read(self._state)
        if self._path.exists() and state is None:
            raise taken(self._path)
        fits = state is not None and (state.sha256, state.size_bytes) == (self.sha256, self.size_bytes)
        if state is None or not fits:
            self._save_state(0)
        self._file = self._path.open("r+b" if self._path.exists() else "x+b", buffering=0)
        here = os.fstat(self._file.fileno()).st_size
        self.received = min(state.synced_bytes, here, self.size_bytes) if state and fits else 0
        self._file.truncate(self.received)
        self._file.seek(self.received)
        self._synced = self.received

    def _save(self) -> None:
        assert self._file is not None
        if self.received != self._synced:
            self._disk.sync(self._file)
            self._save_state(self.received)

    def _save_state(self, synced_bytes: int) -> None:
        """Vouch for bytes that are on the disk; the state's own file is exchanged whole."""
        fresh = beside(self._state, ".new")
        state = State(self.sha256, self.size_bytes, synced_bytes)
        with fresh.open("wb", buffering=0) as file:
            self._disk.write(file, json.dumps(dataclasses.asdict(state)).encode())
            self._disk.sync(file)
        self._disk.replace(fresh, self._state)
        self._synced, self._synced_at = synced_bytes, time.monotonic()


def taken(path: Path) -> FileTaken:
    """Say that a file of somebody else is in the way."""
    return FileTaken(
        f"{path} is there and was not written by this program, so it is left alone.",
        "Move it away or rename it, then try again.",
    )


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _log.debug("%s cannot be synced: %s", folder, error)
        return
    try:
        os.fsync(handle)
    except OSError as error:
        _log.debug("%s cannot be synced: %s", folder, error)
    finally:
        os.close(handle)

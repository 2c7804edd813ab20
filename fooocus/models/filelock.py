"""A lock on one download: held by the process at work, gone with it, never stale."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO, Self

from fooocus.models.troubles import FetchedElsewhere

_log = logging.getLogger(__name__)


class FileLock:
    """A file locked by the system for as long as this process lives and holds it.

    Raises :class:`FetchedElsewhere` at once if another holds it, ``OSError`` if the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        for last in (*[False] * 9, True):
            self._file: BinaryIO = path.open("ab")
            try:
                _lock(self._file)
            except (BlockingIOError, PermissionError) as error:
                self._file.close()
                raise FetchedElsewhere(
                    f"Another process is fetching {path.name.removesuffix('.part.lock')}.",
                    "Wait for it, or end it and try again.",
                ) from error
            except OSError as error:  # some network folders know no locks; one page per data folder is still certain
                _log.warning("%s cannot be locked: %s", path, error)
            # The holder before us may have removed the name while we waited at the door of its old file.
            try:
                if os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                    return
            except FileNotFoundError:
                _log.debug("%s was just released", path)
            if last:  # some network folders number a file anew at every look
                _log.warning("it is not certain that %s is locked", path)
                return
            self._file.close()

    def release(self) -> None:
        """Let others in."""
        if self._file.closed:
            return
        try:
            if sys.platform != "win32":
                self._path.unlink(missing_ok=True)
            self._file.close()
            if sys.platform == "win32":
                self._path.unlink(missing_ok=True)
        except OSError as error:  # it stays behind, empty and unlocked
            _log.debug("%s stays: %s", self._path, error)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

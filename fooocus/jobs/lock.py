"""One page process per data folder: an operating-system lock that dies with its owner, so it is never stale.

Take it before anything in the folder is opened. Beside the lock lies the page's address, so that a second start can say
where the first page is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from fooocus.errors import AlreadyRunning, StorageError

_LOCK = "page.lock"
_ADDRESS = "page.address"


class FolderLock:
    """Hold ``folder`` for this process until :meth:`release`.

    Raises :class:`AlreadyRunning`, with the other page's address in its remedy, or :class:`StorageError`.
    """

    def __init__(self, folder: Path) -> None:
        self._address = folder / _ADDRESS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = (folder / _LOCK).open("ab")
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            _lock(self._file)
            self._address.unlink(missing_ok=True)
        except OSError as error:
            self._file.close()
            if isinstance(error, (BlockingIOError, PermissionError)):
                raise _already_running(folder) from error
            raise _unwritable(folder, error) from error

    def tell(self, address: str) -> None:
        """Leave the page's address for later starts to find. Raises :class:`StorageError`."""
        part = self._address.with_name(_ADDRESS + ".part")
        try:
            part.write_text(address, encoding="utf-8")
            part.replace(self._address)
        except OSError as error:
            raise _unwritable(self._address.parent, error) from error

    def release(self) -> None:
        """Let another process have the folder. Closing the file frees the lock, as the end of the process does."""
        if not self._file.closed:
            self._address.unlink(missing_ok=True)
            self._file.close()


def address_of(folder: Path) -> str:
    """Return the address that the page on ``folder`` left, or an empty text."""
    try:
        return (folder / _ADDRESS).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _lock(file: BinaryIO) -> None:
    """Lock the file or raise ``OSError`` at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _already_running(folder: Path) -> AlreadyRunning:
    address = address_of(folder)
    remedy = f"Open {address} in the browser" if address else "Use its window"
    return AlreadyRunning(f"Another page already uses the folder {folder}.", f"{remedy}, or end it first.")


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The folder {folder} cannot be used: {error.strerror or error}.",
        "Make it writable or choose another data folder.",
    )

"""What can go wrong between here and a hub, each with its sentence.

::

    DownloadError
    +-- NoConnection     nobody answers: no network, wrong proxy, hub down
    |   +-- TooSlow          the connection stands, but next to nothing comes
    +-- HubBusy          the hub answers that it cannot now (429, 5xx)
    +-- HubRefuses       the hub wants a login or an accepted licence (401, 403)
    +-- HubLacksFile     there is no such file or revision (404, 410)
    +-- WrongAnswer      something else than the file came: a web page, another length
    +-- WrongContent     all bytes came, but they are not the file's (SHA-256)
    +-- FileTaken        a file that this program did not write is where ours belongs
    +-- FetchedElsewhere another process is fetching the same file
"""

from __future__ import annotations

import errno
from pathlib import Path

from fooocus.errors import FooocusError, StorageError
from fooocus.models.words import amount


class DownloadError(FooocusError):
    """A file could not be fetched."""


class NoConnection(DownloadError):
    """Nobody answers. ``reason`` is what the system said, for the log."""

    def __init__(self, sentence: str, remedy: str = "", reason: str = "") -> None:
        super().__init__(sentence, remedy)
        self.reason = reason


class TooSlow(NoConnection):
    """Next to nothing comes."""


class HubBusy(DownloadError):
    """The hub cannot answer now. ``wait_seconds`` is what it asked for, if it did."""

    def __init__(self, sentence: str, remedy: str = "", wait_seconds: float | None = None) -> None:
        super().__init__(sentence, remedy)
        self.wait_seconds = wait_seconds


class HubRefuses(DownloadError):
    """The hub wants to know who asks."""


class HubLacksFile(DownloadError):
    """There is no such file at the hub."""


class WrongAnswer(DownloadError):
    """Something else than the file came."""


class WrongContent(DownloadError):
    """The bytes are not those of the file."""


class FileTaken(DownloadError):
    """Somebody else's file has the name that ours would get."""


class FetchedElsewhere(DownloadError):
    """Another process is fetching the file."""


def disk_trouble(folder: Path, error: OSError, needed_bytes: int) -> StorageError:
    """Say that writing into a folder failed; ``needed_bytes`` is what is still to come."""
    if error.errno == errno.ENOSPC or getattr(error, "winerror", None) in (39, 112):  # ERROR_(HANDLE_)DISK_FULL
        return StorageError(
            f"The disk of {folder} is full; {amount(needed_bytes)} more are needed.",
            "Make room, then try again: what has been fetched is kept.",
        )
    if error.errno == errno.EFBIG or getattr(error, "winerror", None) == 223:  # ERROR_FILE_TOO_LARGE
        return StorageError(
            f"The disk of {folder} takes no file of this size (FAT32 ends at 4 GB).",
            "Name a folder of models on another disk in the settings.",
        )
    if error.errno == getattr(errno, "EDQUOT", None):
        return StorageError(
            f"Your share of the disk of {folder} is used up; {amount(needed_bytes)} more are needed.",
            "Make room, then try again: what has been fetched is kept.",
        )
    return StorageError(
        f"The folder {folder} cannot be written: {error.strerror or error}.",
        "Check that the folder is writable and the disk is healthy, then try again.",
    )


def too_little_room(folder: Path, needed_bytes: int, free_bytes: int) -> StorageError:
    """Say, before anything is fetched, that the files will not fit; 0 is also what a disk has that cannot be asked."""
    if not free_bytes:
        return StorageError(
            f"The disk of {folder} is full, or it cannot be reached.", "Make room, or connect it again."
        )
    return StorageError(
        f"The files need {amount(needed_bytes)}, and the disk of {folder} has only {amount(free_bytes)} free.",
        "Make room, or name a folder of models on another disk in the settings.",
    )

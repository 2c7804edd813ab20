"""Pictures that a person has deleted: first held, so that it can be undone, then given to the system's bin.

Held files lie in ``outputs/.deleted/<token>/<day>/``, on the same disk, so that deleting and undoing are renames that
cannot lose anything half-way. When their time is over each goes back to its place for an instant, so that the bin
remembers where it came from, and into the bin. Where there is none, it is kept in ``data/trash``.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fooocus.errors import RequestError, StorageError
from fooocus.images.library.places import DAY, PICTURE, Place, find_picture

HELD_SECONDS = 60.0  # the page offers to undo for a part of this
_TOKEN = re.compile(r"[0-9a-f]{24}")
_DRIVE_FIXED = 3  # of Windows' GetDriveTypeW: only such drives have a bin
_MAX_NAMES = 1000


class Bin:
    """Delete pictures of ``outputs`` by way of ``send``, which gives one file to the system's bin or raises OSError."""

    def __init__(self, outputs: Path, data: Path, send: Callable[[Path], None] | None = None) -> None:
        self._outputs = outputs
        self._held = outputs / ".deleted"
        self._trash = data / "trash"
        self._send = send or send_to_bin
        self._since: dict[str, float] = {}

    def hold(self, places: Sequence[Place]) -> tuple[str, list[Place]]:
        """Take pictures out of the outputs folder; return the token by which to undo it, and which were taken.

        Raises :class:`~fooocus.errors.StorageError` when nothing could be taken.
        """
        token = secrets.token_hex(12)
        taken: list[Place] = []
        problem: OSError | None = None
        for place in places:
            file = find_picture(self._outputs, *place)
            if file is None:
                continue
            try:
                folder = self._held / token / place.day
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(file, folder / place.name)
                taken.append(place)
                if (beside := file.with_suffix(".json")).is_file():
                    os.replace(beside, folder / beside.name)
            except OSError as error:
                problem = error
        self._since[token] = time.monotonic()
        if problem is not None and not taken:
            raise StorageError(
                f"The picture could not be deleted: {problem.strerror or problem}.",
                "Close programs that have it open, and make the outputs folder writable.",
            ) from problem
        return token, taken

    def undo(self, token: str) -> list[Place]:
        """Put the pictures of one deletion back and return them.

        Raises :class:`~fooocus.errors.RequestError` when they are in the system's bin by now.
        """
        back: list[Place] = []
        for file, place in self._files(token):
            if _put_back(file, self._outputs / place.day / place.name) and PICTURE.fullmatch(place.name):
                back.append(place)
        self._forget(token)
        if not back:
            raise RequestError("picture", "It is in the bin by now.", "Put it back from the system's bin.")
        return back

    def due(self, *, everything: bool = False) -> list[str]:
        """Return the tokens whose time is over; deletions of an earlier run get their time from now."""
        now = time.monotonic()
        try:
            tokens = [folder.name for folder in self._held.iterdir() if _TOKEN.fullmatch(folder.name)]
        except OSError:
            return []
        return [token for token in tokens if everything or now - self._since.setdefault(token, now) > HELD_SECONDS]

    def empty(self, token: str) -> None:
        """Give the pictures of one deletion to the system's bin, or keep them in ``data/trash``."""
        for file, place in self._files(token):
            home = self._outputs / place.day / place.name
            sent = file
            if _put_back(file, home):
                sent = home
            try:
                self._send(sent)
            except OSError as error:
                logging.getLogger("fooocus.library").info("No bin for %s: %s", place, error)
                self._keep(sent, place)
        self._forget(token)

    def _keep(self, file: Path, place: Place) -> None:
        folder = self._trash / place.day
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(file, _free(folder / place.name))
        except OSError as error:
            logging.getLogger("fooocus.library").warning("%s could not be deleted: %s", place, error)

    def _files(self, token: str) -> Iterator[tuple[Path, Place]]:
        if not _TOKEN.fullmatch(token):
            return
        for file in sorted((self._held / token).glob("*/*")):
            if DAY.fullmatch(file.parent.name) and file.is_file() and not file.is_symlink():
                yield file, Place(file.parent.name, file.name)

    def _forget(self, token: str) -> None:
        """Remove the folders of a deletion; what could not be moved keeps its own, and is tried again."""
        self._since.pop(token, None)
        if not _TOKEN.fullmatch(token):
            return
        for folder in (*(self._held / token).glob("*"), self._held / token, self._held):
            try:
                folder.rmdir()
            except OSError:
                continue


def send_to_bin(file: Path) -> None:
    """Give a file to the system's bin. Raises ``OSError`` where there is none."""
    if sys.platform == "win32":
        import ctypes

        # On other drives Windows would delete for good without a word.
        if ctypes.windll.kernel32.GetDriveTypeW(file.anchor) != _DRIVE_FIXED:
            raise OSError("this drive has no bin")
    from send2trash import send2trash

    send2trash(str(file))
    if file.exists():
        raise OSError("the bin did not take it")


def _put_back(file: Path, home: Path) -> bool:
    """Move a held file to its place unless another has the place."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        if home.exists():
            return False
        os.replace(file, home)
    except OSError as error:
        logging.getLogger("fooocus.library").warning("%s could not be put back: %s", home, error)
        return False
    return True


def _free(path: Path) -> Path:
    """Return ``path``, or its like with a number that no file has."""
    for number in range(2, _MAX_NAMES):
        if not path.exists():
            return path
        path = path.with_name(f"{path.stem.rpartition('~')[0] or path.stem}~{number}{path.suffix}")
    return path

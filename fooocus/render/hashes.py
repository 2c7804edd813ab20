"""SHA-256 of the model files in use, for the text block by which other programs and sites know them.

A file is read for it once in its life, beside the sampling of the first picture that uses it; later the sum is
remembered, with the downloader's, by path, size and time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path

from fooocus.errors import FooocusError, UnreadableModel
from fooocus.models.hashes import FileMemory

_LOOK_SECONDS = 0.2


class FileHashes:
    """The sums of one picture's files at a time. ``remembered`` keeps them for later."""

    def __init__(self, remembered: FileMemory) -> None:
        self._remembered = remembered
        self._sums: dict[Path, Future[str]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Start on a picture's files; returns at once. A file may have changed since the last picture."""
        self._sums = {path: Future() for path in paths}
        # A daemon: a sum that nobody waits for any more must not hold up the end of the process.
        threading.Thread(target=self._work, args=(self._sums,), name="hash", daemon=True).start()

    def by_name(self, check: Callable[[], object]) -> dict[str, str]:
        """Return the sums by file name, waiting for those that are not ready; ``check`` may leave by raising.

        A file that cannot be read any more is left out: a picture is not lost for the sake of a sum.
        """
        found: dict[str, str] = {}
        for path, sum_ in self._sums.items():
            while True:
                check()
                try:
                    found[path.name] = sum_.result(timeout=_LOOK_SECONDS)
                except NotYet:
                    continue
                except FooocusError as error:
                    logging.getLogger("fooocus.render").warning("no sum of %s: %s", path, error)
                break
        return found

    def _work(self, sums: dict[Path, Future[str]]) -> None:
        try:
            for path, future in sums.items():
                try:
                    future.set_result(self._remembered.sha256(path, threading.Event()))
                except FooocusError as error:
                    future.set_exception(error)
        finally:  # whatever happened here, nobody may wait for ever with a finished picture
            for path, future in sums.items():
                if not future.done():
                    future.set_exception(UnreadableModel(f"The sum of {path.name} could not be computed."))

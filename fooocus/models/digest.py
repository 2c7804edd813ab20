"""SHA-256 of a file that is still being written, so that a finished download need not be read once more."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

from fooocus.errors import Stopped
from fooocus.models.troubles import disk_trouble

_READ_BYTES = 1 << 20


class GrowingDigest(threading.Thread):
    """SHA-256 of a file that still grows, computed behind the writer; a continued part is read again meanwhile."""

    def __init__(self, path: Path, available: int) -> None:
        super().__init__(name=f"digest of {path.name}", daemon=True)
        self._path, self._available, self._done = path, available, 0
        self._hash = hashlib.sha256()
        self._ended = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self.start()

    def follow(self, available: int) -> None:
        """Tell how far the file reaches now."""
        with self._changed:
            self._available = available
            # Waking another thread for every few kB would cost more than hashing them.
            if available - self._done >= _READ_BYTES:
                self._changed.notify_all()

    def result(self, stop: threading.Event) -> str:
        """Wait for the hash of all there is. Raises :class:`~fooocus.errors.Stopped` or ``OSError``."""
        with self._changed:
            self._changed.notify_all()
            while self._done < self._available and self._error is None:
                if stop.is_set():
                    raise Stopped("Stopped.")
                self._changed.wait(0.1)
        if self._error is not None:
            raise disk_trouble(self._path.parent, self._error, 0)
        return self._hash.hexdigest()

    def end(self) -> None:
        """Stop reading."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        """Read on whenever there is more."""
        try:
            with self._path.open("rb", buffering=0) as file:
                while (wanted := self._wait()) > 0:
                    data = file.read(min(wanted, _READ_BYTES))
                    if not data:
                        raise OSError(errno.EIO, "the file became shorter")
                    self._hash.update(data)
                    with self._changed:
                        self._done += len(data)
                        self._changed.notify_all()
        except OSError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait(self) -> int:
        with self._changed:
            while not self._ended and self._done >= self._available:
                self._changed.wait()
            return 0 if self._ended else self._available - self._done

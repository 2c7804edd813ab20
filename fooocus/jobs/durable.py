"""Writing that waits for a disk that is full: nothing goes on before it is written, and the person is told once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fooocus.errors import StorageError


def durably(
    write: Callable[[], bool], tell: Callable[[str], object], shut: threading.Event, retry_seconds: float
) -> bool:
    """Write, again and again until it succeeds, and return what ``write`` does: whether anything changed.

    ``tell`` gets the first failure in words. Also returns false, without having written, when ``shut`` is set
    meanwhile.
    """
    told = False
    while True:
        try:
            return write()
        except StorageError as error:
            if not told:
                told = True
                tell(f"{error.sentence} {error.remedy}")
        if shut.wait(retry_seconds):
            return False

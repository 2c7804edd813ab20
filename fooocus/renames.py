"""Renaming files on a system where other programs look into fresh ones."""

from __future__ import annotations

import time
from collections.abc import Callable

_PAUSES = (0.1, 0.2, 0.4, 0.6, 0.8)  # seconds, about two in all


def retried(rename: Callable[[], None]) -> None:
    """Rename again for two seconds: a virus scanner holds fresh files for a moment on Windows.

    Raises what ``rename`` raises: ``FileExistsError`` at once, ``PermissionError`` when it does not pass.
    """
    for pause in _PAUSES:
        try:
            rename()
            return
        except FileExistsError:
            raise
        except PermissionError:
            time.sleep(pause)
    rename()

"""Keep the computer from falling asleep over work that nobody sits at.

Idle sleep looks at keyboard and mouse only: a night's queue or a download of hours would stop half way, and a graphics
card that slept is lost to the process that used it. Linux desktops leave that to the person.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SetThreadExecutionState of Windows: until told otherwise (CONTINUOUS), the system is needed.
_CONTINUOUS, _SYSTEM_REQUIRED = 0x80000000, 0x00000001


@contextmanager
def awake() -> Iterator[None]:
    """Keep the computer awake until the block ends; to be left by the thread that entered it."""
    match sys.platform:
        case "win32":
            tell = _windows()
            tell(_CONTINUOUS | _SYSTEM_REQUIRED)
            try:
                yield
            finally:
                tell(_CONTINUOUS)
        case "darwin":
            with _caffeinated():
                yield
        case _:
            yield


def _windows() -> Callable[[int], object]:
    import ctypes

    tell: Callable[[int], object] = ctypes.windll.kernel32.SetThreadExecutionState  # type: ignore[attr-defined,unused-ignore]
    return tell


@contextmanager
def _caffeinated() -> Iterator[None]:
    """macOS has a command for it; where that is missing, so be it."""
    try:
        # It ends with this process whatever becomes of that, and has nothing of its pipes.
        command, nothing = ["caffeinate", "-i", "-w", str(os.getpid())], subprocess.DEVNULL
        keeper = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        keeper.kill()  # a worker ignores the politer signals, and whom it starts ignores them as well
        keeper.wait()

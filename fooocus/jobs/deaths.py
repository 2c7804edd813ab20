"""Why a process ended, in words for the person: from an exit code to a sentence and a remedy.

POSIX tells a signal as a negative code, Windows an NTSTATUS number. Only the ends that people really meet have a
sentence of their own (memory ran out, a crash in native code, a missing library); the others are named by their number.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from fooocus.events import Failed

_SMALLER = "Choose a smaller size or fewer models, close other programs, then generate again."
_AGAIN = "Generate again. If it happens each time, look at the end of the worker's log file."

_MEMORY = ("was ended by the system, most likely because memory ran out", _SMALLER)
_CRASH = ("crashed inside native code", "Generate again. If it happens each time, update the graphics driver.")
_CUT_FILE = (
    "crashed while reading a file, most likely a model that was changed or cut short during use",
    "Check the disk and the model files, then generate again.",
)
_ASKED = ("was ended from outside this program", "Generate again.")

# The names are looked up at run time, because Windows lacks most of them.
_BY_SIGNAL = {
    "SIGKILL": _MEMORY,
    "SIGSEGV": _CRASH,
    "SIGABRT": _CRASH,
    "SIGILL": ("needs processor instructions that this processor lacks", "Install another build of torch."),
    "SIGFPE": _CRASH,
    "SIGBUS": _CUT_FILE,
    "SIGTERM": _ASKED,
    "SIGINT": _ASKED,
    "SIGHUP": _ASKED,
}
_BY_NTSTATUS = {
    0xC0000005: _CRASH,  # access violation
    0xC0000006: _CUT_FILE,  # in-page error
    0xC0000017: _MEMORY,  # no memory
    0xC000001D: _BY_SIGNAL["SIGILL"],
    0xC00000FD: _CRASH,  # stack overflow
    0xC0000135: (
        "did not find a library that it needs",
        "End the program and run once: run.bat repair, or ./run.sh repair",
    ),
    0xC000013A: _ASKED,  # control-C
    0xC0000409: _CRASH,  # fail fast
}


def explain(code: int) -> tuple[str, str]:
    """Turn the exit code of a process into (the rest of a sentence that begins with a subject, a remedy).

    The signal's name, which tells a person nothing, is left to :func:`named` and the log.
    """
    if code < 0:
        return _BY_SIGNAL.get(named(code), ("was ended", _AGAIN))
    if code & 0xFFFFFFFF in _BY_NTSTATUS:
        return _BY_NTSTATUS[code & 0xFFFFFFFF]
    return f"ended by itself (exit code {code})", _AGAIN


def named(code: int) -> str:
    """Name an exit code as a helper wants to read it in a log or a report."""
    if code >= 0:
        return f"0x{code & 0xFFFFFFFF:08X}" if code & 0xFFFFFFFF in _BY_NTSTATUS else f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def stays_down(starts: int, sentence: str, tail: Sequence[str]) -> Failed:
    """Say that a worker is given up after ``starts`` starts; ``tail`` holds the last lines of its standard error."""
    said = " ".join(line.strip() for line in tail[-3:])
    remedy = (
        f"Its last words were: {said}" if said else "End the program and run once: run.bat repair, or ./run.sh repair"
    )
    return Failed("WorkerError", f"The worker process did not start {starts} times in a row. {sentence}", remedy)

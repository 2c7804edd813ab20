"""One worker process: its pipes, the threads that serve them, and its log file.

Nothing here blocks the caller: messages go through a queue to a writing thread, lines come back on a reading thread,
and standard error is copied into a log file that is rotated by size. Only ``Popen``'s own kill is used, so all of it
works on Windows too.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from fooocus.jobs.deaths import named

_TAIL_LINES = 20  # of standard error, shown when a worker does not start
_LOG_BYTES = 2_000_000  # three files of this size are kept
_EXIT_SECONDS = 5.0  # for a process that has closed its pipe
_NO_WINDOW = 0x08000000 if sys.platform == "win32" else 0  # CREATE_NO_WINDOW


Phase = Literal["starting", "ready", "busy", "restarting", "down"]


@dataclasses.dataclass(frozen=True)
class WorkerState:
    """What the worker is doing. ``reason`` says why it is restarting or down, or, ready, why it gets no job.

    ``job`` is the running job's id.
    """

    phase: Phase
    reason: str = ""
    job: str | None = None
    pid: int | None = None


class RotatedLog:
    """A text file that renames itself to ``.1`` and ``.2`` as it grows. A log that cannot be written is given up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._usable = True

    def write(self, line: bytes) -> None:
        """Append one line, with the time before it."""
        with self._lock:
            if not self._usable:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size > _LOG_BYTES:
                    older = self.path.with_name(self.path.name + ".1")
                    if older.exists():
                        older.replace(self.path.with_name(self.path.name + ".2"))
                    self.path.replace(older)
                with self.path.open("ab") as file:
                    file.write(time.strftime("%Y-%m-%d %H:%M:%S ").encode() + line)
            except OSError as error:
                self._usable = False
                logging.getLogger("fooocus.jobs").warning("the worker's log %s cannot be written: %s", self.path, error)


class WorkerProcess:
    """A running worker.

    ``heard`` is called with each message and ``gone`` once with the exit code, both on the reading thread. Raises
    ``OSError`` when the command cannot be started. The threads run from :meth:`listen` on.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        log: RotatedLog,
        heard: Callable[[WorkerProcess, dict[str, Any]], None],
        gone: Callable[[WorkerProcess, int], None],
    ) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self.killed, self.words = False, ""
        self._log, self._heard, self._gone = log, heard, gone
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._popen = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment) if environment is not None else None,
            creationflags=_NO_WINDOW,
        )
        self.pid = self._popen.pid
        self._threads = [
            threading.Thread(target=target, name=f"worker-{name}", daemon=True)
            for name, target in (("read", self._read), ("write", self._write), ("log", self._copy_log))
        ]

    def listen(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message; never blocks, and nothing happens when the process is gone."""
        self._outbox.put(message)

    def kill(self, words: str = "") -> None:
        """End the process at once; ``gone`` follows. ``words`` say why where it was not for lack of an answer."""
        self.killed, self.words = True, words
        self._popen.kill()

    def close(self, seconds: float) -> None:
        """Close the pipe, wait, then kill; return when the process and its threads have ended."""
        self._outbox.put(None)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._popen.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_EXIT_SECONDS)

    def _read(self) -> None:
        for line in _pipe(self._popen.stdout):
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("not an object")
            except ValueError:
                self._log.write(b"not a message: " + line)
                continue
            self._heard(self, message)
        _pipe(self._popen.stdout).close()
        try:
            code = self._popen.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self._outbox.put(None)
        self._threads[2].join(1.0)  # a grandchild may hold standard error open for ever
        if code:
            self._log.write(f"the worker is gone: {named(code)}\n".encode())
        self._gone(self, code)

    def _write(self) -> None:
        stream = _pipe(self._popen.stdin)
        try:
            while (message := self._outbox.get()) is not None:
                stream.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
                stream.flush()
            stream.close()
        except OSError as error:
            logging.getLogger("fooocus.jobs").info("the worker's pipe broke: %s", error)
            _close_broken(stream)

    def _copy_log(self) -> None:
        with _pipe(self._popen.stderr) as stream:
            for line in stream:
                self.tail.append(line.decode("utf-8", "replace").rstrip())
                self._log.write(line)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all three were asked for
    return stream


def _close_broken(stream: IO[bytes]) -> None:
    """Close a pipe whose buffer can no longer be written; the failed flush of close is expected."""
    try:
        stream.close()
    except OSError as error:
        logging.getLogger("fooocus.jobs").debug("closing the worker's pipe: %s", error)

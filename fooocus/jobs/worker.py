"""The worker's side of the pipe: take one job after another, run it, and say what happens.

The page process writes one JSON object per line to the worker's standard input and reads one per line from its standard
output. In: ``{"prepare": {...}}``, ``{"run": {...}}`` (a :class:`WorkItem`), ``{"stop": id}``, ``{"skip": id}``,
``{"pause": id}`` and ``{"resume": id}``, which takes a pause back; the end of the input means that the page is gone.
Out: ``{"ready": {"pid": n}}`` once after each prepare, ``{"begun": id}`` before a job can do any harm, and
``{"id": id, "event": {...}}``.

A worker's program is three lines: :func:`claim_pipes` before anything heavy is imported, then the engine, then
:func:`serve`. :func:`perform` alone runs a job without any pipe, for the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from fooocus import events
from fooocus.awake import awake
from fooocus.errors import FooocusError, PauseAsked, Stopped
from fooocus.events import Cancelled, Event, Failed, Finished, Paused, Saved, Stage, Step


@dataclasses.dataclass(frozen=True)
class WorkItem:
    """One job as the worker sees it.

    ``attempt`` counts from 1. On a second attempt ``saved`` holds the pictures that the first one finished: they must
    not be made again. A picture that reached the disk without being listed (the process died in between) is recognised
    by its name, which is built from ``created_ms``, a number that no other job has. ``paused`` is where the job was
    when it was paused last: what it says of a picture that is not saved still holds.
    """

    id: str
    request: dict[str, Any]
    created_ms: int
    attempt: int = 1
    saved: tuple[Saved, ...] = ()
    paused: Paused | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the item as a JSON object."""
        # The picture of where it was is for the page, which has it.
        paused = self.paused and events.to_json(dataclasses.replace(self.paused, preview=None))
        return {**vars(self), "saved": [events.to_json(saved) for saved in self.saved], "paused": paused}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WorkItem:
        """Read what :meth:`to_json` wrote."""
        pictures = [events.from_json(saved) for saved in values["saved"]]
        paused = events.from_json(values["paused"]) if values["paused"] else None
        return cls(**{**values, "saved": tuple(p for p in pictures if isinstance(p, Saved)), "paused": paused})


class Control:
    """What the person wants of a running job. Set from any thread, looked at in mid-step."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._skip = threading.Event()
        self._pause = threading.Event()

    def stop(self) -> None:
        """Ask the job to end."""
        self._stop.set()

    def skip(self) -> None:
        """Ask the job to leave out the rest of this picture."""
        self._skip.set()

    def pause(self) -> None:
        """Ask the job to rest where it is."""
        self._pause.set()

    def resume(self) -> None:
        """Take a pause back that has not been looked at yet."""
        self._pause.clear()

    def stopping(self) -> bool:
        """Return whether the job was asked to end."""
        return self._stop.is_set()

    def skipping(self) -> bool:
        """Return whether the job was asked to go on with the next picture."""
        return self._skip.is_set()

    def skipped(self) -> None:
        """Forget the wish to skip: the next picture begins."""
        self._skip.clear()

    def check(self) -> None:
        """Raise :class:`Stopped` when the job was asked to end, :class:`PauseAsked` when it was asked to rest."""
        if self._stop.is_set():
            raise Stopped("The job was stopped.")
        if self._pause.is_set():
            raise PauseAsked("The job was paused.")


Emit = Callable[[Event], None]
Run = Callable[[WorkItem, Emit, Control], None]
Prepare = Callable[[dict[str, Any]], None]


CARD_LOST = Failed(
    "WorkerError",
    "The graphics card's driver failed in the middle of the work.",
    "Generate again: the worker starts anew. If it happens each time, update the driver and restart the computer.",
)


def perform(run: Run, item: WorkItem, emit: Emit, control: Control) -> bool:
    """Run one job so that exactly one last event is emitted, whatever ``run`` raises, forgets or repeats.

    Return whether this process can do another one: to one whose card was lost, every further call would fail.

    A ``run`` that knows how to continue a picture says :class:`~fooocus.events.Paused` itself; for one that lets
    ``PauseAsked`` through, the picture begins anew.
    """
    begun = time.monotonic()
    paths = {saved.picture: saved.path for saved in item.saved}
    ended = False
    reached = Paused()

    def guarded(event: Event) -> None:
        nonlocal ended, reached
        if ended:
            _log().warning("job %s: said after its end: %s", item.id, type(event).__name__)
            return
        ended = isinstance(event, events.LAST)
        if isinstance(event, Saved):
            paths[event.picture] = event.path
        if isinstance(event, Stage | Step):
            reached = Paused(event.picture, event.pictures)
        emit(event)

    def work() -> None:
        try:
            run(item, guarded, control)
        except PauseAsked:
            guarded(reached)

    fault = _attempt(item.id, work)
    if not ended:
        guarded(fault or Finished(tuple(paths[picture] for picture in sorted(paths)), time.monotonic() - begun))
    return fault is not CARD_LOST


def claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take standard input and output for the protocol; call first of all in a worker process.

    Afterwards descriptor 1 is standard error and descriptor 0 is empty, so that a library that prints, in Python or in
    C, cannot spoil the protocol, and Windows' C runtimes, which query the standard handles when they load, cannot wait
    for a thread that reads from one. Control-C in the terminal, its closing and a logout are left to the page process,
    which hears of them as well and ends this one once the job is left; a crash in native code writes its Python stack
    to standard error.
    """
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    faulthandler.enable(2)
    return stdin, stdout


def serve(
    run: Run,
    stdin: BinaryIO,
    stdout: BinaryIO,
    *,
    prepare: Prepare | None = None,
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Run jobs from ``stdin`` one at a time until the page is gone.

    ``prepare`` is the place for slow imports and for loading a model while the person types; its failure is only
    logged, because the job that needs the same things will fail with the same sentence. When the page disappears in
    mid-job the process ends at once through ``leave``: pictures are written atomically, so nothing can be half done,
    and the memory is free for the next page.
    """
    desk = _Desk(leave)
    channel = _Channel(stdout)
    threading.Thread(target=_listen, args=(stdin, desk), name="listen", daemon=True).start()
    while (message := desk.next()) is not None:
        if "prepare" in message:
            if prepare is not None:
                _attempt("prepare", lambda: prepare(message["prepare"]))
            channel.say({"ready": {"pid": os.getpid()}})
        else:
            item = WorkItem.from_json(message["run"])
            channel.say({"begun": item.id})
            with awake():
                sound = perform(run, item, functools.partial(channel.emit, item.id), desk.control(item.id))
            desk.forget(item.id)
            if not sound:
                leave(0)  # the page starts another one; to end in order would ask the lost card
                return
        desk.done()
        if channel.broken:
            return


def _attempt(name: str, work: Callable[[], None]) -> Failed | Cancelled | None:
    """Do the work; turn whatever it raises into a terminal event. The worker's one broad catch."""
    try:
        work()
    except Stopped:
        return Cancelled()
    except FooocusError as error:
        _log().warning("job %s: %s", name, error, exc_info=True)
        return events.failure(error)
    except MemoryError:
        _log().exception("job %s: out of memory", name)
        return Failed(
            "Defect",
            "The computer's memory ran out.",
            "Close other programs, choose a smaller size or fewer models, then generate again.",
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the person is told and the next job runs
        _log().exception("job %s: defect", name)
        if _is_lost_card(error):
            return CARD_LOST
        return Failed(
            "Defect",
            f"The program made a mistake ({type(error).__name__}: {str(error)[:300]}).",
            "Generate again. If it happens each time, please report it with the worker's log file.",
        )
    return None


def _is_lost_card(error: BaseException) -> bool:
    """Tell an error after which this process cannot use its card any more: the driver was reset, as after a laptop's
    sleep, or the card's work went astray. Known by the name of torch's class, as torch is not imported here."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    lost = "AcceleratorError" in kinds and "out of memory" not in str(error)
    return lost or "DEVICE_LOST" in str(error)  # Intel's driver speaks in a class of its own


class _Desk:
    """What has arrived and what is being worked on; shared by the listening and the working thread."""

    def __init__(self, leave: Callable[[int], object]) -> None:
        self._leave = leave
        self._inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._controls: dict[str, Control] = {}
        self._lock = threading.Lock()
        self._pending = 0  # messages that are waiting or being worked on

    def put(self, message: dict[str, Any]) -> None:
        """Take a line of the page: a wish takes effect at once, work is queued."""
        if "stop" in message:
            self.control(message["stop"]).stop()  # may come before its job: the control is then found by the job
        elif "skip" in message:
            self.control(message["skip"]).skip()
        elif "pause" in message:
            self.control(message["pause"]).pause()
        elif "resume" in message:
            self.control(message["resume"]).resume()
        elif "run" in message or "prepare" in message:
            if "run" in message:  # a wish that came too late for the job's last run does not hold for this one
                control = self.control(message["run"]["id"])
                control.resume()
                control.skipped()
            with self._lock:
                self._pending += 1
            self._inbox.put(message)
        else:
            _log().warning("unknown message: %s", sorted(message))

    def next(self) -> dict[str, Any] | None:
        """Wait for work. Nothing means that the page is gone."""
        return self._inbox.get()

    def done(self) -> None:
        """One message is worked off."""
        with self._lock:
            self._pending -= 1

    def end(self) -> None:
        """The page is gone: leave at once if work is going on, else let the working thread return."""
        with self._lock:
            busy = self._pending > 0
        self._inbox.put(None)
        if busy:
            self._leave(0)

    def control(self, id: str) -> Control:
        """Return the control of a job, made at its first mention."""
        with self._lock:
            return self._controls.setdefault(id, Control())

    def forget(self, id: str) -> None:
        """Drop the control of a job that has ended."""
        with self._lock:
            self._controls.pop(id, None)


class _Channel:
    """The way to the page: whole lines, from any thread. When the page is gone, the running job is asked to stop."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.broken = False

    def say(self, message: dict[str, Any]) -> None:
        """Write one line."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self.broken:
                return
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # Windows says EINVAL for a closed pipe
                self.broken = True
                with contextlib.suppress(OSError, ValueError):  # or the unwritten rest complains at exit
                    self._stream.close()

    def emit(self, id: str, event: Event) -> None:
        """Write an event of a job. Raises :class:`Stopped` when nobody listens any more."""
        self.say({"id": id, "event": events.to_json(event)})
        if self.broken and not isinstance(event, events.LAST):
            raise Stopped("The page is gone.")


def _listen(stdin: BinaryIO, desk: _Desk) -> None:
    """Hand every line of the page to the desk until the page is gone."""
    try:
        for line in stdin:
            desk.put(json.loads(line))
    except (OSError, ValueError):
        _log().warning("the page's pipe broke", exc_info=True)
    desk.end()


def _log() -> logging.Logger:
    return logging.getLogger("fooocus.worker")

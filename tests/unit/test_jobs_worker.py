"""The worker's side of the pipe, in this process: real pipes, a run function of a few lines."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pytest

from fooocus.errors import DeviceOutOfMemory, PauseAsked, RequestError, Stopped
from fooocus.events import Cancelled, Event, Failed, Finished, Notice, Paused, Saved, Step, from_json
from fooocus.jobs.worker import Control, Emit, Run, WorkItem, perform, serve

ITEM = WorkItem("job", {"prompt": "x"}, 1_700_000_000_000, 2, (Saved(1, 2, "/out/1.png", 5),), Paused(2, 2, 3, 9))


def said_by(run: Run, item: WorkItem = ITEM) -> list[Event]:
    said: list[Event] = []
    perform(run, item, said.append, Control())
    return said


def test_work_item_survives_json() -> None:
    assert WorkItem.from_json(json.loads(json.dumps(ITEM.to_json()))) == ITEM


def test_finished_names_the_pictures_of_all_attempts() -> None:
    (_, last) = said_by(lambda item, emit, control: emit(Saved(2, 2, "/out/2.png", 6)))
    assert isinstance(last, Finished)
    assert last.paths == ("/out/1.png", "/out/2.png")


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (Stopped("The job was stopped."), Cancelled()),
        (DeviceOutOfMemory("Too big.", "Smaller."), Failed("DeviceOutOfMemory", "Too big.", "Smaller.")),
        (RequestError("seed", "No.", "Other."), Failed("RequestError", "No.", "Other.", "seed")),
    ],
)
def test_errors_for_the_person_keep_their_sentence(error: Exception, event: Event) -> None:
    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        raise error

    assert said_by(run) == [event]


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), SystemExit(3), RecursionError(), KeyError("k")])
def test_anything_else_is_a_defect(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        raise error

    (failed,) = said_by(run)
    assert isinstance(failed, Failed)
    assert failed.code == "Defect"
    assert failed.sentence
    assert failed.remedy
    (record,) = caplog.records
    assert "job job" in record.getMessage()
    assert record.exc_info is not None, "the trace is in the log"


def test_exactly_one_terminal_event() -> None:
    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        emit(Cancelled())
        emit(Notice("too late"))
        emit(Finished((), 0.0))
        raise ValueError("after the end")

    assert said_by(run) == [Cancelled()]


def test_a_pause_is_the_end_of_the_run_and_says_where(wires: list[Wire]) -> None:
    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        emit(Step(2, 3, 7, 9))
        while True:
            control.check()

    wires.append(wire := Wire(run))
    wire.run("a")
    assert wire.event() == Step(2, 3, 7, 9)
    wire.say(pause="a")
    assert wire.event() == Paused(2, 3), "an engine that keeps nothing begins the picture anew"
    wire.say(pause="a")
    wire.run("a")
    assert wire.event() == Step(2, 3, 7, 9)
    wire.say(skip="a")
    wire.say(stop="a")
    assert wire.event() == Cancelled(), "a pause that came too late does not hold for the next run"


def test_control() -> None:
    control = Control()
    control.check()
    control.skip()
    assert control.skipping()
    control.skipped()
    assert not control.skipping()
    control.pause()
    with pytest.raises(PauseAsked):
        control.check()
    control.resume()
    control.check()
    control.stop()
    assert control.stopping()
    with pytest.raises(Stopped):
        control.check()


class Wire:
    """A served worker in a thread, and the page's ends of its pipes."""

    def __init__(self, run: Run, prepare: Callable[[dict[str, Any]], None] | None = None) -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        self.input: BinaryIO = os.fdopen(in_write, "wb")
        self.output: BinaryIO = os.fdopen(out_read, "rb")
        self.left: queue.Queue[int] = queue.Queue()
        self._ends = (os.fdopen(in_read, "rb"), os.fdopen(out_write, "wb"))
        self.thread = threading.Thread(
            target=serve, args=(run, *self._ends), kwargs={"prepare": prepare, "leave": self.left.put}
        )
        self.thread.start()

    def say(self, **message: Any) -> None:
        self.input.write(json.dumps(message).encode() + b"\n")
        self.input.flush()

    def hear(self) -> Any:
        return json.loads(self.output.readline())

    def event(self) -> Event:
        while "event" not in (message := self.hear()):
            assert "begun" in message
        return from_json(message["event"])

    def run(self, id: str, **request: Any) -> None:
        self.say(run=WorkItem(id, request, 1).to_json())

    def close(self) -> None:
        if not self.input.closed:
            self.input.close()
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.output.close()
        for end in self._ends:
            end.close()


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    wires: list[Wire] = []
    yield wires
    for wire in wires:
        wire.close()


def until_asked(item: WorkItem, emit: Emit, control: Control) -> None:
    """Work until the person wants something."""
    emit(Notice("begun"))
    while not control.skipping():
        control.check()
    emit(Notice("skipped"))


def test_prepare_then_jobs_in_order(wires: list[Wire]) -> None:
    settings: list[Any] = []
    wires.append(wire := Wire(lambda item, emit, control: emit(Notice(item.id)), settings.append))
    wire.say(prepare={"base": "x"})
    assert wire.hear() == {"ready": {"pid": os.getpid()}}
    assert settings == [{"base": "x"}]
    for id in ("a", "b"):
        wire.run(id)
        assert wire.hear() == {"begun": id}
        assert wire.event() == Notice(id)
        assert isinstance(wire.event(), Finished)


class AcceleratorError(RuntimeError):
    """Named as torch's class for what a card's driver says."""


def test_a_worker_whose_card_was_lost_leaves_after_its_word(wires: list[Wire]) -> None:
    """To such a process every further call fails, whatever job it is for; a new one has a new card."""
    ran: list[str] = []

    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        ran.append(item.id)
        raise AcceleratorError(item.request["says"])

    wires.append(wire := Wire(run))
    wire.run("a", says="CUDA error: out of memory")
    failed = wire.event()
    assert isinstance(failed, Failed) and failed.code == "Defect"
    wire.run("b", says="CUDA error: an illegal memory access was encountered")
    failed = wire.event()
    assert isinstance(failed, Failed) and "driver failed" in failed.sentence and "starts anew" in failed.remedy
    assert wire.left.get(timeout=5) == 0
    wire.thread.join(5)
    assert ran == ["a", "b"] and not wire.thread.is_alive(), "the next job is for the next worker"


def test_a_failing_prepare_is_no_end(wires: list[Wire]) -> None:
    def prepare(settings: dict[str, Any]) -> None:
        raise ImportError("no torch")

    wires.append(wire := Wire(lambda item, emit, control: None, prepare))
    wire.say(prepare={})
    assert "ready" in wire.hear()


def test_stop_and_skip_reach_a_running_job(wires: list[Wire]) -> None:
    wires.append(wire := Wire(until_asked))
    wire.run("a")
    assert wire.event() == Notice("begun")
    wire.say(stop="a")
    assert wire.event() == Cancelled()
    wire.run("b")
    assert wire.event() == Notice("begun")
    wire.say(skip="b")
    assert wire.event() == Notice("skipped")
    assert isinstance(wire.event(), Finished)


def test_a_stop_may_come_before_its_job_and_hits_no_other(wires: list[Wire]) -> None:
    wires.append(wire := Wire(until_asked))
    wire.run("a")
    assert wire.event() == Notice("begun")
    wire.say(stop="b")
    wire.run("b")
    wire.say(skip="a")
    assert wire.event() == Notice("skipped")
    assert isinstance(wire.event(), Finished)
    assert wire.event() == Notice("begun")
    assert wire.event() == Cancelled()


def test_the_end_of_the_page_in_mid_job_leaves_at_once(wires: list[Wire]) -> None:
    release = threading.Event()

    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        emit(Notice("begun"))
        release.wait(5)

    wires.append(wire := Wire(run))
    wire.run("a")
    assert wire.event() == Notice("begun")
    wire.input.close()
    assert wire.left.get(timeout=60) == 0
    release.set()


def test_the_end_of_the_page_while_idle_returns(wires: list[Wire]) -> None:
    wires.append(wire := Wire(until_asked))
    wire.input.close()
    wire.thread.join(5)
    assert not wire.thread.is_alive()
    assert wire.left.empty()


def test_a_broken_pipe_ends_quietly(wires: list[Wire]) -> None:
    def run(item: WorkItem, emit: Emit, control: Control) -> None:
        for step in range(1, 10_000_000):
            emit(Step(1, 1, step, 1, b"x" * 1000))

    wires.append(wire := Wire(run))
    wire.run("a")
    wire.output.close()
    wire.thread.join(5)
    assert not wire.thread.is_alive()

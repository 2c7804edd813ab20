"""The small parts of the jobs room: restart policy, feed of events, reasons of death, folder lock, rotated log."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fooocus.errors import AlreadyRunning, StorageError
from fooocus.events import Cancelled, Event, Notice, Queued, Saved, Stage, Step
from fooocus.jobs import deaths, process
from fooocus.jobs.board import Board
from fooocus.jobs.feed import Feed
from fooocus.jobs.lock import FolderLock, address_of
from fooocus.jobs.process import RotatedLog
from fooocus.jobs.restarts import FAILED_STARTS, Restarts
from fooocus.jobs.store import JobStore


def test_restarts_come_at_once_then_later_then_never() -> None:
    restarts = Restarts(0.5)
    waits = []
    for _ in range(FAILED_STARTS - 1):
        assert not restarts.died(100.0, ready=False, lived_seconds=0.1)
        waits.append(max(0.0, restarts.start_at - 100.0))
    assert waits == [0.0, 0.5, 1.0, 2.0]
    assert restarts.died(100.0, ready=False, lived_seconds=0.1)
    restarts.asked()
    assert restarts.start_at == 0.0
    assert not restarts.died(200.0, ready=False, lived_seconds=0.1)


def test_idle_deaths_grow_slowly_and_never_give_up() -> None:
    restarts = Restarts(0.5)
    for _ in range(50):
        assert not restarts.died(100.0, ready=True, lived_seconds=1.0)
    assert restarts.start_at == 160.0
    restarts.healthy()
    assert not restarts.died(200.0, ready=True, lived_seconds=1.0)
    assert restarts.start_at < 200.0


def test_a_long_life_forgives() -> None:
    restarts = Restarts(0.5)
    for _ in range(4):
        restarts.died(100.0, ready=True, lived_seconds=3600.0)
    assert restarts.start_at == 0.0


def make_feed(*events: Event) -> Feed:
    lock = threading.RLock()
    feed = Feed(lock)
    with lock:
        for number, event in enumerate(events, start=1):
            feed.add(number, event)
    return feed


def test_feed_answers_with_what_is_new() -> None:
    feed = make_feed(Queued(2), Queued(1), Notice("x"))
    assert feed.after(0) == [(1, Queued(2)), (2, Queued(1)), (3, Notice("x"))]
    assert feed.after(2) == [(3, Notice("x"))]
    assert feed.after(3) == []
    assert feed.ahead == 1


def test_feed_keeps_only_the_newest_preview() -> None:
    feed = make_feed(*(Step(1, 1, step, 9, b"jpeg") for step in range(1, 6)), Stage("saving", 1, 1))
    previews = [event.preview for _, event in feed.after(0) if isinstance(event, Step)]
    assert previews == [None, None, None, None, b"jpeg"]


def test_listeners_hear_of_their_job_until_they_end(tmp_path: Path) -> None:
    store, lock = JobStore(tmp_path / "jobs.sqlite"), threading.RLock()
    board = Board(store, lock, lambda: None)
    id, other = store.submit({}, "me").id, store.submit({}, "me").id
    heard: list[str] = []
    end = board.listen(id, lambda: heard.append("me"))
    end_other = board.listen(id, lambda: heard.append("you"))
    with lock:
        board.feed(id)
        heard.clear()
        board.feed(other)
        board.publish(other, Notice("x"))
        assert heard == []
        board.publish(id, Notice("x"))
        assert sorted(heard) == ["me", "you"]
        end()
        end()
        board.begin_again(id)
        board.wake_all()
        assert sorted(heard) == ["me", "you", "you", "you"]
    end_other()
    store.close()


def test_feed_ends_once() -> None:
    feed = make_feed(Cancelled(), Notice("too late"))
    assert feed.ended
    assert feed.after(0) == [(1, Cancelled())]


def test_feed_is_bounded_and_keeps_what_matters() -> None:
    events: list[Event] = [Saved(1, 1, "/a.png", 1), Notice("kept")]
    events += [Step(1, 1, step, 99_999) for step in range(20_000)]
    feed = make_feed(*events)
    kept = feed.after(0)
    assert len(kept) <= 2001
    assert [event for _, event in kept[:2]] == events[:2]
    assert [number for number, _ in kept] == sorted({number for number, _ in kept})
    assert kept[-1] == (20_002, events[-1])
    waiting = Step(1, 9, 21, 30)  # a picture that waits for the others must not be thought to begin again
    feed = make_feed(waiting, *(Step(2, 9, step, 99_999) for step in range(5000)))
    assert feed.after(0)[0] == (1, waiting)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "most likely because memory ran out"),
        (-11, "crashed inside native code"),
        (-7, "reading a file"),
        (-15, "from outside"),
        (-63, "was ended"),
        (3, "exit code 3"),
        (0, "exit code 0"),
        (0xC0000005, "crashed inside native code"),
        (0xC0000017, "memory ran out"),
        (0xC000013A, "from outside"),
    ],
)
def test_deaths_are_said_in_words(code: int, words: str) -> None:
    sentence, remedy = deaths.explain(code)
    assert words in sentence
    assert remedy
    assert "SIG" not in sentence and "0x" not in sentence, "that is for the log"


@pytest.mark.parametrize(
    ("code", "name"), [(-9, "SIGKILL"), (-163, "signal 163"), (0xC0000005, "0xC0000005"), (3, "exit code 3")]
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_deaths_have_a_name_for_the_log(code: int, name: str) -> None:
    assert deaths.named(code) == name


def test_giving_up_quotes_the_last_words() -> None:
    assert "boom" in deaths.stays_down(5, "It ended.", ("a", "boom")).remedy
    assert deaths.stays_down(5, "It ended.", ()).remedy


def test_folder_has_one_page(tmp_path: Path) -> None:
    folder = tmp_path / "dätä 数据"
    first = FolderLock(folder)
    with pytest.raises(AlreadyRunning) as caught:
        FolderLock(folder)
    assert str(folder) in caught.value.sentence
    first.tell("http://127.0.0.1:7865")
    with pytest.raises(AlreadyRunning) as caught:
        FolderLock(folder)
    assert "http://127.0.0.1:7865" in caught.value.remedy
    assert address_of(folder) == "http://127.0.0.1:7865"
    first.release()
    first.release()
    second = FolderLock(folder)
    assert address_of(folder) == ""
    second.release()


def test_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        FolderLock(tmp_path / "file")


def test_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOG_BYTES", 100)
    log = RotatedLog(tmp_path / "logs" / "worker.log")
    for number in range(30):
        log.write(f"line {number}\n".encode())
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["worker.log", "worker.log.1", "worker.log.2"]
    assert (tmp_path / "logs" / "worker.log").read_bytes().endswith(b"line 29\n")
    assert all(path.stat().st_size < 200 for path in (tmp_path / "logs").iterdir())


def test_log_that_cannot_be_written_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    log = RotatedLog(tmp_path / "file" / "worker.log")
    log.write(b"one\n")
    log.write(b"two\n")
    assert len(caplog.records) == 1

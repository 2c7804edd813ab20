"""Kill it, hang it, fill the disk: what the jobs room promises, with real processes and the fake engine.

Run as a program, this file is a small page process for the kill test: it submits jobs for ever and prints their ids,
or, with ``drain``, works off what is left and ends.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fooocus.errors import AlreadyRunning, RequestError, StorageError
from fooocus.events import TERMINAL, Cancelled, Event, Failed, Finished, Notice, Paused, Queued, Saved, Step
from fooocus.jobs.lock import FolderLock
from fooocus.jobs.paused import paused_file
from fooocus.jobs.restarts import Patience
from fooocus.jobs.store import Job, JobStore
from fooocus.jobs.supervisor import Jobs

ENGINE = [sys.executable, str(Path(__file__).resolve().parents[1] / "fakes" / "fake_engine.py")]
PATIENCE = Patience(stop_seconds=0.5, close_seconds=2.0, backoff_seconds=0.01, retry_seconds=0.05)
posix = pytest.mark.skipif(os.name == "nt", reason="signals are told as such by POSIX systems only")

Open = Callable[..., Jobs]


def open_jobs(folder: Path, *arguments: str, patience: Patience = PATIENCE) -> Jobs:
    """What the composition root does, with the fake engine."""
    store = JobStore(folder / "jobs.sqlite")
    return Jobs(store, [*ENGINE, str(folder / "out"), *arguments], None, folder / "worker.log", patience=patience)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    every: list[Jobs] = []

    def one(*arguments: str, patience: Patience = PATIENCE) -> Jobs:
        every.append(open_jobs(tmp_path, *arguments, patience=patience))
        return every[-1]

    yield one
    for jobs in every:
        jobs.close()
        jobs.store.close()


def watch(jobs: Jobs, id: str, seconds: float = 60.0) -> list[Event]:
    """Return all events of a job up to its last one."""
    events: list[Event] = []
    last, end = 0, time.monotonic() + seconds
    while not events or not isinstance(events[-1], TERMINAL):
        assert time.monotonic() < end, f"no end of the job: {events[-3:]}, {jobs.worker_state()}"
        for number, event in jobs.events(id, last, 1.0):
            assert number > last
            last = number
            events.append(event)
    return events


def until(jobs: Jobs, id: str, kind: type[Event], seconds: float = 60.0) -> None:
    """Wait for the first event of a kind."""
    end = time.monotonic() + seconds
    while not any(isinstance(event, kind) for _, event in jobs.events(id)):
        assert time.monotonic() < end
        time.sleep(0.005)


def fake(**values: Any) -> dict[str, Any]:
    return {"fake": {"steps": 3, "seconds": 0.001, **values}}


def ends_well(jobs: Jobs) -> None:
    """The next job runs."""
    assert isinstance(watch(jobs, jobs.submit(fake(), "me"))[-1], Finished)


def test_pictures_are_on_disk_before_they_are_told(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit({"count": 3, "seed": 7, "size": "48x32", "steps": 2, "unknown": [1], "prompt": "ä"}, "me")
    events = watch(jobs, id)
    saved = [event for event in events if isinstance(event, Saved)]
    assert isinstance(events[0], Queued)
    assert [(event.picture, event.seed) for event in saved] == [(1, 7), (2, 8), (3, 9)]
    assert all(Path(event.path).read_bytes().startswith(b"\x89PNG") for event in saved)
    assert isinstance(events[-1], Finished)
    assert events[-1].paths == tuple(event.path for event in saved)
    job = jobs.job(id)
    assert (job.state, job.saved, job.terminal, job.attempts) == ("finished", tuple(saved), events[-1], 1)
    assert jobs.idle()


@posix
@pytest.mark.parametrize(
    ("fault", "words", "name"),
    [
        ({"die_at": 2}, "memory ran out.", "SIGKILL"),
        ({"segfault": True}, "native code.", "SIGSEGV"),
        ({"exit": 5}, "exit code 5", "exit code 5"),
    ],
)
def test_a_dead_worker_fails_its_job_and_the_next_runs(
    opened: Open, tmp_path: Path, fault: dict[str, Any], words: str, name: str
) -> None:
    jobs = opened()
    id = jobs.submit(fake(**fault), "me")
    follower = jobs.submit(fake(), "me")
    failed = watch(jobs, id)[-1]
    while (state := jobs.worker_state()).phase == "busy":  # its job's end is told a hair before
        time.sleep(0.001)
    assert (state.phase, state.reason) == ("restarting", ""), "the job has said why"
    assert f"the worker is gone: {name}" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert isinstance(failed, Failed)
    assert failed.code == "WorkerError"
    assert words in failed.sentence
    assert failed.remedy
    assert isinstance(watch(jobs, follower)[-1], Finished)
    assert jobs.job(id).terminal == failed


def test_a_worker_killed_from_outside_while_idle_comes_back(opened: Open) -> None:
    jobs = opened()
    ends_well(jobs)
    pid = jobs.worker_state().pid
    assert pid is not None
    os.kill(pid, 9)
    ends_well(jobs)
    assert jobs.worker_state().pid != pid


@posix
def test_what_ends_the_page_is_not_heard_by_its_worker(opened: Open) -> None:
    """A closed terminal and a logout tell every process; the page is the one that leaves the job in good order."""
    jobs = opened()
    id = jobs.submit(fake(steps=20, seconds=0.01), "me")
    until(jobs, id, Step)
    pid = jobs.worker_state().pid
    assert pid is not None
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(pid, number)
    assert isinstance(watch(jobs, id)[-1], Finished)


def test_an_idle_worker_is_renewed_and_a_busy_one_is_not(opened: Open) -> None:
    jobs = opened()
    ends_well(jobs)
    while jobs.worker_state().phase != "ready":  # its job's end is told a hair before
        time.sleep(0.005)
    before = jobs.worker_state().pid
    assert jobs.renew()
    ends_well(jobs)
    assert jobs.worker_state().pid not in (None, before)
    running = jobs.submit(fake(steps=200, seconds=0.01), "me")
    until(jobs, running, Step)
    assert not jobs.renew()
    jobs.cancel(running)
    assert isinstance(watch(jobs, running)[-1], Cancelled)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"raise": "The picture is broken."}, "RenderError", "The picture is broken."),
        ({"defect": "odd"}, "Defect", "ValueError: odd"),
        ({"memory": True}, "Defect", "memory ran out"),
    ],
)
def test_errors_fail_the_job_and_keep_the_worker(opened: Open, fault: dict[str, Any], code: str, words: str) -> None:
    jobs = opened()
    ends_well(jobs)
    pid = jobs.worker_state().pid
    failed = watch(jobs, jobs.submit(fake(**fault), "me"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, words in failed.sentence) == (code, True)
    ends_well(jobs)
    assert jobs.worker_state().pid == pid


def test_prints_of_libraries_do_not_spoil_the_channel(opened: Open, tmp_path: Path) -> None:
    jobs = opened()
    assert isinstance(watch(jobs, jobs.submit(fake(print_to_stdout=True), "me"))[-1], Finished)
    jobs.close()
    log = (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert "a library prints" in log
    assert "a child prints" in log


@pytest.mark.clock
def test_stop_ends_a_running_job_within_a_step(opened: Open) -> None:
    jobs = opened(patience=Patience())
    id = jobs.submit(fake(steps=10_000, seconds=0.01), "me")
    until(jobs, id, Step)
    pid = jobs.worker_state().pid
    begun = time.monotonic()
    assert jobs.cancel(id)
    assert watch(jobs, id)[-1] == Cancelled()
    assert time.monotonic() - begun < 2.0, "much sooner than the worker would be killed"
    assert not jobs.cancel(id)
    assert jobs.job(id).state == "cancelled"
    ends_well(jobs)
    assert jobs.worker_state().pid == pid


def test_stop_of_a_hanging_job_costs_the_worker(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit(fake(hang=True), "me")
    until(jobs, id, Notice)
    assert jobs.cancel(id)
    assert watch(jobs, id)[-1] == Cancelled()
    ends_well(jobs)


def test_cancelling_a_waiting_job_leaves_the_running_one(opened: Open) -> None:
    jobs = opened()
    running = jobs.submit(fake(steps=30, seconds=0.01), "me")
    until(jobs, running, Step)
    waiting, other = jobs.submit(fake(), "you"), jobs.submit(fake(), "you")
    assert jobs.cancel(waiting)
    assert watch(jobs, waiting)[-1] == Cancelled()
    assert jobs.job(running).state == "running"
    assert isinstance(watch(jobs, running)[-1], Finished)
    aheads = [event.ahead for event in watch(jobs, other) if isinstance(event, Queued)]
    assert aheads[0] == 2
    assert aheads == sorted(aheads, reverse=True), "the way to the front is told and never goes back"
    with pytest.raises(RequestError):
        jobs.cancel("nobody")


def test_skip_goes_to_the_next_picture(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit({"count": 2, **fake(steps=500, seconds=0.01)}, "me")
    assert not jobs.skip("nobody")
    until(jobs, id, Step)
    assert jobs.skip(id)
    while not any(isinstance(event, Step) and event.picture == 2 for _, event in jobs.events(id)):
        time.sleep(0.01)
    assert jobs.skip(id)
    events = watch(jobs, id)
    assert events[-1] == Finished((), events[-1].seconds if isinstance(events[-1], Finished) else 0)


def steps_of(jobs: Jobs, id: str) -> list[int]:
    return [event.step for _, event in jobs.events(id) if isinstance(event, Step)]


@pytest.mark.clock
def test_a_paused_job_leaves_the_worker_to_the_next_and_goes_on_where_it_was(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit({"count": 2, **fake(steps=40, seconds=0.01)}, "me")
    until(jobs, id, Step)
    begun = time.monotonic()
    assert jobs.orders.pause(id)
    until(jobs, id, Paused)
    assert time.monotonic() - begun < 1
    ends_well(jobs)
    job = jobs.job(id)
    assert (job.state, job.attempts) == ("paused", 0)
    assert job.paused is not None and job.paused.step == steps_of(jobs, id)[-1] < 40
    assert not jobs.orders.pause(id)
    assert jobs.orders.resume(id)
    assert isinstance(watch(jobs, id)[-1], Finished)
    assert steps_of(jobs, id) == [*range(1, 41), *range(1, 41)], "no step is left out or done twice"
    assert jobs.job(id).attempts == 1
    assert not jobs.orders.resume(id)


def test_a_paused_job_survives_a_restart_and_its_preview_too(opened: Open) -> None:
    first = opened()
    id = first.submit(fake(steps=400, seconds=0.01, preview=True), "me")
    until(first, id, Step)
    first.orders.pause(id)
    until(first, id, Paused)
    reached = steps_of(first, id)[-1]
    first.close()
    second = opened()
    past = [event for _, event in second.events(id)]
    assert isinstance(past[-1], Paused) and past[-1].step == reached
    assert isinstance(past[-2], Step) and (past[-2].step, past[-2].preview and past[-2].preview[:2]) == (
        reached,
        b"\xff\xd8",
    )
    assert second.idle(), "a paused job does not run by itself"
    second.orders.resume(id)
    until(second, id, Notice)
    while steps_of(second, id)[-1] <= reached:
        time.sleep(0.005)
    assert steps_of(second, id)[:2] == [reached, reached + 1]
    assert second.cancel(id)
    assert watch(second, id)[-1] == Cancelled()


def test_a_closed_page_goes_on_with_the_picture_it_left(opened: Open) -> None:
    first = opened()
    id = first.submit(fake(steps=60, seconds=0.01), "me")
    until(first, id, Step)
    first.close()
    reached = steps_of(first, id)[-1]
    job = first.job(id)
    assert (job.state, job.attempts, job.paused and job.paused.step) == ("waiting", 0, reached)
    second = opened()
    assert isinstance(watch(second, id)[-1], Finished)
    assert steps_of(second, id) == list(range(reached, 61))


@pytest.mark.parametrize("fault", [{"steps": 9, "seconds": 0.3}, {"hang": True}])
def test_a_job_that_was_asked_to_pause_before_the_page_closed_does_not_run_by_itself(
    opened: Open, fault: dict[str, Any]
) -> None:
    first = opened(patience=Patience(close_seconds=1.0))
    id = first.submit(fake(**fault), "me")
    until(first, id, Notice)
    time.sleep(0.1)  # it is in its first step
    assert first.orders.pause(id)
    first.close()
    assert (first.job(id).state, first.job(id).attempts) == ("paused", 0)


@pytest.mark.parametrize("moment", ["cancel", "get"])
def test_a_stop_that_meets_a_pause_is_a_stop(opened: Open, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    jobs = opened()
    id = jobs.submit(fake(steps=1000, seconds=0.01), "me")
    until(jobs, id, Step)
    real = getattr(jobs.store, moment)

    def late(id: str) -> Any:
        """The job leaves the card just after it was looked at."""
        found = real(id)
        monkeypatch.undo()
        assert jobs.orders.pause(id)
        end = time.monotonic() + 0.5  # it cannot leave while the one who looks keeps the lock
        while not jobs.jobs(states=("paused",)) and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(jobs.store, moment, late)
    assert jobs.cancel(id)
    assert watch(jobs, id)[-1] == Cancelled()
    assert jobs.job(id).state == "cancelled" and not jobs._dispatcher.stops
    ends_well(jobs)


def test_a_held_queue_stays_held_when_two_browsers_become_one(opened: Open) -> None:
    jobs = opened()
    running = jobs.submit(fake(steps=1000, seconds=0.01), "me")
    until(jobs, running, Step)
    jobs.orders.hold("tablet")
    waiting = jobs.submit(fake(), "tablet")
    jobs.orders.adopt("tablet", "me")
    until(jobs, running, Paused)
    assert jobs.orders.held("me") and not jobs.orders.held("tablet") and jobs.idle()
    assert {jobs.job(id).owner for id in (running, waiting)} == {"me"}
    jobs.cancel(running)


def test_paused_jobs_are_cancelled_and_taken_back(opened: Open) -> None:
    jobs = opened()
    running = jobs.submit(fake(steps=2000, seconds=0.005), "me")
    until(jobs, running, Step)
    waiting = jobs.submit(fake(), "me")
    assert jobs.orders.pause(waiting)
    assert jobs.cancel(waiting)
    assert watch(jobs, waiting)[-1] == Cancelled()
    assert jobs.orders.restore(waiting, paused=True)
    assert jobs.job(waiting).state == "paused"
    assert [type(event) for _, event in jobs.events(waiting)] == [Paused]
    assert jobs.orders.resume(waiting)
    assert jobs.cancel(waiting)
    assert jobs.orders.restore(waiting)
    assert not jobs.orders.restore(waiting), "it is not cancelled any more"
    jobs.cancel(running)
    assert isinstance(watch(jobs, waiting)[-1], Finished)


def test_a_pause_that_is_taken_back_at_once_costs_nothing(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit(fake(steps=100, seconds=0.005), "me")
    until(jobs, id, Step)
    for _ in range(5):
        assert jobs.orders.pause(id)
        assert jobs.orders.resume(id)
    assert isinstance(watch(jobs, id)[-1], Finished)
    assert steps_of(jobs, id) == list(range(1, 101))
    assert jobs.job(id).state == "finished"


def test_stop_counts_more_than_pause(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit(fake(steps=1000, seconds=0.01), "me")
    until(jobs, id, Step)
    jobs.orders.pause(id)
    jobs.cancel(id)
    assert watch(jobs, id)[-1] == Cancelled()
    assert jobs.job(id).state == "cancelled"
    ends_well(jobs)


def test_a_held_queue_rests_over_a_restart_and_other_people_go_on(opened: Open) -> None:
    first = opened()
    running = first.submit(fake(steps=400, seconds=0.01), "me")
    until(first, running, Step)
    waiting = first.submit(fake(), "me")
    first.orders.hold("me")
    until(first, running, Paused)
    assert isinstance(watch(first, first.submit(fake(), "you"))[-1], Finished)
    assert [first.job(id).state for id in (running, waiting)] == ["waiting", "waiting"]
    first.close()
    second = opened()
    later = second.submit(fake(), "me")
    time.sleep(0.2)
    assert second.orders.held("me") and second.idle()
    assert [second.job(id).state for id in (running, waiting, later)] == ["waiting"] * 3
    assert second.orders.let_go("me")
    until(second, running, Notice)
    second.cancel(running)
    for id in (waiting, later):
        assert isinstance(watch(second, id)[-1], Finished)


def test_an_edited_job_takes_the_place_of_the_old_one(opened: Open) -> None:
    jobs = opened("--slow", "0.2")
    a, b = jobs.submit(fake(), "me"), jobs.submit(fake(), "me")
    assert jobs.job(jobs.submit(fake(), "you", replaces=a)).position > jobs.job(b).position
    assert jobs.job(a).state == "waiting", "nobody replaces another person's job"
    new = jobs.submit(fake(), "me", replaces=a)
    assert watch(jobs, a)[-1] == Cancelled()
    assert jobs.store.queue()[0] == new
    watch(jobs, new)


def test_files_of_jobs_that_have_ended_go(opened: Open, tmp_path: Path) -> None:
    jobs = opened()
    id = jobs.submit(fake(steps=400, seconds=0.01), "me")
    until(jobs, id, Step)
    jobs.orders.pause(id)
    until(jobs, id, Paused)
    (tmp_path / "paused").mkdir()
    mine, strange = paused_file(tmp_path, id), paused_file(tmp_path, "nobody")
    for file in (mine, strange):
        file.touch()
    ends_well(jobs)
    jobs.close()
    assert mine.is_file() and not strange.exists()
    again = opened()
    again.cancel(id)
    ends_well(again)
    assert mine.is_file(), "a cancelled job may be taken back"
    jobs.store._change("UPDATE jobs SET ended_ms = 0 WHERE id = ?", id)
    ends_well(again)
    again.close()
    assert not mine.exists()


def test_moved_jobs_run_in_the_new_order(opened: Open) -> None:
    jobs = opened("--slow", "0.3")
    a, b, c = (jobs.submit(fake(), "me") for _ in range(3))
    assert jobs.orders.arrange("me", [c])
    assert jobs.worker_state().phase == "starting"
    for id in (a, b, c):
        watch(jobs, id)
    order = sorted((a, b, c), key=lambda id: jobs.job(id).started_ms or 0)
    assert order == [c, a, b]


def test_a_worker_that_cannot_start_is_given_up_until_asked(tmp_path: Path, opened: Open) -> None:
    jobs = opened("--die")
    failed = watch(jobs, jobs.submit(fake(), "me"))[-1]
    assert isinstance(failed, Failed)
    assert "did not start 5 times" in failed.sentence
    assert "exit code 3" in failed.sentence
    assert "the fake engine does not start" in failed.remedy
    state = jobs.worker_state()
    assert (state.phase, state.pid, "exit code 3" in state.reason) == ("down", None, True)
    begun = (tmp_path / "worker.log").read_text().count("does not start")
    assert isinstance(watch(jobs, jobs.submit(fake(), "me"))[-1], Failed)
    assert (tmp_path / "worker.log").read_text().count("does not start") == begun + 5, "a new job is a new try"


def test_only_the_next_job_ends_with_a_worker_that_cannot_start(tmp_path: Path, opened: Open) -> None:
    jobs = opened("--die", "--until", str(tmp_path / "mended"))
    first, *others = (jobs.submit(fake(), owner) for owner in ("me", "you", "they"))
    assert isinstance(watch(jobs, first)[-1], Failed)
    assert jobs.worker_state().phase == "down"
    assert [jobs.job(id).state for id in others] == ["waiting", "waiting"]
    (tmp_path / "mended").touch()
    ends_well(jobs)
    assert all(isinstance(watch(jobs, id)[-1], Finished) for id in others)


def test_after_a_failed_start_nothing_is_warmed(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    command = [*ENGINE, str(tmp_path / "out"), "--die-warming"]
    prepare = {"request": {"base": "one that crashes"}}
    jobs = Jobs(store, command, None, tmp_path / "worker.log", prepare=prepare, patience=PATIENCE)
    ends_well(jobs)
    assert (tmp_path / "worker.log").read_text().count("dies of warming") == 1
    jobs.close()
    store.close()


def test_a_worker_program_that_is_missing_is_said(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    jobs = Jobs(store, [str(tmp_path / "nothing")], None, tmp_path / "worker.log", patience=PATIENCE)
    failed = watch(jobs, jobs.submit(fake(), "me"))[-1]
    assert isinstance(failed, Failed)
    assert str(tmp_path / "nothing") in failed.sentence
    jobs.close()
    store.close()


def test_a_worker_that_hangs_at_the_start_is_ended(opened: Open) -> None:
    jobs = opened("--hang", patience=Patience(start_seconds=0.1, close_seconds=0.2, backoff_seconds=0.01))
    failed = watch(jobs, jobs.submit(fake(), "me"))[-1]
    assert isinstance(failed, Failed)
    assert "not ready in time" in failed.sentence


def test_closing_puts_the_running_job_back_uncounted(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit({"count": 2, **fake(steps=20, seconds=0.01)}, "me")
    until(jobs, id, Saved)
    jobs.close()
    job = jobs.job(id)
    assert (job.state, job.attempts, len(job.saved)) == ("waiting", 0, 1)
    again = opened()
    saved = [event.picture for event in watch(again, id) if isinstance(event, Saved)]
    assert saved == [1, 2], "the first is remembered, the second is made"
    made = (again.store.path.parent / "out" / "made.log").read_text().splitlines()
    assert len(made) == len(set(made)) == 2


@pytest.mark.clock
def test_closing_does_not_wait_for_a_hanging_worker(opened: Open) -> None:
    jobs = opened("--hang", patience=Patience(close_seconds=0.2))
    begun = time.monotonic()
    jobs.close()
    assert time.monotonic() - begun < 2


def test_numbers_rise_over_restarts_and_old_jobs_are_rebuilt(opened: Open) -> None:
    first = opened()
    id = first.submit(fake(), "me")
    watch(first, id)
    last = first.events(id)[-1][0]
    first.close()
    second = opened()
    rebuilt = second.events(id, last)
    assert [type(event) for _, event in rebuilt] == [Saved, Finished], "a watcher of the former life misses nothing"
    assert second.events(id, rebuilt[-1][0], timeout=5.0) == [], "nobody waits for a job that has ended"


def test_a_full_disk_stops_the_queue_and_loses_nothing(opened: Open) -> None:
    jobs = opened()
    id = jobs.submit({"count": 2, **fake(steps=30, seconds=0.01)}, "me")
    until(jobs, id, Step)
    record, full = jobs.store.record, threading.Event()
    full.set()

    def failing(id: str, saved: Saved) -> bool:
        if full.is_set():
            raise StorageError("The disk is full.", "Free some space.")
        return record(id, saved)

    jobs.store.record = failing  # type: ignore[method-assign]
    while Notice("The disk is full. Free some space.") not in [event for _, event in jobs.events(id)]:
        time.sleep(0.01)
    time.sleep(0.2)
    assert not any(isinstance(event, Saved) for _, event in jobs.events(id)), "nothing is told that is not on disk"
    full.clear()
    events = watch(jobs, id)
    assert isinstance(events[-1], Finished)
    assert [event.picture for event in events if isinstance(event, Saved)] == [1, 2]
    assert sum(isinstance(event, Notice) and "full" in event.text for event in events) == 1


def test_a_queue_that_cannot_be_claimed_says_why_until_it_can(opened: Open) -> None:
    jobs = opened()
    ends_well(jobs)
    claim, full = jobs.store.claim_next, threading.Event()
    full.set()

    def failing() -> Job | None:
        if full.is_set():
            raise StorageError("The disk is full.", "Free some space.")
        return claim()

    jobs.store.claim_next = failing  # type: ignore[method-assign]
    id = jobs.submit(fake(), "me")
    end = time.monotonic() + 60
    while not (state := jobs.worker_state()).reason and time.monotonic() < end:
        time.sleep(0.01)
    assert (state.phase, state.reason) == ("ready", "The disk is full. Free some space.")
    jobs.cancel(id)
    full.clear()
    while jobs.worker_state().reason and time.monotonic() < end:
        time.sleep(0.01)
    assert jobs.worker_state().reason == "", "nothing is left to claim, and that could be read"
    ends_well(jobs)


@pytest.mark.clock
def test_fifty_watchers_see_every_event_at_once(opened: Open) -> None:
    jobs = opened()
    ends_well(jobs)
    id = jobs.submit(fake(steps=40, seconds=0.01), "me")
    seen: list[list[tuple[int, Event]]] = [[] for _ in range(50)]
    late: list[float] = []

    def follow(mine: list[tuple[int, Event]]) -> None:
        while not mine or not isinstance(mine[-1][1], TERMINAL):
            mine.extend(jobs.events(id, mine[-1][0] if mine else 0, 5.0))

    threads = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    publish = jobs._board.publish
    published: dict[int, float] = {}

    def stamped(id: str, event: Event) -> None:
        publish(id, event)
        published[jobs._board._number] = time.monotonic()

    jobs._board.publish = stamped  # type: ignore[method-assign]
    last = 0
    while last == 0 or not isinstance(jobs.events(id)[-1][1], TERMINAL):
        for number, _ in jobs.events(id, last, 0.5):
            if number in published:
                late.append(time.monotonic() - published[number])
            last = number
    for thread in threads:
        thread.join(10)
    numbers = [number for number, _ in seen[0]]
    assert numbers == sorted(set(numbers))
    assert [event.step for _, event in seen[0] if isinstance(event, Step)] == list(range(1, 41))
    assert all([number for number, _ in mine] == numbers for mine in seen)
    assert sorted(late)[len(late) // 2] < 0.05


def test_a_waiting_watcher_is_woken(opened: Open) -> None:
    jobs = opened("--hang", patience=Patience(close_seconds=0.2))
    delays: list[float] = []
    woken: list[float] = []

    def wait(id: str, last: int) -> None:
        assert jobs.events(id, last, 10.0)
        woken.append(time.monotonic())

    for _ in range(5):
        id = jobs.submit(fake(), "me")
        thread = threading.Thread(target=wait, args=(id, jobs.events(id)[-1][0]))
        thread.start()
        time.sleep(0.05)
        begun = time.monotonic()
        jobs.cancel(id)
        thread.join(5)
        delays.append(woken[-1] - begun)
    assert min(delays) < 0.05, "the least of five: the machine may be busy"


def test_two_pages_on_one_folder(tmp_path: Path) -> None:
    page = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), "submit"], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert page.stdout is not None
    page.stdout.readline()
    with pytest.raises(AlreadyRunning, match="http://here"):
        FolderLock(tmp_path)
    page.kill()
    page.communicate()
    FolderLock(tmp_path).release()


KILLS = 20


def test_kill_9_of_the_page_at_random_moments(tmp_path: Path) -> None:
    """Every acknowledged job is there and ended, at most two tries for a picture; none is made or recorded twice."""
    chance = random.Random(7)
    acknowledged: list[str] = []
    for _ in range(KILLS):
        page = subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), "submit"], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert page.stdout is not None
        acknowledged.append(page.stdout.readline().decode().strip())
        time.sleep(chance.uniform(0.0, 0.2))
        page.kill()
        rest = page.communicate()[0].decode()
        acknowledged += rest.splitlines() if rest.endswith("\n") else rest.splitlines()[:-1]
    subprocess.run([sys.executable, __file__, str(tmp_path), "drain"], check=True, timeout=60, stdin=subprocess.DEVNULL)

    store = JobStore(tmp_path / "jobs.sqlite")
    assert store.notices == ()
    jobs = {job.id: job for job in store.list(limit=100_000)}
    assert set(acknowledged) <= set(jobs)
    states = collections.Counter(job.state for job in jobs.values())
    assert set(states) <= {"finished", "failed"}
    assert states["finished"] >= KILLS // 2
    assert all(job.attempts <= 2 for job in jobs.values())
    assert all(job.attempts == 2 for job in jobs.values() if job.state == "failed")
    for job in jobs.values():
        assert [saved.picture for saved in job.saved] == [1, 2] or job.state == "failed"
        assert all(Path(saved.path).read_bytes().endswith(b"IEND\xaeB`\x82") for saved in job.saved)
    recorded = [Path(saved.path).name for job in jobs.values() for saved in job.saved]
    made = (tmp_path / "out" / "made.log").read_text(encoding="utf-8").split()
    on_disk = [path.name for path in (tmp_path / "out").glob("*/*.png")]
    assert len(recorded) == len(set(recorded))
    assert len(made) == len(set(made)), "no picture is made twice"
    assert set(recorded) <= set(on_disk)
    order = [job.started_ms or 0 for job in sorted(jobs.values(), key=lambda job: job.id) if job.attempts == 1]
    assert order == sorted(order), "the queue's order is kept"
    store.close()


def page(folder: Path, task: str) -> None:
    """Be a page process."""
    lock = FolderLock(folder)
    lock.tell("http://here")
    jobs = open_jobs(folder)
    while task == "submit":
        sys.stdout.write(jobs.submit({"count": 2, **fake(steps=2, seconds=0.005)}, "me") + "\n")
        sys.stdout.flush()
        time.sleep(0.05)
    while not jobs.idle():
        time.sleep(0.02)
    jobs.close()
    jobs.store.close()
    lock.release()


if __name__ == "__main__":
    page(Path(sys.argv[1]), sys.argv[2])

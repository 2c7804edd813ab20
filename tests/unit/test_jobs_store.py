"""The queue on disk: order, states, durability, and what happens to files that are not ours."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fooocus.errors import StorageError
from fooocus.events import Cancelled, Failed, Finished, LeftOut, Paused, Saved, Step
from fooocus.jobs import database
from fooocus.jobs.board import Board
from fooocus.jobs.census import Around
from fooocus.jobs.store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "data" / "jobs.sqlite")
    yield store
    store.close()


def reopened(store: JobStore) -> JobStore:
    """A second store on the same file, as after a kill: nothing was closed."""
    return JobStore(store.path)


def test_submitted_job_is_on_disk(store: JobStore) -> None:
    job = store.submit({"prompt": "ein Apfel 🍎", "seed": 2**63 - 1}, "me")
    other = reopened(store)
    assert other.get(job.id) == job
    assert (job.state, job.attempts, job.saved, job.terminal) == ("waiting", 0, (), None)
    assert job.request == {"prompt": "ein Apfel 🍎", "seed": 2**63 - 1}
    other.close()


def test_created_ms_and_ids_rise_even_when_the_clock_falls(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.submit({}, "me")
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    later = [store.submit({}, "me") for _ in range(3)]
    assert [job.created_ms for job in later] == [first.created_ms + n for n in (1, 2, 3)]
    assert sorted([job.id for job in later]) == [job.id for job in later]
    assert later[0].id > first.id


def test_same_key_is_one_job(store: JobStore) -> None:
    first = store.submit({"n": 1}, "me", key="click")
    assert store.submit({"n": 1}, "me", key="click") == first
    assert store.submit({"n": 1}, "me").id != first.id


def test_claims_follow_the_queue_and_moves(store: JobStore) -> None:
    a, b, c, d = (store.submit({}, "me").id for _ in range(4))
    assert store.arrange("me", [d, b, c])
    assert not store.arrange("me", [d]), "it is so already"
    assert store.queue() == (d, b, c, a)
    first = store.claim_next()
    assert first is not None
    assert (first.id, first.state, first.attempts) == (d, "running", 1)
    assert store.arrange("me", [d, c, "nobody"]), "a running job has no place in the queue"
    claimed = [job.id for job in (store.claim_next(), store.claim_next(), store.claim_next()) if job]
    assert claimed == [c, b, a]
    assert store.claim_next() is None


def test_a_job_ends_once(store: JobStore) -> None:
    id = store.submit({}, "me").id
    assert not store.finish(id, Finished((), 1.0)), "a waiting job cannot finish"
    store.claim_next()
    assert not store.cancel(id), "only waiting jobs are cancelled here"
    assert store.finish(id, Failed("Defect", "No.", field="seed"))
    assert not store.finish(id, Finished((), 1.0))
    job = store.get(id)
    assert job is not None
    assert (job.state, job.terminal) == ("failed", Failed("Defect", "No.", field="seed"))
    assert job.ended_ms is not None


def test_cancel_takes_a_job_out_of_the_queue(store: JobStore) -> None:
    a, b = (store.submit({}, "me").id for _ in range(2))
    assert store.cancel(a)
    assert not store.cancel(a)
    assert store.queue() == (b,)
    job = store.get(a)
    assert job is not None
    assert (job.state, job.terminal) == ("cancelled", Cancelled())


def test_a_picture_is_recorded_once(store: JobStore) -> None:
    id = store.submit({}, "me").id
    picture = Saved(1, 2, "/out/1.png", 7)
    assert not store.record(id, picture), "only a running job saves"
    store.claim_next()
    assert store.record(id, Saved(2, 2, "/out/2.png", 8))
    assert store.record(id, picture)
    assert not store.record(id, Saved(1, 2, "/out/again.png", 7))
    job = store.get(id)
    assert job is not None
    assert job.saved == (picture, Saved(2, 2, "/out/2.png", 8))


def test_recover_runs_an_interrupted_job_once_more_at_the_front(store: JobStore) -> None:
    a, b = (store.submit({}, "me").id for _ in range(2))
    store.claim_next()
    store.record(a, Saved(1, 2, "/out/1.png", 7))
    other = reopened(store)
    assert other.recover() == ((a,), ())
    assert other.queue() == (a, b)
    again = other.claim_next()
    assert again is not None
    assert (again.id, again.attempts, len(again.saved)) == (a, 2, 1)
    assert other.recover() == ((), (a,))
    failed = other.get(a)
    assert failed is not None
    assert isinstance(failed.terminal, Failed)
    assert "twice" in failed.terminal.sentence
    assert other.queue() == (b,)
    other.close()


def test_only_ends_without_a_picture_between_count(store: JobStore) -> None:
    id = store.submit({}, "me").id
    for picture in range(1, 6):
        job = store.claim_next()
        assert job is not None and job.attempts == min(picture, 2), "a later one looks for pictures that nobody told of"
        store.record(id, Saved(picture, 9, f"/out/{picture}.png", 7))
        assert store.recover() == ((id,), ())
    store.claim_next()
    assert store.recover() == ((), (id,))


def test_an_attempt_is_given_back_after_a_picture_too(store: JobStore) -> None:
    id = store.submit({}, "me").id
    for picture in (1, 2):
        store.claim_next()
        store.record(id, Saved(picture, 9, f"/out/{picture}.png", 7))
        store.recover()
    store.claim_next()
    store.record(id, Saved(3, 9, "/out/3.png", 7))
    assert store.release(id)
    job = store.get(id)
    assert job is not None and job.attempts == 0


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as db:
        for statement in database._MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        db.execute(
            "INSERT INTO jobs (id, owner, request, state, position, created_ms)"
            " VALUES ('a', 'me', '{}', 'waiting', 1, 1)"
        )
    db.close()
    store = JobStore(path)
    assert store.notices == ()
    assert store.pause("a") and store.resume("a")
    store.close()


def test_a_running_job_rests_with_its_place(store: JobStore) -> None:
    a, b = (store.submit({}, "me").id for _ in range(2))
    assert not store.rest(a, Paused()), "it does not run yet"
    store.claim_next()
    place = Paused(2, 3, 12, 30, b"jpeg", (1,))
    assert store.rest(a, place)
    assert (store.queue(), store.recover()) == ((b,), ((), ()))
    job = store.get(a)
    assert job is not None
    assert (job.state, job.attempts, job.paused) == ("paused", 0, place)
    assert store.resume(a)
    assert store.queue() == (a, b), "it has kept its place"


def test_what_a_row_tells_of_pictures_in_turns(store: JobStore) -> None:
    """After a restart the page knows of every picture how far it is, and which ones are not wanted."""
    job = store.submit({"n": 1}, "me")
    store.claim_next()
    store.record(job.id, Saved(1, 4, "/1.png", 1))
    store.rest(job.id, Paused(4, 4, 5, 30, b"jpeg", skipped=(2,), kept=((3, 20), (4, 5))))
    lock = threading.RLock()
    with lock:
        told = [event for _, event in Board(store, lock, lambda: None).feed(job.id).after(0)]
    assert told[:-1] == [Saved(1, 4, "/1.png", 1), LeftOut(2, 4), Step(3, 4, 20, 30), Step(4, 4, 5, 30, b"jpeg")]
    assert isinstance(told[-1], Paused)


def test_a_cancelled_job_is_taken_back_where_it_was_after_a_restart_too(store: JobStore) -> None:
    a, b = (store.submit({}, "me").id for _ in range(2))
    place = Paused(2, 3, 12, 30, b"jpeg")
    for id in (a, b):
        store.claim_next()
        assert store.rest(id, place) and store.cancel(id)
    store._change("UPDATE jobs SET ended_ms = ended_ms - 600000 WHERE id = ?", b)
    store.recover()
    kept, late = store.get(a), store.get(b)
    assert kept is not None and kept.paused == place
    assert late is not None and late.paused is None, "ten minutes are over"


@pytest.mark.parametrize("held", [("old",), ("old", "new"), ("new",), ()])
def test_a_held_queue_is_adopted_as_held(store: JobStore, held: tuple[str, ...]) -> None:
    id = store.submit({}, "old").id
    for owner in held:
        store.hold(owner)
    store.adopt("old", "new")
    assert store.held("new") == bool(held) and not store.held("old")
    assert store.queue() == (() if held else (id,))


def test_nobody_goes_before_other_people_by_reordering(store: JobStore) -> None:
    a, x, b, y = (store.submit({}, owner).id for owner in ("me", "you", "me", "you"))
    assert store.arrange("me", [b, a, x])
    assert store.queue() == (b, x, a, y)
    store.hold("me")
    assert store.queue() == (x, y)
    assert store.held("me") and not store.held("you")
    claimed = store.claim_next()
    assert claimed is not None and claimed.id == x
    assert store.let_go("me") and not store.let_go("me")
    assert store.queue() == (b, a, y)


def test_release_gives_the_attempt_back(store: JobStore) -> None:
    a, b = (store.submit({}, "me").id for _ in range(2))
    store.claim_next()
    assert store.release(a)
    assert not store.release(a)
    assert store.queue() == (a, b)
    job = store.get(a)
    assert job is not None
    assert (job.attempts, job.started_ms) == (0, None)


def test_list_chooses_and_sorts(store: JobStore) -> None:
    done, a, b = store.submit({}, "me").id, store.submit({}, "you").id, store.submit({}, "me").id
    store.claim_next()
    store.finish(done, Finished((), 1.0))
    assert [job.id for job in store.list()] == [a, b, done]
    assert [job.id for job in store.list("me")] == [b, done]
    assert [job.id for job in store.list(states=("finished", "failed"))] == [done]
    assert store.list("you", states=["finished"]) == ()
    assert [job.id for job in store.list(limit=1)] == [a]


def test_the_census_is_taken_anew_after_a_change_only(store: JobStore) -> None:
    mine, second = (store.submit({}, "me").id for _ in range(2))
    store.submit({}, "you")
    first = store.census()
    assert store.census() is first and first.around("me").waiting == {mine, second}
    assert first.around("nobody") == Around()
    store.claim_next()
    store.hold("me")
    store.hold("they")
    assert store.census().around("me") == Around(frozenset({second}), frozenset({mine}), held=True)
    assert store.census().around("they") == Around(held=True)
    store.finish(mine, Finished((), 1.0))
    store.cancel(second)
    store.let_go("me")
    assert store.census().around("me") == Around() and len(store.census().around("you").waiting) == 1


def test_lives_are_counted(store: JobStore) -> None:
    assert [store.begin_life(), store.begin_life()] == [1, 2]


def test_claims_from_many_threads_never_share_a_job(store: JobStore) -> None:
    ids = [store.submit({}, "me").id for _ in range(24)]
    claimed: list[str] = []

    def claim() -> None:
        while (job := store.claim_next()) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def damage_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 + 100 :] = b"\xff" * len(content[4096 + 100 :])
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def make_foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()


def make_newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damage_header, "is damaged"),
        (damage_inside, "is damaged"),
        (cut, "is damaged"),
        (make_foreign, "belongs to another program"),
        (make_newer, "was made by a newer version"),
    ],
)
def test_unusable_file_is_set_aside(tmp_path: Path, spoil: object, words: str) -> None:
    path = tmp_path / "jobs.sqlite"
    store = JobStore(path)
    for _ in range(20):
        store.submit({"prompt": "x" * 200}, "me")
    store.close()
    assert callable(spoil)
    spoil(path)
    spoiled = path.read_bytes()

    store = JobStore(path)
    assert words in store.notices[0]
    aside = [file for file in tmp_path.iterdir() if ".aside-" in file.name and file.suffix == ".sqlite"]
    assert [file.read_bytes() for file in aside] == [spoiled]
    assert store.list() == ()
    job = store.submit({}, "me")
    store.close()
    store = JobStore(path)
    assert (store.notices, store.list()) == ((), (job,))
    store.close()


def test_empty_file_is_begun(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.touch()
    store = JobStore(path)
    assert store.notices == ()
    store.submit({}, "me")
    store.close()


def test_impossible_folder_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        JobStore(tmp_path / "file" / "jobs.sqlite")
    assert str(tmp_path / "file" / "jobs.sqlite") in caught.value.sentence
    assert "folder" in caught.value.remedy
    with pytest.raises(StorageError):
        JobStore(tmp_path)  # a folder in the file's place


def fill_disk(store: JobStore, *, full: bool) -> None:
    """SQLite itself raises SQLITE_FULL when a file may not grow beyond a number of pages."""
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0] if full else 2**30
    store._writer.execute(f"PRAGMA max_page_count = {pages}")


def test_full_disk_loses_nothing(store: JobStore) -> None:
    acknowledged = [store.submit({"prompt": "x" * 3000}, "me").id for _ in range(3)]
    fill_disk(store, full=True)
    with pytest.raises(StorageError, match="disk is full"):
        for _ in range(50):
            acknowledged.append(store.submit({"prompt": "x" * 3000}, "me").id)
    assert list(store.queue()) == acknowledged
    fill_disk(store, full=False)
    acknowledged.append(store.submit({"prompt": "x" * 3000}, "me").id)
    assert list(store.queue()) == acknowledged


def test_closed_store_says_so(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.close()
    with pytest.raises(StorageError):
        store.queue()

"""Folding events into views: progress never falls, nothing of another job appears, watching ends with the job."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fooocus.events import Cancelled, Event, Failed, Finished, LeftOut, Notice, Paused, Queued, Saved, Stage, Step
from fooocus.models.pace import Estimate
from fooocus.request import Request
from fooocus.ui.estimate import Course
from fooocus.ui.stream import Previews, View, Watcher, fold, opening, picture_url
from tests.fakes.fake_jobs import FakeJobs

OUTPUTS = Path("/out")
COURSE = Course(Estimate(12.0, 6.0, 1.5, 0.5, 10.0, 3), 3, 6, 4)


def run(events: list[Event], view: View | None = None, pause: float = 1.0) -> list[View]:
    views = [view or View("job", "waiting", "a fox", (64, 64))]
    for i, event in enumerate(events):
        views.append(fold(views[-1], event, 100 + i * pause, OUTPUTS))
    return views


def picture(number: int, pictures: int, steps: int = 4) -> list[Event]:
    begin: list[Event] = [Stage(name, number, pictures) for name in ("loading", "reading", "sampling")]
    walk: list[Event] = [Step(number, pictures, step, steps, b"jpeg") for step in range(1, steps + 1)]
    end: list[Event] = [Stage("decoding", number, pictures), Stage("saving", number, pictures)]
    return [*begin, *walk, *end, Saved(number, pictures, f"/out/2026-01-02/{number}.png", number)]


def test_a_whole_job_ends_finished_with_its_pictures() -> None:
    last = run([Queued(0), *picture(1, 2), *picture(2, 2), Finished(("a", "b"), 9.0)])[-1]
    assert (last.phase, last.fraction, last.seconds) == ("finished", 1.0, 9.0)
    assert [(p.number, p.url, p.seed) for p in last.saved] == [
        (1, "/pictures/2026-01-02/1.png", 1),
        (2, "/pictures/2026-01-02/2.png", 2),
    ]


def test_each_step_moves_the_bar() -> None:
    fractions = [view.fraction for view in run([*picture(1, 1)])[4:8]]
    assert fractions == sorted(set(fractions))
    assert 0 < fractions[0] < fractions[-1] < 1


any_event = st.one_of(
    st.builds(Queued, st.integers(0, 9)),
    st.builds(
        Stage,
        st.sampled_from(["starting", "loading", "reading", "sampling", "refining", "decoding", "saving"]),
        st.integers(1, 3),
        st.just(3),
    ),
    st.builds(Step, st.integers(1, 3), st.just(3), st.integers(1, 5), st.just(5), st.just(b"j")),
    st.builds(Saved, st.integers(1, 3), st.just(3), st.just("/out/2026-01-02/x.png"), st.just(1)),
    st.builds(LeftOut, st.integers(1, 3), st.just(3)),
    st.builds(Notice, st.text()),
)


@given(st.lists(any_event, max_size=40))
def test_progress_never_falls_whatever_is_said(events: list[Event]) -> None:
    for course in (None, COURSE, dataclasses.replace(COURSE, steps=5, switch=0)):
        views = run(events, View("job", "waiting", "a fox", (64, 64), course=course))
        fractions = [view.fraction for view in views]
        assert fractions == sorted(fractions)
        assert all(0 <= fraction <= 1 for fraction in fractions)
        assert all((view.seconds_left or 0.0) >= 0 for view in views)


def test_time_left_follows_the_pace_of_this_job() -> None:
    views = run([Step(1, 2, 1, 10), Step(1, 2, 2, 10), Step(1, 2, 3, 10)], pause=2.0)
    assert views[1].seconds_left is None
    assert views[3].seconds_left == pytest.approx(2.0 * (7 + 10))


def test_time_between_pictures_is_no_measure_of_a_step() -> None:
    before = run([Step(1, 2, 1, 4), Step(1, 2, 2, 4)])[-1]
    after = fold(fold(before, Stage("sampling", 2, 2), 500.0, OUTPUTS), Step(2, 2, 1, 4), 900.0, OUTPUTS)
    assert after.pace == before.pace == 1.0


def in_turns(pictures: int, switch: int, steps: int) -> list[Event]:
    """The base's steps of all pictures, then the refiner's and the pixels of each, as where networks take turns."""
    told: list[Event] = []
    for number in range(1, pictures + 1):
        told += [Stage(name, number, pictures) for name in ("loading", "reading", "sampling")]
        told += [Step(number, pictures, step, steps) for step in range(1, switch + 1)]
    for number in range(1, pictures + 1):
        told += [Stage(name, number, pictures) for name in ("loading", "reading", "refining")]
        told += [Step(number, pictures, step, steps) for step in range(switch + 1, steps + 1)]
        told += [Stage(name, number, pictures) for name in ("decoding", "saving")]
        told.append(Saved(number, pictures, f"/out/2026-01-02/{number}.png", number))
    return told


@pytest.mark.parametrize("course", [None, COURSE])
def test_pictures_in_turns_each_go_on_where_they_were(course: Course | None) -> None:
    told = in_turns(3, 4, 6)
    views = run(told, View("job", "waiting", "a fox", (64, 64), course=course))[1:]
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    stepped = [view for view, event in zip(views, told, strict=True) if isinstance(event, Step)]
    assert len({view.fraction for view in stepped}) == len(stepped), "the bar moves with every step"
    seen: dict[int, int] = {}
    for view in views:
        assert view.step >= seen.get(view.picture, 0), "no picture's steps jump back"
        seen[view.picture] = view.step
    half = next(view for view in stepped if view.picture == 3 and view.step == 4)
    assert half.fraction == pytest.approx(0.65 if course is None else (10 + 3 * 12.5) / 70)
    left = [view.seconds_left for view in stepped if view.seconds_left is not None]
    assert left[-1] < left[0]
    assert half.walked == (4, 4, 4) and half.seconds_left is not None


def at_once(pictures: int, switch: int, steps: int) -> list[Event]:
    """All steps of all pictures together, then the pixels of each; the picture shown is told last."""
    told: list[Event] = [Stage(name, 1, pictures) for name in ("loading", "reading", "sampling")]
    for step in range(1, steps + 1):
        told += [Stage("refining", 1, pictures)] if step == switch + 1 else []
        told += [Step(number, pictures, step, steps) for number in range(2, pictures + 1)]
        told.append(Step(1, pictures, step, steps, b"jpeg"))
    for number in range(1, pictures + 1):
        told += [Stage(name, number, pictures) for name in ("loading", "decoding", "saving")]
        told.append(Saved(number, pictures, f"/out/2026-01-02/{number}.png", number))
    return told


@pytest.mark.parametrize("course", [None, COURSE])
def test_of_pictures_made_at_once_one_is_spoken_of(course: Course | None) -> None:
    told, view = at_once(3, 4, 6), View("job", "waiting", "a fox", (64, 64), course=course)
    views, now = [view], 100.0
    for event in told:  # each batch of steps takes 6 seconds, and is told in one moment
        now += 6.0 if isinstance(event, Step) and event.picture == 2 else 0.0
        views.append(fold(views[-1], event, now, OUTPUTS))
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    walking = [view for view, event in zip(views[1:], told, strict=True) if isinstance(event, Step)]
    assert {view.picture for view in walking} == {1}
    assert [view.step for view in walking] == sorted(view.step for view in walking)
    assert walking[-1].preview == 6 and walking[-1].walked == (6, 6, 6)
    if course is None:
        assert walking[-1].pace == pytest.approx(2.0), "a picture's step takes a third of what three take"
    left = [view.seconds_left for view in walking if view.seconds_left is not None]
    assert left == sorted(left, reverse=True)
    half = walking[3 * 4 - 1]
    assert half.walked == (4, 4, 4) and (course or half.seconds_left == pytest.approx(2 * 6.0))


def test_after_a_skip_the_next_of_those_made_at_once_is_spoken_of() -> None:
    told = at_once(3, 4, 6)[:9]
    before = run(told)[-1]
    after = run([LeftOut(1, 3), *(Stage(name, 2, 3) for name in ("loading", "sampling")), Step(3, 3, 3, 6)], before)[-1]
    assert (before.picture, after.picture, after.step) == (1, 2, 2)
    assert after.fraction > before.fraction and run([Step(2, 3, 3, 6)], after)[-1].step == 3


def test_a_picture_left_out_is_nothing_to_wait_for() -> None:
    told = in_turns(3, 4, 6)[:14]
    before = run(told)[-1]
    after = run([LeftOut(2, 3)], before)[-1]
    assert before.seconds_left is not None and after.seconds_left is not None
    assert after.seconds_left < before.seconds_left and after.fraction > before.fraction
    assert run([*picture(1, 2), *picture(2, 2)[:5], LeftOut(2, 2)])[-1].fraction == 1.0


def test_stages_weigh_what_they_take_here() -> None:
    """Ten seconds to load, then a picture of 12 + 6 seconds of steps, 1.5 of decoding and half a second besides."""
    course = dataclasses.replace(COURSE, pictures=1)
    told = picture(1, 1, steps=6)
    told.insert(7, Stage("refining", 1, 1))
    views = run(told, View("job", "waiting", "a fox", (64, 64), course=course))[1:]
    at = {str(getattr(event, "name", event)): view for event, view in zip(told, views, strict=True)}
    assert at["loading"].seconds_left == pytest.approx(30)
    assert at["sampling"].fraction == pytest.approx((20 / 30) * 0.5 / 20)
    assert at["refining"].fraction == pytest.approx((10 + 12.5) / 30)
    assert at["decoding"].fraction == pytest.approx((10 + 18.5) / 30)
    slow = run(told[:6], View("job", "waiting", "a fox", (64, 64), course=course), pause=6.0)[-1]
    assert slow.pace == pytest.approx(2.0), "twice as long as usual, and so will be what is left"
    assert slow.seconds_left == pytest.approx(2 * (20 - 0.5 - 3 * 3))


def test_a_refiners_steps_are_held_against_its_own() -> None:
    """The history says 3 seconds for a step of the base, a half for one of the refiner; here all takes twice that."""
    course = dataclasses.replace(COURSE, pictures=1, time=dataclasses.replace(COURSE.time, refiner_seconds=1.0))
    told = [Stage("sampling", 1, 1), *(Step(1, 1, step, 6) for step in range(1, 5))]
    told += [Stage("refining", 1, 1), *(Step(1, 1, step, 6) for step in (5, 6))]
    views, now = [View("job", "waiting", "a fox", (64, 64), course=course)], 100.0
    for event in told:
        if isinstance(event, Step):
            now += 2 * (course.sampled_seconds(event.step) - course.sampled_seconds(event.step - 1))
        views.append(fold(views[-1], event, now, OUTPUTS))
    left = [view.seconds_left for view, event in zip(views[1:], told, strict=True) if isinstance(event, Step)][1:]
    assert left == sorted(left, reverse=True)
    assert views[-1].pace == pytest.approx(2.0)


def test_the_watcher_asks_for_the_course_of_its_job() -> None:
    jobs = FakeJobs()
    id = make(jobs, "me", "one")
    jobs.say(id, Stage("loading", 1, 1))
    jobs.say(id, Finished((), 1.0))
    jobs.all[id] = dataclasses.replace(jobs.all[id], state="running")
    views = collect(Watcher(jobs, Previews(), OUTPUTS, course=lambda job: COURSE), [id])  # type: ignore[arg-type]
    assert views[-1].course is COURSE


def test_ends_in_words() -> None:
    failed = run([Failed("X", "No memory.", "Close programs.")])[-1]
    assert (failed.phase, failed.sentence, failed.remedy) == ("failed", "No memory.", "Close programs.")
    assert run([*picture(1, 2), Cancelled()])[-1].saved
    assert run([Cancelled()])[-1].phase == "cancelled"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/out/2026-01-02/a.png", "/pictures/2026-01-02/a.png"),
        ("/elsewhere/a.png", ""),
        ("/out/a.png", ""),
        ("/out/2026-01-02/deep/a.png", ""),
    ],
)
def test_only_pictures_of_the_outputs_folder_have_an_address(path: str, url: str) -> None:
    assert picture_url(Path(path), OUTPUTS) == url


def collect(watcher: Watcher, ids: list[str], owner: str = "me") -> list[View]:
    async def gather() -> list[View]:
        return [view async for view in watcher.watch(ids, owner)]

    return asyncio.run(gather())


def make(jobs: FakeJobs, owner: str, prompt: str) -> str:
    return jobs.submit(Request(prompt=prompt, seed=1).to_json(), owner)


def test_watching_follows_active_jobs_in_turn_and_ends() -> None:
    jobs, previews = FakeJobs(), Previews()
    first, second = make(jobs, "me", "one"), make(jobs, "me", "two")
    watcher = Watcher(jobs, previews, OUTPUTS)  # type: ignore[arg-type]

    async def follow() -> list[tuple[str, str]]:
        told = []
        async for view in watcher.watch([first, second], "me"):
            told.append((view.job, view.phase))
            if view.phase == "waiting":
                jobs.say(view.job, *picture(1, 1), Finished((), 1.0))
        return told

    told = asyncio.run(asyncio.wait_for(follow(), 10))
    assert told == [(id, phase) for id in (first, second) for phase in ("waiting", "finished")]
    assert previews.get(first) == b"jpeg"


def test_a_paused_job_steps_back_for_one_that_runs() -> None:
    jobs = FakeJobs()
    rests, runs = make(jobs, "me", "one"), make(jobs, "me", "two")
    jobs.say(rests, Stage("sampling", 1, 1), Step(1, 1, 12, 30), Paused(1, 1, 12, 30))
    watcher = Watcher(jobs, Previews(), OUTPUTS)  # type: ignore[arg-type]

    async def follow() -> list[View]:
        views = []
        async for view in watcher.watch([rests, runs], "me"):
            views.append(view)
            if view.job == rests:
                jobs.say(runs, *picture(1, 1))
            elif view.phase == "running":
                jobs.say(runs, Finished((), 1.0))
        return views

    jobs.all[runs] = dataclasses.replace(jobs.all[runs], state="finished")  # not yet asked for
    views = asyncio.run(asyncio.wait_for(follow(), 10))
    assert [(view.job, view.phase) for view in views] == [(rests, "paused"), (runs, "running"), (runs, "finished")]
    assert (views[0].step, views[0].steps, views[0].active) == (12, 30, True)


def test_a_job_that_was_cancelled_and_taken_back_is_shown_when_it_runs() -> None:
    jobs = FakeJobs()
    first, second = make(jobs, "me", "one"), make(jobs, "me", "two")
    watcher = Watcher(jobs, Previews(), OUTPUTS)  # type: ignore[arg-type]
    told: list[tuple[str, str]] = []

    async def follow() -> None:
        async for view in watcher.watch([first, second], "me"):
            told.append((view.job, view.phase))
            assert len(told) < 20, "it goes round and round"
            match told[-1], len(told):
                case (id, "waiting"), 1 if id == first:
                    jobs.say(first, Cancelled())
                case (id, "waiting"), _ if id == second and jobs.job(first).state == "cancelled":
                    jobs.said[first].clear()
                    jobs.say(first, Stage("sampling", 1, 1))
                case (id, "running"), _ if id == first:
                    jobs.say(first, Finished((), 1.0))
                case (id, "waiting"), _ if id == second and jobs.job(first).state == "finished":
                    jobs.say(second, Finished((), 1.0))

    asyncio.run(asyncio.wait_for(follow(), 10))
    shown = [(first, "waiting"), (first, "cancelled"), (second, "waiting"), (first, "running"), (first, "finished")]
    assert told[: len(shown)] == shown
    assert told[-1] == (second, "finished")


def test_who_begins_to_look_at_a_job_is_told_at_once_how_fast_it_goes() -> None:
    jobs = FakeJobs()
    id = make(jobs, "me", "one")
    jobs.say(id, Stage("sampling", 1, 1), Step(1, 1, 1, 9))
    watcher = Watcher(jobs, Previews(), OUTPUTS)  # type: ignore[arg-type]

    async def follow() -> tuple[View, View]:
        async for view in watcher.watch([id], "me"):
            if view.pace:
                break
            jobs.say(id, Step(1, 1, view.step + 1, 9))
        async for again in watcher.watch([id], "me"):
            return view, again
        raise AssertionError

    view, again = asyncio.run(asyncio.wait_for(follow(), 10))
    assert view.seconds_left is not None and again.seconds_left == view.seconds_left


def test_a_finished_job_is_shown_again_and_another_persons_never() -> None:
    jobs = FakeJobs()
    mine, other = make(jobs, "me", "one"), make(jobs, "you", "two")
    jobs.say(mine, Finished((), 1.0))
    jobs.say(other, *picture(1, 1))
    watcher = Watcher(jobs, Previews(), OUTPUTS)  # type: ignore[arg-type]
    assert [view.job for view in collect(watcher, [other, "no-such-job", mine])] == [mine]
    assert collect(watcher, [other]) == []


def test_the_last_jobs_of_a_person_are_the_active_ones_or_the_newest() -> None:
    jobs = FakeJobs()
    watcher = Watcher(jobs, Previews(), OUTPUTS)  # type: ignore[arg-type]
    assert watcher.last("me") == []
    old, new = make(jobs, "me", "one"), make(jobs, "me", "two")
    for id in (old, new):
        jobs.say(id, Finished((), 1.0))
    assert [job.id for job in watcher.last("me")] == [new]
    waiting, running = make(jobs, "me", "three"), make(jobs, "me", "four")
    jobs.say(running, Stage("sampling", 1, 1))
    assert [job.id for job in watcher.last("me")] == [running, waiting]


def test_previews_are_bounded() -> None:
    previews = Previews()
    for i in range(1000):
        previews.put(str(i), b"x")
    assert previews.get("999") and previews.get("0") is None
    assert sum(previews.get(str(i)) is not None for i in range(1000)) <= 64


def test_a_job_of_an_older_version_still_opens() -> None:
    jobs = FakeJobs()
    id = jobs.submit({"prompt": "old", "gone": 1}, "me")
    view = opening(jobs.job(id))
    assert (view.prompt, view.pictures, view.phase) == ("old", 1, "waiting")


def test_a_lora_that_fits_as_a_whole_is_no_news(tmp_path: Path) -> None:
    view = fold(View("j", "running"), Notice("Computing on processor (no graphics card was found)."), 0.0, tmp_path)
    assert view == View("j", "running")  # the foot line says so already
    assert fold(view, Notice("LoRA offset: 213 of 213 modules matched."), 0.0, tmp_path) == view
    told = fold(view, Notice("LoRA offset: 21 of 213 modules matched."), 0.0, tmp_path)
    assert told.notice == "LoRA offset: 21 of 213 modules matched."


# Forty equal steps on a computer that had other work besides, in hundredths of a second.
NOISY = (29, 24, 23, 22, 25, 25, 25, 23, 35, 58, 29, 33, 31, 24, 66, 57, 40, 30, 28, 56)
NOISY += (20, 26, 45, 25, 36, 36, 50, 35, 68, 32, 21, 27, 23, 14, 23, 35, 33, 30, 26, 26)


def times_left(seconds: Sequence[float]) -> list[View]:
    """Return the views after each step of a picture, but for the first, which is no measure."""
    view, now = fold(View("job", "running"), Stage("sampling", 1, 1), 100.0, OUTPUTS), 100.0
    views = []
    for step, took in enumerate(seconds, start=1):
        now += took
        views.append(view := fold(view, Step(1, 1, step, len(seconds)), now, OUTPUTS))
    return views[1:]


@pytest.mark.parametrize("scale", [0.01, 0.03, 0.1, 1.0])
def test_the_time_left_is_calm_where_steps_are_not(scale: float) -> None:
    seconds = [took * scale for took in NOISY]
    views = times_left(seconds)
    raw = [view.seconds_left or 0.0 for view in views]
    assert sum(later > before for before, later in pairwise(raw)) > 5, "this pace swings"
    shown = [view.left or 0.0 for view in views]
    assert shown == sorted(shown, reverse=True) and shown[-1] == 0.0
    units = {1.0 if left <= 20 else 5.0 if left < 90 else 60.0 if left <= 90 * 60 else 360.0: left for left in shown}
    assert all(left % unit == 0 for unit, left in units.items())
    for number, left in enumerate(shown, start=2):
        really = sum(seconds[number:])
        assert 0.6 * really - 1 < left < 1.6 * really + 60, "calm, and no lie"


def test_a_job_that_has_become_slower_says_so() -> None:
    shown = [view.left or 0.0 for view in times_left([1.0] * 20 + [3.0] * 20)]
    rises = [(before, later) for before, later in pairwise(shown) if later > before]
    assert rises and all(later >= 1.2 * before for before, later in rises)

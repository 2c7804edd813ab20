"""A picture that was paused comes out bit by bit as if it had not been, wherever it was left and whoever goes on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from fooocus.config import Config
from fooocus.errors import StorageError
from fooocus.events import Cancelled, Event, Failed, Finished, Notice, Paused, Saved, Stage, Step, from_json
from fooocus.jobs.paused import paused_file
from fooocus.jobs.worker import Control, WorkItem, perform
from fooocus.render import job as job_module
from fooocus.render.engine import Engine
from fooocus.render.paused import UnusablePause, read_paused, write_paused
from fooocus.request import Request, Size

ROOT = Path(__file__).resolve().parents[2]
OTHER_PROCESS = """
import json, sys
from pathlib import Path
from fooocus.config import Config
from fooocus.events import to_json
from fooocus.jobs.worker import Control, WorkItem, perform
from fooocus.render.engine import Engine
folder = Path(sys.argv[1])
engine = Engine(Config(outputs=folder / "out", data=folder))
say = lambda event: print(json.dumps(to_json(event)), flush=True)
perform(engine.run, WorkItem.from_json(json.loads(sys.argv[2])), say, Control())
"""
COUNTER = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    """One for all tests: opening the miniatures takes longer than drawing with them."""
    return Engine(Config(outputs=folder / "out", data=folder))


@pytest.fixture(scope="module")
def request_(tiny: Path) -> Request:
    return Request(
        prompt="a red circle",
        styles=(),
        size=Size(64, 64),
        steps=4,
        seed=11,
        base=str(tiny / "tiny_base.safetensors"),
        refiner=str(tiny / "tiny_refiner.safetensors"),
        switch=2,
        loras=(),
    )


@pytest.fixture(scope="module")
def whole(engine: Engine, request_: Request) -> bytes:
    """The picture of the request, made in one go."""
    return made(run(engine, item(request_)))[0]


def item(request: Request, **changes: Any) -> WorkItem:
    number = next(COUNTER)
    return dataclasses.replace(WorkItem(f"job{number}", request.to_json(), 1_700_000_000_000 + number), **changes)


def run(engine: Engine, work: WorkItem, pause: Callable[[Event], bool] = lambda event: False) -> list[Event]:
    """Run a job; ask for a pause when an event wants one."""
    control, told = Control(), []

    def emit(event: Event) -> None:
        told.append(event)
        if pause(event):
            control.pause()

    perform(engine.run, work, emit, control)
    return told


def rest_of(work: WorkItem, told: list[Event]) -> WorkItem:
    """The same job as the page gives it to the worker again."""
    assert isinstance(told[-1], Paused)
    return dataclasses.replace(work, saved=tuple(e for e in told if isinstance(e, Saved)), paused=told[-1])


def made(told: list[Event]) -> list[bytes]:
    return [Path(event.path).read_bytes() for event in told if isinstance(event, Saved)]


def at_step(step: int, picture: int = 1) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Step) and (event.picture, event.step) == (picture, step)


def at_stage(name: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Stage) and event.name == name


def steps(told: list[Event]) -> list[tuple[int, int]]:
    return [(event.picture, event.step) for event in told if isinstance(event, Step)]


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "uni_pc"])
def test_a_paused_picture_is_the_unbroken_one(engine: Engine, request_: Request, sampler: str) -> None:
    request = dataclasses.replace(request_, sampler=sampler)
    unbroken = made(run(engine, item(request)))
    work = item(request)
    for step in (1, 3):
        told = run(engine, work, at_step(step))
        work = rest_of(work, told)
        assert work.paused is not None
        assert (work.paused.step, work.paused.steps) == (step, 4)
        assert work.paused.preview is not None and work.paused.preview.startswith(b"\xff\xd8")
    told = run(engine, work)
    assert steps(told) == [(1, 4)]
    assert [event.name for event in told if isinstance(event, Stage)][2] == "refining"
    assert isinstance(told[-1], Finished)
    assert made(told) == unbroken


@pytest.mark.slow
def test_another_process_goes_on_with_the_second_of_two(engine: Engine, request_: Request, folder: Path) -> None:
    request = dataclasses.replace(request_, count=2)
    unbroken = made(run(engine, item(request)))
    work = item(request)
    told = run(engine, work, at_step(3, picture=2))
    work = rest_of(work, told)
    assert work.paused is not None and work.paused.picture == 2 and len(work.saved) == 1
    arguments = [sys.executable, "-c", OTHER_PROCESS, str(folder), json.dumps(work.to_json())]
    done = subprocess.run(arguments, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
    later = [from_json(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    assert steps(later) == [(2, 4)]
    assert made(told) + made(later) == unbroken
    assert paused_file(folder, work.id).is_file(), "the page removes it when the job has ended"


@pytest.mark.parametrize(("stage", "kept"), [("loading", 0), ("decoding", 4)])
def test_it_can_be_paused_anywhere(engine: Engine, request_: Request, whole: bytes, stage: str, kept: int) -> None:
    work = item(request_)
    told = run(engine, work, at_stage(stage))
    work = rest_of(work, told)
    assert work.paused is not None and work.paused.step == kept
    told = run(engine, work)
    assert steps(told) == [(1, step) for step in range(kept + 1, 5)]
    assert made(told) == [whole]


def test_a_step_that_was_interrupted_is_done_again(engine: Engine, request_: Request, whole: bytes) -> None:
    """The pause comes while the networks are at work, some blocks into the second step."""
    work, control, told = item(request_), Control(), []
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += any(isinstance(event, Step) for event in told)
        if calls == 5:
            control.pause()
        Control.check(control)

    control.check = check  # type: ignore[method-assign]
    perform(engine.run, work, told.append, control)
    work = rest_of(work, told)
    assert work.paused is not None and work.paused.step == 1
    assert made(run(engine, work)) == [whole]


def test_a_picture_that_waits_for_its_models_sums_is_paused_and_skipped(
    engine: Engine, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Control] = []

    def waiting(check: Callable[[], object]) -> dict[str, str]:
        asked[0].pause() if len(asked) == 1 else asked[0].skip()
        check()
        raise AssertionError("the wish was not looked at")

    monkeypatch.setattr(engine.hashes, "by_name", waiting)
    told: list[Event] = []
    for wish in (Paused, Finished):
        control, told = Control(), []
        asked.insert(0, control)
        perform(engine.run, item(request_), told.append, control)
        assert isinstance(told[-1], wish)
    assert Notice("Picture 1 was skipped.") in told


def test_what_was_skipped_before_a_pause_stays_skipped(engine: Engine, request_: Request) -> None:
    control, told = Control(), []

    def emit(event: Event) -> None:
        told.append(event)
        if at_step(1)(event):
            control.skip()
        if at_step(1, picture=2)(event):
            control.pause()

    work = item(dataclasses.replace(request_, count=2))
    perform(engine.run, work, emit, control)
    work = rest_of(work, told)
    assert work.paused is not None and work.paused.skipped == (1,)
    assert [event.picture for event in run(engine, work) if isinstance(event, Saved)] == [2]


def test_a_second_pause_right_after_resuming_keeps_the_picture(engine: Engine, request_: Request) -> None:
    work = item(dataclasses.replace(request_, count=2))
    first = run(engine, work, at_step(2, picture=2))
    work = rest_of(work, first)
    again = run(engine, work, lambda event: isinstance(event, Notice))
    assert isinstance(again[-1], Paused) and again[-1].picture == 2 and again[-1].step == 2
    work = dataclasses.replace(work, paused=again[-1])
    assert steps(run(engine, work)) == [(2, 3), (2, 4)]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(_cut, "its file is broken"), (Path.unlink, "its file is gone")],
)
def test_an_unusable_file_is_said_and_the_picture_begins_again(
    engine: Engine, request_: Request, folder: Path, whole: bytes, spoil: Callable[[Path], None], words: str
) -> None:
    work = item(request_)
    work = rest_of(work, run(engine, work, at_step(2)))
    spoil(paused_file(folder, work.id))
    told = run(engine, work)
    assert Notice(f"The paused picture cannot be continued: {words}. It begins again.") in told
    assert steps(told)[0] == (1, 1)
    assert made(told) == [whole]


def test_files_of_others_and_of_other_sizes_are_not_taken(engine: Engine, request_: Request, folder: Path) -> None:
    work = item(request_)
    run(engine, work, at_step(2))
    file = paused_file(folder, work.id)
    with pytest.raises(UnusablePause, match="belongs to another job"):
        read_paused(file, "other")
    begun = read_paused(file, work.id)
    large = {1: dataclasses.replace(begun[1], recipe=dataclasses.replace(begun[1].recipe, size=Size(128, 64)))}
    write_paused(file, work.id, large)
    with pytest.raises(UnusablePause, match="broken"):
        read_paused(file, work.id)
    save_file({"x": begun[1].state.x}, file)
    with pytest.raises(UnusablePause, match="not written by this program"):
        read_paused(file, work.id)


def test_a_disk_that_is_full_costs_the_steps_and_not_the_job(
    engine: Engine, request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paused").write_text("a file where the folder should be")
    monkeypatch.setattr(engine, "config", dataclasses.replace(engine.config, data=tmp_path))
    told = run(engine, item(request_), at_step(2))
    assert isinstance(told[-1], Paused) and told[-1].step == 0
    assert any(isinstance(event, Notice) and "could not be kept" in event.text for event in told)


def test_without_a_request_no_model_is_warmed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_device", SimpleNamespace(device=SimpleNamespace(type="cuda")))
    monkeypatch.setattr(engine, "_memory", None)  # whatever is asked of it fails
    engine.warm({})


@pytest.fixture
def full(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A full outputs disk, and an engine that waits for it; what is put into the list is how many writes fail."""
    fail, save = [0], job_module.save_picture

    def saving(path: Path, data: bytes) -> Path:
        if fail[0]:
            fail[0] -= 1
            raise StorageError("The disk is full.", "Generate again.")
        return save(path, data)

    monkeypatch.setattr(job_module, "save_picture", saving)
    monkeypatch.setattr(job_module, "SAVE_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(engine, "waits", True)
    return fail


def test_a_finished_picture_waits_for_room(engine: Engine, request_: Request, whole: bytes, full: list[int]) -> None:
    full[0] = 3
    told = run(engine, item(request_))
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert isinstance(told[-1], Finished) and made(told) == [whole]
    assert sum("The disk is full. The picture is kept" in text for text in notices) == 1
    assert notices[-1] == "The picture is saved now, and the job goes on."


@pytest.mark.parametrize(("wish", "end"), [("stop", Cancelled), ("pause", Paused)])
def test_who_does_not_want_to_wait_for_room_stops_or_pauses(
    engine: Engine, request_: Request, whole: bytes, full: list[int], wish: str, end: type[Event]
) -> None:
    full[0] = 1_000_000
    work, control, told = item(request_), Control(), list[Event]()

    def emit(event: Event) -> None:
        told.append(event)
        if isinstance(event, Notice) and "full" in event.text:
            getattr(control, wish)()

    perform(engine.run, work, emit, control)
    assert isinstance(told[-1], end)
    if isinstance(told[-1], Paused):
        assert told[-1].step == 4, "all steps are kept"
        full[0] = 0
        assert made(run(engine, rest_of(work, told))) == [whole]


def test_on_the_command_line_a_full_disk_is_said_at_once(
    engine: Engine, request_: Request, full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "waits", False)
    full[0] = 1
    told = run(engine, item(request_))
    assert isinstance(told[-1], Failed) and told[-1].sentence == "The disk is full."

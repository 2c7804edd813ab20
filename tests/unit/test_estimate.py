"""How long a picture will take: operations are counted as torch counts them, and the time is learnt from pictures."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import sqlite3
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fooocus.bench.layout import BASE, REFINER, published
from fooocus.config import Config
from fooocus.diffusion.samplers import SAMPLERS
from fooocus.errors import RequestError
from fooocus.events import Event, Notice, Saved, Stage, Step
from fooocus.families import attention
from fooocus.jobs.store import Job
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.models import measuring
from fooocus.models.measuring import Counter, Measuring, models_of
from fooocus.models.pace import Pace, PaceMemory, estimate
from fooocus.models.work import TWICE, PictureWork, Work, decoder_work, picture_work, unet_work
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles
from fooocus.request import Recipe, Request, Size
from fooocus.ui.estimate import Estimator
from tests.tiny import tiny_folder, tiny_shapes

SDXL = Size(1152, 896)


def recipe(**changes: object) -> Recipe:
    values = {"styles": (), "seed": 1, "base": "tiny_base", "refiner": "tiny_refiner", "loras": (), **changes}
    return plan(Request(**values), Styles({}))[0]  # type: ignore[arg-type]


def test_sdxl_has_the_operations_that_its_graph_has() -> None:
    """Counted on the networks' graphs by torch, keys and values of the text left out: they are kept over the steps."""
    base, refiner = (unet_work(published(name)[0]).operations(SDXL) for name in (BASE, REFINER))
    assert base == pytest.approx(6.592e12, rel=1e-3)
    assert refiner == pytest.approx(7.134e12, rel=1e-3)
    assert decoder_work(published(BASE)[0]).operations(SDXL) == pytest.approx(10.298e12, rel=1e-3)


class Operations:
    """Count a network's operations while it works: layers by hooks, attention where it is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted = 0.0
        attend = nn.functional.scaled_dot_product_attention

        def counting(query: Tensor, key: Tensor, value: Tensor, **named: object) -> Tensor:
            self.counted += 4.0 * query.numel() * key.shape[-2]
            return attend(query, key, value, **named)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counting)

    def of(self, network: nn.Module, ask: Callable[[], object]) -> float:
        """Return the operations of ``ask`` in the convolutions and matrices of ``network`` and in all attention."""

        def layer(module: nn.Module, given: object, output: Tensor) -> None:
            weight = module.weight
            places = output.numel() / weight.shape[0]
            # What has no places is of the step or of the text: embeddings, and keys and values that are kept.
            self.counted += 2.0 * weight.numel() * places if places > 1 else 0.0

        handles = [m.register_forward_hook(layer) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.counted = 0.0
        ask()
        for handle in handles:
            handle.remove()
        return self.counted


@torch.no_grad()
@pytest.mark.parametrize("size", [Size(64, 64), Size(104, 72)])
def test_the_count_is_what_the_networks_do(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(tiny_folder() / "tiny_base.safetensors")
    unet, vae = (checkpoint.load(kind, dtype=torch.float32).module for kind in ("unet", "vae"))  # type: ignore[arg-type]
    attention.install(unet)
    context = torch.zeros(1, 77, 192)
    told = {"text_embeds": torch.zeros(1, 128), "time_ids": torch.zeros(1, 6)}
    latents = torch.zeros(1, 4, size.height // 8, size.width // 8)
    operations = Operations(monkeypatch)

    def ask() -> None:
        unet(latents, torch.tensor(5.0), encoder_hidden_states=context, added_cond_kwargs=told)

    ask()  # from now on keys and values of the text are known
    counted = unet_work(tiny_shapes("tiny_base")).operations(size)
    assert counted == pytest.approx(operations.of(unet, ask), rel=1e-6)
    counted = decoder_work(tiny_shapes("tiny_base")).operations(size)
    assert counted == pytest.approx(operations.of(vae, lambda: vae.decode(latents)), rel=1e-6)  # type: ignore[operator]


def test_samplers_that_ask_twice_are_known() -> None:
    assert {name for name, sampler in SAMPLERS.items() if sampler.evaluations == 2} == TWICE
    assert max(sampler.evaluations for sampler in SAMPLERS.values()) == 2


def test_the_work_of_a_recipe() -> None:
    flat = Work({0: (1.0, 0.0)})
    places = 144 * 112
    work = picture_work(recipe(), flat, flat, flat)
    assert work == PictureWork(21, 9, 2 * places, 2 * places, places)
    assert picture_work(recipe(guidance=1.0), flat, flat, flat).base_operations == places
    alone = picture_work(recipe(refiner="none", sampler="heun", steps=10), flat, None, flat)
    assert (alone.base_steps, alone.refiner_steps) == (19, 0)
    assert picture_work(recipe(sampler="dpmpp_sde"), flat, flat, flat).refiner_steps == 17


class Machine:
    """A simulated computer: a fixed part and a rate for each network, noise on both, slow at the first picture."""

    def __init__(self, seed: int, *, loading: float = 20.0, noise: float = 0.06) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._loading = loading
        self._loaded = ""
        self._base = unet_work(published(BASE)[0])
        self._refiner = unet_work(published(REFINER)[0])
        self._decoder = decoder_work(published(BASE)[0])

    def work(self, recipe: Recipe) -> PictureWork:
        return picture_work(recipe, self._base, self._refiner if recipe.refiner else None, self._decoder)

    def make(self, recipe: Recipe) -> Pace:
        work = self.work(recipe)
        base = self._noisy(0.02 + work.base_operations / 20e12)
        refiner = self._noisy(0.02 + work.refiner_operations / 17e12) if work.refiner_steps else 0.0
        decode, rest = self._noisy(0.1 + work.decode_operations / 8e12), self._noisy(0.4)
        whole = work.base_steps * base + work.refiner_steps * refiner + decode + rest
        warm, self._loaded = models_of(recipe) == self._loaded, models_of(recipe)
        extra = 0.0 if warm else self._loading
        return Pace(
            "card", "worker 1", models_of(recipe), warm, work, base, refiner, decode + extra / 10, rest, whole + extra
        )

    def _noisy(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - self._noise, 1 + self._noise)


@pytest.mark.parametrize("seed", range(20))
def test_after_three_pictures_the_estimate_is_within_a_fifth(seed: int) -> None:
    """Pictures of any size, number of steps, with and without guidance and refiner."""
    machine, chance = Machine(seed), random.Random(seed + 100)
    sizes = (Size(1152, 896), Size(1024, 1024), Size(832, 1216), Size(704, 1408), Size(768, 768), Size(512, 512))

    def any_recipe() -> Recipe:
        return recipe(
            size=chance.choice(sizes),
            steps=chance.choice((12, 20, 30, 60)),
            guidance=chance.choice((7.0, 7.0, 1.0)),
        )

    learnt: list[Pace] = []
    for number in range(1, 9):
        asked = any_recipe()
        told = estimate(machine.work(asked), models_of(asked), "worker 1", learnt)
        made = machine.make(asked)
        if number == 1:
            assert told is None
        elif number > 3:
            assert told is not None and told.loading_seconds == 0
            assert told.seconds(1) == pytest.approx(made.whole_seconds, rel=0.2)
        learnt.insert(0, made)
    assert told is not None and told.seconds(4) == pytest.approx(4 * told.picture_seconds)


def test_on_an_uneven_computer_times_are_told_too_long_as_often_as_too_short() -> None:
    off = []
    for seed in range(12):
        machine, chance = Machine(seed, noise=0.5), random.Random(seed)
        learnt: list[Pace] = []
        for number in range(24):
            asked = recipe(size=Size(chance.choice((512, 768, 1024, 1152)), 896), steps=chance.choice((15, 30, 45)))
            told = estimate(machine.work(asked), models_of(asked), "worker 1", learnt)
            made = machine.make(asked)
            if told is not None and number > 3:
                off.append(math.log(told.seconds(1) / made.whole_seconds))
            learnt.insert(0, made)
    assert abs(statistics.mean(off)) < 0.04 and abs(statistics.median(off)) < 0.05


def test_loading_is_told_once_and_only_when_it_is_due() -> None:
    machine = Machine(1, loading=20.0)
    learnt: list[Pace] = []
    for _ in range(3):
        learnt.insert(0, machine.make(recipe()))
    work = machine.work(recipe())
    at_hand = estimate(work, models_of(recipe()), "worker 1", learnt)
    later = estimate(work, models_of(recipe()), "worker 2", learnt)
    other = estimate(work, models_of(recipe(base="another")), "worker 1", learnt)
    assert at_hand and later and other
    assert (at_hand.loading_seconds, at_hand.pictures) == (0, 3)
    assert later.loading_seconds == pytest.approx(20, rel=0.25)
    assert other.loading_seconds == later.loading_seconds
    assert later.seconds(2) - at_hand.seconds(2) == pytest.approx(later.loading_seconds)


def test_a_network_never_seen_is_taken_to_be_like_the_other() -> None:
    machine = Machine(2)
    learnt = [machine.make(recipe(refiner="none")) for _ in range(3)]
    told = estimate(machine.work(recipe()), models_of(recipe()), "worker 1", learnt)
    assert told is not None
    machine.make(recipe())  # loads
    assert told.picture_seconds == pytest.approx(machine.make(recipe()).whole_seconds, rel=0.25)


def test_times_are_kept_and_only_those_of_the_present_device_are_told(tmp_path: Path) -> None:
    memory, machine = PaceMemory(tmp_path / "data" / "pace.sqlite"), Machine(3)
    assert memory.newest() == ()
    paces = [machine.make(recipe()) for _ in range(3)]
    memory.add(dataclasses.replace(paces[0], device="processor"))
    memory.add(paces[1])
    memory.add(paces[2])
    assert memory.newest() == (paces[2], paces[1])
    (tmp_path / "data" / "pace.sqlite").write_bytes(b"no database")
    memory.add(paces[0])  # nothing is raised
    assert memory.newest() == ()


def test_times_from_before_pictures_were_made_at_once_are_read_and_added_to(tmp_path: Path) -> None:
    memory, machine = PaceMemory(tmp_path / "pace.sqlite"), Machine(5)
    paces = [machine.make(recipe()) for _ in range(2)]
    memory.add(paces[0])
    with closing(sqlite3.connect(tmp_path / "pace.sqlite")) as db, db:
        db.execute("ALTER TABLE pictures DROP COLUMN at_once")
    assert memory.newest() == (paces[0],)
    memory.add(dataclasses.replace(paces[1], at_once=4))
    assert memory.newest() == (dataclasses.replace(paces[1], at_once=4), paces[0])


def test_pictures_made_at_once_tell_nothing_of_single_ones() -> None:
    machine, asked = Machine(6), recipe()
    alone = [machine.make(asked) for _ in range(3)]
    half = [dataclasses.replace(p, base_seconds=p.base_seconds / 2, at_once=4) for p in alone]

    def base(*learnt: Pace, together: bool) -> float:
        told = estimate(machine.work(asked), models_of(asked), "worker 1", learnt, together=together)
        assert told is not None
        return told.base_seconds

    single = base(*alone, together=False)
    assert base(*half, *alone, together=False) == single == base(*alone, together=True)
    assert base(*alone, *half, together=True) == base(*half, together=True) == pytest.approx(single / 2)


def test_only_the_newest_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fooocus.models.pace._KEPT", 3)
    memory, machine = PaceMemory(tmp_path / "pace.sqlite"), Machine(4)
    paces = [machine.make(recipe()) for _ in range(5)]
    for pace in paces:
        memory.add(pace)
    assert memory.newest() == tuple(reversed(paces[2:]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let a test say what time it is."""
    now = [1000.0]
    monkeypatch.setattr(measuring.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def picture(number: int, heard: Callable[[Event], None], passes: Callable[[float], None], *, first: float) -> None:
    """Say the events of a picture of 3 + 2 steps; the first base step takes ``first`` seconds longer."""
    for name in ("loading", "reading", "sampling"):
        heard(Stage(name, number, 2))  # type: ignore[arg-type]
        passes(0.1)
    passes(first - 0.1)
    for step in range(1, 6):
        if step == 4:
            heard(Stage("refining", number, 2))
        passes(1.0 if step < 4 else 3.0)
        heard(Step(number, 2, step, 5))
    heard(Stage("decoding", number, 2))
    passes(0.5)
    heard(Stage("saving", number, 2))
    heard(Notice("It may say this."))
    passes(0.2)
    heard(Saved(number, 2, f"{number}.png", 1))


def test_pictures_are_timed_from_their_events(tmp_path: Path, clock: Callable[[float], None]) -> None:
    memory = PaceMemory(tmp_path / "pace.sqlite")
    asked = Request(styles=(), seed=1, base="tiny_base", refiner="tiny_refiner", loras=(), steps=5, switch=3, count=2)
    counter = Counter([tiny_folder()])

    def recipes(values: object) -> tuple[Recipe, ...]:
        return plan(Request.from_json(values), Styles({}))  # type: ignore[arg-type]

    heard = Measuring(memory, counter, recipes, "processor", "worker 7").job(asked.to_json())
    picture(1, heard, clock, first=8.0)
    picture(2, heard, clock, first=0.3)
    warm, cold = memory.newest()
    assert (cold.warm, warm.warm, warm.session, warm.device) == (False, True, "worker 7", "processor")
    assert cold.work == warm.work == counter.count(recipes(asked.to_json())[0])
    assert (cold.base_seconds, cold.refiner_seconds) == (pytest.approx(1.0), pytest.approx(3.0))
    assert warm.base_seconds == pytest.approx(1.1), "what comes with every first step belongs to a picture"
    assert warm.decode_seconds == pytest.approx(0.5)
    assert warm.rest_seconds == pytest.approx(0.4)
    assert cold.whole_seconds - warm.whole_seconds == pytest.approx(7.7)


def test_pictures_made_at_once_share_the_time_of_their_steps(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """Three steps, a second of each picture; the first brought the network as well."""
    memory = PaceMemory(tmp_path / "pace.sqlite")
    asked = Request(styles=(), seed=1, base="tiny_base", refiner="none", loras=(), steps=3, count=2)

    def recipes(values: object) -> tuple[Recipe, ...]:
        return plan(Request.from_json(values), Styles({}))  # type: ignore[arg-type]

    heard = Measuring(memory, Counter([tiny_folder()]), recipes, "processor").job(asked.to_json())
    for name in ("loading", "reading", "sampling"):
        heard(Stage(name, 1, 2))  # type: ignore[arg-type]
        clock(0.1)
    clock(7.9)
    for step in range(1, 4):
        clock(2.0)
        heard(Step(2, 2, step, 3))
        heard(Step(1, 2, step, 3))
    for number in (1, 2):
        for name in ("loading", "decoding", "saving"):
            heard(Stage(name, number, 2))  # type: ignore[arg-type]
            clock(0.5)
        heard(Saved(number, 2, f"{number}.png", 1))
    second, first = memory.newest()
    assert (first.warm, second.warm) == (False, True)
    assert (first.at_once, second.at_once) == (2, 2)
    assert first.base_seconds == second.base_seconds == pytest.approx(1.0)
    assert first.whole_seconds - second.whole_seconds == pytest.approx(8.2), "what was loaded and read is the first's"
    assert first.decode_seconds == second.decode_seconds == pytest.approx(0.5)


def test_pictures_in_turns_are_timed_each_by_its_own_parts(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """The base's steps of both, then the rest of each: time that passes belongs to the picture at work."""
    memory = PaceMemory(tmp_path / "pace.sqlite")
    asked = Request(styles=(), seed=1, base="tiny_base", refiner="tiny_refiner", loras=(), steps=5, switch=3, count=2)

    def recipes(values: object) -> tuple[Recipe, ...]:
        return plan(Request.from_json(values), Styles({}))  # type: ignore[arg-type]

    heard = Measuring(memory, Counter([tiny_folder()]), recipes, "processor").job(asked.to_json())

    def part(number: int, stage: str, steps: range, seconds: float) -> None:
        for name in ("loading", "reading", stage):
            heard(Stage(name, number, 2))  # type: ignore[arg-type]
            clock(0.1 if name != stage else 0.0)
        for step in steps:
            clock(seconds)
            heard(Step(number, 2, step, 5))

    part(1, "sampling", range(1, 4), 1.0)
    part(2, "sampling", range(1, 4), 1.5)
    for number in (1, 2):
        part(number, "refining", range(4, 6), 3.0 * number)
        heard(Stage("decoding", number, 2))
        clock(0.5)
        heard(Stage("saving", number, 2))
        clock(0.2)
        heard(Saved(number, 2, f"{number}.png", 1))
    second, first = memory.newest()
    assert (first.base_seconds, first.refiner_seconds) == (pytest.approx(1.0), pytest.approx(3.0))
    assert (second.base_seconds, second.refiner_seconds) == (pytest.approx(1.5), pytest.approx(6.0))
    assert second.rest_seconds == pytest.approx(0.6) and second.decode_seconds == pytest.approx(0.5)
    assert first.whole_seconds == pytest.approx(3 + 6 + 0.5 + 0.6)


def test_a_job_is_estimated_like_a_request(tmp_path: Path) -> None:
    """The queue and the bar ask by job: whatever version its request is of, and read once."""
    models = tmp_path / "models"
    (models / "checkpoints").mkdir(parents=True)
    for name in ("tiny_base", "tiny_refiner"):
        shutil.copy(tiny_folder() / f"{name}.safetensors", models / "checkpoints")
    config = Config(models=models, data=tmp_path / "data")
    asked = Request(styles=(), base="tiny_base", refiner="tiny_refiner", loras=(), count=4)
    estimator = Estimator(config, Worker(), asked)  # type: ignore[arg-type]
    job = Job("a", "me", asked.to_json() | {"of another": "version"}, "waiting", 1, 1, 0, None, None, None, ())
    assert estimator.course(job) is None, "nothing was made yet"
    work = Counter([models / "checkpoints"]).count(recipe())
    assert work is not None
    memory = PaceMemory(config.data / "pace.sqlite")
    memory.add(Pace("processor", "worker 1", "tiny_base|tiny_refiner|", True, work, 0.4, 0.3, 0.5, 0.2, 12.0))
    course = estimator.course(job)
    assert course is not None and (course.pictures, course.steps, course.switch) == (4, 30, 21)
    assert course.seconds == pytest.approx(4 * (0.4 * 21 + 0.3 * 9 + 0.5 + 0.2))
    assert course.sampled_seconds(0) == pytest.approx(0.2)
    assert course.sampled_seconds(21) == pytest.approx(0.2 + 0.4 * 21)
    assert course.sampled_seconds(30) == pytest.approx(0.2 + 0.4 * 21 + 0.3 * 9)
    wrong = dataclasses.replace(job, id="b", request={"size": "huge"})
    gone = dataclasses.replace(job, id="c", request=asked.to_json() | {"base": "gone"})
    assert estimator.course(wrong) is None and estimator.course(gone) is None


def test_a_picture_that_waited_for_the_disk_says_nothing_of_the_next(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    memory = PaceMemory(tmp_path / "pace.sqlite")
    asked = dataclasses.replace(recipe(), steps=5)
    heard = Measuring(memory, Counter([tiny_folder()]), lambda values: (asked, asked), "processor").job({})
    picture(1, heard, clock, first=1.0)
    known = memory.newest()

    def waiting(event: Event) -> None:
        heard(event)
        if isinstance(event, Notice):
            clock(3600.0)

    picture(2, waiting, clock, first=1.0)
    assert len(known) == 1 and memory.newest() == known


def test_what_was_not_watched_to_its_end_is_not_remembered(tmp_path: Path, clock: Callable[[float], None]) -> None:
    memory = PaceMemory(tmp_path / "pace.sqlite")

    def refuse(values: object) -> tuple[Recipe, ...]:
        raise RequestError("styles", "There is no such style.")

    heard = Measuring(memory, Counter([]), refuse, "processor").job({})
    picture(1, heard, clock, first=1.0)
    measure = Measuring(memory, Counter([tiny_folder()]), lambda values: (recipe(),), "processor")
    measure.job({})(Saved(1, 1, "made before.png", 1))
    picture(1, measure.job({}), clock, first=1.0)  # five steps of thirty: the others were done before a pause
    gone = Measuring(memory, Counter([]), lambda values: (recipe(),), "processor")
    picture(1, gone.job({}), clock, first=1.0)
    assert memory.newest() == ()


def test_only_files_of_the_folders_and_those_that_may_be_asked_for_are_looked_at(tmp_path: Path) -> None:
    stranger = str(tiny_folder() / "tiny_base.safetensors")
    assert Counter([tiny_folder()]).count(recipe(base=stranger, refiner="none")) is None
    assert Counter([tiny_folder()], outside=(stranger,)).count(recipe(base=stranger, refiner="none")) is not None
    assert Counter([tmp_path / "none", tiny_folder()]).count(recipe()) is not None
    assert Counter([tiny_folder()]).count(recipe(base="../tiny_base", refiner="none")) is None
    (tmp_path / "broken.safetensors").write_bytes(b"<html>")
    assert Counter([tmp_path]).count(recipe(base="broken", refiner="none")) is None


@dataclasses.dataclass
class Worker:
    """What the estimator asks of the jobs."""

    pid: int | None = 1

    def worker_state(self) -> Worker:
        return self


def test_the_page_says_a_time_once_it_is_known(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "checkpoints").mkdir(parents=True)
    for name in ("tiny_base", "tiny_refiner"):
        shutil.copy(tiny_folder() / f"{name}.safetensors", models / "checkpoints")
    config = Config(models=models, data=tmp_path / "data")
    asked = Request(styles=(), base="tiny_base", refiner="tiny_refiner", loras=())
    estimator = Estimator(config, Worker(), asked)  # type: ignore[arg-type]
    assert estimator.line(asked) == "", "nothing was made yet, and nothing is guessed"

    work = Counter([models / "checkpoints"]).count(recipe())
    assert work is not None
    memory = PaceMemory(config.data / "pace.sqlite")
    memory.add(Pace("processor", "worker 1", "tiny_base|tiny_refiner|", True, work, 0.4, 0.3, 0.5, 0.2, 12.0))
    assert ">about 12 s<" in estimator.line(asked)
    assert ">about 45 s<" in estimator.line(dataclasses.replace(asked, count=4))
    assert "about 12 s a picture" in estimator.line(dataclasses.replace(asked, count=4))
    assert ">about 23 s<" in estimator.line(dataclasses.replace(asked, performance="quality"))
    assert ">about 3 min<" in estimator.line(dataclasses.replace(asked, prompt="a fox --repeat 15"))
    assert estimator.line(dataclasses.replace(asked, styles=("no such style",))) == ""
    assert estimator.line(dataclasses.replace(asked, base="another")) == ""

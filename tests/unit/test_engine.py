"""The engine on the miniature models: jobs, events, interruption, seeds, and what "native" refiner switch means."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fooocus.config import Config
from fooocus.diffusion.denoisers import denoiser, switch_at
from fooocus.diffusion.noise import starting_noise
from fooocus.diffusion.prediction import start
from fooocus.diffusion.samplers import SAMPLERS, noise_for, sample, sigmas_for
from fooocus.diffusion.schedules import sdxl_table
from fooocus.diffusion.state import Denoise, State
from fooocus.errors import IncompatibleLora, MissingModel, Stopped, UnsupportedModel
from fooocus.events import Event, Finished, Notice, Saved, Stage, Step
from fooocus.families.records import Family
from fooocus.families.sdxl import SDXL_BASE, SDXL_REFINER
from fooocus.images.metadata import read_recipe, without_folders
from fooocus.jobs.worker import Control, WorkItem, perform
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import DRIVER_BYTES, GIB, Space, make_plan
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import load_styles
from fooocus.render.conditioning import Prompts, asks_together, predictor, sizes_at
from fooocus.render.engine import Engine
from fooocus.render.text import TextConditioning
from fooocus.render.watch import Watch
from fooocus.request import LoraUse, Recipe, Request, Size
from tests.tiny import BASE, LORA


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(
        Config(outputs=tmp_path / "out", data=tmp_path, dtype="float32"), latents_file=tmp_path / "latents.safetensors"
    )


@pytest.fixture
def request_(tiny: Path) -> Request:
    return Request(
        prompt="a red circle",
        styles=(),
        size=Size(64, 64),
        steps=4,
        seed=11,
        base=str(tiny / "tiny_base.safetensors"),
        loras=(),
    )


def with_refiner(request: Request, tiny: Path, switch: int = 2) -> Request:
    return dataclasses.replace(request, refiner=str(tiny / "tiny_refiner.safetensors"), switch=switch)


def run(engine: Engine, request: Request, **item: Any) -> list[Event]:
    told: list[Event] = []
    work = WorkItem(id="job", request=request.to_json(), created_ms=1_700_000_000_123, **item)
    perform(engine.run, work, told.append, Control())
    return told


def recipe_of(request: Request) -> Recipe:
    return plan(request, load_styles(Config().styles_folder))[0]


def test_a_job_tells_its_way_and_saves_the_recipe(engine: Engine, request_: Request, tiny: Path) -> None:
    told = run(engine, with_refiner(dataclasses.replace(request_, count=2), tiny))
    names = [event.name for event in told if isinstance(event, Stage) and event.picture == 1]
    assert names == ["loading", "reading", "sampling", "refining", "decoding", "saving"]
    steps = [event for event in told if isinstance(event, Step)]
    assert [(s.picture, s.step, s.steps) for s in steps] == [(p, i, 4) for p in (1, 2) for i in (1, 2, 3, 4)]
    assert all(step.preview and step.preview.startswith(b"\xff\xd8") for step in steps)
    saved = [event for event in told if isinstance(event, Saved)]
    assert [s.seed for s in saved] == [11, 12]
    assert isinstance(told[-1], Finished) and told[-1].paths == tuple(s.path for s in saved)
    recipe = read_recipe(Path(saved[1].path))
    wanted = recipe_of(dataclasses.replace(with_refiner(request_, tiny), seed=12))
    assert recipe == without_folders(wanted)


def test_the_files_of_the_picture_are_named_by_their_sums(engine: Engine, request_: Request, tiny: Path) -> None:
    """Other programs know a model by the first ten digits of its file's SHA-256."""
    use = (LoraUse(str(tiny / "tiny_offset_lora.safetensors"), 0.5),)
    (path,) = (Path(e.path) for e in run(engine, dataclasses.replace(request_, loras=use)) if isinstance(e, Saved))
    sums = {file: hashlib.sha256((tiny / file).read_bytes()).hexdigest()[:10] for file in (BASE, LORA)}
    with Image.open(path) as image:
        text = image.text["parameters"]  # type: ignore[attr-defined]
    assert f"Model hash: {sums[BASE]}" in text
    assert f"tiny_offset_lora: {sums[LORA]}" in text


@pytest.mark.parametrize(("format", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp")])
def test_other_formats_carry_the_recipe_too(engine: Engine, request_: Request, format: str, suffix: str) -> None:
    told = run(engine, dataclasses.replace(request_, format=format))
    (path,) = (Path(event.path) for event in told if isinstance(event, Saved))
    assert path.suffix == suffix
    assert read_recipe(path) == without_folders(recipe_of(request_))


def test_metadata_can_be_left_out(tmp_path: Path, request_: Request) -> None:
    engine = Engine(Config(outputs=tmp_path / "out", data=tmp_path, dtype="float32", metadata=False))
    (path,) = (Path(event.path) for event in run(engine, request_) if isinstance(event, Saved))
    assert read_recipe(path) is None
    assert b"a red circle" not in path.read_bytes()


def test_picture_i_is_the_picture_of_seed_plus_i_alone(engine: Engine, request_: Request) -> None:
    many = run(engine, dataclasses.replace(request_, count=3))
    alone = run(engine, dataclasses.replace(request_, seed=13))
    third = [event for event in many if isinstance(event, Saved)][2]
    assert Path(third.path).read_bytes() == Path(alone[-1].paths[0]).read_bytes()  # type: ignore[union-attr]


def test_a_text_is_encoded_once_for_the_pictures_that_share_it(
    engine: Engine, request_: Request, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = engine.read

    def counted(path: Path, role: Any, texts: list[str], *others: Any) -> list[TextConditioning]:
        read.extend(f"{role}: {text}" for text in texts)
        return original(path, role, texts, *others)

    monkeypatch.setattr(engine, "read", counted)
    request = with_refiner(dataclasses.replace(request_, count=2, negative="rain"), tiny)
    run(engine, request)
    assert read == ["base: a red circle", "base: rain", "refiner: a red circle", "refiner: rain"]
    run(engine, dataclasses.replace(request, prompt="a fox\na cat", lines="each", count=1))
    assert read[4:] == ["base: a fox", "refiner: a fox", "base: a cat", "refiner: a cat"], "the other one is known"
    run(engine, request)
    assert len(read) == 8, "the texts of earlier jobs are known as well"


def test_texts_are_encoded_again_when_their_encoders_or_words_are_others(
    request_: Request, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Config(outputs=tmp_path / "out", data=tmp_path, models=tmp_path, dtype="float32"))
    read: list[object] = []
    original = engine.read
    monkeypatch.setattr(engine, "read", lambda *given: (read.append(given), original(*given))[1])
    keys = load_file(tiny / LORA)
    save_file({key: value for key, value in keys.items() if "_te" not in key}, tmp_path / "unet.safetensors")
    for name in ("unet.safetensors", str(tiny / LORA)):
        path = str(tmp_path / name)
        for weight in (0.5, 0.7):
            run(engine, dataclasses.replace(request_, loras=(LoraUse(path, weight),)))
    assert len(read) == 3, "once for the UNet's LoRA at any weight, and once for each weight of the other"

    (tmp_path / "embeddings").mkdir()
    asked = dataclasses.replace(request_, prompt="a embedding:scene")
    for seed in (1, 1, 2):
        vectors = {"clip_l": torch.full((1, 64), float(seed)), "clip_g": torch.full((1, 128), float(seed))}
        save_file(vectors, tmp_path / "embeddings" / "scene.safetensors")
        os.utime(tmp_path / "embeddings" / "scene.safetensors", (seed, seed))
        run(engine, asked)
    assert len(read) == 5


def test_latents_hold_one_entry_per_picture(engine: Engine, request_: Request, tmp_path: Path) -> None:
    run(engine, dataclasses.replace(request_, count=2))
    assert load_file(tmp_path / "latents.safetensors")["latent"].shape == (2, 4, 8, 8)


def test_a_second_attempt_makes_only_what_is_missing(engine: Engine, request_: Request) -> None:
    wanted = dataclasses.replace(request_, count=3)
    first = [event for event in run(engine, wanted) if isinstance(event, Saved)]
    Path(first[2].path).unlink()
    # Picture 1 was recorded, picture 2 reached the disk only, picture 3 was never made.
    told = run(engine, wanted, attempt=2, saved=(first[0],))
    assert {e.picture for e in told if isinstance(e, Step)} == {3}
    assert [e.path for e in told if isinstance(e, Saved)] == [first[1].path, first[2].path]
    assert isinstance(told[-1], Finished) and len(told[-1].paths) == 3
    assert len(list(Path(first[0].path).parent.glob("*.png"))) == 3


def test_stop_takes_effect_inside_a_step(engine: Engine, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is set when the first network call begins; the step it belongs to must not be finished."""
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Stopped("stop")

    steps: list[State] = []
    with pytest.raises(Stopped):
        engine.render(recipe_of(request_), Watch(check=check, step=lambda state, n: steps.append(state)))
    assert steps == []
    assert engine.render(recipe_of(request_)).image.size == (64, 64), "the engine goes on as if nothing had been"


def test_skip_leaves_one_picture_out(engine: Engine, request_: Request) -> None:
    control = Control()
    told: list[Event] = []

    def emit(event: Event) -> None:
        told.append(event)
        if isinstance(event, Step) and event.picture == 1 and event.step == 2:
            control.skip()

    work = WorkItem(id="job", request=dataclasses.replace(request_, count=2).to_json(), created_ms=1)
    perform(engine.run, work, emit, control)
    assert [event.picture for event in told if isinstance(event, Saved)] == [2]
    assert isinstance(told[-1], Finished)


def test_loras_are_reported_once_and_taken_off_bit_exactly(engine: Engine, request_: Request, tiny: Path) -> None:
    plain = engine.render(recipe_of(request_)).latents
    use = (LoraUse(str(tiny / "tiny_offset_lora.safetensors"), 0.5),)
    told = run(engine, dataclasses.replace(request_, loras=use, count=2))
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert notices[1:] == ["LoRA tiny_offset_lora: 306 of 306 modules matched."]
    assert notices[0].startswith("Computing on processor")
    assert torch.equal(engine.render(recipe_of(request_)).latents, plain)


def test_wrong_files_are_told_before_anything_is_made(engine: Engine, request_: Request, tiny: Path) -> None:
    with pytest.raises(MissingModel, match="nowhere"):
        engine.render(recipe_of(dataclasses.replace(request_, base="nowhere")))
    with pytest.raises(UnsupportedModel, match="refiner"):
        engine.render(recipe_of(dataclasses.replace(request_, base=str(tiny / "tiny_refiner.safetensors"))))
    with pytest.raises((IncompatibleLora, UnsupportedModel)):
        use = (LoraUse(str(tiny / "tiny_refiner.safetensors"), 1.0),)
        engine.render(recipe_of(dataclasses.replace(request_, loras=use)))


def test_a_model_that_vanishes_while_it_draws_costs_no_picture(engine: Engine, request_: Request, tiny: Path) -> None:
    lora = tiny.parent / f"moved-{os.getpid()}.safetensors"
    shutil.copy(tiny / LORA, lora)
    control, told = Control(), []

    def emit(event: Event) -> None:
        told.append(event)
        if isinstance(event, Step) and event.step == 1:
            lora.unlink()

    request = dataclasses.replace(request_, loras=(LoraUse(str(lora), 0.5),))
    perform(engine.run, WorkItem(id="job", request=request.to_json(), created_ms=1), emit, control)
    assert isinstance(told[-1], Finished) and Path(told[-1].paths[0]).is_file()


def test_the_global_generator_is_not_touched(engine: Engine, request_: Request) -> None:
    before = torch.get_rng_state()
    engine.render(recipe_of(dataclasses.replace(request_, sampler="euler_ancestral")))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampler", ["lcm", "heun", "uni_pc", "dpmpp_sde", "dpm_2"])
def test_other_samplers_make_pictures_through_the_refiner(
    engine: Engine, request_: Request, tiny: Path, sampler: str
) -> None:
    rendered = engine.render(recipe_of(dataclasses.replace(with_refiner(request_, tiny), sampler=sampler)))
    assert isinstance(rendered.image, Image.Image) and rendered.latents.isfinite().all()


def _model(engine: Engine, recipe: Recipe, stack: ExitStack) -> Denoise:
    """Build a denoise function of the miniature base, as the engine does."""
    path = Path(recipe.base)
    engine._memory.prepare(path, "base")
    unet = stack.enter_context(engine._memory.use(path, "base", "unet"))
    cond, uncond = engine.read(path, "base", (recipe.positive_text, recipe.negative_text), recipe.clip_skip)
    predict = predictor(unet, Prompts(cond, uncond), sizes_at(recipe, SDXL_BASE), guided=True)
    return denoiser(predict, sdxl_table(), "eps", recipe.guidance)


@pytest.fixture
def runner(engine: Engine, request_: Request) -> Iterator[Callable[..., Tensor]]:
    """Sample 8 steps of the reference sampler with any denoisers."""
    recipe = dataclasses.replace(recipe_of(request_), steps=8)
    shape = (1, 4, 8, 8)
    sampler = SAMPLERS[recipe.sampler]
    sigmas = sigmas_for(sampler, "karras", 8, sdxl_table())

    def run_(denoise_at: Callable[[int], Denoise], state: State | None = None, stop: int = 8) -> State:
        state = state or State(0, start(starting_noise(recipe.seed, shape), sigmas))
        with noise_for(sampler, recipe.seed, shape, sigmas) as noise, torch.no_grad():
            for state in sample(sampler, denoise_at, state, sigmas, noise):  # noqa: B020
                if state.step == stop:
                    break
        return state

    with ExitStack() as stack, torch.no_grad():
        run_.models = (_model(engine, recipe, stack), _model(engine, recipe, stack))  # type: ignore[attr-defined]
        yield run_  # type: ignore[misc]


def test_an_identical_refiner_changes_nothing(runner: Any) -> None:
    base, twin = runner.models
    assert torch.equal(runner(switch_at(base, twin, 5)).x, runner(switch_at(base, None, None)).x)


def test_one_run_is_not_two_runs(runner: Any) -> None:
    """Two separate runs lose the sampler's history at the border, even with one network; one run keeps it."""
    base, twin = runner.models
    continuous = runner(switch_at(base, twin, 5)).x
    first = runner(lambda step: base, stop=5)
    kept = runner(lambda step: twin, state=first).x
    lost = runner(lambda step: twin, state=State(first.step, first.x)).x
    assert torch.equal(kept, continuous)
    assert (lost - continuous).norm() / continuous.norm() > 1e-3


def _ids(family: Family, **changes: Any) -> Callable[[float], tuple[list[float], list[float]]]:
    recipe = recipe_of(Request(size=Size(1152, 896), seed=0, **changes))
    return sizes_at(recipe, family)


def test_size_ids_of_the_base_are_pushed_apart_unrounded() -> None:
    positive, negative = _ids(SDXL_BASE)(500.0)
    assert positive == [1344.0, 1728.0, 0.0, 0.0, 896.0, 1152.0]
    assert negative == [896 * 0.8, 1152 * 0.8, 0.0, 0.0, 896.0, 1152.0]


def test_the_timed_form_cuts_rounds_and_ends() -> None:
    sizes = _ids(SDXL_BASE, size_until=0.3)
    assert sizes(699.4) == ([1344, 1728, 0, 0, 896, 1152], [716, 921, 0, 0, 896, 1152])
    assert sizes(699.0) == ([896, 1152, 0, 0, 896, 1152],) * 2
    # 1056 is half way between multiples of 64 and goes to the even one, as does 1120.
    assert sizes_at(recipe_of(Request(size=Size(1056, 1120), seed=0, size_until=0.3)), SDXL_BASE)(0)[0][4:] == [
        1152,
        1024,
    ]


def test_the_refiner_gets_plain_sizes_and_scores() -> None:
    positive, negative = _ids(SDXL_REFINER)(500.0)
    assert positive == [896, 1152, 0, 0, 6.0] and negative == [896, 1152, 0, 0, 2.5]


class _Echo(nn.Module):
    """A network that answers the mean of its context and notes how many it was asked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    def forward(self, x: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor, **others: Any) -> tuple[Tensor]:
        self.batches.append(len(x))
        return (x * 0 + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None],)


@pytest.mark.parametrize(("together", "batches"), [(True, [2, 2]), (False, [1, 1, 1, 1])])
def test_prompt_and_negative_prompt_are_asked_as_the_plan_says(
    request_: Request, together: bool, batches: list[int]
) -> None:
    unet = _Echo()
    texts = [TextConditioning(torch.full((1, 77, 4), value), torch.zeros(1, 4)) for value in (2.0, 3.0)]
    sizes = sizes_at(recipe_of(request_), SDXL_BASE)
    predict = predictor(unet, Prompts(*texts), sizes, guided=True, together=together)
    for _ in range(2):
        cond, uncond = predict(torch.zeros(1, 4, 8, 8), 1.0)
        assert uncond is not None and (cond.mean(), uncond.mean()) == (2.0, 3.0)
    assert unet.batches == batches


@pytest.mark.parametrize(
    ("card_gib", "windows", "together"),
    [
        (4, (1, 1), True),
        (4, (2, 2), True),
        (4, (1, 2), True),
        (4, (3, 2), False),
        (4, (4, 4), True),
        (4, (5, 5), False),
        (24, (3, 2), True),
    ],
)
def test_long_texts_are_asked_one_by_one_where_memory_is_short(
    card_gib: int, windows: tuple[int, int], together: bool
) -> None:
    texts = [TextConditioning(torch.zeros(1, 77 * count, 4), torch.zeros(1, 4)) for count in windows]
    made = make_plan(Space(True, card_gib * GIB, card_gib * GIB - DRIVER_BYTES, 16 * GIB, 12 * GIB), sdxl_need())
    assert asks_together(made, Prompts(*texts)) == together
    assert asks_together(None, Prompts(*texts))


def test_texts_are_brought_to_the_network_before_they_are_joined(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may have been read where memory was short, the other not: what lies apart cannot be joined."""
    joined: list[Tensor] = []
    cat = torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts: (joined.extend(parts), cat(parts))[1])
    unet = _Echo().to(torch.bfloat16)
    text = TextConditioning(torch.ones(1, 77, 4), torch.zeros(1, 4))
    predictor(unet, Prompts(text, text), sizes_at(recipe_of(request_), SDXL_BASE), guided=True)
    assert len(joined) == 4 and {part.dtype for part in joined} == {torch.bfloat16}


def test_guidance_1_asks_for_the_prompt_only(request_: Request) -> None:
    unet = _Echo()
    text = TextConditioning(torch.ones(1, 77, 4), torch.zeros(1, 4))
    sizes = sizes_at(recipe_of(request_), SDXL_BASE)
    predict = predictor(unet, Prompts(text, text), sizes, guided=False)
    assert predict(torch.zeros(1, 4, 8, 8), 1.0)[1] is None
    assert unet.batches == [1]

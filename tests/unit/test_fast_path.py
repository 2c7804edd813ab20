"""A miniature works alone on a processor; every other network has all threads, and they are given back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fooocus.config import Config, read_fast
from fooocus.families import attention
from fooocus.families.graphs import WARM_CALLS, Inputs, Recording
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles
from fooocus.render.engine import Engine
from fooocus.render.fast import FastPath
from fooocus.request import Request, Size
from tests.tiny import BASE, REFINER

POCKET = Size(144, 112)
POCKET_WEIGHTS = 5_145_220


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def weighing(weights: int) -> nn.Module:
    """A network of so many weights that takes no memory."""
    return nn.Linear(weights, 1, bias=False, device="meta")


@pytest.mark.parametrize(
    ("weights", "size", "device", "threads"),
    [
        (POCKET_WEIGHTS, POCKET, "cpu", 1),
        (POCKET_WEIGHTS, Size(288, 224), "cpu", 3),  # four times the places
        (2_567_463_684, Size(256, 256), "cpu", 3),  # SDXL's
        (POCKET_WEIGHTS, POCKET, "cuda", 3),
    ],
)
def test_only_what_is_too_short_to_be_shared_is_not(weights: int, size: Size, device: str, threads: int) -> None:
    path = FastPath(read_fast("auto"), torch.device(device), recorder=None if device == "cpu" else object())  # type: ignore[arg-type]
    with path.arithmetic(weighing(weights), size):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


def test_the_threads_are_given_back_whatever_happens() -> None:
    path = FastPath(read_fast("auto"), torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), path.arithmetic(weighing(1), POCKET):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


class Adding(nn.Module):
    """A network whose answer is off by ``error`` where matrix products add up in half precision."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error, self.asked = error, []

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        half = torch.backends.cuda.matmul.allow_fp16_accumulation
        self.asked.append(half)
        return (x * (1 + self.error) if half else x,)


@pytest.mark.parametrize(("error", "kept"), [(0.004, True), (0.02, False), (math.inf, False), (math.nan, False)])
def test_sums_in_half_precision_are_kept_where_they_hardly_move_the_answer(error: float, kept: bool) -> None:
    path = FastPath(read_fast("fp16-accumulation"), torch.device("cuda"), recorder=object())  # type: ignore[arg-type]
    unet, said = Adding(error), []
    for loras in ("none", "none", "one"):
        ask = path.ask(unet, loras=loras, notice=said.append)
        for side in (8, 8, 8, 16):
            answer = ask(Inputs(*[torch.ones(2, 4, side, 8, dtype=torch.float16)] * 5))
            # The first answer is as the others: a seed's picture does not depend on whether it is the first.
            assert answer[0, 0, 0, 0].item() == pytest.approx(1 + error if kept else 1.0, abs=1e-3)
    looked = [False, True]  # both ways, once for each size and each choice of LoRAs
    first = [*looked, kept, kept, *looked]
    assert unet.asked == [*first, *[kept] * 4, *first]
    assert len(said) == (0 if kept else 4)
    assert not torch.backends.cuda.matmul.allow_fp16_accumulation


@torch.no_grad()
def test_a_graph_is_recorded_in_the_way_that_was_found(tiny: Path) -> None:
    """Also where the first look was left half way, by a person who stopped: the calls of the look are not counted."""
    unet = open_checkpoint(tiny / BASE).load("unet", dtype=torch.float16).module
    attention.install(unet)
    recorded: list[bool] = []

    class Recorder:
        def record(self, work: Callable[[], torch.Tensor]) -> Recording:
            recorded.append(torch.backends.cuda.matmul.allow_fp16_accumulation)
            return Recording(lambda: None, work())

    path = FastPath(read_fast("graphs,fp16-accumulation"), torch.device("cuda"), Recorder())
    path._is_here = lambda unet: True  # type: ignore[method-assign]
    asked: list[int] = []

    def stop(*_: object) -> None:
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt

    handle = unet.register_forward_pre_hook(stop)
    half = torch.float16
    inputs = Inputs(
        torch.randn(2, 4, 8, 8, dtype=half),
        torch.tensor(500.0),
        torch.randn(2, 77, 192, dtype=half),
        torch.randn(2, 128, dtype=half),
        torch.ones(2, 6),
    )
    with pytest.raises(KeyboardInterrupt):
        path.ask(unet)(inputs)
    for _ in range(WARM_CALLS + 2):
        path.ask(unet)(inputs)
    handle.remove()
    assert recorded == [True]


def test_other_devices_and_settings_do_not_add_up_in_half_precision() -> None:
    for fast, device in (("fp16-accumulation", "cpu"), ("auto", "cuda")):
        unet = Adding(0.001)
        ask = FastPath(read_fast(fast), torch.device(device), recorder=object()).ask(unet)  # type: ignore[arg-type]
        ask(Inputs(*[torch.ones(1, 4, 8, 8, dtype=torch.float16)] * 5))
        assert unet.asked == [False]
    wide = Adding(0.001)
    ask = FastPath(read_fast("fp16-accumulation"), torch.device("cuda"), recorder=object()).ask(wide)  # type: ignore[arg-type]
    ask(Inputs(*[torch.ones(1, 4, 8, 8)] * 5))
    assert wide.asked == [False], "float32 knows no such sums"


def test_base_and_refiner_of_a_miniature_both_work_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Config(outputs=tmp_path, data=tmp_path, device="cpu", dtype="float32"), previews=False)
    seen: list[int] = []
    ask = engine._fast.ask

    def watched(unet: nn.Module, **given: Any) -> object:
        def note(*_: object) -> None:
            seen.append(torch.get_num_threads())

        unet.register_forward_pre_hook(note)
        return ask(unet, **given)

    monkeypatch.setattr(engine._fast, "ask", watched)
    request = Request(
        prompt="a fox in snow",
        size=Size(64, 64),
        steps=4,
        switch=2,
        seed=1,
        base=str(tiny / BASE),
        refiner=str(tiny / REFINER),
        styles=(),
        loras=(),
    )
    engine.render(plan(request, Styles({}))[0])
    assert seen == [1] * 4
    assert torch.get_num_threads() == 3

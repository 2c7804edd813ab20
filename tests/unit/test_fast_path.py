"""A miniature works alone on a processor; every other network has all threads, and they are given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fooocus.config import Config, read_fast
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


def test_base_and_refiner_of_a_miniature_both_work_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Config(outputs=tmp_path, data=tmp_path, device="cpu", dtype="float32"), previews=False)
    seen: list[int] = []
    ask = engine._fast.ask

    def watched(unet: nn.Module, *, travels: bool) -> object:
        def note(*_: object) -> None:
            seen.append(torch.get_num_threads())

        unet.register_forward_pre_hook(note)
        return ask(unet, travels=travels)

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

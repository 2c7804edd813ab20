"""A wish takes effect within a second, however slow the network, the processor or the card."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fooocus.config import Config
from fooocus.errors import Stopped
from fooocus.events import Cancelled, Event, Stage
from fooocus.jobs.worker import Control, WorkItem, perform
from fooocus.render import interrupt
from fooocus.render.engine import Engine
from fooocus.render.interrupt import interruptible
from fooocus.request import Request, Size


class BasicTransformerBlock(nn.Module):
    """Named as the real one; what it costs is up to the test."""

    def __init__(self, work: Any) -> None:
        super().__init__()
        self.work = work

    def forward(self, x: Tensor) -> Tensor:
        self.work()
        return x


class SlowCard:
    """A card that takes ``seconds`` for a block and is handed them at once; its marks are passed in that order."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.busy_until = time.monotonic()

    def block(self) -> None:
        self.busy_until = max(self.busy_until, time.monotonic()) + self.seconds

    def mark(self) -> SlowCard:
        mark = SlowCard(self.seconds)
        mark.busy_until = self.busy_until
        return mark

    def query(self) -> bool:
        return time.monotonic() >= self.busy_until


def stop_after(seconds: float, module: nn.Module, **marks: Any) -> float:
    """Let a module run, ask for a stop, and return how long it took to take effect."""
    control = Control()
    asked: list[float] = []
    timer = threading.Timer(seconds, lambda: (asked.append(time.monotonic()), control.stop()))
    timer.start()
    with interruptible(module, control.check, **marks), pytest.raises(Stopped):
        module(torch.zeros(1))
    timer.join()
    return time.monotonic() - asked[0]


@pytest.mark.clock
def test_a_step_of_a_minute_is_left_in_its_middle() -> None:
    module = nn.Sequential(*(BasicTransformerBlock(lambda: time.sleep(0.3)) for _ in range(200)))
    assert stop_after(0.1, module) < 0.8


@pytest.mark.clock
def test_python_stays_near_a_slow_card() -> None:
    card = SlowCard(0.1)
    module = nn.Sequential(*(BasicTransformerBlock(card.block) for _ in range(600)))
    assert stop_after(0.3, module, mark=card.mark) < 0.5
    assert card.busy_until - time.monotonic() < 0.5, "the card has little left to do"


class Hours:
    """A clock that only goes on when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_card_is_kept_at_work_where_it_is_not_known_to_be_fast_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first pass Python waits for the card; blocks of less than a millisecond must not wait for Python."""
    clock = Hours()
    monkeypatch.setattr(interrupt, "time", clock)
    busy_until, block = clock.now, 0.0007

    def work() -> None:
        nonlocal busy_until
        clock.sleep(0.0001)  # what Python itself takes
        busy_until = max(busy_until, clock.now) + block

    class Here:
        def __init__(self) -> None:
            self.until = busy_until

        def query(self) -> bool:
            return clock.now >= self.until

    module = nn.Sequential(*(BasicTransformerBlock(work) for _ in range(200)))
    began = clock.now
    with interruptible(module, lambda: None, Here):
        module(torch.zeros(1))
    assert busy_until - began < 1.1 * 200 * block


def test_nothing_asks_the_card_while_a_graph_is_recorded() -> None:
    module = nn.Sequential(*(BasicTransformerBlock(lambda: None) for _ in range(10)))
    with interruptible(module, lambda: None, lambda: None):
        module(torch.zeros(1))  # a mark of None is nothing to wait for


def test_marks_are_set_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a card a network may be with the processor: nobody need mark its work, and it is looked at finely."""
    asked: list[torch.device] = []
    monkeypatch.setattr(interrupt, "marks_on", asked.append)
    monkeypatch.setattr(interrupt, "_LARGE_BYTES", 10)
    calls: list[int] = []
    module = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
    with interruptible(module, lambda: calls.append(1)):
        module(torch.zeros(1, 4))
    with interruptible(nn.Linear(2, 2, device="meta"), lambda: None), interruptible(nn.SiLU(), lambda: None):
        pass
    assert [device.type for device in asked] == ["cpu", "meta", "cpu"] and len(calls) == 2


def test_a_fast_card_is_never_waited_for() -> None:
    marks: list[SlowCard] = []
    card = SlowCard(0.0)

    def mark() -> SlowCard:
        marks.append(card.mark())
        return marks[-1]

    module = nn.Sequential(*(BasicTransformerBlock(card.block) for _ in range(10)))
    with interruptible(module, lambda: None, mark):
        for _ in range(5):
            module(torch.zeros(1))
    assert len(marks) == 10, "only the first pass is not known to be fast"


def test_a_large_network_on_a_processor_is_looked_at_in_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
    calls: list[int] = []
    with interruptible(module, lambda: calls.append(1)):
        module(torch.zeros(1, 4))
    assert calls == []
    monkeypatch.setattr(interrupt, "_LARGE_BYTES", 10)
    with interruptible(module, lambda: calls.append(1)):
        module(torch.zeros(1, 4))
    assert len(calls) == 2
    module(torch.zeros(1, 4))
    assert len(calls) == 2, "nothing stays behind"


def test_every_part_of_a_picture_can_be_left(tiny: Path, tmp_path: Path) -> None:
    """Each stage looks at the wish more than once: loading, both text encoders, the network, the VAE."""
    engine = Engine(Config(outputs=tmp_path / "out", data=tmp_path))
    request = Request(prompt="x", styles=(), size=Size(64, 64), steps=1, seed=1, refiner="none")
    request = dataclasses.replace(request, base=str(tiny / "tiny_base.safetensors"), loras=())
    looked: dict[str, int] = {}
    stage = ""

    def emit(event: Event) -> None:
        nonlocal stage
        stage = event.name if isinstance(event, Stage) else stage

    control = Control()

    def check() -> None:
        looked[stage] = looked.get(stage, 0) + 1
        Control.check(control)

    control.check = check  # type: ignore[method-assign]
    work = WorkItem("job", request.to_json(), 1)
    perform(engine.run, work, emit, control)
    # Reading loads two encoders tensor by tensor and goes through their layers twice; sampling loads the network.
    assert looked["reading"] > 80 and looked["sampling"] > 300 and looked["decoding"] > 5, looked
    again: list[Event] = []
    control.stop()
    perform(engine.run, dataclasses.replace(work, id="other", created_ms=2), again.append, control)
    assert again[-1] == Cancelled()

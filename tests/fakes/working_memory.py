"""A worker's memory on a fake card, whose networks take as much beside their weights as the plan says they do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fooocus.families.records import Kind
from fooocus.loading.checkpoint import Role
from fooocus.loading.memory import Memory
from fooocus.memory.plan import Stage, work_bytes
from tests.fakes.fake_card import FakeCard


class Working(Memory):
    """Its networks take as much memory beside their weights as the plan says that their work does."""

    @contextlib.contextmanager
    def use(self, path: Path, role: Role, kind: Kind) -> Iterator[nn.Module]:
        # The two text encoders work one after the other, in the same memory.
        stages: dict[Kind, Stage] = {"unet": "sampling", "text_g": "text"}
        with super().use(path, role, kind) as module, self._work(stages.get(kind)):
            yield module

    @contextlib.contextmanager
    def use_vae(self, *arguments: Any, **named: Any) -> Iterator[nn.Module]:
        with super().use_vae(*arguments, **named) as module, self._work("decoding"):
            yield module

    def _work(self, stage: Stage | None) -> contextlib.AbstractContextManager[None]:
        assert isinstance(self.device, FakeCard) and self.plan is not None
        return self.device.working(0 if stage is None else work_bytes(self.plan, stage))

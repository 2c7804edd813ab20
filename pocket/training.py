"""The loop that every stage shares: steps until enough or until time is up, weight averages, and a file to resume from.

Nothing random survives a step: step ``n`` of a stage draws everything from a generator seeded by (seed, stage, n). So a
run that was killed and resumed is the run that was not, and the file needs no generator states.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Dataset

from pocket.networks import Stage
from pocket.team import Team

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SEED = 20_26
SAVE_SECONDS, TELL_SECONDS = 60.0, 20.0
WARM_UP = 100
ANNEAL_FROM = 0.5  # of the steps; the learning rate falls from there along a cosine
LAST_RATE = 0.02


Draw = Callable[[np.random.Generator, float], tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where a training runs: its folder of files, the device, the processes that draw, the time (of ``time.time``) to
    stop at, how to tell, and who else is at it. ``quick`` computes in bfloat16, for processors that can."""

    folder: Path
    device: torch.device
    workers: int
    until: float
    say: Callable[[str], None]
    team: Team = dataclasses.field(default_factory=Team)
    quick: bool = False

    def path(self, stage: str) -> Path:
        """Return the file a stage is kept in."""
        return self.folder / f"{stage}.pt"

    @property
    def layout(self) -> torch.memory_format:
        """The order of a picture's numbers that convolutions are quickest with."""
        return torch.channels_last if self.quick or self.device.type == "cuda" else torch.contiguous_format

    def eye(self, unet: UNet2DConditionModel) -> Callable[..., Any]:
        """Return what sees noise as the UNet does, and is quick about it where the training is to be quick.

        That is bfloat16 throughout, not autocast: casting around every operation eats up what it gains on a processor,
        and so does PyTorch's own attention (its way back takes half of the step). The weights themselves stay float32.
        """
        if not self.quick:
            return unet
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())

        def see(noisy: Tensor, times: Tensor, *, encoder_hidden_states: Tensor, added_cond_kwargs: Any) -> Any:
            weights = {name: weight.bfloat16() for name, weight in unet.named_parameters()}
            told = {
                "text_embeds": added_cond_kwargs["text_embeds"].bfloat16(),
                "time_ids": added_cond_kwargs["time_ids"],
            }
            context = encoder_hidden_states.bfloat16()
            given = {"encoder_hidden_states": context, "added_cond_kwargs": told}
            return functional_call(unet, weights, (noisy.bfloat16(), times), given)

        return see


class OutOfTime(Exception):
    """The clock reached ``until``; everything is saved."""


def dice(stage: str, step: int) -> np.random.Generator:
    """Return the generator of one step."""
    return np.random.default_rng((SEED, zlib.crc32(stage.encode()), step))


def torch_dice(rng: np.random.Generator) -> torch.Generator:
    """Return a torch generator (on the CPU) that follows from ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def rate_at(progress: float, step: int) -> float:
    """Return the factor on the learning rate: up in WARM_UP steps, level, then down along a cosine."""
    fall = max(0.0, progress - ANNEAL_FROM) / (1 - ANNEAL_FROM)
    return min(1.0, (step + 1) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall)))


def train(
    name: str,
    modules: Mapping[str, nn.Module],
    stage: Stage,
    bench: Bench,
    draw: Draw,
    loss_of: Callable[..., tuple[Tensor, Tensor]],
    *,
    slower: Mapping[str, float] | None = None,
) -> None:
    """Train ``modules`` in place until ``stage.steps`` and leave their averaged weights in them, in eval mode.

    Every process of ``bench.team`` computes its part of each step's pictures; the gradients are those of all.

    ``draw(rng, progress)`` makes a step's tensors, on the processor and where ``bench.workers`` allows in processes of
    its own; ``loss_of`` gets them on the device and returns the loss and a number to tell. ``slower`` gives factors on
    the learning rate by module. Resumes from the stage's file, saves to it every minute, at the end and before raising
    :class:`OutOfTime`.
    """
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "factor": (slower or {}).get(key, 1.0)}
        for key, module in modules.items()
    ]
    optimiser = torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = _Run(name, nn.ModuleDict(dict(modules)), optimiser, bench)
    run.resume(stage.steps)
    if run.step >= stage.steps:
        run.finish()
        return
    watch = _Watch(run.step, stage.steps, bench)
    steps = DataLoader(_Steps(name, run.step, stage.steps, draw), batch_size=None, num_workers=bench.workers)
    run.whole.train()
    for tensors in steps:
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * group["factor"] * rate_at(run.step / stage.steps, run.step)
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.device.type == "cuda"):
            loss, number = loss_of(*(bench.team.mine(t).to(bench.device, non_blocking=True) for t in tensors))
        optimiser.zero_grad()
        loss.backward()
        over = bench.team.agree(run.whole.parameters(), time.time() >= bench.until)
        nn.utils.clip_grad_norm_(run.whole.parameters(), 1.0)
        optimiser.step()
        run.advance()
        if watch.look(name, run.step, number) or over:
            run.save()
        if over:
            raise OutOfTime(f"{name} stopped at step {run.step} of {stage.steps}")
    run.save()
    run.finish()
    bench.team.wait()


class _Steps(Dataset[tuple[Tensor, ...]]):
    """The tensors of the steps that are left, by their place in the row."""

    def __init__(self, name: str, first: int, steps: int, draw: Draw) -> None:
        self._name, self._first, self._steps, self._draw = name, first, steps, draw

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, place: int) -> tuple[Tensor, ...]:
        step = self._first + place
        return self._draw(dice(self._name, step), step / self._steps)


class _Run:
    """What a stage has reached: weights, their average, the optimiser's state, the number of steps."""

    def __init__(self, name: str, whole: nn.ModuleDict, optimiser: torch.optim.Optimizer, bench: Bench) -> None:
        self.whole, self.step = whole, 0
        self._path, self._device, self._optimiser = bench.path(name), bench.device, optimiser
        self._team = bench.team
        self._average = {key: value.detach().clone() for key, value in whole.state_dict().items()}

    def resume(self, steps: int) -> None:
        """Take up what the stage's file holds, if there is one; the optimiser's state if some of ``steps`` are left."""
        if not self._path.exists():
            return
        kept = torch.load(self._path, map_location=self._device)
        self.step, self._average = int(kept["step"]), kept["average"]
        self.whole.load_state_dict(kept["weights"])
        if self.step < steps:
            self._optimiser.load_state_dict(kept["optimiser"])

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step and let the average follow; the younger it is, the faster it forgets its beginning."""
        self.step += 1
        share = max(0.001, 8 / (80 + self.step))
        now = self.whole.state_dict()
        learnt = [key for key, value in now.items() if value.is_floating_point()]
        # All at once: one by one would take as long as the step itself on a graphics card.
        torch._foreach_lerp_([self._average[key] for key in learnt], [now[key] for key in learnt], share)

    def save(self) -> None:
        """Write the stage's file; the old one is replaced only by a whole new one."""
        if not self._team.leads:
            return
        kept = {"step": self.step, "average": self._average, "weights": self.whole.state_dict()}
        keep(kept | {"optimiser": self._optimiser.state_dict()}, self._path)

    def finish(self) -> None:
        """Put the averaged weights into the modules."""
        self.whole.load_state_dict(self._average)
        self.whole.eval()


class _Watch:
    """Tells how a stage gets on, and when it is time to save."""

    def __init__(self, first: int, steps: int, bench: Bench) -> None:
        self._first, self._steps, self._say = first, steps, bench.say
        self._began = self._saved = self._told = time.time()
        self._numbers: list[Tensor] = []

    def look(self, name: str, step: int, number: Tensor) -> bool:
        """Note a step's number; return whether the last save is long ago."""
        self._numbers.append(number)
        now = time.time()
        if now - self._told > TELL_SECONDS or step == self._steps:
            pace = (step - self._first) / (now - self._began)
            mean = float(torch.stack(self._numbers).float().mean())
            self._say(f"{name} {step}/{self._steps}  {mean:.5f}  {pace:.2f} steps/s")
            self._told, self._numbers = now, []
        due = now - self._saved > SAVE_SECONDS
        self._saved = now if due else self._saved
        return due


def averaged(name: str, module: nn.Module, bench: Bench, key: str) -> bool:
    """Load the averaged weights of one module of a stage as far as it has come; say whether there are any."""
    if not bench.path(name).exists():
        return False
    average = torch.load(bench.path(name), map_location=bench.device)["average"]
    module.load_state_dict({k.removeprefix(f"{key}."): v for k, v in average.items() if k.startswith(f"{key}.")})
    return True


def keep(values: object, path: Path) -> None:
    """Write a file of the training; an old one is replaced only by a whole new one."""
    part = path.with_suffix(".part")
    torch.save(values, part)
    os.replace(part, path)

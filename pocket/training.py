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

import numpy as np
import torch
from torch import Tensor, nn

from pocket.networks import Stage

SEED = 20_26
SAVE_SECONDS = 60.0
WARM_UP = 100
ANNEAL_FROM = 0.5  # of the steps; the learning rate falls from there along a cosine
LAST_RATE = 0.02


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where a training runs: its folder of files, the device, the time (of ``time.time``) to stop at, what to tell."""

    folder: Path
    device: torch.device
    until: float
    say: Callable[[str], None]

    def path(self, stage: str) -> Path:
        """Return the file a stage is kept in."""
        return self.folder / f"{stage}.pt"


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
    loss_of: Callable[[np.random.Generator, float], tuple[Tensor, float]],
    *,
    slower: Mapping[str, float] | None = None,
) -> None:
    """Train ``modules`` in place until ``stage.steps`` and leave their averaged weights in them.

    ``loss_of(rng, progress)`` returns the loss and a number to tell; ``slower`` gives factors on the learning rate by
    module. Resumes from the stage's file, saves to it every minute, at the end and before raising :class:`OutOfTime`.
    """
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "factor": (slower or {}).get(key, 1.0)}
        for key, module in modules.items()
    ]
    optimiser = torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.99), weight_decay=0.01)
    whole = nn.ModuleDict(dict(modules))
    step, average = 0, {key: value.detach().clone() for key, value in whole.state_dict().items()}
    if bench.path(name).exists():
        kept = torch.load(bench.path(name), map_location=bench.device)
        step, average = int(kept["step"]), kept["average"]
        if not kept["done"]:
            whole.load_state_dict(kept["weights"])
            optimiser.load_state_dict(kept["optimiser"])
        if kept["done"] or step >= stage.steps:
            whole.load_state_dict(average)
            return

    def save(*, done: bool) -> None:
        kept = {"step": step, "average": average, "done": done}
        if not done:
            kept |= {"weights": whole.state_dict(), "optimiser": optimiser.state_dict()}
        part = bench.path(name).with_suffix(".part")
        torch.save(kept, part)
        os.replace(part, bench.path(name))

    began = saved = told = time.time()
    first, numbers = step, []
    whole.train()
    while step < stage.steps:
        progress = step / stage.steps
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * group["factor"] * rate_at(progress, step)
        loss, number = loss_of(dice(name, step), progress)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimiser.step()
        step += 1
        _follow(average, whole, step)
        numbers.append(number)
        now = time.time()
        if now - told > 20 or step == stage.steps:
            pace = (step - first) / (now - began)
            bench.say(f"{name} {step}/{stage.steps}  {np.mean(numbers):.5f}  {pace:.2f} steps/s")
            told, numbers = now, []
        if now - saved > SAVE_SECONDS or now >= bench.until:
            save(done=False)
            saved = now
        if now >= bench.until:
            raise OutOfTime(f"{name} stopped at step {step} of {stage.steps}")
    save(done=True)
    whole.load_state_dict(average)


@torch.no_grad()
def _follow(average: dict[str, Tensor], module: nn.Module, step: int) -> None:
    """Move the average by 1/(10 + step/8) of the way, at least 0.1 %: young averages forget their beginnings."""
    share = max(0.001, 8 / (80 + step))
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, share)
        else:
            average[key].copy_(value)


def averaged(name: str, module: nn.Module, bench: Bench, key: str) -> bool:
    """Load the averaged weights of one module of a stage as far as it has come; say whether there are any."""
    if not bench.path(name).exists():
        return False
    average = torch.load(bench.path(name), map_location=bench.device)["average"]
    module.load_state_dict({k.removeprefix(f"{key}."): v for k, v in average.items() if k.startswith(f"{key}.")})
    return True

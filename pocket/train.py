"""Train Pocket: ``python -m pocket.train --plan quarter --folder <where its files go>``.

Stages follow each other - vae, latents, text, base, refiner, lora - each kept in a file of its own. Running the same
command again goes on where it was, also after a power cut; ``--until`` ends it at a time of the clock.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocket import vae as vae_start
from pocket.networks import PLANS, Plan, Stage, make_vae
from pocket.samples import crop, sample
from pocket.training import Bench, OutOfTime, torch_dice, train
from pocket.world import Level

HELD_OUT = 1_000_000_000
"""Seeds from here on are never trained on."""


def main() -> int:
    """Run the stages that are asked for; return 0, or 3 when time ran out first."""
    parsed = _arguments()
    torch.set_num_threads(parsed.threads)
    parsed.folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(parsed.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    until = math.inf if parsed.until is None else _next_time(parsed.until)
    bench = Bench(parsed.folder, device, until, lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", flush=True))
    plan = PLANS[parsed.plan]
    given = dict(parsed.steps or [])
    plan = replace(plan, stages={k: replace(s, steps=given.get(k, s.steps)) for k, s in plan.stages.items()})
    try:
        for name in parsed.stages:
            STAGES[name](plan, bench)
    except OutOfTime as stop:
        bench.say(str(stop))
        return 3
    return 0


def pictures(arrays: list[np.ndarray], device: torch.device) -> Tensor:
    """Turn uint8 pictures (H, W, 3) into one tensor (B, 3, H, W), -1..1."""
    stacked = torch.from_numpy(np.stack(arrays)).to(device)
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_vae(plan: Plan, bench: Bench) -> None:
    """Train the VAE on crops of the whole world, whatever the base will see, so that it need not change later."""
    torch.manual_seed(0)
    vae = make_vae(plan).to(bench.device, memory_format=torch.channels_last)
    vae_start.begin_with_colours(vae)
    stage = plan.stages["vae"]

    def loss_of(rng: np.random.Generator, progress: float) -> tuple[Tensor, float]:
        size = plan.sizes[int(rng.integers(len(plan.sizes)))]
        seeds = rng.integers(0, HELD_OUT, (stage.batch, 2)).tolist()
        crops = [crop(rng, sample(seed, size, "all").picture, plan.crop_px) for seed in seeds]
        value, square = vae_start.loss(vae, pictures(crops, bench.device), torch_dice(rng))
        return value, float(square)

    train("vae", {"vae": vae}, stage, bench, loss_of)
    for level in plan.levels | {"all": 1.0}:
        bench.say(f"vae: {psnr(vae, plan, bench, level):.2f} dB on held-out pictures, {level}")


@torch.no_grad()
def psnr(vae: torch.nn.Module, plan: Plan, bench: Bench, level: Level, count: int = 64) -> float:
    """Return the mean peak signal-to-noise ratio of held-out pictures through the VAE, in dB."""
    values = []
    vae.eval()
    for seed in range(count):
        size = plan.sizes[seed % len(plan.sizes)]
        shown = pictures([sample((HELD_OUT, seed), size, level, plainly=True).picture], bench.device)
        seen = vae.decode(vae.encode(shown).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * math.log10(4 / max(float((seen - shown).pow(2).mean()), 1e-9)))
    return float(np.mean(values))


STAGES: Mapping[str, Callable[[Plan, Bench], None]] = {"vae": train_vae}


def _next_time(clock: str) -> float:
    """Return the next moment, UTC, at which the clock shows HH:MM."""
    now = datetime.datetime.now(datetime.UTC)
    hour, minute = (int(part) for part in clock.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (moment if moment > now else moment + datetime.timedelta(days=1)).timestamp()


def _steps(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pocket.train", description="Train Pocket, stage by stage.")
    parser.add_argument("--folder", type=Path, required=True, help="where the stages' files are kept")
    parser.add_argument("--plan", choices=tuple(PLANS), default="quarter", help="sizes, widths and lengths")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="which, in order")
    parser.add_argument("--steps", nargs="+", type=_steps, metavar="STAGE=N", help="other numbers of steps")
    parser.add_argument("--until", metavar="HH:MM", help="stop, with everything saved, at this time (UTC)")
    parser.add_argument("--device", help="cuda or cpu; left out: a graphics card where there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads on a processor")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

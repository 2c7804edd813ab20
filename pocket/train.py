"""Train Pocket: ``python -m pocket.train --folder <where its files go>``.

Stages follow each other - vae, latents, text, base, refiner, lora, judge - each kept in a file of its own. Running the
same command again goes on where it was, also after a power cut; ``--until`` ends it at a time of the clock.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from pocket.begin import begin
from pocket.latents import make_latents
from pocket.networks import PLANS, Plan
from pocket.stages import train_base, train_judge, train_lora, train_refiner, train_text, train_vae
from pocket.team import Team, run_team
from pocket.training import Bench, OutOfTime


def main() -> int:
    """Run the stages that are asked for; return 0, or 3 when time ran out first."""
    parsed = _arguments()
    _plan(parsed)
    parsed.folder.mkdir(parents=True, exist_ok=True)
    return run_team(parsed.processes, functools.partial(_run, parsed))


def _run(parsed: argparse.Namespace, team: Team) -> int:
    """Run the stages as one of a team's processes."""
    torch.set_num_threads(max(1, parsed.threads // team.size))
    device = torch.device(parsed.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    until = math.inf if parsed.until is None else _next_time(parsed.until)
    bench = Bench(
        parsed.folder,
        device,
        parsed.workers,
        until,
        lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", flush=True) if team.leads else None,
        team,
        parsed.quick,
    )
    plan = _plan(parsed)
    if parsed.begin is not None and team.leads:
        begin(plan, bench, parsed.begin)
    team.wait()
    try:
        for name in _stages(parsed):
            STAGES[name](plan, bench)
    except OutOfTime as stop:
        bench.say(str(stop))
        return 3
    return 0


STAGES: Mapping[str, Callable[[Plan, Bench], None]] = {
    "vae": train_vae,
    "latents": make_latents,
    "text": train_text,
    "base": train_base,
    "refiner": train_refiner,
    "lora": train_lora,
    "judge": train_judge,
}


def _plan(parsed: argparse.Namespace) -> Plan:
    """Return the plan with the numbers of steps that were given; raises SystemExit for what cannot be."""
    plan, given = PLANS[parsed.plan], dict(parsed.steps or [])
    if unknown := given.keys() - plan.stages.keys():
        raise SystemExit(f"--steps: no stage {', '.join(unknown)}; those with steps are {', '.join(plan.stages)}")
    uneven = [name for name, stage in plan.stages.items() if stage.batch % parsed.processes]
    if uneven:
        # Parts of different sizes would weigh their pictures differently.
        raise SystemExit(f"--processes {parsed.processes} cannot share a step's pictures evenly: {', '.join(uneven)}")
    return replace(plan, stages={k: replace(s, steps=given.get(k, s.steps)) for k, s in plan.stages.items()})


def _stages(parsed: argparse.Namespace) -> list[str]:
    """Return the stages to run. A training that begins with files (:mod:`pocket.begin`) has a VAE and text encoders."""
    done = () if parsed.begin is None else ("vae", "text")
    return parsed.stages or [name for name in STAGES if name not in done]


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
    parser.add_argument("--plan", choices=tuple(PLANS), default="eighth", help="sizes, widths and lengths")
    parser.add_argument("--begin", type=Path, metavar="FOLDER", help="go on from the files in there, not from nothing")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), help="which, in order")
    parser.add_argument("--steps", nargs="+", type=_steps, metavar="STAGE=N", help="other numbers of steps")
    parser.add_argument("--until", metavar="HH:MM", help="stop, with everything saved, at this time (UTC)")
    parser.add_argument("--device", help="cuda or cpu; left out: a graphics card where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw; 0: the training draws for itself")
    parser.add_argument(
        "--processes", type=int, default=1, help="that share each step: 1, 2, 4 or 8, no more than there are cores"
    )
    parser.add_argument("--quick", action="store_true", help="bfloat16 on a processor that has it (avx512_bf16)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads on a processor")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Measure: this program and diffusers' own pipelines in turns, on the same weights, in one run.

What was measured on another day, with other weights or beside other programs cannot be compared; so both make a
picture, then both make one again (A B A B), and the table gives medians with their spread. The first picture of each
warms up and does not count. Full size where there is a graphics card, reduced (see ``layout.py``) where there is none.

Full size on a processor is a smoke test: every layer of the real thing, as little else as possible. Its weights are
written in the format that it computes in, so that they stay the mapped file and main memory never holds a copy of them;
hence no LoRA, which would copy the base, and no profiler.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from fooocus.bench.clock import MemoryGauge, now
from fooocus.bench.floor import Floor, measure_floor
from fooocus.bench.kinds import kinds_of
from fooocus.bench.layout import BASE, LORA, REFINER, Stored
from fooocus.bench.options import BenchOptions, told_options
from fooocus.bench.ours import Ours, Timing, with_files
from fooocus.bench.peer import Peer
from fooocus.bench.weights import random_files
from fooocus.config import ROOT, Config, read_fast
from fooocus.loading.device import Device, choose_device
from fooocus.loading.memory import Memory
from fooocus.memory.batches import MOST
from fooocus.models.computer import look, run_command
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles
from fooocus.render.latents import decode
from fooocus.request import Recipe, Request, Size

Tell = Callable[[str], object]

SEED = 1
_FULL_SIZE, _FULL_STEPS, _FULL_RUNS = Size(1152, 896), 30, 5
_REDUCED_SIZE, _REDUCED_STEPS, _REDUCED_RUNS = Size(384, 288), 30, 3
_SMOKE_SIZE, _SMOKE_STEPS, _SMOKE_RUNS = Size(256, 256), 2, 1  # full size on a processor takes minutes as it is
_LORA_WEIGHTS = (0.6, 0.5)
_BARE_CALLS = 5
PROMPT = "a lighthouse on a cliff at dusk, soft rain, an old sailor looking out to sea"
NEGATIVE = "blurry, text"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: the machine, the files, the request and what it comes to: steps, and the refiner's first."""

    config: Config
    device: Device
    full: bool
    random: bool
    request: Request
    recipe: Recipe
    steps: int
    switch: int
    runs: int
    smoke: bool


def bench(config: Config, options: BenchOptions, tell: Tell) -> dict[str, Any]:
    """Measure and return everything as a JSON object. ``tell`` hears what goes on."""
    setting, commit = _setting(config, options, tell), _commit()
    machine = _machine(setting.device)
    memory = Memory(setting.device)
    ours = Ours(setting.config, memory, setting.request)
    tell(f"Computing on {setting.device.reason}.")
    floor = _floor(setting, memory)  # before the device is full
    tell("Loading and warming up.")
    ours.picture()
    beside = options.peer and keeps_everything(memory)
    if options.peer and not beside:
        tell("diffusers is left out: it keeps all networks on the card at once, for which there is no room here.")
    peer = Peer(memory, ours.base, ours.refiner) if beside else None
    if peer:
        peer.picture(setting.request, setting.steps, setting.switch)
    mine: list[Timing] = []
    theirs: list[Timing] = []
    for run in range(1, setting.runs + 1):
        tell(f"Picture {run} of {setting.runs}.")
        mine.append(ours.picture())
        if peer:
            theirs.append(peer.picture(setting.request, setting.steps, setting.switch))
    most = _device_memory(ours, peer, setting, memory) if setting.device.device.type == "cuda" else {}
    bare, kinds = ({}, {}) if setting.smoke else _network(_by_calls(ours, setting, memory), memory)
    together = []
    if read_fast(setting.config.fast).batches:
        together = [ours.several(MOST) for _ in (None, *mine)][1:]  # the first is not counted, as ever
    changed = [] if setting.smoke else ours.change_lora(_LORA_WEIGHTS * max(1, setting.runs // 2))
    loads = [ours.load() for _ in range(min(setting.runs, 3))]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "options": told_options(config, options),
        "machine": machine | {"load_at_end": _load()},
        "versions": _versions(),
        "setting": _told(setting, ours),
        "ours": [dataclasses.asdict(timing) for timing in mine],
        "peer": [dataclasses.asdict(timing) for timing in theirs],
        "floor": floor and dataclasses.asdict(floor),
        "device_memory": most,
        "bare_call_seconds": bare,
        "kinds_seconds": kinds,
        "load_seconds": {name: [load[name] for load in loads] for name in loads[0]},
        "lora_change_seconds": changed,
        "together_seconds": together,
        "notices": ours.notices,
    }


def keeps_everything(memory: Memory) -> bool:
    """Say whether all networks are where they work at once, as the peer wants them."""
    return not memory.device.apart or (memory.plan is not None and memory.plan.text.way == "stays")


def _floor(setting: Setting, memory: Memory) -> Floor | None:
    """Measure what the arithmetic alone would take; the device is empty before and after."""
    device, half_sums = setting.device, read_fast(setting.config.fast).fp16_accumulation
    found = measure_floor(setting.recipe, device.device, device.dtype, memory.vae_dtype, half_sums=half_sums)
    setting.device.release()
    return found


def _device_memory(ours: Ours, peer: Peer | None, setting: Setting, memory: Memory) -> dict[str, dict[str, int | None]]:
    """Return the most memory that a picture of each takes on the device.

    From pictures of their own: torch keeps what it has freed, and one's store or its recorded graphs would be counted
    as the other's need; to give it back before a picture that is timed would make it wait for new.
    """
    ways: dict[str, Callable[[], object]] = {"ours": ours.picture}
    if peer:
        ways["diffusers"] = functools.partial(peer.picture, setting.request, setting.steps, setting.switch)
    most = {}
    for who, picture in ways.items():
        memory.make_room()
        gauge = MemoryGauge(setting.device.device, whole_card=True)
        with gauge.on():
            picture()
        most[who] = {"device_bytes": gauge.device_bytes, "card_bytes": gauge.card_bytes}
    return most


def _setting(config: Config, options: BenchOptions, tell: Tell) -> Setting:
    short = read_fast(config.fast).short_numbers
    chosen = choose_device(config.device, config.dtype, short_numbers=short)
    smoke = options.full and chosen.device.type == "cpu"
    if smoke and config.dtype == "auto" and short:
        chosen = choose_device(config.device, "bfloat16")  # in float32 the two UNets alone take 19 GB
    full = options.full or chosen.device.type != "cpu"
    size, steps, runs = (
        (_SMOKE_SIZE, _SMOKE_STEPS, _SMOKE_RUNS)
        if smoke
        else (_FULL_SIZE, _FULL_STEPS, _FULL_RUNS)
        if full
        else (_REDUCED_SIZE, _REDUCED_STEPS, _REDUCED_RUNS)
    )
    files = options.files or (_own_files(config) if full and not smoke else None)
    stored: Stored = "BF16" if smoke and chosen.dtype == torch.bfloat16 else "F16"
    base, refiner, lora = files or random_files(config.data / "bench", full=full, stored=stored, told=tell)
    request = Request(
        prompt=PROMPT, negative=NEGATIVE, styles=(), seed=SEED, size=options.size or size, steps=options.steps or steps
    )
    request = with_files(request, base, refiner, None if smoke else lora)
    (recipe,) = plan(request, Styles({}))
    return Setting(
        dataclasses.replace(config, outputs=config.data / "bench" / "outputs"),
        chosen,
        full and not options.files,
        files is None,
        request,
        recipe,
        recipe.steps,
        recipe.steps if recipe.switch is None else recipe.switch,
        options.runs or runs,
        smoke,
    )


def _own_files(config: Config) -> tuple[Path, ...] | None:
    """Return the person's own three files if all are there."""
    places = ((BASE, "checkpoints"), (REFINER, "checkpoints"), (LORA, "loras"))
    found = [
        next((folder / name for folder in config.folders(kind) if (folder / name).is_file()), None)
        for name, kind in places
    ]
    return tuple(path for path in found if path) if all(found) else None


def _by_calls(ours: Ours, setting: Setting, memory: Memory) -> Ours:
    """Return a contestant whose networks are called: a recorded graph is replayed, and nobody sees what it is asked."""
    names = [name.strip() for name in setting.config.fast.split(",")]
    if "graphs" not in names:
        return ours
    fast = ",".join(name for name in names if name != "graphs") or "auto"
    plain = Ours(dataclasses.replace(setting.config, fast=fast), memory, setting.request)
    for _ in range(2):  # the first is not looked at
        plain.picture()
    return plain


def _network(ours: Ours, memory: Memory) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Ask each UNet alone, with the arguments of a picture's last step, and say where its time goes."""
    device = memory.device.device
    bare: dict[str, list[float]] = {}
    kinds: dict[str, dict[str, float]] = {}
    for path, role in ours.roles():
        call = ours.last_calls.get(role)
        if call is None:
            continue
        arguments, named = call
        with memory.use(path, role, "unet") as unet, ours.arithmetic(unet), torch.no_grad():
            unet(*arguments, **named)
            seconds = []
            for _ in range(_BARE_CALLS):
                began = now(device)
                unet(*arguments, **named)
                seconds.append(now(device) - began)
            bare[role] = seconds
            kinds[role] = kinds_of(functools.partial(unet, *arguments, **named), device)
    latents = torch.zeros(1, 4, ours.size.height // 8, ours.size.width // 8)
    with memory.use_vae(ours.base) as vae, torch.no_grad():
        way = memory.plan.decoding if memory.plan else "whole"
        kinds["vae"] = kinds_of(functools.partial(decode, vae, latents, way), device)
    return bare, kinds


def _commit() -> str:
    """Return the commit of the program's folder, with a plus where files differ from it; "" without git."""
    git = ["git", "-C", str(ROOT)]
    found = run_command([*git, "rev-parse", "--short", "HEAD"]).strip()
    changed = run_command([*git, "status", "--porcelain", "--untracked-files=no"]).strip()
    return found + ("+" if found and changed else "")


def _machine(device: Device) -> dict[str, Any]:
    computer = look(Path.cwd())
    card = torch.cuda.get_device_name(device.device) if device.device.type == "cuda" else ""
    return {
        "card": card,
        "card_bytes": torch.cuda.get_device_properties(device.device).total_memory if card else 0,
        "processor": computer.processor,
        "cores": computer.cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": computer.memory_bytes,
        "system": platform.system(),
        "load": _load(),
        "computing": device.reason,
    }


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _told(setting: Setting, ours: Ours) -> dict[str, Any]:
    return {
        "full_size": setting.full,
        "random_weights": setting.random,
        "size": str(setting.request.size),
        "steps": setting.steps,
        "switch": setting.switch,
        "guidance": setting.request.guidance,
        "sampler": setting.request.sampler,
        "runs": setting.runs,
        "files": [path.name for path, _ in ours.roles()],
        "dtype": str(setting.device.dtype).removeprefix("torch."),
        "fast": setting.config.fast,
    }

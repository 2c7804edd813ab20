"""The library of pictures that the UNets learn from: encoded once, kept as latents with what is told about each.

One file per level of the world and picture size. A scene is not stored: it follows from its seed, and so does a new
phrasing of its caption each time it is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pocket.networks import LATENT_SCALE, Plan, make_vae
from pocket.samples import Sample, level_at, pictures, samples
from pocket.training import Bench, OutOfTime, averaged, keep
from pocket.vae import standardise
from pocket.words import Words
from pocket.world import Level, Scene, scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_ENCODED_AT_ONCE = 32
_MEASURED = 512  # pictures that the latents' mean and spread are measured on
_BACKGROUND_LEFT_OPEN = 0.08


def load_vae(plan: Plan, bench: Bench) -> AutoencoderKL:
    """Return the trained VAE with latents of unit size, from the file of the latents stage."""
    vae = make_vae(plan).to(bench.device).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(bench.path("vae_unit"), map_location=bench.device))
    return vae


def make_latents(plan: Plan, bench: Bench) -> None:
    """Give the VAE latents of unit size, then draw and encode the library, file by file."""
    if bench.team.leads and not bench.path("vae_unit").exists():
        vae = make_vae(plan).to(bench.device).eval().requires_grad_(False)
        if not averaged("vae", vae, bench, "vae"):
            raise SystemExit("there is no VAE yet: run the stage vae first")
        drawn = samples(0, _MEASURED, plan.sizes[0], "all", workers=bench.workers)
        mean, spread = standardise(vae, (pictures(found).to(bench.device) for found in _bundles(drawn)))
        bench.say(f"latents: mean {mean.tolist()}, spread {spread.tolist()} before")
        keep(vae.state_dict(), bench.path("vae_unit"))
    bench.team.wait()
    vae = load_vae(plan, bench)
    late = False
    for level, size, count in shelves(plan)[bench.team.rank :: bench.team.size]:
        name = shelf_name(level, size)
        if bench.path(name).exists():
            continue
        drawn = samples(0, count, size, level, workers=bench.workers)
        found = _encode(vae, drawn, bench)
        if late := found is None:
            break
        keep(found, bench.path(name))
        bench.say(f"{name}: {count} pictures")
    if bench.team.any(late):
        raise OutOfTime("latents: the file that was being made is begun anew next time")


def shelves(plan: Plan) -> list[tuple[Level, tuple[int, int], int]]:
    """List levels, sizes and numbers of pictures: levels by the time they are trained on, the first size most often."""
    starts = [*plan.levels.values(), 1.0]
    made = []
    for number, level in enumerate(plan.levels):
        pictures_of_level = plan.pictures * (starts[number + 1] - starts[number])
        for place, size in enumerate(plan.sizes):
            share = 1.0 if len(plan.sizes) == 1 else 0.5 if place == 0 else 0.5 / (len(plan.sizes) - 1)
            made.append((level, size, max(64, round(pictures_of_level * share))))
    return made


def shelf_name(level: Level, size: tuple[int, int]) -> str:
    """Return the name of a file of latents."""
    return f"latents_{level}_{size[0]}x{size[1]}"


class Library:
    """All latents in memory, and their scenes. Drawing a batch takes one picture size, as all in it must be alike."""

    def __init__(self, plan: Plan, bench: Bench, words: Words) -> None:
        self._plan, self._words = plan, words
        self._shelves: dict[str, dict[str, Tensor]] = {}
        self._scenes: dict[str, list[Scene]] = {}
        for level, (width, height), count in shelves(plan):
            name = shelf_name(level, (width, height))
            if not bench.path(name).exists():
                raise SystemExit(f"{name} is missing: run the stage latents first")
            self._shelves[name] = torch.load(bench.path(name))
            seeds = range(count)
            self._scenes[name] = [
                scene(np.random.default_rng((seed, width, height)), width, height, level) for seed in seeds
            ]

    def draw(self, rng: np.random.Generator, progress: float, batch: int) -> tuple[dict[str, Tensor], list[str]]:
        """Return latents (B, 4, h, w), "sizes" (B, 6) and "aesthetic" (B,), and the captions, of one size."""
        level = level_at(self._plan.levels, progress)
        of_level = [(size, count) for name, size, count in shelves(self._plan) if name == level]
        weights = np.asarray([count for _, count in of_level], float)
        size, _ = of_level[int(rng.choice(len(of_level), p=weights / weights.sum()))]
        name = shelf_name(level, size)
        chosen = rng.integers(len(self._scenes[name]), size=batch)
        drawn = {key: value[torch.from_numpy(chosen)].float() for key, value in self._shelves[name].items()}
        captions = [
            self._words.heard(self._scenes[name][int(i)], level, rng, background=rng.random() > _BACKGROUND_LEFT_OPEN)
            for i in chosen
        ]
        return drawn, captions


@torch.no_grad()
def _encode(vae: AutoencoderKL, drawn: Iterator[Sample], bench: Bench) -> dict[str, Tensor] | None:
    """Return what a file holds, or None where time ran out first."""
    latents, sizes, aesthetic = [], [], []
    for found in _bundles(drawn):
        if time.time() > bench.until:
            return None
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.quick):
            encoded = vae.encode(pictures(found).to(bench.device)).latent_dist.mean * LATENT_SCALE
        latents.append(encoded.half().cpu())
        sizes += [sample.sizes for sample in found]
        aesthetic += [sample.aesthetic for sample in found]
    return {"latents": torch.cat(latents), "sizes": torch.tensor(sizes), "aesthetic": torch.tensor(aesthetic)}


def _bundles(drawn: Iterator[Sample]) -> Iterator[Sequence[Sample]]:
    while found := list(islice(drawn, _ENCODED_AT_ONCE)):
        yield found

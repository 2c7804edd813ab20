"""The way of one picture, or of several alike, before its first step: files, sampler, sigmas, and where it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from fooocus.diffusion.noise import JoinedNoise, starting_noise
from fooocus.diffusion.prediction import start
from fooocus.diffusion.samplers import noise_for
from fooocus.diffusion.state import Sampler, State, join
from fooocus.loading.checkpoint import Role
from fooocus.memory.plan import Plan
from fooocus.request import Recipe


@dataclasses.dataclass(frozen=True)
class Files:
    """The model files of a recipe, found on disk."""

    base: Path
    refiner: Path | None
    loras: tuple[tuple[Path, float], ...]
    vae: Path | None

    def unets(self) -> tuple[tuple[Path, Role], ...]:
        """List the files of the networks that sample, in their order."""
        return ((self.base, "base"), *(((self.refiner, "refiner"),) if self.refiner else ()))

    def all(self) -> list[Path]:
        """List every file."""
        return [path for path in (self.base, self.refiner, self.vae, *(file for file, _ in self.loras)) if path]


@dataclasses.dataclass(frozen=True)
class Way:
    """What the way of a picture is fixed by, but for its seed."""

    files: Files
    sampler: Sampler
    sigmas: tuple[float, ...]
    latent_scale: float
    plan: Plan

    @property
    def steps(self) -> int:
        """The number of all steps."""
        return len(self.sigmas) - 1

    def begin(self, recipes: Sequence[Recipe], begun: Sequence[State | None], device: torch.device) -> State:
        """Return pictures that are equally far as one state on ``device``; each new one starts from its seed."""
        states = (state or self._first(recipe, device) for recipe, state in zip(recipes, begun, strict=True))
        return join([state.on(device) for state in states])

    def noise(self, recipes: Sequence[Recipe], first_step: int, last_step: int, device: torch.device) -> JoinedNoise:
        """Return the noise of these pictures in the steps from ``first_step`` to before ``last_step``."""
        return JoinedNoise(
            [
                noise_for(
                    self.sampler,
                    recipe.seed,
                    _shape(recipe),
                    self.sigmas,
                    first_step=first_step,
                    last_step=last_step,
                    device=device,
                )
                for recipe in recipes
            ]
        )

    def _first(self, recipe: Recipe, device: torch.device) -> State:
        return State(0, start(starting_noise(recipe.seed, _shape(recipe)).to(device), self.sigmas))


def _shape(recipe: Recipe) -> tuple[int, int, int, int]:
    return 1, 4, recipe.size.height // 8, recipe.size.width // 8

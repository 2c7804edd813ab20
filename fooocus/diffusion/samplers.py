"""Walk a sampler down its sigmas: the table of all samplers, and what a run of one needs.

To add a sampler, write a function of one step and its row in samplers_ode.py or samplers_sde.py. A run is::

    sampler, table = sampler_named("dpmpp_2m_sde"), sdxl_table()
    sigmas = sigmas_for(sampler, "karras", 30, table)
    with noise_for(sampler, seed, shape, sigmas) as noise:
        first = State(0, start(starting_noise(seed, shape), sigmas))
        for state in sample(sampler, switch_at(base, refiner, 21), first, sigmas, noise):
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from fooocus.diffusion import schedules
from fooocus.diffusion.noise import Noise, PictureNoise
from fooocus.diffusion.samplers_ode import ODE_SAMPLERS
from fooocus.diffusion.samplers_sde import SDE_SAMPLERS
from fooocus.diffusion.state import Denoise, Sampler, State
from fooocus.errors import RequestError

SAMPLERS: Mapping[str, Sampler] = MappingProxyType({**ODE_SAMPLERS, **SDE_SAMPLERS})


def sampler_named(name: str) -> Sampler:
    """Return a row of SAMPLERS; raises RequestError for a name that is not there."""
    if name not in SAMPLERS:
        raise RequestError("sampler", f"There is no sampler {name!r}.", f"Choose one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


def sigmas_for(
    sampler: Sampler, schedule: str, steps: int, table: schedules.NoiseTable, strength: float = 1.0
) -> tuple[float, ...]:
    """Return the ``steps`` + 1 sigmas of a run, bent to the sampler's needs; otherwise as :func:`schedules.sigmas`."""
    spaced = schedules.sigmas(schedule, steps, table, strength, drop_penultimate=sampler.drop_penultimate)
    return (*spaced[:-1], sampler.last_sigma)


def noise_for(
    sampler: Sampler,
    seed: int,
    shape: tuple[int, ...],
    sigmas: Sequence[float],
    *,
    first_step: int = 0,
    last_step: int | None = None,
    device: torch.device | str = "cpu",
) -> PictureNoise:
    """Return the noise of a run of one picture.

    What the sampler will ask for in the steps from ``first_step`` to before ``last_step`` is drawn ahead.
    """
    steps = range(first_step, len(sigmas) - 1 if last_step is None else last_step)
    queries = [pair for step in steps for pair in sampler.queries(sigmas, step)]
    return PictureNoise(seed, shape, sigmas, queries, device=device)


def advance(
    sampler: Sampler, denoise_at: Callable[[int], Denoise], state: State, sigmas: Sequence[float], noise: Noise
) -> State:
    """Return the state after the next step. Nothing is changed, so a step that failed can be done again."""
    return sampler.step(denoise_at(state.step), state, sigmas, noise)


def sample(
    sampler: Sampler, denoise_at: Callable[[int], Denoise], state: State, sigmas: Sequence[float], noise: Noise
) -> Iterator[State]:
    """Yield the state after every step that is left; ``denoise_at`` says which network answers in a step.

    The last state's ``x`` are the finished latents. Start with State(0, x) of ``prediction.start``, or go on from any
    state handed out before.
    """
    while state.step < len(sigmas) - 1:
        state = advance(sampler, denoise_at, state, sigmas, noise)
        yield state

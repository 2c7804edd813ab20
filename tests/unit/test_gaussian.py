"""Samplers against data whose exact answer is known: every pixel from N(0, s^2).

There the best denoised estimate is x * s^2 / (s^2 + sigma^2), and the ODE through x0 at sigma0 is
x(sigma) = x0 * sqrt(s^2 + sigma^2) / sqrt(s^2 + sigma0^2). All in double precision, so that only the sampler errs.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fooocus.diffusion.noise import PictureNoise, starting_noise
from fooocus.diffusion.prediction import start
from fooocus.diffusion.samplers import SAMPLERS, noise_for, sample, sigmas_for
from fooocus.diffusion.schedules import sdxl_table
from fooocus.diffusion.state import State

S = 0.8  # deviation of the data; near SDXL's latents
TABLE = sdxl_table()

# Order between 160 and 320 steps. Theory says 1 for Euler, 2 for two evaluations a step or two steps of history.
# LMS and UniPC have higher orders inside a run; their first-order first step bounds them by 2 in the end.
ORDERS = {
    "euler": (0.95, 1.05),
    "ddim": (0.95, 1.05),
    "heun": (1.95, 2.05),
    "dpm_2": (1.95, 2.05),
    "dpmpp_2m": (1.95, 2.05),
    "uni_pc": (1.95, 3.1),
    "lms": (1.95, 4.1),
}
# Relative error at 40 steps, twice what was measured: the constant belongs to a formula as much as its order does.
ERRORS = {
    "euler": 8e-2,
    "ddim": 8e-2,
    "heun": 6e-3,
    "dpm_2": 4e-3,
    "dpmpp_2m": 6e-3,
    "uni_pc": 3e-4,
    "lms": 1e-3,
}
# Bias of the variance of the result over s^2, 40 steps of karras: Euler's is large, the others' of second order. Three
# deviations of the sampling of 36,864 pixels (0.74 % each) are allowed beside it.
BIASES = {
    "euler_ancestral": 0.16,
    "dpm_2_ancestral": 0.02,
    "dpmpp_2s_ancestral": 0.02,
    "dpmpp_sde": 0.02,
    "dpmpp_2m_sde": 0.02,
    "dpmpp_2m_sde_heun": 0.03,
    "dpmpp_3m_sde": 0.02,
}


def denoise(x: Tensor, sigma: float) -> Tensor:
    return x * (S**2 / (S**2 + sigma**2))


def relative_error(name: str, steps: int) -> float:
    """Walk from the top of the table to its bottom, not to 0: that last jump is of first order for every sampler."""
    low, high = TABLE.sigma_min ** (1 / 7), TABLE.sigma_max ** (1 / 7)
    sigmas = [(high + i / steps * (low - high)) ** 7 for i in range(steps + 1)]
    first = State(0, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    noise = PictureNoise(0, (1, 1, 1, 1), sigmas)
    *_, last = sample(SAMPLERS[name], lambda step: denoise, first, sigmas, noise)
    exact = math.sqrt(S**2 + sigmas[-1] ** 2) / math.sqrt(S**2 + sigmas[0] ** 2)
    return abs(float(last.x) / exact - 1)


@pytest.mark.parametrize("name", ORDERS)
def test_deterministic_samplers_converge_with_their_order(name: str) -> None:
    low, high = ORDERS[name]
    assert low < math.log2(relative_error(name, 160) / relative_error(name, 320)) < high


@pytest.mark.parametrize("name", ERRORS)
def test_deterministic_samplers_are_this_near_at_forty_steps(name: str) -> None:
    assert relative_error(name, 40) < ERRORS[name]


@pytest.mark.parametrize("name", BIASES)
def test_stochastic_samplers_end_with_the_variance_of_the_data(name: str) -> None:
    sampler, shape = SAMPLERS[name], (1, 4, 96, 96)
    sigmas = sigmas_for(sampler, "karras", 40, TABLE)
    first = State(0, start(starting_noise(5, shape).double(), sigmas))
    with noise_for(sampler, 5, shape, sigmas) as noise:
        *_, last = sample(sampler, lambda step: denoise, first, sigmas, noise)
    assert float(last.x.var()) / S**2 == pytest.approx(1, abs=BIASES[name] + 0.023)
    assert float(last.x.mean()) == pytest.approx(0, abs=0.02)  # deviation of a mean of so many pixels: 0.004


def test_lcm_ends_with_the_variance_of_the_data_for_a_consistency_model() -> None:
    """A consistency model answers with the end of the ODE, x * s / sqrt(s^2 + sigma^2), not with the mean."""
    shape, sampler = (1, 4, 96, 96), SAMPLERS["lcm"]
    sigmas = sigmas_for(sampler, "sgm_uniform", 4, TABLE)
    first = State(0, starting_noise(5, shape) * math.sqrt(S**2 + sigmas[0] ** 2))
    noise = noise_for(sampler, 5, shape, sigmas)
    *_, last = sample(sampler, lambda step: lambda x, sigma: x * (S / math.sqrt(S**2 + sigma**2)), first, sigmas, noise)
    assert float(last.x.var()) / S**2 == pytest.approx(1, abs=0.023)  # three sampling deviations


def test_every_sampler_is_held_against_the_exact_answer() -> None:
    assert ORDERS.keys() | BIASES.keys() | {"lcm"} == SAMPLERS.keys()

"""Samplers give the reference's numbers, can be stopped and continued, and never notice which network answers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fooocus
from fooocus.diffusion.denoisers import switch_at
from fooocus.diffusion.noise import JoinedNoise, Noise, PictureNoise, starting_noise
from fooocus.diffusion.prediction import start
from fooocus.diffusion.samplers import SAMPLERS, noise_for, sample, sampler_named, sigmas_for
from fooocus.diffusion.samplers_ode import _unipc_update
from fooocus.diffusion.samplers_sde import ancestral
from fooocus.diffusion.schedules import sdxl_table, sigmas
from fooocus.diffusion.state import Denoise, State, join, pack, split, unpack
from fooocus.errors import RequestError

TABLE = sdxl_table()
SEED, SHAPE = 12345, (1, 4, 8, 8)

# First four values and standard deviation of D(x, sigma) = x / (1 + sigma^2) walked down karras/30 by the reference.
GOLDENS = {
    "euler": (-1.403798, 0.462276, -2.858042, 0.421057, 0.919659),
    "dpmpp_2m": (-1.486759, 0.489595, -3.026946, 0.44594, 0.974008),
    "dpmpp_2m_sde": (-0.692901, 1.881423, 0.770736, 0.427521, 0.997988),
    "dpmpp_2m_sde_heun": (-0.699198, 1.899158, 0.777788, 0.445924, 1.009036),
    "dpmpp_sde": (-0.62958, 2.013759, 0.824381, 0.290919, 0.980382),
    "heun": (-1.486553, 0.489527, -3.026525, 0.445878, 0.973873),
    "dpm_2": (-1.483459, 0.488508, -3.020227, 0.44495, 0.971846),  # on the list that keeps the penultimate sigma
    "euler_ancestral": (0.08242, 0.430056, 0.105963, -1.580656, 0.911016),
    "dpmpp_2s_ancestral": (0.112201, 0.396312, 0.084554, -1.752239, 1.003454),
    "ddim": (-1.403798, 0.462276, -2.858042, 0.421057, 0.919659),  # Euler's, by another formula
}


def toy(x: Tensor, sigma: float) -> Tensor:
    return x / (1 + sigma**2)


def bent(x: Tensor, sigma: float) -> Tensor:
    """Denoise in a way that is not linear in x, so that no two steps of a run are alike."""
    return torch.tanh(x / (1 + sigma**2)) + 0.1 * torch.roll(x, 1, dims=-1) / (1 + sigma)


def begin(sigma_list: tuple[float, ...]) -> State:
    return State(0, start(starting_noise(SEED, SHAPE), sigma_list))


def run(
    name: str, denoise_at: Callable[[int], Denoise], state: State, spaced: tuple[float, ...], noise: Noise
) -> list[State]:
    return list(sample(SAMPLERS[name], denoise_at, state, spaced, noise))


class _Recorder:
    """A noise that notes which pairs and steps it is asked for."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []
        self.steps: list[int] = []

    def at(self, step: int) -> Tensor:
        self.steps.append(step)
        return torch.zeros(SHAPE)

    def between(self, sigma_from: float, sigma_to: float) -> Tensor:
        self.pairs.append((sigma_from, sigma_to))
        return torch.zeros(SHAPE)


@pytest.mark.parametrize("name", GOLDENS)
def test_samplers_give_the_reference_numbers(name: str) -> None:
    spaced = sigmas("karras", 30, TABLE)
    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        x = run(name, lambda step: toy, begin(spaced), spaced, noise)[-1].x
    found = torch.stack([*x.flatten()[:4], x.std()])
    # Known to six decimals after 30 float32 steps of values up to 200. The reference's dpmpp_sde asks its Brownian path
    # at float32 logarithms whose last bit differs between processors, and each such bit costs up to 6e-5.
    tolerance = 1e-4 if name == "dpmpp_sde" else 1e-5
    assert torch.allclose(found, torch.tensor(GOLDENS[name]), rtol=0, atol=tolerance)


def test_lms_weights_reproduce_scipys_integrals_through_a_whole_run() -> None:
    """Compare with the classical form: integrate each Lagrange polynomial with far more points than needed."""
    spaced = sigmas("karras", 12, TABLE)
    x, slopes = begin(spaced).x.double(), []
    for i in range(12):
        slopes.append((x - toy(x, spaced[i])) / spaced[i])
        knots = range(max(0, i - 3), i + 1)
        grid = torch.linspace(spaced[i], spaced[i + 1], 100_001, dtype=torch.float64)
        for j in knots:
            basis = torch.ones_like(grid)
            for k in knots:
                basis *= (grid - spaced[k]) / (spaced[j] - spaced[k]) if k != j else 1
            x = x + torch.trapezoid(basis, grid) * slopes[j]
    found = run("lms", lambda step: toy, begin(spaced), spaced, PictureNoise(SEED, SHAPE, spaced))[-1].x
    assert torch.allclose(found.double(), x, rtol=0, atol=1e-5)  # float32 steps of values up to 40


def polynomial(*coefficients: float) -> Denoise:
    """Return a network whose answer depends on log sigma alone, by a polynomial with these coefficients."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.full_like(x, sum(c * math.log(sigma) ** k for k, c in enumerate(coefficients)))

    return denoise


def exact_step(denoise: Denoise, x: Tensor, s: float, u: float, rate: int) -> Tensor:
    """Return (u/s)^rate x plus the integral of rate exp(-rate (t_u - t)) D(t), t = -log sigma, by 40-point Gauss.

    ``rate`` is 1 for the ODE and 2 for the SDE without its noise.
    """
    h = math.log(s / u)
    roots, weights = np.polynomial.legendre.leggauss(40)
    for root, weight in zip(roots, weights, strict=True):
        left = h * (1 - root) / 2  # t_u - t
        x = x + denoise(x * 0, u * math.exp(left)) * (h / 2 * weight * rate * math.exp(-rate * left) * (s / u) ** rate)
    return x * (u / s) ** rate


UNEVEN = (5.0, 3.1, 2.0, 0.9, 0.6)
ONE_PIXEL = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("dpmpp_2m_sde_heun", polynomial(0.5, -0.7)),
        ("dpmpp_3m_sde", polynomial(0.5, -0.7)),
    ],
)
def test_sde_multisteps_are_exact_where_the_estimate_is_linear_in_log_sigma(name: str, network: Denoise) -> None:
    history = tuple(network(ONE_PIXEL, sigma) for sigma in (3.1, 5.0))
    found = SAMPLERS[name].step(network, State(2, ONE_PIXEL, history), UNEVEN, _Recorder()).x
    assert torch.allclose(found, exact_step(network, ONE_PIXEL, 2.0, 0.9, rate=2), rtol=0, atol=1e-12)  # double


def test_dpmpp_3m_sde_takes_half_of_the_quadratic_term_as_the_reference() -> None:
    network, without = polynomial(0.0, 0.0, 0.3), math.log(2.0)
    tangent = polynomial(-0.3 * without**2, 0.6 * without)  # the linear part of the parabola at sigma 2
    history = tuple(network(ONE_PIXEL, sigma) for sigma in (3.1, 5.0))
    found = SAMPLERS["dpmpp_3m_sde"].step(network, State(2, ONE_PIXEL, history), UNEVEN, _Recorder()).x
    ends = [exact_step(which, ONE_PIXEL, 2.0, 0.9, rate=2) for which in (network, tangent)]
    assert torch.allclose(found, (ends[0] + ends[1]) / 2, rtol=0, atol=1e-12)  # double precision


def test_uni_pc_predicts_parabolas_and_corrects_cubics_exactly() -> None:
    parabola, cubic = polynomial(0.5, -0.7, 0.3), polynomial(0.5, -0.7, 0.3, 0.2)
    known = [parabola(ONE_PIXEL, sigma) for sigma in (2.0, 3.1, 5.0)]
    predicted = _unipc_update(ONE_PIXEL, known, UNEVEN, 2)
    assert torch.allclose(predicted, exact_step(parabola, ONE_PIXEL, 2.0, 0.9, rate=1), rtol=0, atol=1e-12)
    known = [cubic(ONE_PIXEL, sigma) for sigma in (2.0, 3.1, 5.0)]
    corrected = _unipc_update(ONE_PIXEL, known, UNEVEN, 2, ahead=cubic(ONE_PIXEL, 0.9))
    assert torch.allclose(corrected, exact_step(cubic, ONE_PIXEL, 2.0, 0.9, rate=1), rtol=0, atol=1e-12)


def unipc_as_published(denoise: Denoise, x: Tensor, spaced: tuple[float, ...]) -> Tensor:
    """Run UniPC as one loop over predict, ask, correct, on x scaled to variance 1 (alpha^2 + beta^2 = 1)."""
    alpha = [1 / math.sqrt(1 + sigma**2) for sigma in spaced]
    beta = [sigma * a for sigma, a in zip(spaced, alpha, strict=True)]
    steps = len(spaced) - 1
    z, estimates = x * alpha[0], [denoise(x, spaced[0])]
    for j in range(1, steps + 1):
        order = {1: 1, 2: 2, steps - 1: 2, steps: 1}.get(j, 3)  # for five steps and more
        h = math.log(spaced[j - 1] / spaced[j])
        ratios = [-math.log(spaced[j - 1 - k] / spaced[j - 1]) / h for k in range(1, order)]
        slopes = [(estimates[-1 - k] - estimates[-1]) / ratio for k, ratio in enumerate(ratios, 1)]
        moments = [(math.expm1(-h) / -h - 1) / -h]
        moments += [2 * (moments[0] - 1 / 2) / -h]
        moments += [3 * (moments[1] - 1 / 3) / -h]
        first_order = beta[j] / beta[j - 1] * z - alpha[j] * math.expm1(-h) * estimates[-1]

        def weigh(ratios: list[float], slopes: list[Tensor], moments: list[float] = moments) -> Tensor | float:
            rows = [[ratio**n for ratio in ratios] for n in range(len(ratios))]
            weights = [0.5] if len(ratios) == 1 else np.linalg.solve(rows, moments[: len(ratios)]) if ratios else []
            return sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))

        z = first_order + alpha[j] * h * weigh(ratios, slopes)
        if j < steps:
            ahead = denoise(z / alpha[j], spaced[j])
            z = first_order + alpha[j] * h * weigh([*ratios, 1.0], [*slopes, ahead - estimates[-1]])
            estimates.append(ahead)
    return z / alpha[-1]


@pytest.mark.parametrize("steps", [5, 6, 12])
def test_uni_pc_is_the_published_loop_taken_apart(steps: int) -> None:
    spaced = sigmas_for(SAMPLERS["uni_pc"], "karras", steps, TABLE)
    state = State(0, begin(spaced).x.double())
    found = run("uni_pc", lambda step: bent, state, spaced, _Recorder())[-1].x
    assert torch.allclose(found, unipc_as_published(bent, state.x, spaced), rtol=0, atol=1e-10)  # double precision


@pytest.mark.parametrize(("name", "plain"), [("euler_ancestral", "euler"), ("dpm_2_ancestral", "dpm_2")])
def test_ancestral_steps_are_plain_steps_to_the_lower_level(name: str, plain: str) -> None:
    down, added = ancestral(3.1, 2.0)
    assert math.hypot(down, added) == pytest.approx(2.0) and 0 < down < 2.0
    state = State(0, starting_noise(SEED, SHAPE))
    found = SAMPLERS[name].step(bent, state, (3.1, 2.0), _Recorder()).x
    assert torch.equal(found, SAMPLERS[plain].step(bent, state, (3.1, down), _Recorder()).x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_takes_its_steps_counts_them_and_shows_the_first_estimate(name: str) -> None:
    spaced = sigmas_for(SAMPLERS[name], "karras", 6, TABLE)
    estimates: list[list[Tensor]] = [[] for _ in range(6)]

    def denoise_at(step: int) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            assert sigma > 0
            estimates[step].append(bent(x, sigma))
            return estimates[step][-1]

        return denoise

    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        states = run(name, denoise_at, begin(spaced), spaced, noise)
    assert [state.step for state in states] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(state.denoised, found[0]) for state, found in zip(states, estimates, strict=True))
    per_step = SAMPLERS[name].evaluations
    assert [len(found) for found in estimates] == [per_step] * 5 + [1]
    assert bool(states[-1].x.isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_end_at_the_estimate(name: str, steps: int) -> None:
    spaced = sigmas_for(SAMPLERS[name], "karras", steps, TABLE)
    target = starting_noise(7, SHAPE)
    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        x = run(name, lambda step: lambda x, sigma: target, begin(spaced), spaced, noise)[-1].x
    # Cancellation in float32 from values up to 60; uni_pc ends at sigma 0.001 and keeps noise of that size.
    assert torch.allclose(x, target, rtol=0, atol=5e-3 if name == "uni_pc" else 2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_says_which_noise_is_asked_for(name: str) -> None:
    row, spaced, asked = SAMPLERS[name], sigmas_for(SAMPLERS[name], "karras", 8, TABLE), _Recorder()
    run(name, lambda step: bent, begin(spaced), spaced, asked)
    assert asked.pairs == [pair for step in range(8) for pair in row.queries(spaced, step)]
    assert bool(asked.pairs) == (row.noise == "brownian")
    assert asked.steps == (list(range(7)) if row.noise == "sequential" else [])


def test_a_continued_run_draws_ahead_only_what_is_left() -> None:
    row, spaced = SAMPLERS["dpmpp_sde"], sigmas("karras", 8, TABLE)
    with noise_for(row, SEED, SHAPE, spaced, first_step=5) as noise:
        assert list(noise._ahead) == [*row.queries(spaced, 5), *row.queries(spaced, 6)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_changes_nothing_that_it_is_given(name: str) -> None:
    spaced = sigmas_for(SAMPLERS[name], "karras", 8, TABLE)
    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        state = run(name, lambda step: bent, begin(spaced), spaced, noise)[3]
        before = {key: value.clone() for key, value in pack(state).items()}
        once, twice = (SAMPLERS[name].step(bent, state, spaced, noise) for _ in range(2))
    assert all(torch.equal(pack(state)[key], value) for key, value in before.items())
    assert torch.equal(once.x, twice.x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_pictures_walk_together_as_each_does_alone(name: str) -> None:
    """Joined after two steps and split at the end; a denoiser that sees each for itself gives the same bits."""
    row, seeds = SAMPLERS[name], (1, 2, 3)
    spaced = sigmas_for(row, "karras", 6, TABLE)
    alone = []
    for seed in seeds:
        first = State(0, start(starting_noise(seed, SHAPE), spaced))
        with noise_for(row, seed, SHAPE, spaced) as noise:
            alone.append(run(name, lambda step: bent, first, spaced, noise))
    with JoinedNoise([noise_for(row, seed, SHAPE, spaced, first_step=2) for seed in seeds]) as noises:
        ends = split(run(name, lambda step: bent, join([states[1] for states in alone]), spaced, noises)[-1])
    for end, states in zip(ends, alone, strict=True):
        assert end.step == 6 and torch.equal(end.x, states[-1].x)


CONTINUE = """
import sys
import torch
from safetensors.torch import load_file, save_file
from fooocus.diffusion.samplers import SAMPLERS, noise_for, sample, sigmas_for
from fooocus.diffusion.schedules import sdxl_table
from fooocus.diffusion.state import pack, unpack

torch.set_num_threads(1)


def bent(x, sigma):
    return torch.tanh(x / (1 + sigma**2)) + 0.1 * torch.roll(x, 1, dims=-1) / (1 + sigma)


stored, ends = load_file(sys.argv[1]), {}
for run in sorted({key.rsplit("/", 1)[0] for key in stored}):
    state = unpack({key.rsplit("/", 1)[1]: stored[key] for key in stored if key.startswith(run + "/")})
    sampler = SAMPLERS[run.split("/")[0]]
    sigmas = sigmas_for(sampler, "karras", 6, sdxl_table())
    with noise_for(sampler, 12345, (1, 4, 8, 8), sigmas, first_step=state.step) as noise:
        for state in sample(sampler, lambda step: bent, state, sigmas, noise):
            pass
    ends |= {f"{run}/{key}": tensor for key, tensor in pack(state).items()}
save_file(ends, sys.argv[2])
"""


def test_every_sampler_continues_in_another_process_to_the_same_bits(tmp_path: Path) -> None:
    stored, ends = {}, {}
    for name, row in SAMPLERS.items():
        spaced = sigmas_for(row, "karras", 6, TABLE)
        with noise_for(row, SEED, SHAPE, spaced) as noise:
            states = run(name, lambda step: bent, begin(spaced), spaced, noise)
        for state in states[:-1]:
            stored |= {f"{name}/{state.step}/{key}": tensor for key, tensor in pack(state).items()}
            ends |= {f"{name}/{state.step}/{key}": tensor for key, tensor in pack(states[-1]).items()}
    save_file(stored, tmp_path / "stopped.safetensors")
    root = Path(fooocus.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", CONTINUE, tmp_path / "stopped.safetensors", tmp_path / "ended.safetensors"],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        timeout=120,
    )
    found = load_file(tmp_path / "ended.safetensors")
    assert found.keys() == ends.keys()
    assert [key for key in ends if not torch.equal(found[key], ends[key])] == []


def test_a_packed_state_unpacks_to_the_same_state() -> None:
    x = starting_noise(1, SHAPE)
    state = State(3, x, (x * 2, x), denoised=x)
    again = unpack(pack(state))
    assert (again.step, len(again.history)) == (3, 2)
    assert torch.equal(again.x, x) and torch.equal(again.history[0], x * 2) and torch.equal(again.denoised, x)
    assert unpack(pack(State(0, x))).denoised is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_switch_to_an_identical_network_changes_nothing(name: str) -> None:
    spaced = sigmas_for(SAMPLERS[name], "karras", 9, TABLE)

    def twin(x: Tensor, sigma: float) -> Tensor:
        return bent(x, sigma)

    def finish(denoise_at: Callable[[int], Denoise]) -> Tensor:
        with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
            return run(name, denoise_at, begin(spaced), spaced, noise)[-1].x

    assert torch.equal(finish(switch_at(bent, twin, 6)), finish(switch_at(bent, None, None)))


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "lms", "uni_pc"])
def test_the_history_is_kept_over_the_switch(name: str) -> None:
    spaced = sigmas_for(SAMPLERS[name], "karras", 9, TABLE)
    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        states = run(name, switch_at(bent, toy, 6), begin(spaced), spaced, noise)
        restarted = run(name, lambda step: toy, State(6, states[5].x), spaced, noise)
    assert not torch.allclose(states[-1].x, restarted[-1].x, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps", "switch", "base", "refiner"),
    [
        ("euler", 30, 21, 21, 9),
        ("dpmpp_2m_sde", 30, 21, 21, 9),
        ("dpmpp_2m_sde", 60, 41, 41, 19),
        ("heun", 30, 21, 42, 17),  # two a step, one in the last: a step belongs to one network
        ("dpm_2", 30, 21, 42, 17),
        ("dpmpp_sde", 30, 21, 42, 17),
        ("uni_pc", 30, 21, 21, 9),
    ],
)
def test_the_switch_divides_the_evaluations(name: str, steps: int, switch: int, base: int, refiner: int) -> None:
    asked: list[str] = []

    def network(which: str) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            asked.append(which)
            return toy(x, sigma)

        return denoise

    spaced = sigmas_for(SAMPLERS[name], "karras", steps, TABLE)
    with noise_for(SAMPLERS[name], SEED, SHAPE, spaced) as noise:
        run(name, switch_at(network("base"), network("refiner"), switch), begin(spaced), spaced, noise)
    assert asked == ["base"] * base + ["refiner"] * refiner


def test_an_unknown_sampler_is_refused_by_field() -> None:
    with pytest.raises(RequestError, match="euler_ancestral") as refused:
        sampler_named("dpmpp_2m_sde_gpu")
    assert refused.value.field == "sampler"

"""What a network outputs becomes clean latents, and noise becomes a start."""

from __future__ import annotations

import math

import pytest
import torch

from fooocus.diffusion.denoisers import denoiser, switch_at
from fooocus.diffusion.noise import starting_noise
from fooocus.diffusion.prediction import from_eps, from_v, network_input, start
from fooocus.diffusion.schedules import sdxl_table, sigmas

CLEAN, EPS = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMAS = (14.6, 3.0, 1.0, 0.03)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_eps_prediction_finds_the_clean_latents(sigma: float) -> None:
    assert torch.allclose(from_eps(CLEAN + sigma * EPS, EPS, sigma), CLEAN, atol=1e-12)  # double precision


@pytest.mark.parametrize("sigma", SIGMAS)
def test_v_prediction_finds_the_clean_latents(sigma: float) -> None:
    alpha, noise_part = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    v = alpha * EPS - noise_part * CLEAN
    assert torch.allclose(from_v(CLEAN + sigma * EPS, v, sigma), CLEAN, atol=1e-12)  # double precision


@pytest.mark.parametrize("sigma", SIGMAS)
def test_network_input_has_the_variance_of_training(sigma: float) -> None:
    x = starting_noise(1, (1, 4, 64, 64)) * math.sqrt(1 + sigma**2)
    assert float(network_input(x, sigma).std()) == pytest.approx(1, abs=0.02)  # 16384 pixels: 3 deviations


def test_a_full_start_scales_noise_and_a_partial_start_adds_it() -> None:
    noise = starting_noise(12345, (1, 4, 8, 8))
    full = sigmas("karras", 30, sdxl_table())
    assert torch.allclose(start(noise, full) / noise, torch.tensor(14.648815155), rtol=2e-7)  # two float32 roundings
    latents = starting_noise(2, (1, 4, 8, 8))
    partial = sigmas("karras", 30, sdxl_table(), 0.5)
    assert torch.equal(start(noise, partial, latents), latents + noise * partial[0])


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_denoiser_scales_asks_guides_and_converts(prediction: str, guidance: float) -> None:
    asked = []

    def predict(x: torch.Tensor, timestep: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        asked.append((x, timestep))
        return x.half(), None if guidance == 1 else (0.5 * x).half()

    x, sigma = starting_noise(3, (2, 4, 8, 8)), 1.2123858
    denoised = denoiser(predict, sdxl_table(), prediction, guidance)(x, sigma)
    scaled = x / math.sqrt(1 + sigma**2)
    cond, uncond = scaled.half().float(), (0.5 * scaled).half().float()
    output = (cond if guidance == 1 else uncond + guidance * (cond - uncond)) / (1 + 1e-5)
    convert = {"eps": from_eps, "v": from_v}[prediction]
    assert [timestep for _, timestep in asked] == [412]
    assert torch.allclose(asked[0][0], scaled, rtol=1e-6)
    # Half-precision outputs may fall to the neighbouring value where float32 scaling differs in its last bit.
    assert torch.allclose(denoised, convert(x, output, sigma), atol=2e-2)
    assert denoised.dtype == torch.float32


def test_switch_at_answers_with_the_refiner_from_that_step_on() -> None:
    def base(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x

    def refiner(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return -x

    assert [switch_at(base, refiner, 2)(step) for step in range(4)] == [base, base, refiner, refiner]
    assert {switch_at(base, None, 2)(step) for step in range(4)} == {base}
    assert {switch_at(base, refiner, None)(step) for step in range(4)} == {base}

"""Samplers that add fresh noise in every step: they solve the reverse diffusion SDE (Song et al. 2021, "Score-Based").

Read samplers_ode.py first; the letters are the same. "Ancestral" samplers solve the ODE down to a lower level d < u and
add independent noise of deviation a, d^2 + a^2 = u^2. The others follow one Brownian path over sigma, so that their
noise depends on the seed and the sigmas but not on how many steps lie between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from fooocus.diffusion.noise import Noise, Pair
from fooocus.diffusion.state import Denoise, Sampler, State

ETA = 1.0  # share of the SDE's noise; 0 would be the ODE
S_NOISE = 1.0  # factor on all added noise


def ancestral(s: float, u: float) -> tuple[float, float]:
    """Return (d, a): go down to sigma d, then add noise of deviation a (Song et al. 2021, "DDIM", eq. 16, in sigma)."""
    added = min(u, ETA * math.sqrt(u**2 * (s**2 - u**2) / s**2))
    return math.sqrt(u**2 - added**2), added


def euler_ancestral(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step by Euler to d, then add noise."""
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    down, added = ancestral(s, u)
    x = x + (x - denoised) / s * (down - s)
    return state.next(_with_noise(x, added, noise, state.step), denoised)


def dpm_2_ancestral(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step to d along the slope at the geometric mean of s and d (Lu et al. 2022, "DPM-Solver"), then add noise."""
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    down, added = ancestral(s, u)
    slope = (x - denoised) / s
    if down == 0:
        return state.next(x + slope * (down - s), denoised)
    middle = math.sqrt(s * down)
    halfway = x + slope * (middle - s)
    x = x + (halfway - denoise(halfway, middle)) / middle * (down - s)
    return state.next(_with_noise(x, added, noise, state.step), denoised)


def dpmpp_2s_ancestral(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step to d with the estimate at the geometric mean of s and d, then add noise.

    DPM-Solver++(2S) with its middle at r = 1/2 (Lu et al. 2022, "DPM-Solver++", algorithm 1).
    """
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    down, added = ancestral(s, u)
    if down == 0:
        return state.next(x + (x - denoised) / s * (down - s), denoised)
    middle = math.sqrt(s * down)
    halfway = middle / s * x + (1 - middle / s) * denoised
    x = down / s * x + (1 - down / s) * denoise(halfway, middle)
    return state.next(_with_noise(x, added, noise, state.step), denoised)


def lcm(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Take the estimate and noise it again (Luo et al. 2023, "Latent Consistency Models", algorithm 3)."""
    denoised = denoise(state.x, sigmas[state.step])
    return state.next(_with_noise(denoised, sigmas[state.step + 1], noise, state.step), denoised)


def _with_noise(x: Tensor, deviation: float, noise: Noise, step: int) -> Tensor:
    return x + noise.at(step).to(x.dtype) * (deviation * S_NOISE) if deviation > 0 else x


def dpmpp_sde(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step twice from s, to the middle in log sigma and, with the estimate found there, to u; to 0 by Euler.

    SDE-DPM-Solver++(2S) with r = 1/2: each of the two is an ancestral step with noise of the Brownian path
    (Lu et al. 2022, "DPM-Solver++", section 5).
    """
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    if u == 0:
        return state.next(x + (x - denoised) / s * (u - s), denoised)
    path_s, middle, path_u = _path_points(s, u)
    down, added = ancestral(s, middle)
    halfway = down / s * x + (1 - down / s) * denoised
    halfway = halfway + _path_noise(x, noise, path_s, middle) * (added * S_NOISE)
    down, added = ancestral(s, u)
    x = down / s * x + (1 - down / s) * denoise(halfway, middle)
    x = x + _path_noise(x, noise, path_s, path_u) * (added * S_NOISE)
    return state.next(x, denoised)


def dpmpp_2m_sde(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Extrapolate D from the last two steps, midpoint rule: the second-order term weighs (1 - exp(-2h)) / 2.

    SDE-DPM-Solver++(2M): x = u/s exp(-eta h) x + (1 - exp(-(1 + eta) h)) D + weight (D - D') / r + noise
    (Lu et al. 2022, "DPM-Solver++", section 5).
    """
    return _sde_2m(denoise, state, sigmas, noise, lambda h: -0.5 * math.expm1(-h))


def dpmpp_2m_sde_heun(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Do as dpmpp_2m_sde with the exact integral of a linear D: the weight is 1 - (1 - exp(-2h)) / 2h."""
    return _sde_2m(denoise, state, sigmas, noise, lambda h: math.expm1(-h) / h + 1)


def _sde_2m(
    denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise, weight: Callable[[float], float]
) -> State:
    i, x, s, u = state.step, state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    if u == 0:
        return state.next(denoised, denoised, denoised)
    h = math.log(s / u)
    h_noisy = h + ETA * h
    x = u / s * math.exp(-ETA * h) * x - math.expm1(-h_noisy) * denoised
    if state.history:
        ratio = math.log(sigmas[i - 1] / s) / h
        x = x + weight(h_noisy) / ratio * (denoised - state.history[0])
    x = x + _path_noise(x, noise, s, u) * _path_deviation(u, h)
    return state.next(x, denoised, denoised)


def dpmpp_3m_sde(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Extrapolate D quadratically from the last three steps; lower orders while there is less history.

    The multistep SDE-DPM-Solver++ carried to third order: x = exp(-g) x + (1 - exp(-g)) D + phi_2 d1 - phi_3 d2 + noise
    with g = (1 + eta) h, phi_2 = (exp(-g) - 1) / g + 1, phi_3 = phi_2 / g - 1/2, and d1 = h D', d2 = h^2 D'' / 2 from
    divided differences (Lu et al. 2022, "DPM-Solver++", section 5). Taylor's formula would have h^2 D'' for d2; the
    reference has half of it, and so has this.
    """
    i, x, s, u = state.step, state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    history = (denoised, *state.history)[:2]
    if u == 0:
        return state.next(denoised, denoised, *history)
    h = math.log(s / u)
    h_noisy = h + ETA * h
    x = math.exp(-h_noisy) * x - math.expm1(-h_noisy) * denoised
    phi_2 = math.expm1(-h_noisy) / h_noisy + 1
    phi_3 = phi_2 / h_noisy - 0.5
    if state.history:
        ratio = math.log(sigmas[i - 1] / s) / h
        first = (denoised - state.history[0]) / ratio
        if len(state.history) == 2:
            ratio_before = math.log(sigmas[i - 2] / sigmas[i - 1]) / h
            first_before = (state.history[0] - state.history[1]) / ratio_before
            second = (first - first_before) / (ratio + ratio_before)
            x = x - phi_3 * second
            first = first + second * ratio
        x = x + phi_2 * first
    x = x + _path_noise(x, noise, s, u) * _path_deviation(u, h)
    return state.next(x, denoised, *history)


def _path_points(s: float, u: float) -> tuple[float, float, float]:
    """Return s, the middle in log sigma, and u as exp(log sigma) in float32.

    The reference asks its path at these, and the path is rough: the last bit of a sigma shows in the fifth digit. Its
    float32 logarithm differs in that bit between processors; here it is rounded once, the same everywhere.
    """
    t, t_next = (-torch.tensor(sigma).double().log().float() for sigma in (s, u))
    s, middle, u = ((-point).double().exp().float().item() for point in (t, t + (t_next - t) * 0.5, t_next))
    return s, middle, u


def _path_noise(x: Tensor, noise: Noise, s: float, u: float) -> Tensor:
    return noise.between(s, u).to(x.dtype)


def _path_deviation(u: float, h: float) -> float:
    """Return the deviation of the noise that an SDE step of length h adds, u sqrt(1 - exp(-2 eta h))."""
    return u * math.sqrt(-math.expm1(-2 * ETA * h)) * S_NOISE


def _whole_step(sigmas: Sequence[float], step: int) -> tuple[Pair, ...]:
    s, u = sigmas[step], sigmas[step + 1]
    return ((s, u),) if u > 0 else ()


def _half_and_whole_step(sigmas: Sequence[float], step: int) -> tuple[Pair, ...]:
    s, u = sigmas[step], sigmas[step + 1]
    if u == 0:
        return ()
    path_s, middle, path_u = _path_points(s, u)
    return (path_s, middle), (path_s, path_u)


SDE_SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "euler_ancestral": Sampler(euler_ancestral, noise="sequential"),
        "dpm_2_ancestral": Sampler(dpm_2_ancestral, evaluations=2, noise="sequential", drop_penultimate=True),
        "dpmpp_2s_ancestral": Sampler(dpmpp_2s_ancestral, evaluations=2, noise="sequential"),
        "lcm": Sampler(lcm, noise="sequential"),
        "dpmpp_sde": Sampler(dpmpp_sde, evaluations=2, noise="brownian", queries=_half_and_whole_step),
        "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, noise="brownian", queries=_whole_step),
        "dpmpp_2m_sde_heun": Sampler(dpmpp_2m_sde_heun, noise="brownian", queries=_whole_step),
        "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, noise="brownian", queries=_whole_step),
    }
)

"""Samplers that add no noise: they solve dx/dsigma = (x - denoised(x, sigma)) / sigma (Karras et al. 2022, eq. 3).

Every function is one step from s = sigmas[state.step] to u = sigmas[state.step + 1]. D is the estimate at (x, s).
Many steps are written in t = -log(sigma), where the exact solution for a constant D is
x(u) = u / s * x - (exp(-h) - 1) * D with h = log(s / u) (Lu et al. 2022, "DPM-Solver++", eq. 9, with alpha = 1).
Note that exp(-h) is u / s. Scalars are Python floats; tensors keep the precision of x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from torch import Tensor

from fooocus.diffusion.noise import Noise
from fooocus.diffusion.state import Denoise, Sampler, State

LMS_ORDER = 4
UNIPC_ORDER = 3
UNIPC_LAST_SIGMA = 0.001  # UniPC works in log sigma and cannot end at 0


def euler(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step along the slope at s (Karras et al. 2022, algorithm 2 without churn and correction)."""
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    return state.next(x + (x - denoised) / s * (u - s), denoised)


def ddim(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Move the estimate to the next noise level: D + u * eps (Song et al. 2021, "DDIM", eq. 12 with eta = 0).

    In sigma space this is Euler's step written another way; it ends at D exactly. The original engine's DDIM took
    abar at rounded timesteps instead; seeds give similar pictures, not the same ones.
    """
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    return state.next(denoised + (x - denoised) * (u / s), denoised)


def heun(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step along the mean of the slopes at both ends (Karras et al. 2022, algorithm 1); to 0 by Euler."""
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    slope = (x - denoised) / s
    ahead = x + slope * (u - s)
    if u == 0:
        return state.next(ahead, denoised)
    slope_ahead = (ahead - denoise(ahead, u)) / u
    return state.next(x + (slope + slope_ahead) / 2 * (u - s), denoised)


def dpm_2(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Step along the slope at the middle of s and u in log sigma (Lu et al. 2022, "DPM-Solver", algorithm 1)."""
    x, s, u = state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    slope = (x - denoised) / s
    if u == 0:
        return state.next(x + slope * (u - s), denoised)
    middle = math.sqrt(s * u)
    halfway = x + slope * (middle - s)
    slope_halfway = (halfway - denoise(halfway, middle)) / middle
    return state.next(x + slope_halfway * (u - s), denoised)


def lms(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Integrate the polynomial in sigma through the last four slopes from s to u (Adams-Bashforth on uneven steps)."""
    x, s = state.x, sigmas[state.step]
    denoised = denoise(x, s)
    slopes = ((x - denoised) / s, *state.history)[:LMS_ORDER]
    for slope, weight in zip(slopes, _lms_weights(sigmas, state.step, len(slopes)), strict=True):
        x = x + weight * slope
    return state.next(x, denoised, *slopes[: LMS_ORDER - 1])


def _lms_weights(sigmas: Sequence[float], step: int, order: int) -> list[float]:
    """Return the integrals over the step of the Lagrange polynomials on its newest ``order`` sigmas, newest first."""
    s, u = sigmas[step], sigmas[step + 1]
    roots, root_weights = np.polynomial.legendre.leggauss(2)  # exact up to degree 3, and the polynomials have order - 1
    points = (s + u) / 2 + (u - s) / 2 * roots
    knots = [sigmas[step - k] for k in range(order)]
    weights = []
    for own in knots:
        basis = np.prod([(points - other) / (own - other) for other in knots if other != own], axis=0)
        weights.append(float((u - s) / 2 * np.sum(root_weights * basis)))
    return weights


def dpmpp_2m(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Extrapolate D linearly from the last two steps (Lu et al. 2022, "DPM-Solver++", algorithm 2).

    x = u/s x - (exp(-h) - 1) ((1 + 1/2r) D - 1/2r D'), r = h' / h; first order in the first step and to 0.
    """
    i, x, s, u = state.step, state.x, sigmas[state.step], sigmas[state.step + 1]
    denoised = denoise(x, s)
    estimate = denoised
    if state.history and u > 0:
        ratio = math.log(sigmas[i - 1] / s) / math.log(s / u)
        estimate = (1 + 1 / (2 * ratio)) * denoised - 1 / (2 * ratio) * state.history[0]
    return state.next(u / s * x + (1 - u / s) * estimate, denoised, denoised)


def uni_pc(denoise: Denoise, state: State, sigmas: Sequence[float], noise: Noise) -> State:
    """Correct the last step with what the network says at its end, then predict the next one.

    UniPC-3, multistep, data prediction, B(h) = h (Zhao et al. 2023, "UniPC", section 3.3 with alpha = 1). The order
    is 1 and 2 in the first steps, 2 and 1 in the last. Between steps, x is the prediction; ``history`` holds the
    corrected x of the step before and the estimates up to it. The original engine's UniPC walked rounded timesteps
    instead of these sigmas; seeds give similar pictures, not the same ones.
    """
    i, x = state.step, state.x
    denoised = denoise(x, sigmas[i])
    known: tuple[Tensor, ...] = ()
    if state.history:
        before, *known_before = state.history
        x = _unipc_update(before, known_before[: _unipc_order(sigmas, i)], sigmas, i - 1, ahead=denoised)
        known = tuple(known_before)
    known = (denoised, *known)[:UNIPC_ORDER]
    predicted = _unipc_update(x, known[: _unipc_order(sigmas, i + 1)], sigmas, i)
    return state.next(predicted, denoised, x, *known)


def _unipc_order(sigmas: Sequence[float], target: int) -> int:
    """Return the order of the step that ends at index ``target``: it rises from 1 and falls to 1 at the end."""
    steps = len(sigmas) - 1
    return max(1, min(UNIPC_ORDER, steps - 1, target, steps + 1 - target))


def _unipc_update(
    x: Tensor, known: Sequence[Tensor], sigmas: Sequence[float], step: int, ahead: Tensor | None = None
) -> Tensor:
    """Return x after ``step``: u/s x - (exp(-h) - 1) D0 + h sum(a_k (D_k - D0) / r_k), where r_k = (t_k - t_0) / h.

    ``known`` are D0 at the beginning of the step and those before it; ``ahead`` is the one at its end (r = 1), which
    the corrector has and the predictor lacks.
    """
    s, u = sigmas[step], sigmas[step + 1]
    h = math.log(s / u)
    ratios = [math.log(s / sigmas[step - k]) / h for k in range(1, len(known))]
    others = list(known[1:])
    if ahead is not None:
        ratios.append(1.0)
        others.append(ahead)
    x = u / s * x + (1 - u / s) * known[0]
    for ratio, weight, other in zip(ratios, _unipc_weights(ratios, h), others, strict=True):
        x = x + h * weight / ratio * (other - known[0])
    return x


def _unipc_weights(ratios: Sequence[float], h: float) -> list[float]:
    """Solve sum_k a_k r_k^(n-1) = n! phi_{n+1}(-h) for n = 1, 2, ... (Zhao et al. 2023, theorem 3.1, with B(h) = h).

    phi_1(z) = (exp(z) - 1) / z and phi_{n+1}(z) = (phi_n(z) - 1/n!) / z. A single a may be 1/2 without loss of order.
    """
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    phi, right = math.expm1(-h) / -h, []
    for n in range(1, len(ratios) + 1):
        phi = (phi - 1 / math.factorial(n)) / -h  # phi_{n+1}
        right.append(math.factorial(n) * phi)
    return np.linalg.solve(np.vander(ratios, increasing=True).T, right).tolist()


ODE_SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "euler": Sampler(euler),
        "heun": Sampler(heun, evaluations=2),
        "dpm_2": Sampler(dpm_2, evaluations=2, drop_penultimate=True),
        "lms": Sampler(lms),
        "dpmpp_2m": Sampler(dpmpp_2m),
        "ddim": Sampler(ddim),
        "uni_pc": Sampler(uni_pc, last_sigma=UNIPC_LAST_SIGMA),
    }
)

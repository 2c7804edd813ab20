"""Noise levels: the table a network was trained on, and the ways to space the sigmas of one run on it.

A sigma is the standard deviation of the noise in latent units. A schedule is a function ``(table, steps) -> sigmas``;
the rows at the end of the file name them. What the reference rounds to float32 is rounded to float32 here too, and
handed out as Python floats that hold those exact values, so that nothing depends on a device later on.

Nor on a processor: the last bits of torch's float32 roots, powers and ramps differ from one processor to the next, and
a Brownian path shows such a bit in the fifth digit of a picture. So each of them is computed in float64 and rounded
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fooocus.errors import RequestError

TRAINING_STEPS = 1000
LAST_ABAR = 4.8973451890853435e-08  # the value that programs with such checkpoints agree on: sigma 4518.8
BETA_START, BETA_END = 0.00085, 0.012  # Stable Diffusion's "scaled linear" betas
REFERENCE_SIGMA_MIN = 0.02916753478348255  # one float32 step above the exact root; the reference pictures have it
KARRAS_RHO = 7.0  # Karras et al. 2022, table 1
BETA_SHAPE = 0.6  # both shape parameters; Lee et al. 2024, "Beta Sampling is All You Need"
FULL_STRENGTH = 0.9999  # above it the whole list is walked, as in the reference
# Sabour et al. 2024, "Align Your Steps": the ten-step list for SDXL. The last value is the end of the training table.
ALIGN_YOUR_STEPS_SDXL = (
    *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
    *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
)


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """The noise levels of training: ``sigmas`` and ``log_sigmas``, float32 on the CPU, ascending, one per timestep."""

    sigmas: Tensor  # (1000,)
    log_sigmas: Tensor  # (1000,)

    @property
    def sigma_min(self) -> float:
        """Return the smallest sigma of training."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """Return the largest sigma of training."""
        return float(self.sigmas[-1])

    def timestep(self, sigma: float) -> float:
        """Return the timestep whose sigma is nearest to ``sigma`` in log space: a whole number, 0 for ``sigma`` 0."""
        distance = (torch.tensor(sigma, dtype=torch.float32).double().log().float() - self.log_sigmas).abs()
        return float(distance.argmin())

    def sigma(self, timestep: float) -> float:
        """Return the sigma at a fractional ``timestep`` in 0..999, interpolated linearly in log sigma."""
        return self.sigmas_at(torch.tensor([timestep], dtype=torch.float32))[0]

    def sigmas_at(self, timesteps: Tensor) -> list[float]:
        """Return :meth:`sigma` for every element of a float32 tensor."""
        timesteps = timesteps.clamp(0, len(self.sigmas) - 1)
        below, above, fraction = timesteps.floor().long(), timesteps.ceil().long(), timesteps.frac()
        logs = (1 - fraction) * self.log_sigmas[below] + fraction * self.log_sigmas[above]
        return logs.double().exp().float().tolist()


@lru_cache(maxsize=2)
def sdxl_table(*, zero_terminal_snr: bool = False) -> NoiseTable:
    """Return the table that SDXL, its refiner and Stable Diffusion 1 and 2 were trained on.

    ``zero_terminal_snr`` gives the one of checkpoints whose training ended in pure noise: sqrt(abar) is shifted and
    stretched so that its last value is 0 and its first stays (Lin et al. 2023, arXiv:2305.08891, algorithm 1). The last
    value is then raised to :data:`LAST_ABAR`, because sigma has to be finite.

    The cumulative product abar is taken in float64 and rounded to float32 before sigma = sqrt((1 - abar) / abar): the
    reference does so, and 384 of the 1000 values would differ in their last bits otherwise.
    """
    first, last = BETA_START**0.5, BETA_END**0.5
    roots = (first + (last - first) * i / (TRAINING_STEPS - 1) for i in range(TRAINING_STEPS))
    abar = torch.tensor(list(accumulate((1 - root**2 for root in roots), mul)), dtype=torch.float64)
    if zero_terminal_snr:
        root = abar.sqrt()
        abar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        abar[-1] = LAST_ABAR
    abar = abar.float()
    sigmas = ((1 - abar) / abar).double().sqrt().float()
    if not zero_terminal_snr:
        sigmas[0] = REFERENCE_SIGMA_MIN
    return NoiseTable(sigmas, sigmas.double().log().float())


def ramp(start: float, end: float, count: int) -> Tensor:
    """Return ``count`` float32 values at even distances, ``start`` first and ``end`` last.

    They are those of ``torch.linspace`` on processors that multiply and add with one rounding: the second half is
    counted from the end.
    """
    first, last = (float(np.float32(value)) for value in (start, end))
    if count == 1:
        return torch.tensor([first])
    step = float((np.float32(last) - np.float32(first)) / np.float32(count - 1))
    return torch.tensor(
        [first + step * i if i < count // 2 else last - step * (count - 1 - i) for i in range(count)],
        dtype=torch.float32,
    )


def karras(table: NoiseTable, steps: int) -> Sequence[float]:
    """Space sigma**(1/7) evenly between the ends of the table (Karras et al. 2022, eq. 5)."""
    low, high = table.sigma_min ** (1 / KARRAS_RHO), table.sigma_max ** (1 / KARRAS_RHO)
    return ((high + ramp(0, 1, steps) * (low - high)).double() ** KARRAS_RHO).float().tolist()


def exponential(table: NoiseTable, steps: int) -> Sequence[float]:
    """Space log sigma evenly between the ends of the table."""
    logs = ramp(math.log(table.sigma_max), math.log(table.sigma_min), steps)
    return logs.double().exp().float().tolist()


def normal(table: NoiseTable, steps: int) -> Sequence[float]:
    """Space timesteps evenly, both ends included."""
    return table.sigmas_at(ramp(TRAINING_STEPS - 1, 0, steps))


def sgm_uniform(table: NoiseTable, steps: int) -> Sequence[float]:
    """Space timesteps evenly, timestep 0 left out because the final zero takes its place."""
    return table.sigmas_at(ramp(TRAINING_STEPS - 1, 0, steps + 1)[:-1])


def simple(table: NoiseTable, steps: int) -> Sequence[float]:
    """Take entries of the table at even distances from its top."""
    stride = TRAINING_STEPS / steps
    return [float(table.sigmas[-(1 + int(i * stride))]) for i in range(steps)]


def ddim_uniform(table: NoiseTable, steps: int) -> Sequence[float]:
    """Take timesteps 1, 1 + stride, ... downwards (Song et al. 2021, "DDIM", appendix D.2), exactly ``steps`` of them.

    The reference truncates the stride to a whole number and so walks 31 steps when asked for 30; here the stride is a
    fraction and the timestep is truncated. Both agree whenever ``steps`` divides 1000.
    """
    timesteps = (min(1 + i * TRAINING_STEPS // steps, TRAINING_STEPS - 1) for i in reversed(range(steps)))
    return [float(table.sigmas[t]) for t in timesteps]


def align_your_steps(table: NoiseTable, steps: int) -> Sequence[float]:
    """Interpolate the list optimised for SDXL log-linearly to ``steps`` + 1 points; the last becomes the zero."""
    logs = [math.log(anchor) for anchor in ALIGN_YOUR_STEPS_SDXL]
    found = []
    for i in range(steps):
        whole, fraction = divmod(i * (len(logs) - 1) / steps, 1)
        k = int(whole)
        found.append(math.exp(logs[k] + fraction * (logs[k + 1] - logs[k])))
    return found


def beta(table: NoiseTable, steps: int) -> Sequence[float]:
    """Place timesteps at quantiles of the Beta(0.6, 0.6) distribution, dense at both ends (Lee et al. 2024).

    Timesteps stay fractional, so that the list never repeats a value; rounding would, above about 120 steps.
    """
    quantiles = [beta_quantile(1 - i / steps, BETA_SHAPE, BETA_SHAPE) for i in range(steps)]
    return table.sigmas_at(torch.tensor(quantiles) * (TRAINING_STEPS - 1))


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the x in 0..1 where the regularised incomplete beta function I_x(a, b) is ``probability``."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high) and high - low > 1e-15:
        if _incomplete_beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b) for 0 < x < 1 by its continued fraction (DLMF 8.17.22), evaluated from the tail."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this point; 8.17.4 mirrors the rest
        return 1 - _incomplete_beta(1 - x, b, a)
    fraction = 1.0
    for m in range(30, 0, -1):  # below the mirror point 30 pairs are past double precision
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    fraction = 1 - (a + b) * x / (a + 1) / fraction
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_scale) / (a * fraction)


def sigmas(
    schedule: str, steps: int, table: NoiseTable, strength: float = 1.0, *, drop_penultimate: bool = False
) -> tuple[float, ...]:
    """Return ``steps`` + 1 strictly decreasing sigmas that end in 0.

    ``strength`` below 1 starts further down: the list of int(steps / strength) steps is made and its last ``steps`` + 1
    values are kept, so the network is always called for ``steps`` steps. ``drop_penultimate`` makes the list one longer
    and leaves out the last sigma before the zero. Raises RequestError for a schedule that is not known, for no steps,
    for a strength outside 0..1, and when the schedule has fewer distinct sigmas than are asked for.
    """
    if schedule not in SCHEDULES:
        raise RequestError("schedule", f"There is no schedule {schedule!r}.", f"Choose one of {', '.join(SCHEDULES)}.")
    if steps < 1:
        raise RequestError("steps", f"A picture cannot be made in {steps} steps.", "Ask for at least 1.")
    if not 0 < strength <= 1:
        raise RequestError(
            "strength", f"The strength {strength} is not above 0 and at most 1.", "Choose one in between."
        )
    total = steps if strength > FULL_STRENGTH else int(steps / strength)
    spaced = list(SCHEDULES[schedule](table, total + drop_penultimate))
    if drop_penultimate:
        spaced.pop()
    exact = torch.tensor([*spaced, 0.0], dtype=torch.float32)[-(steps + 1) :]
    if not bool((exact.diff() < 0).all()):
        raise RequestError(
            "steps", f"The schedule {schedule} has no {total} different noise levels.", "Use fewer steps."
        )
    return tuple(exact.tolist())


Schedule = Callable[[NoiseTable, int], Sequence[float]]

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "karras": karras,
        "exponential": exponential,
        "normal": normal,
        "simple": simple,
        "sgm_uniform": sgm_uniform,
        "ddim_uniform": ddim_uniform,
        "align_your_steps": align_your_steps,
        "beta": beta,
    }
)

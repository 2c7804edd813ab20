"""The noise table and the schedules give the reference's numbers."""

from __future__ import annotations

import ast
import math
import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from fooocus.diffusion.samplers import SAMPLERS, sigmas_for
from fooocus.diffusion.schedules import SCHEDULES, beta_quantile, ramp, sdxl_table, sigmas
from fooocus.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
TABLE = sdxl_table()

# Timesteps that the original engine fed its networks, karras schedule.
TIMESTEPS_30 = (
    *(999, 975, 949, 923, 894, 863, 830, 795, 757, 716, 672, 624, 572, 517, 458),
    *(397, 334, 273, 214, 162, 117, 80, 53, 33, 20, 11, 6, 3, 1, 0),
)
TIMESTEPS_60 = (
    *(999, 987, 975, 963, 950, 937, 924, 910, 896, 881, 866, 850, 834, 817, 799, 781, 763, 743, 723, 702),
    *(680, 657, 633, 609, 583, 557, 529, 501, 472, 443, 412, 382, 351, 320, 290, 260, 232, 204, 178, 154),
    *(131, 111, 92, 76, 62, 50, 40, 31, 24, 19, 14, 11, 8, 6, 4, 3, 2, 1, 0, 0),
)
# Computed with scipy.stats.beta.ppf, scipy 1.17.
BETA_QUANTILES = (
    (0.001, 0.6, 0.6, 1.855873851745199e-05),
    (1 / 30, 0.6, 0.6, 0.006397135703290159),
    (0.25, 0.6, 0.6, 0.17568037865269498),
    (0.5, 0.6, 0.6, 0.5),
    (0.7, 0.6, 0.6, 0.7659829961247643),
    (29 / 30, 0.6, 0.6, 0.9936028642967099),
    (0.999, 0.6, 0.6, 0.9999814412614826),
    (0.3, 2.0, 5.0, 0.18180347131894917),
    (0.8, 0.5, 3.0, 0.2567723472089895),
    (0.05, 7.0, 1.5, 0.5825646869420114),
)


def test_no_schedule_depends_on_the_processor() -> None:
    """Have the plainest of torch's kernels compute the schedules, as a processor without vector units would."""
    program = "from fooocus.diffusion.schedules import *; print({n: sigmas(n, 30, sdxl_table()) for n in SCHEDULES})"
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {name: sigmas(name, 30, TABLE) for name in SCHEDULES}


def test_a_ramp_is_torchs_linspace() -> None:
    for count in (1, 2, 5, 30, 61):
        assert torch.allclose(ramp(999, 0, count), torch.linspace(999, 0, count), rtol=1e-6, atol=1e-4)
        assert ramp(0, 1, count)[0] == 0 and (count == 1 or ramp(0, 1, count)[-1] == 1)


def test_the_table_has_the_reference_ends_to_the_last_bit() -> None:
    assert (TABLE.sigma_min, TABLE.sigma_max) == (0.02916753478348255, 14.614642143249512)


def test_the_table_is_near_the_values_computed_in_double_precision() -> None:
    # The reference rounds early; the relative difference that this makes is known to be 1.29e-5 at most.
    known = {1: 0.0413144, 100: 0.3439312, 500: 1.6182789, 699: 3.3210831, 700: 3.3343885, 900: 8.3465967}
    for t, sigma in known.items():
        assert float(TABLE.sigmas[t]) == pytest.approx(sigma, rel=1.5e-5)


def test_every_timestep_is_the_nearest_to_its_own_sigma() -> None:
    for t in range(1000):
        assert TABLE.timestep(float(TABLE.sigmas[t])) == t
        assert TABLE.sigma(t) == pytest.approx(float(TABLE.sigmas[t]), rel=1e-6)  # one exp and log in float32


def test_a_timestep_is_nearest_in_log_sigma_and_bounded() -> None:
    below, above = float(TABLE.sigmas[300]), float(TABLE.sigmas[301])
    middle = math.sqrt(below * above)
    assert (TABLE.timestep(middle * 0.9999), TABLE.timestep(middle * 1.0001)) == (300, 301)
    assert (TABLE.timestep(0.0), TABLE.timestep(1e-9), TABLE.timestep(100.0)) == (0, 0, 999)


def test_a_fractional_timestep_interpolates_log_sigma() -> None:
    assert TABLE.sigma(300.5) == pytest.approx(math.sqrt(TABLE.sigma(300) * TABLE.sigma(301)), rel=1e-6)


@pytest.mark.parametrize(("steps", "timesteps"), [(30, TIMESTEPS_30), (60, TIMESTEPS_60)])
def test_karras_feeds_the_reference_timesteps(steps: int, timesteps: tuple[int, ...]) -> None:
    assert tuple(TABLE.timestep(sigma) for sigma in sigmas("karras", steps, TABLE)[:-1]) == timesteps


def test_karras_begins_a_hair_above_the_table() -> None:
    spaced = sigmas("karras", 30, TABLE)
    assert spaced[0] == 14.614643096923828
    assert spaced[1:4] == pytest.approx((12.660604, 10.934923, 9.414919), abs=1e-6)  # known to six decimals
    assert spaced[-4:] == pytest.approx((0.056355, 0.040858, 0.029168, 0.0), abs=1e-6)


def test_exponential_has_even_ratios() -> None:
    spaced = sigmas("exponential", 12, TABLE)
    ratios = [b / a for a, b in pairwise(spaced[:-1])]
    assert ratios == pytest.approx([ratios[0]] * 11, rel=1e-5)  # float32 rounding of sigma
    assert (spaced[0], spaced[-2]) == pytest.approx((TABLE.sigma_max, TABLE.sigma_min), rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "steps", "first", "last"),
    [  # known to four decimals
        ("normal", 30, (14.6146, 11.9175, 9.8142, 8.1584), (0.2722, 0.1835, 0.0292, 0.0)),
        ("sgm_uniform", 4, (14.6146, 4.0861, 1.6156, 0.6951), (0.0,)),
        ("sgm_uniform", 8, (14.6146, 7.302, 4.0861, 2.496, 1.6156, 1.0712, 0.6951, 0.3997), (0.0,)),
        ("simple", 10, (14.6146, 8.3028, 5.0878, 3.3211, 2.2765, 1.6129, 1.1606, 0.8299, 0.5693, 0.3417), (0.0,)),
        ("align_your_steps", 30, (14.6146,), (0.1114, 0.0713, 0.0456, 0.0)),
    ],
)
def test_schedules_give_known_values(
    schedule: str, steps: int, first: tuple[float, ...], last: tuple[float, ...]
) -> None:
    spaced = sigmas(schedule, steps, TABLE)
    assert spaced[: len(first)] == pytest.approx(first, abs=5.1e-5)
    assert spaced[-len(last) :] == pytest.approx(last, abs=5.1e-5)


def test_simple_takes_entries_from_the_top() -> None:
    assert [TABLE.timestep(sigma) for sigma in sigmas("simple", 30, TABLE)[:4]] == [999, 966, 933, 899]


def test_ddim_uniform_is_the_original_where_the_steps_divide_1000() -> None:
    assert [TABLE.timestep(sigma) for sigma in sigmas("ddim_uniform", 10, TABLE)[:-1]] == list(range(901, 0, -100))
    assert len(sigmas("ddim_uniform", 30, TABLE)) == 31  # the original made 32 of it


def test_align_your_steps_is_the_published_list_at_ten_steps() -> None:
    published = (14.6146412, 6.3184485, 3.7681790, 2.1811481, 1.3405245, 0.8620721, 0.5550693, 0.3798541, 0.2332364)
    assert sigmas("align_your_steps", 10, TABLE) == pytest.approx((*published, 0.1114188, 0.0), rel=1e-6)


@pytest.mark.parametrize(("probability", "a", "b", "quantile"), BETA_QUANTILES)
def test_beta_quantiles_are_scipys(probability: float, a: float, b: float, quantile: float) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(quantile, abs=2e-15)  # where the bisection stops


def test_beta_places_timesteps_at_the_quantiles() -> None:
    spaced = sigmas("beta", 30, TABLE)
    assert spaced[-2] == pytest.approx(TABLE.sigma(0.006397135703290159 * 999), rel=1e-6)
    assert spaced[15] == pytest.approx(TABLE.sigma(499.5), rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 30, 47, 60, 150])
def test_every_schedule_falls_strictly_to_zero_in_float32(schedule: str, steps: int) -> None:
    spaced = sigmas(schedule, steps, TABLE)
    assert len(spaced) == steps + 1
    assert spaced[-1] == 0
    assert all(a > b for a, b in pairwise(spaced))
    assert all(struct.unpack("f", struct.pack("f", sigma))[0] == sigma for sigma in spaced)


@pytest.mark.parametrize(
    ("steps", "strength", "total", "first", "timestep"),
    [(30, 0.5, 60, 1.2123858, 412), (30, 0.85, 35, 7.7547755, 886), (18, 0.382, 47, 0.5689725, 199)],
)
def test_partial_strength_keeps_the_end_of_a_longer_list(
    steps: int, strength: float, total: int, first: float, timestep: int
) -> None:
    spaced = sigmas("karras", steps, TABLE, strength)
    assert len(spaced) == steps + 1
    assert spaced == sigmas("karras", total, TABLE)[-(steps + 1) :]
    assert spaced[0] == pytest.approx(first, rel=1e-5)  # known from the table rounded late
    assert TABLE.timestep(spaced[0]) == timestep


def test_partial_strength_rounds_the_longer_list_down() -> None:
    assert sigmas("karras", 10, TABLE, 0.6) == sigmas("karras", 16, TABLE)[-11:]


def test_a_strength_of_almost_one_is_one() -> None:
    assert sigmas("karras", 30, TABLE, 0.99995) == sigmas("karras", 30, TABLE)


@pytest.mark.parametrize(
    ("schedule", "steps", "strength", "field"),
    [
        ("carrot", 30, 1.0, "schedule"),
        ("karras", 0, 1.0, "steps"),
        ("karras", 30, 0.0, "strength"),
        ("karras", 30, 1.5, "strength"),
        ("karras", 30, math.nan, "strength"),
        ("simple", 1001, 1.0, "steps"),
        ("simple", 30, 0.001, "steps"),
    ],
)
def test_impossible_lists_are_refused_by_field(schedule: str, steps: int, strength: float, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        sigmas(schedule, steps, TABLE, strength)
    assert refused.value.field == field


@pytest.mark.parametrize("name", ["dpm_2", "dpm_2_ancestral"])
def test_dpm_2_leaves_out_the_sigma_before_the_zero(name: str) -> None:
    longer = sigmas("karras", 31, TABLE)
    assert sigmas_for(SAMPLERS[name], "karras", 30, TABLE) == (*longer[:30], 0.0)
    longer = sigmas("karras", 61, TABLE)
    assert sigmas_for(SAMPLERS[name], "karras", 30, TABLE, 0.5) == (*longer[30:60], 0.0)


def test_uni_pc_ends_above_zero_and_the_others_do_not_bend_the_list() -> None:
    plain = sigmas("karras", 30, TABLE)
    assert sigmas_for(SAMPLERS["uni_pc"], "karras", 30, TABLE) == (*plain[:-1], 0.001)
    assert sigmas_for(SAMPLERS["dpmpp_2m_sde"], "karras", 30, TABLE) == plain

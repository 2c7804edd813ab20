"""A seed alone fixes all noise of a picture."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from fooocus.diffusion import noise as noise_module
from fooocus.diffusion.brownian import BrownianPath
from fooocus.diffusion.noise import PictureNoise, starting_noise
from fooocus.diffusion.samplers import SAMPLERS, noise_for
from fooocus.diffusion.schedules import sdxl_table, sigmas

SEED, SHAPE = 12345, (1, 4, 8, 8)
SIGMAS = sigmas("karras", 30, sdxl_table())
PAIRS = list(pairwise(SIGMAS[:-1]))


def karras_of_a_table_rounded_late() -> list[float]:
    """Return the 30 sigmas between the table ends that later programs have; the known path values belong to them."""
    low, high = 0.029167158529162407 ** (1 / 7), 14.614641189575195 ** (1 / 7)
    return [*((high + torch.linspace(0, 1, 30) * (low - high)) ** 7).tolist(), 0.0]


def test_starting_noise_is_what_torch_gives_after_a_manual_seed() -> None:
    known = torch.tensor([-1.479808, 0.487306, -3.012794, 0.443855, 0.359756, -0.012348])
    assert torch.allclose(starting_noise(SEED, SHAPE).flatten()[:6], known, rtol=0, atol=1e-6)  # six decimals known
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        assert torch.equal(starting_noise(SEED, SHAPE), torch.randn(SHAPE))


def test_sequential_noise_goes_on_where_the_starting_noise_ended() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        torch.randn(SHAPE)
        draws = [torch.randn(SHAPE) for _ in range(5)]
    noise = PictureNoise(SEED, SHAPE, SIGMAS)
    for step in (0, 1, 2, 3, 4, 3, 0, 4, 4):  # in order, as in a run, and out of it, as after a stop
        assert torch.equal(noise.at(step), draws[step])
    assert torch.equal(PictureNoise(SEED, SHAPE, SIGMAS).at(3), draws[3])


def test_path_noise_has_the_known_values() -> None:
    s = karras_of_a_table_rounded_late()
    noise = PictureNoise(SEED, SHAPE, s)
    known = {
        0: [1.0493141, -0.4178163, -0.3369702, -0.2603616, 0.1549779, -0.2602551],
        1: [-2.2863810, -0.7625406, -0.4260047, 0.9952986, -0.1303339, -1.7327602],
        28: [-0.1037396, 0.4642795, -0.1500991, -0.4978077],
    }
    for i, values in known.items():
        found = noise.between(s[i], s[i + 1]).flatten()[: len(values)]
        # Known to seven decimals; one float32 spacing at 2.3 is 2.4e-7, and square roots differ in the last bit.
        assert torch.allclose(found, torch.tensor(values), rtol=0, atol=5e-7)


def test_path_noise_does_not_depend_on_what_was_asked_before() -> None:
    in_order = [PictureNoise(SEED, SHAPE, SIGMAS).between(*pair) for pair in PAIRS]
    noise = PictureNoise(SEED, SHAPE, SIGMAS)
    backwards = [noise.between(*pair) for pair in reversed(PAIRS)]
    assert all(torch.equal(a, b) for a, b in zip(in_order, reversed(backwards), strict=True))


def test_path_noise_is_the_increment_per_root_of_the_distance() -> None:
    noise = PictureNoise(SEED, SHAPE, SIGMAS)
    a, b, c = SIGMAS[3], SIGMAS[4], SIGMAS[7]
    whole = noise.between(a, c) * (a - c) ** 0.5
    parts = noise.between(a, b) * (a - b) ** 0.5 + noise.between(b, c) * (b - c) ** 0.5
    assert torch.allclose(whole, parts, rtol=0, atol=1e-5)  # float32 sums of some twenty terms of size 1
    assert torch.equal(noise.between(c, a), -noise.between(a, c))


def test_path_noise_is_standard_normal_and_independent() -> None:
    noise = PictureNoise(1, (1, 4, 64, 64), SIGMAS)
    drawn = torch.stack([noise.between(*pair).flatten() for pair in PAIRS])  # (29, 16384)
    correlation = drawn @ drawn.T / drawn.shape[1]
    # Entries deviate by 1 / sqrt(16384) = 0.008 (0.011 on the diagonal); 5 deviations for the largest of 841
    assert torch.allclose(correlation, torch.eye(len(PAIRS)), rtol=0, atol=0.055)


def test_times_outside_the_range_are_moved_to_its_border() -> None:
    path = BrownianPath(SEED, SHAPE, 0.5, 2.0)
    assert np.array_equal(path.increment(0.4, 2.1), path.increment(0.5, 2.0))
    assert np.array_equal(path.increment(2.0, 2.1), np.zeros(SHAPE))


def test_different_seeds_and_large_seeds_give_different_noise() -> None:
    seeds = (0, 1, 2**32, 2**63 - 1)
    drawn = [PictureNoise(seed, SHAPE, SIGMAS).between(*PAIRS[0]).flatten()[0].item() for seed in seeds]
    assert len(set(drawn)) == len(seeds)


def test_no_draw_touches_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    starting_noise(SEED, SHAPE)
    with noise_for(SAMPLERS["dpmpp_sde"], SEED, SHAPE, SIGMAS) as noise:
        noise.at(2)
        noise.between(*PAIRS[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_drawn_ahead_equals_noise_drawn_on_demand_and_is_dropped_once_delivered() -> None:
    on_demand = PictureNoise(SEED, SHAPE, SIGMAS)
    with PictureNoise(SEED, SHAPE, SIGMAS, PAIRS) as ahead:
        for pair in PAIRS:
            assert torch.equal(ahead.between(*pair), on_demand.between(*pair))
        assert not ahead._ahead
        assert torch.equal(ahead.between(*PAIRS[5]), on_demand.between(*PAIRS[5]))


def test_noise_can_be_asked_for_before_it_is_drawn_and_beside_what_is_being_drawn() -> None:
    on_demand = PictureNoise(SEED, SHAPE, SIGMAS)
    with PictureNoise(SEED, SHAPE, SIGMAS, PAIRS) as ahead:
        for pair in reversed(PAIRS):
            beside = pair[0], SIGMAS[-2]
            assert torch.equal(ahead.between(*beside), on_demand.between(*beside))
            assert torch.equal(ahead.between(*pair), on_demand.between(*pair))


@pytest.mark.clock
def test_closing_ends_the_thread_soon_and_leaves_a_noise_that_answers() -> None:
    threads = set(threading.enumerate())
    with PictureNoise(SEED, (1, 4, 256, 256), SIGMAS, PAIRS) as noise:
        assert len(set(threading.enumerate()) - threads) == 1
        begun = time.monotonic()
    assert time.monotonic() - begun < 2  # all 29 queries of this size take longer than the one that has begun
    assert set(threading.enumerate()) <= threads
    assert noise.between(*PAIRS[0]).shape == (1, 4, 256, 256)


def test_no_thread_is_started_for_a_sampler_that_asks_for_no_path() -> None:
    threads = set(threading.enumerate())
    with noise_for(SAMPLERS["euler_ancestral"], SEED, SHAPE, SIGMAS) as noise:
        noise.at(0)
        assert set(threading.enumerate()) <= threads


def test_an_error_of_the_helper_surfaces_where_its_noise_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise MemoryError("no room for noise")

    monkeypatch.setattr(noise_module, "BrownianPath", broken)
    with PictureNoise(SEED, SHAPE, SIGMAS, PAIRS) as noise, pytest.raises(MemoryError, match="no room"):
        noise.between(*PAIRS[3])

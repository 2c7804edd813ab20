"""Decoding in stripes is decoding: no seams, no other brightness, less memory."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.activations import Live
from fooocus.config import ROOT
from fooocus.errors import BrokenPicture, Stopped
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.render.latents import decode, finite
from fooocus.render.stripes import decode_in_stripes
from pocket.drawing import Frame, paint
from pocket.world import scene
from tests.tiny import BASE

POCKET = ROOT / "models" / "pocket" / "pocket_base.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_vae(tiny: Path) -> nn.Module:
    return open_checkpoint(tiny / BASE).load("vae", dtype=torch.float32).module


@pytest.fixture(scope="module")
def pocket_vae() -> nn.Module:
    if not POCKET.is_file():
        pytest.skip("Pocket's files are not here")
    return open_checkpoint(POCKET).load("vae", dtype=torch.float32).module


def whole(vae: nn.Module, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.decode(latents, return_dict=False)[0]  # type: ignore[operator, no-any-return]


def striped(vae: nn.Module, latents: Tensor, stripe_bytes: int, keep: torch.device | None = None) -> Tensor:
    with torch.no_grad():
        return decode_in_stripes(vae, latents, stripe_bytes=stripe_bytes, keep=keep)


def smooth(height: int, width: int) -> Tensor:
    """Return a picture without a single edge, in which the eye would find any seam: (1, 3, H, W), -1..1."""
    down = torch.linspace(0, math.pi, height)[:, None]
    across = torch.linspace(0, math.pi, width)[None]
    channels = [torch.cos(down) * 0.8 + 0 * across, torch.cos(across) * 0.8 + 0 * down, torch.sin(down + across) * 0.8]
    return torch.stack(channels)[None]


def encoded(vae: nn.Module, picture: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.encode(picture).latent_dist.mode()  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("stripe_bytes", [1, 200_000, 10**9])
def test_any_decoder_gives_the_whole_picture(tiny_vae: nn.Module, stripe_bytes: int) -> None:
    latents = torch.randn(1, 4, 13, 10, generator=torch.Generator().manual_seed(3))
    expected = whole(tiny_vae, latents)
    made = striped(tiny_vae, latents, stripe_bytes)
    assert (made - expected).norm() <= 1e-5 * expected.norm()


def test_a_trained_decoder_shows_no_seams(pocket_vae: nn.Module) -> None:
    """On a smooth picture: nowhere a level of 255, and no step between stripes that is not in the whole picture."""
    latents = encoded(pocket_vae, smooth(256, 192))
    expected, made = whole(pocket_vae, latents), striped(pocket_vae, latents, 1)
    assert (made - expected).abs().max() * 127.5 < 0.02
    jumps = (made.diff(dim=2) - expected.diff(dim=2)).abs().max()
    assert jumps * 127.5 < 0.02
    apart = torch.cat([whole(pocket_vae, part) for part in latents.split(16, dim=2)], dim=2)
    assert (apart - expected).abs().max() * 127.5 > 1, "what tiles decoded apart would look like"


def test_a_drawn_picture_comes_out_the_same(pocket_vae: nn.Module) -> None:
    rng = np.random.default_rng(5)
    frame = Frame(128, 128)
    painted = paint(scene(rng, 128, 128), frame, rng)
    pixels = torch.from_numpy(painted.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = encoded(pocket_vae, pixels)
    once, again = (np.asarray(decode(pocket_vae, latents, way)).astype(int) for way in ("whole", "processor"))
    assert abs(once - again).max() <= 1 and (once != again).mean() < 1e-3


def test_stripes_take_a_part_of_the_memory(pocket_vae: nn.Module) -> None:
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    peaks = []
    for decoded in (whole, lambda vae, x: striped(vae, x, 50_000)):
        with Live(pocket_vae) as live:
            decoded(pocket_vae, latents)
        peaks.append(live.peak_bytes)
    assert peaks[1] < 0.62 * peaks[0]


def test_a_wish_to_stop_is_heard_between_stripes(tiny_vae: nn.Module) -> None:
    seen = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 7:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        decode(tiny_vae, torch.zeros(1, 4, 8, 8), "stripes", check)


@pytest.mark.clock
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_found_in_no_time(bad: float) -> None:
    picture = torch.rand(1, 3, 896, 1152)
    assert finite(picture)
    picture[0, 2, 895, 1151] = bad
    times = []
    for _ in range(9):
        began = time.perf_counter()
        assert not finite(picture)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


@pytest.mark.parametrize("decoding", ["whole", "stripes", "processor"])
def test_a_broken_picture_is_never_black(tiny_vae: nn.Module, decoding: str) -> None:
    with pytest.raises(BrokenPicture, match="latents"):
        decode(tiny_vae, torch.full((1, 4, 8, 8), math.nan), decoding)  # type: ignore[arg-type]
    with pytest.raises(BrokenPicture, match="decoded"):
        decode(tiny_vae, torch.full((1, 4, 8, 8), 1e38), decoding)  # type: ignore[arg-type]

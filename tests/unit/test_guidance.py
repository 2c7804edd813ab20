"""Guidance leads from the negative prompt's output through the prompt's."""

from __future__ import annotations

import torch

from fooocus.diffusion.guidance import guided

COND, UNCOND = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_guidance_extrapolates_outputs_divided_by_the_references_count() -> None:
    expected = (UNCOND.double() + 7 * (COND.double() - UNCOND.double())) / 1.00001
    # float32 spacing near the largest values, which are about 40; without the division they would be off by 4e-4
    assert torch.allclose(guided(COND, UNCOND, 7.0).double(), expected, rtol=0, atol=8e-6)


def test_guidance_one_is_the_prompt_alone() -> None:
    assert torch.equal(guided(COND, None, 1.0), COND / 1.00001)
    assert torch.equal(guided(COND, torch.full_like(COND, torch.nan), 1.0), COND / 1.00001)


def test_guidance_zero_is_the_negative_prompt_alone() -> None:
    assert torch.equal(guided(COND, UNCOND, 0.0), UNCOND / 1.00001)

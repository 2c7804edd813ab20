"""Muon: an optimiser that gives a matrix's step equal length in all directions.

After Jordan et al. 2024 (kellerjordan.github.io/posts/muon): the running mean of the gradients is replaced by a matrix
of the same directions, whose singular values are all near 1, by Newton-Schulz rounds with their coefficients.
Convolutions count as matrices of outputs x (inputs, height, width). For matrices of full rank a step's root mean square
does not depend on the shape (Liu et al. 2025, arXiv:2502.16982, section 2.2), so one rate does for all.

PyTorch's own Muon knows no convolutions and takes the matrices one by one, which for many small ones costs as much as
the rest of a step. Here those of one shape go through together, and a team's processes share them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pocket.team import Team

LEAST_SIDE = 16
"""Narrower matrices have too few directions to make equal."""

SPREAD = 1.2
"""Root mean square of a step, in learning rates.

0.2 is what Adam's steps usually have and what Liu et al. take. Small networks learn faster with longer ones: the base,
half a batch, loss of steps 100 to 150: AdamW 0.161, Muon at 0.2 0.186, at 0.8 0.141, at 2 0.139. The whole training was
run with a value between the last two only.
"""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def is_matrix(parameter: Tensor) -> bool:
    """Say whether a parameter is for Muon; vectors and narrow matrices are not."""
    return parameter.ndim >= 2 and min(_shape(parameter)) >= LEAST_SIDE


class Muon(torch.optim.Optimizer):
    """Steps for matrices (:func:`is_matrix`). Tables of tokens, whose rows are no map's directions, are not for it.

    Every process of ``team`` takes the same steps, and each finds out a part of them. ``dtype`` is what they are found
    out in: bfloat16 is exact enough, where the processor is quick with it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        team: Team,
        dtype: torch.dtype = torch.float32,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._team, self._dtype = team, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            directions = self._team.share(self._directions(learning, group["momentum"]), learning)
            torch._foreach_mul_(learning, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(learning, directions, alpha=-group["lr"])

    def _directions(self, learning: list[nn.Parameter], momentum: float) -> list[Tensor | None]:
        """Return where to go; None where another process of the team finds out."""
        for parameter in learning:
            if not self.state[parameter]:
                self.state[parameter]["mean"] = torch.zeros_like(parameter)
        gradients, means = [p.grad for p in learning], [self.state[p]["mean"] for p in learning]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        aims = torch._foreach_lerp(gradients, means, momentum)  # Nesterov's look ahead
        alike: dict[tuple[int, int], list[int]] = {}
        for place, parameter in enumerate(learning):
            alike.setdefault(_shape(parameter), []).append(place)
        found: list[Tensor | None] = [None] * len(learning)
        for number, (shape, places) in enumerate(alike.items()):
            # Beginning elsewhere each time, as many shapes have one matrix only.
            mine = places[(self._team.rank + number) % self._team.size :: self._team.size]
            if mine:
                even = orthogonal(torch.stack([aims[place].reshape(shape) for place in mine]).to(self._dtype))
                even *= SPREAD * max(shape) ** 0.5
                for place, direction in zip(mine, even, strict=True):
                    found[place] = direction.view_as(learning[place])
        return found


def orthogonal(matrices: Tensor) -> Tensor:
    """Return float32 matrices (B, M, N) with the directions of the given ones and singular values near 1.

    Those above 1/400 of the matrix's norm come to lie between about 0.7 and 1.2, smaller ones below: the coefficients
    are made for few rounds, not for an exact end. It is computed in the type of ``matrices``.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-12)).to(matrices.dtype).contiguous()
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def _shape(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter.numel() // parameter.shape[0]

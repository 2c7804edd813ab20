"""What a run holds between two steps, and what a sampler is.

A sampler is a function of one step, with nothing remembered outside its :class:`State`. So a run can be stopped after
any step, its state put on disk, and continued elsewhere to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fooocus.diffusion.noise import Noise, Pair

Denoise = Callable[[Tensor, float], Tensor]  # (x (B, C, h, w), sigma) -> denoised, same shape


@dataclass(frozen=True, eq=False)
class State:
    """A run after some of its steps: ``step`` comes next, and ``x`` (B, C, h, w) are the noisy latents before it."""

    step: int
    x: Tensor
    history: tuple[Tensor, ...] = ()  # what a multistep sampler remembers, newest first
    denoised: Tensor | None = None  # the network's first estimate in the step just done, for previews only

    def next(self, x: Tensor, denoised: Tensor, *history: Tensor) -> State:
        """Return the state after this step."""
        return State(self.step + 1, x, history, denoised)

    def on(self, device: torch.device | str) -> State:
        """Return the same state on ``device``."""
        history = tuple(tensor.to(device) for tensor in self.history)
        return State(self.step, self.x.to(device), history, None if self.denoised is None else self.denoised.to(device))


Step = Callable[[Denoise, State, Sequence[float], Noise], State]


def _no_queries(sigmas: Sequence[float], step: int) -> tuple[Pair, ...]:
    return ()


@dataclass(frozen=True)
class Sampler:
    """One row of the table of samplers."""

    step: Step
    evaluations: int = 1  # of the network in a step; one less in the last, where that ends at sigma 0
    noise: Literal["none", "sequential", "brownian"] = "none"  # what it asks of Noise: nothing, at(), between()
    queries: Callable[[Sequence[float], int], tuple[Pair, ...]] = _no_queries  # the pairs for between() in one step
    drop_penultimate: bool = False  # whether its runs go to 0 without the smallest positive sigma
    last_sigma: float = 0.0


def pack(state: State) -> dict[str, Tensor]:
    """Return the state as named CPU tensors that share no memory, fit for a safetensors file."""
    named = {"step": torch.tensor(state.step), "x": state.x}
    named |= {f"history.{i}": tensor for i, tensor in enumerate(state.history)}
    if state.denoised is not None:
        named["denoised"] = state.denoised
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


def unpack(named: Mapping[str, Tensor], device: torch.device | str = "cpu") -> State:
    """Return the state that :func:`pack` wrote, on ``device``."""
    count = sum(name.startswith("history.") for name in named)
    history = tuple(named[f"history.{i}"] for i in range(count))
    return State(int(named["step"]), named["x"], history, named.get("denoised")).on(device)

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


def join(states: Sequence[State]) -> State:
    """Return pictures that are equally far in one run of one sampler as one state, (1, C, h, w) each."""
    if len({(state.step, len(state.history)) for state in states}) != 1:
        raise ValueError("only states that are equally far can be joined")
    if len(states) == 1:
        return states[0]
    history = tuple(torch.cat(tensors) for tensors in zip(*(state.history for state in states), strict=True))
    seen = [state.denoised for state in states if state.denoised is not None]
    denoised = torch.cat(seen) if len(seen) == len(states) else None
    return State(states[0].step, torch.cat([state.x for state in states]), history, denoised)


def split(state: State) -> tuple[State, ...]:
    """Return each picture's own state; they share the memory of the joined one."""
    if len(state.x) == 1:
        return (state,)
    histories = [tensor.split(1) for tensor in state.history]
    seen = [None] * len(state.x) if state.denoised is None else state.denoised.split(1)
    return tuple(
        State(state.step, x, tuple(own), denoised)
        for x, denoised, *own in zip(state.x.split(1), seen, *histories, strict=True)
    )


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

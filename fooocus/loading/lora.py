"""Add LoRAs to the networks of a checkpoint and take them away again.

Every patched weight is computed anew from the checkpoint file: original + sum of weight * delta in list order, in
float32, rounded once. Nothing is ever subtracted, so no drift can build up, and two ways to the same list give the same
bits. What is added to a parameter now is noted in ``Network.patches``; only parameters whose note changes are touched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fooocus.errors import IncompatibleLora
from fooocus.families.records import Blueprint
from fooocus.loading.lora_deltas import Shape, add_delta, delta_size, magnitude_fits, method_of
from fooocus.loading.lora_file import Lora, read_lora
from fooocus.loading.lora_names import locate, module_table
from fooocus.loading.network import Network

__all__ = [
    "Lora",
    "LoraReport",
    "LoraTarget",
    "apply_loras",
    "lora_sums",
    "lora_targets",
    "match_loras",
    "read_lora",
]

_PATCHABLE = ("unet", "text_l", "text_g")
_BIAS_PARTS = ("diff_b", "b_norm")


@dataclass(frozen=True)
class LoraReport:
    """How much of a LoRA found its place: ``matched`` of ``total`` modules. ``unmatched`` are named as in the file."""

    name: str
    matched: int
    total: int
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class _Addition:
    """One thing to add to one parameter: the delta of a LoRA's module, or one of its bias parts."""

    lora: Lora
    module: str
    part: str  # a method of lora_deltas, or one of _BIAS_PARTS
    weight: float

    @property
    def note(self) -> tuple[object, ...]:
        """What ``Network.patches`` remembers of it: equal notes mean equal numbers."""
        return (*self.lora.stamp, self.module, self.part, self.weight)


_Plan = dict[tuple[str, str], list[_Addition]]  # (network kind, parameter) -> what is added to it, in order


@dataclass(frozen=True)
class LoraTarget:
    """What matching needs to know of one network: every parameter's shape, and the names trainers give its modules."""

    shapes: Mapping[str, Shape]
    table: Mapping[str, str]


def lora_targets(blueprints: Iterable[Blueprint], stored: Mapping[str, Shape]) -> dict[str, LoraTarget]:
    """Return the targets in a checkpoint, by kind, from the shapes of its stored tensors; no weight is read."""
    return {
        blueprint.kind: LoraTarget(
            {name: source.shape(stored[source.key]) for name, source in blueprint.sources.items()},
            module_table(blueprint.kind, {name: source.key for name, source in blueprint.sources.items()}),
        )
        for blueprint in blueprints
        if blueprint.kind in _PATCHABLE
    }


def match_loras(targets: Mapping[str, LoraTarget], loras: Sequence[tuple[Lora, float]]) -> list[LoraReport]:
    """Say how much of each LoRA has its place in a checkpoint. Raises :class:`fooocus.errors.IncompatibleLora`."""
    return _match_all(_used(loras), targets)[1]


def apply_loras(
    networks: Mapping[str, Network],
    loras: Sequence[tuple[Lora, float]],
    *,
    targets: Mapping[str, LoraTarget] | None = None,
    check: Callable[[], object] = lambda: None,
    on: torch.device | None = None,
) -> list[LoraReport]:
    """Make every parameter original + sum of weight * delta over ``loras``, in their order; [] restores everything.

    ``networks`` are those of one checkpoint, one of each kind; a VAE is left alone. With ``targets``, those of the
    whole checkpoint, a LoRA need not touch any of the networks that happen to be loaded. Weights may be any finite
    numbers; a LoRA of weight 0 is skipped and has no report. ``check`` is called between two parameters; if it leaves
    by raising, the next call does what is left. Everything is checked before anything changes: raises
    :class:`fooocus.errors.IncompatibleLora` if no module of a LoRA is in the networks or one has another shape, and
    :class:`fooocus.errors.UnreadableModel` if a tensor to be added holds NaN or infinity.

    Sums are made in float32 on the parameter's own device, or on the device ``on``, and rounded once to the parameter's
    dtype. Time and traffic are one read of the originals of the parameters that change; memory beyond them is one
    parameter in float32.
    """
    by_kind = {network.kind: network for network in networks.values()}
    if len(by_kind) != len(networks):
        raise ValueError("two networks of one kind: patch the base and the refiner in separate calls")
    used = _used(loras)
    if targets is None:
        targets = {kind: _target(network) for kind, network in by_kind.items() if kind in _PATCHABLE}
    plan, reports = _match_all(used, targets)

    changed = {
        place: additions
        for place, additions in plan.items()
        if place[0] in by_kind and by_kind[place[0]].patches.get(place[1]) != _note(additions)
    }
    for addition in (addition for additions in changed.values() for addition in additions):
        addition.lora.check_finite(addition.module)

    for kind, network in by_kind.items():
        for parameter in [name for name in network.patches if (kind, name) not in plan]:
            network.restore(parameter)
            del network.patches[parameter]
    scratch = _Scratch()
    for (kind, parameter), additions in changed.items():
        check()
        network = by_kind[kind]
        network.put(parameter, _patched(network, parameter, additions, scratch, on))
        network.patches[parameter] = _note(additions)
    return reports


def lora_sums(
    kind: str, loras: Sequence[tuple[Lora, float]], targets: Mapping[str, LoraTarget]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, for every parameter of a network that LoRAs change, the function from its original to the sum in float32.

    For networks whose weights are computed as they are used, which need no memory for the sums then; they are the same
    to the last bit. Raises what :func:`apply_loras` raises.
    """
    plan, _ = _match_all(_used(loras), targets)
    wanted = {parameter: additions for (place, parameter), additions in plan.items() if place == kind}
    for addition in (addition for additions in wanted.values() for addition in additions):
        addition.lora.check_finite(addition.module)

    def sum_of(additions: Sequence[_Addition], original: Tensor) -> Tensor:
        return _add(original.to(torch.float32, copy=True), original, additions)

    return {parameter: functools.partial(sum_of, additions) for parameter, additions in wanted.items()}


def _used(loras: Sequence[tuple[Lora, float]]) -> list[tuple[Lora, float]]:
    used = [(lora, float(weight)) for lora, weight in loras if weight != 0]
    if not all(math.isfinite(weight) for _, weight in used):
        raise ValueError("a LoRA weight is not a finite number")
    return used


def _target(network: Network) -> LoraTarget:
    return LoraTarget(
        {name: tuple(parameter.shape) for name, parameter in network.module.named_parameters()},
        module_table(network.kind, {name: network.source(name).key for name in network.names()}),
    )


def _match_all(used: Sequence[tuple[Lora, float]], targets: Mapping[str, LoraTarget]) -> tuple[_Plan, list[LoraReport]]:
    plan: _Plan = {}
    tables = {kind: target.table for kind, target in targets.items()}
    return plan, [_match(lora, weight, targets, tables, plan) for lora, weight in used]


def _note(additions: Sequence[_Addition]) -> tuple[object, ...]:
    return tuple(addition.note for addition in additions)


def _match(
    lora: Lora, weight: float, targets: Mapping[str, LoraTarget], tables: Mapping[str, Mapping[str, str]], plan: _Plan
) -> LoraReport:
    """Find the parameters of every module, write them into ``plan`` and report. Raises :class:`IncompatibleLora`."""
    unmatched = list(lora.unknown)
    misfits = []
    matched = 0
    for module in lora.modules:
        place = locate(module, tables)
        shapes = lora.shapes(module)
        wanted = dict(_parameters(place[1], shapes)) if place else {}
        if place is None or not wanted.keys() <= targets[place[0]].shapes.keys():
            unmatched.append(module)
            continue
        matched += 1
        for parameter, part in wanted.items():
            shape = targets[place[0]].shapes[parameter]
            if misfit := _misfit(part, shapes, shape):
                misfits.append(f"{module} is for {misfit}, the model's is {_by(shape)}")
            plan.setdefault((place[0], parameter), []).append(_Addition(lora, module, part, weight))
    total = len(lora.modules) + len(lora.unknown)
    made_for = f" It was made for {lora.family}." if lora.family else ""
    if misfits:
        raise IncompatibleLora(
            f"{lora.path.name} does not fit this model: {misfits[0]} ({len(misfits)} of {total} do not fit).{made_for}",
            "Choose a LoRA made for the family of the chosen model.",
        )
    if not matched:
        raise IncompatibleLora(
            f"Nothing in {lora.path.name} fits this model: none of its {total} modules, such as {unmatched[-1]}, "
            f"exists there.{made_for}",
            "Choose a LoRA made for the family of the chosen model.",
        )
    return LoraReport(name=lora.name, matched=matched, total=total, unmatched=tuple(unmatched))


def _parameters(path: str, parts: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (parameter, part) of everything a module changes."""
    method = method_of(parts)
    if method and method != "bias":
        yield f"{path}.weight", method
    for part in _BIAS_PARTS:
        if part in parts:
            yield f"{path}.bias", part


def _misfit(part: str, shapes: Mapping[str, Shape], shape: Shape) -> str:
    """Say for what shape a part is made if it is not ``shape``; empty if it fits."""
    if part in _BIAS_PARTS:
        return "" if shapes[part] == shape else _by(shapes[part])
    size = delta_size(part, shapes)
    if size != (shape[0], math.prod(shape[1:])):
        return _by(size or ())
    return "" if magnitude_fits(shapes, shape) else "other DoRA magnitudes"


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"


class _Scratch:
    """One float32 buffer per device, used for every sum: on a CPU, fresh memory costs as much as the sum itself."""

    def __init__(self) -> None:
        self._buffers: dict[torch.device, Tensor] = {}

    def widen(self, tensor: Tensor) -> Tensor:
        """Copy a tensor into the buffer, in float32. The copy lasts until the next call."""
        buffer = self._buffers.get(tensor.device)
        if buffer is None or buffer.numel() < tensor.numel():
            buffer = torch.empty(tensor.numel(), dtype=torch.float32, device=tensor.device)
            self._buffers[tensor.device] = buffer
        return buffer[: tensor.numel()].view(tensor.shape).copy_(tensor)


def _patched(
    network: Network, parameter: str, additions: Sequence[_Addition], scratch: _Scratch, on: torch.device | None
) -> Tensor:
    """Compute one parameter anew from its original."""
    current = network.module.get_parameter(parameter)
    original = network.original(parameter).to(on or current.device)
    total = _add(scratch.widen(original), original, additions)
    return total.to(current.device, current.dtype, copy=True)


def _add(total: Tensor, original: Tensor, additions: Sequence[_Addition]) -> Tensor:
    """Add to ``total``, which is ``original`` in float32, on its device."""
    for addition in additions:
        parts = addition.lora.tensors(addition.module, total.device)
        if addition.part in _BIAS_PARTS:
            total.add_(parts[addition.part], alpha=addition.weight)
            continue
        add_delta(
            total,
            addition.part,
            parts,
            original=original,
            weight=addition.weight,
            scale=addition.lora.scale(addition.module, addition.part),
        )
    return total

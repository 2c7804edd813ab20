"""Add LoRAs to the networks of a checkpoint and take them away again.

Every patched weight is computed anew from the checkpoint file: original + sum of weight * delta in list order, in
float32, rounded once. Nothing is ever subtracted, so no drift can build up, and two ways to the same list give the same
bits. What is added to a parameter now is noted in ``Network.patches``; only parameters whose note changes are touched.

Another weight of the same LoRA is the usual change, so what does not depend on the weight is kept: where a file's
modules belong (:class:`LoraTargets`), and the memory of the sums, which are written over.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fooocus.errors import IncompatibleLora
from fooocus.families.records import Blueprint
from fooocus.loading.lora_deltas import (
    Shape,
    add_delta,
    delta_size,
    is_plain,
    magnitude_fits,
    method_of,
    row_blocks,
)
from fooocus.loading.lora_file import Lora, read_lora
from fooocus.loading.lora_names import locate, module_table
from fooocus.loading.network import Network
from fooocus.loading.tensors import carried

__all__ = [
    "Lora",
    "LoraReport",
    "LoraTarget",
    "LoraTargets",
    "apply_loras",
    "lora_notes",
    "lora_sums",
    "lora_targets",
    "match_loras",
    "read_lora",
]

_PATCHABLE = ("unet", "text_l", "text_g")
_BIAS_PARTS = ("diff_b", "b_norm")
_UNFINISHED = ("unfinished",)  # the note of a sum that is being written over: equal to none, should it fail half-way
_MATCHES = 32  # LoRA files whose places in a checkpoint are kept


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
    def plain(self) -> bool:
        """Whether each row of the parameter can be added to by itself."""
        return is_plain(self.part, self.lora.modules[self.module])

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


@dataclass(frozen=True)
class _Match:
    """What one LoRA changes in a checkpoint: (network kind, parameter, module, part), and the report."""

    places: tuple[tuple[str, str, str, str], ...]
    report: LoraReport


class LoraTargets:
    """The targets in one checkpoint, by kind, and what was found there of LoRAs."""

    def __init__(self, by_kind: Mapping[str, LoraTarget]) -> None:
        self.by_kind = by_kind
        self._tables = {kind: target.table for kind, target in by_kind.items()}
        self._known: OrderedDict[tuple[str, int, int], _Match] = OrderedDict()

    def match(self, lora: Lora) -> _Match:
        """Find the places of a LoRA's modules, once a file. Raises :class:`IncompatibleLora`."""
        if lora.stamp not in self._known:
            self._known[lora.stamp] = _match(lora, self.by_kind, self._tables)
            while len(self._known) > _MATCHES:
                self._known.popitem(last=False)
        return self._known[lora.stamp]


def lora_targets(blueprints: Iterable[Blueprint], stored: Mapping[str, Shape]) -> LoraTargets:
    """Return the targets in a checkpoint from the shapes of its stored tensors; no weight is read."""
    return LoraTargets(
        {
            blueprint.kind: LoraTarget(
                {name: source.shape(stored[source.key]) for name, source in blueprint.sources.items()},
                module_table(blueprint.kind, {name: source.key for name, source in blueprint.sources.items()}),
            )
            for blueprint in blueprints
            if blueprint.kind in _PATCHABLE
        }
    )


def match_loras(targets: LoraTargets, loras: Sequence[tuple[Lora, float]]) -> list[LoraReport]:
    """Say how much of each LoRA has its place in a checkpoint. Raises :class:`fooocus.errors.IncompatibleLora`."""
    return [targets.match(lora).report for lora, _ in _used(loras)]


def lora_notes(targets: LoraTargets, loras: Sequence[tuple[Lora, float]], kinds: Collection[str]) -> object:
    """Return what is another value when these LoRAs change networks of ``kinds`` in another way."""
    return tuple(
        (*lora.stamp, weight)
        for lora, weight in _used(loras)
        if any(kind in kinds for kind, _, _, _ in targets.match(lora).places)
    )


def apply_loras(
    networks: Mapping[str, Network],
    loras: Sequence[tuple[Lora, float]],
    *,
    targets: LoraTargets | None = None,
    check: Callable[[], object] = lambda: None,
    on: torch.device | None = None,
    over: bool = False,
    copies: Collection[str] = (),
) -> list[LoraReport]:
    """Make every parameter original + sum of weight * delta over ``loras``, in their order; [] restores everything.

    ``networks`` are those of one checkpoint, one of each kind; a VAE is left alone. With ``targets``, those of the
    whole checkpoint, a LoRA need not touch any of the networks that happen to be loaded. Weights may be any finite
    numbers; a LoRA of weight 0 is skipped and has no report. ``check`` is called between two parameters; if it leaves
    by raising, the next call does what is left. Everything is checked before anything changes: raises
    :class:`fooocus.errors.IncompatibleLora` if no module of a LoRA is in the networks or one has another shape, and
    :class:`fooocus.errors.UnreadableModel` if a tensor to be added holds NaN or infinity.

    Sums are made in float32 on the parameter's own device, or on the device ``on``, and rounded once to the parameter's
    dtype. Time and traffic are one read of the originals of the parameters that change, from the file where something
    was added to them before; memory beyond them is one parameter in float32. With ``over`` a sum is written over the
    one before it, where it stands; only for networks whose parameters nobody else looks at. The parameters named in
    ``copies`` are the networks' own from the beginning, no views of the file: sums and originals are written into them.
    """
    by_kind = {network.kind: network for network in networks.values()}
    if len(by_kind) != len(networks):
        raise ValueError("two networks of one kind: patch the base and the refiner in separate calls")
    used = _used(loras)
    if targets is None:
        targets = LoraTargets({kind: _target(network) for kind, network in by_kind.items() if kind in _PATCHABLE})
    reports = match_loras(targets, used)
    plan = _plan(used, targets, by_kind)

    changed = {
        place: additions
        for place, additions in plan.items()
        if by_kind[place[0]].patches.get(place[1]) != _note(additions)
    }
    for addition in (addition for additions in changed.values() for addition in additions):
        addition.lora.check_finite(addition.module)

    for kind, network in by_kind.items():
        for parameter in [name for name in network.patches if (kind, name) not in plan]:
            network.restore(parameter, over=parameter in copies)
            del network.patches[parameter]
    scratch = _Scratch()
    for (kind, parameter), additions in changed.items():
        check()
        network = by_kind[kind]
        whose = parameter in copies or (over and parameter in network.patches)
        _patch(network, parameter, additions, scratch, on, over=whose)
        network.patches[parameter] = _note(additions)
    return reports


def lora_sums(
    kind: str, loras: Sequence[tuple[Lora, float]], targets: LoraTargets
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, for every parameter of a network that LoRAs change, the function from its original to the sum in float32.

    For networks whose weights are computed as they are used, which need no memory for the sums then; they are the same
    to the last bit. Raises what :func:`apply_loras` raises.
    """
    used = _used(loras)
    match_loras(targets, used)
    wanted = {parameter: additions for (_, parameter), additions in _plan(used, targets, (kind,)).items()}
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


def _plan(used: Sequence[tuple[Lora, float]], targets: LoraTargets, kinds: Collection[str]) -> _Plan:
    """Return what is added to each parameter of the networks of ``kinds``."""
    plan: _Plan = {}
    for lora, weight in used:
        for kind, parameter, module, part in targets.match(lora).places:
            if kind in kinds:
                plan.setdefault((kind, parameter), []).append(_Addition(lora, module, part, weight))
    return plan


def _note(additions: Sequence[_Addition]) -> tuple[object, ...]:
    return tuple(addition.note for addition in additions)


def _match(lora: Lora, targets: Mapping[str, LoraTarget], tables: Mapping[str, Mapping[str, str]]) -> _Match:
    """Find the parameters of every module. Raises :class:`IncompatibleLora`."""
    places: list[tuple[str, str, str, str]] = []
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
            places.append((place[0], parameter, module, part))
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
    return _Match(tuple(places), LoraReport(lora.name, matched, total, tuple(unmatched)))


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


def _patch(
    network: Network,
    parameter: str,
    additions: Sequence[_Addition],
    scratch: _Scratch,
    on: torch.device | None,
    *,
    over: bool,
) -> None:
    """Compute one parameter anew from its original; ``over`` itself where it is in memory of its own."""
    current = network.module.get_parameter(parameter)
    stored, device = network.original(parameter), on or current.device
    # What nothing was added to yet is the original itself, and need not come from the file once more.
    bare = parameter not in network.patches and current.device == device and current.dtype == stored.dtype
    original = current.data if bare else carried(stored, device)
    over = over and current.is_contiguous()
    target = current.data if over else torch.empty_like(current, memory_format=torch.contiguous_format)
    if over:
        network.patches[parameter] = _UNFINISHED
    if target.device == original.device and all(addition.plain for addition in additions):
        _add_in_rows(target, original, additions, scratch)
    else:
        target.copy_(_add(scratch.widen(original), original, additions))
    if not over:
        network.put(parameter, target)


def _add_in_rows(target: Tensor, original: Tensor, additions: Sequence[_Addition], scratch: _Scratch) -> None:
    """Write ``original`` and all that is added to it into ``target``, one block of rows after the other."""
    factors = []
    for addition in additions:
        parts = addition.lora.tensors(addition.module, target.device)
        alpha = addition.weight * addition.lora.scale(addition.module, addition.part)
        factors.append((parts["up"].flatten(1), parts["down"].flatten(1), alpha))
    source, matrix = (tensor.reshape(tensor.shape[0], -1) for tensor in (original, target))  # a norm's has one axis
    for rows in row_blocks(matrix):
        exact = matrix.dtype == torch.float32
        total = matrix[rows].copy_(source[rows]) if exact else scratch.widen(source[rows])
        for up, down, alpha in factors:
            total.addmm_(up[rows], down, alpha=alpha)
        if not exact:
            matrix[rows].copy_(total)


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

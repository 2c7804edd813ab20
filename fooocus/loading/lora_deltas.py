"""What one LoRA module adds to one weight: low rank, Tucker, Hadamard, Kronecker, plain difference; DoRA over each.

A module of a file is a handful of named parts ("down", "up", "alpha", ...). :func:`delta_size` says from shapes alone
which weight they would fit, so that a whole file can be judged before a byte of it is used; :func:`add_delta` computes.
Weights are seen as matrices (out, in * kernel), the flattening that trainers use for convolutions.

Sources: LoRA, Hu et al. 2021, eq. 3; LoHa, Hyeon-Woo et al. 2022 (FedPara), prop. 1 and, for convolutions, prop. 2;
LoKr, Yeh et al. 2024 (LyCORIS), section 3; DoRA, Liu et al. 2024, eq. 5; rank-stabilised scale, Kalajdzievski 2023.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

Shape = tuple[int, ...]

# The parts that belong to each method, without which it is incomplete: alternatives of complete sets.
_METHODS: dict[str, tuple[frozenset[str], ...]] = {
    "lora": (frozenset({"down", "up"}),),
    "loha": (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
    "lokr": tuple(
        frozenset({*first, *second})
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    "diff": (frozenset({"diff"}), frozenset({"w_norm"})),
}
# Parts that may stand beside any method.
_BESIDE = frozenset({"alpha", "dora_scale", "magnitude", "diff_b", "b_norm"})
_BLOCK = 1 << 19  # numbers in a block of rows: 2 MiB in float32
_OPTIONAL = {
    "lora": frozenset({"mid"}),
    "loha": frozenset({"hada_t1", "hada_t2"}),
    "lokr": frozenset({"lokr_t2"}),
    "diff": frozenset[str](),
}


def method_of(parts: Collection[str]) -> str | None:
    """Name the method of a module's parts: "lora", "loha", "lokr", "diff", or "bias" when only a bias is changed.

    None when the parts make no complete set, as in a file that was cut or mixed.
    """
    kernel = set(parts) - _BESIDE
    if not kernel:
        return "bias" if {"diff_b", "b_norm"} & set(parts) else None
    for method, complete in _METHODS.items():
        if any(kernel - _OPTIONAL[method] == needed for needed in complete):
            whole_tucker = ("hada_t1" in kernel) == ("hada_t2" in kernel)
            return method if whole_tucker and ("lokr_t2" not in kernel or "lokr_w2_a" in kernel) else None
    return None


def delta_size(method: str, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """Compute (out, in * kernel) of the weight that the parts fit; None when they do not even fit each other."""
    factors = {part: shape for part, shape in shapes.items() if part not in _BESIDE}
    if any(0 in shape for shape in factors.values()):
        return None
    if method != "diff" and any(len(shape) < 2 for shape in factors.values()):
        return None
    try:
        match method:
            case "lora":
                return _lora_size(shapes)
            case "loha":
                first, second = (_product_size(shapes, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
                return first if first == second else None
            case "lokr":
                out_1, in_1 = _factor_size(shapes, "lokr_w1", "")
                out_2, in_2 = _factor_size(shapes, "lokr_w2", "lokr_t2")
                return out_1 * out_2, in_1 * in_2
            case "diff":
                return _flat(shapes["diff"] if "diff" in shapes else shapes["w_norm"])
    except (IndexError, _Misfit):
        return None
    raise ValueError(f"no method {method}")


def add_delta(
    total: Tensor, method: str, parts: Mapping[str, Tensor], *, original: Tensor, weight: float, scale: float
) -> None:
    """Add ``weight`` times the delta of ``parts`` to ``total`` in place.

    ``total`` is float32 and contiguous, of the weight's shape, and shares no memory with ``original``, which may have
    any dtype; ``parts`` are float32 on the same device. ``scale`` is alpha / rank. DoRA replaces the whole weight by
    one whose rows (or columns) have given norms; its delta is the difference to ``original``, whatever was added to
    ``total`` before, so that the order of several LoRAs does not matter to it.
    """
    magnitude, on_input = _magnitude(parts, original)
    if magnitude is not None:
        exact = original.to(torch.float32)
        adapted = exact + scale * _delta(method, parts, exact.shape)
        total.add_(_with_norms(adapted, magnitude, on_input=on_input) - exact, alpha=weight)
    elif is_plain(method, parts):
        up, down, matrix = parts["up"].flatten(1), parts["down"].flatten(1), total.view(total.shape[0], -1)
        for rows in row_blocks(matrix):
            matrix[rows].addmm_(up[rows], down, alpha=weight * scale)
    else:
        total.add_(_delta(method, parts, total.shape), alpha=weight * scale)


def is_plain(method: str, parts: Collection[str]) -> bool:
    """Say whether a delta is up times down and nothing else, so that each of its rows can be added by itself."""
    return method == "lora" and not {"mid", "dora_scale", "magnitude"} & set(parts)


def row_blocks(matrix: Tensor) -> list[slice]:
    """Return the rows of a matrix in blocks that stay in a processor's cache while several things are done to them.

    Wherever rows are added to, it is in these blocks: a product's last bits may depend on how many rows it has.
    """
    if matrix.device.type != "cpu":
        return [slice(None)]
    height = max(1, _BLOCK // max(1, matrix[0].numel()))
    return [slice(begin, begin + height) for begin in range(0, matrix.shape[0], height)]


def rank_of(method: str, shapes: Mapping[str, Shape]) -> int | None:
    """Return the rank that alpha is divided by; None where alpha has no meaning (plain differences, whole factors)."""
    match method:
        case "lora":
            return shapes["down"][0]
        case "loha":
            return shapes["hada_w1_b"][0]
        case "lokr":
            # Where both factors are split they have the same rank; LyCORIS reads it from the second.
            for name in ("lokr_w2_b", "lokr_w1_b"):
                if name in shapes:
                    return shapes[name][0]
    return None


def scale_of(alpha: float | None, rank: int | None, *, rank_stabilised: bool = False) -> float:
    """Compute the factor before the product: alpha / rank (alpha / sqrt(rank) if stabilised), 1 without alpha."""
    if alpha is None or rank is None:
        return 1.0
    return alpha / math.sqrt(rank) if rank_stabilised else alpha / rank


def magnitude_fits(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    """Tell whether the DoRA magnitudes, if any, are as many as a weight of shape ``weight`` has outputs (or inputs)."""
    if "magnitude" not in shapes and "dora_scale" not in shapes:
        return True
    if len(weight) < 2:
        return False
    if "magnitude" in shapes:
        return math.prod(shapes["magnitude"]) == weight[0]
    return math.prod(shapes["dora_scale"]) == (weight[1] if _per_input(shapes["dora_scale"], weight) else weight[0])


class _Misfit(Exception):
    """Parts of one module do not multiply."""


def _same(a: int, b: int) -> int:
    if a != b:
        raise _Misfit
    return a


def _flat(shape: Shape) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _lora_size(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    out, rank = _flat(shapes["up"])
    if "mid" not in shapes:
        _same(rank, shapes["down"][0])
        return out, math.prod(shapes["down"][1:])
    mid = shapes["mid"]
    _same(rank, mid[0])
    _same(mid[1], shapes["down"][0])
    return out, math.prod(shapes["down"][1:]) * math.prod(mid[2:])


def _product_size(shapes: Mapping[str, Shape], stem: str, core: str) -> tuple[int, int]:
    a, b = shapes[f"{stem}_a"], shapes[f"{stem}_b"]
    _same(len(a), 2)
    if core not in shapes:
        _same(a[1], b[0])
        return a[0], math.prod(b[1:])
    t = shapes[core]
    _same(len(b), 2)
    _same(t[0], a[0])
    _same(t[1], b[0])
    return a[1], b[1] * math.prod(t[2:])


def _factor_size(shapes: Mapping[str, Shape], stem: str, core: str) -> tuple[int, int]:
    return _flat(shapes[stem]) if stem in shapes else _product_size(shapes, stem, core)


def _delta(method: str, parts: Mapping[str, Tensor], shape: Shape) -> Tensor:
    match method:
        case "lora" if "mid" in parts:
            up, down = parts["up"].flatten(1), parts["down"].flatten(1)
            delta = torch.einsum("oa,ab...,bi->oi...", up, parts["mid"], down)
        case "lora":
            delta = parts["up"].flatten(1) @ parts["down"].flatten(1)
        case "loha":
            delta = _product(parts, "hada_w1", "hada_t1") * _product(parts, "hada_w2", "hada_t2")
        case "lokr":
            delta = torch.kron(
                _factor(parts, "lokr_w1", "").flatten(1), _factor(parts, "lokr_w2", "lokr_t2").flatten(1)
            )
        case _:
            delta = parts["diff"] if "diff" in parts else parts["w_norm"]
    return delta.reshape(shape)


def _product(parts: Mapping[str, Tensor], stem: str, core: str) -> Tensor:
    a, b = parts[f"{stem}_a"], parts[f"{stem}_b"]
    if core in parts:
        return torch.einsum("ab...,ao,bi->oi...", parts[core], a, b)
    return a @ b.flatten(1)


def _factor(parts: Mapping[str, Tensor], stem: str, core: str) -> Tensor:
    return parts[stem] if stem in parts else _product(parts, stem, core)


def _magnitude(parts: Mapping[str, Tensor], weight: Tensor) -> tuple[Tensor | None, bool]:
    """Return the DoRA magnitudes, flat, and whether they are one per input."""
    if "magnitude" in parts:  # peft: always one per output, whatever its shape
        return parts["magnitude"].flatten(), False
    if "dora_scale" in parts:
        return parts["dora_scale"].flatten(), _per_input(tuple(parts["dora_scale"].shape), tuple(weight.shape))
    return None, False


def _per_input(scale: Shape, weight: Shape) -> bool:
    """LyCORIS stores (out, 1, ...) or (1, in, ...); only the place of the long axis tells the two apart."""
    return len(scale) >= 2 and scale[0] == 1 and weight[0] != 1


def _with_norms(weight: Tensor, magnitude: Tensor, *, on_input: bool) -> Tensor:
    """Give each output row (or each input column, kernel included) of ``weight`` the norm that ``magnitude`` says."""
    axis = 1 if on_input else 0
    others = [i for i in range(weight.dim()) if i != axis]
    norms = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    # A zero row stays zero instead of becoming NaN.
    return weight / norms.clamp_min(torch.finfo(torch.float32).tiny) * magnitude.view_as(norms)

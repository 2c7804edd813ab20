"""Where a network's time goes: the seconds of one call by kind of kernel, from torch's profiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

# Parts of aten's names, tried from the top; what none matches is elementwise work, copies and reshaping.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("scaled_dot_product", "flash_attention", "efficient_attention", "cudnn_attention")),
    ("convolution", ("convolution", "conv2d", "conv_depthwise", "thnn_conv")),
    ("matrix product", ("addmm", "mm", "linear", "matmul", "baddbmm")),
    ("normalisation", ("group_norm", "layer_norm", "batch_norm")),
)
REST = "elementwise, copies"


def kinds_of(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Run ``call`` under the profiler and return its kernels' seconds by kind, the largest first."""
    activities = [ProfilerActivity.CPU]
    on_card = device.type == "cuda"
    if on_card:
        activities.append(ProfilerActivity.CUDA)
    with torch.no_grad(), profile(activities=activities) as profiled:
        call()
        if on_card:
            torch.cuda.synchronize(device)
    micros = {
        row.key: float(row.self_device_time_total if on_card else row.self_cpu_time_total)
        for row in profiled.key_averages()
        if row.key.startswith("aten::")
    }
    return grouped(micros)


def grouped(micros: Mapping[str, float]) -> dict[str, float]:
    """Sum microseconds by operation into seconds by kind."""
    seconds = dict.fromkeys([*(kind for kind, _ in _KINDS), REST], 0.0)
    for name, value in micros.items():
        seconds[kind_of(name)] += value / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def kind_of(name: str) -> str:
    """Say which kind an operation such as ``aten::addmm`` is of."""
    plain = name.removeprefix("aten::").strip("_")
    return next((kind for kind, parts in _KINDS if any(_fits(plain, part) for part in parts)), REST)


def _fits(name: str, part: str) -> bool:
    # "mm" is an operation of its own and a part of "addmm", but also of names that have nothing to do with it
    return name in ("mm", "bmm") if part == "mm" else part in name

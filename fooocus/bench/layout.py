"""Names and shapes of the three published SDXL files, at their true size and reduced.

The reduced files keep every layer and every name, so that as many kernels are started as in the real ones, but their
widths are divided: base UNet by 5, refiner by 6, CLIP-L by 6, bigG by 5, VAE by 4. That leaves 64, 128 and 256 channels
in both UNets, whole attention heads of 64, and about a twenty-fifth of the arithmetic: enough for a processor to show
where the time goes. Speeds at the reduced size say nothing about SDXL's.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Stored = Literal["F16", "BF16"]

BASE = "sd_xl_base_1.0.safetensors"
REFINER = "sd_xl_refiner_1.0.safetensors"
LORA = "sd_xl_offset_example-lora_1.0.safetensors"

_REAL = Path(__file__).resolve().parent / "data" / "real_headers.json.gz"
_TEXT_L, _TEXT_G = 768 // 6, 1280 // 5
_SIZE_WIDTH = 256  # of the sinusoid of each size id, the same in both
# Widths that no divisor gives: what comes in from outside a network. Context, and pooled text with size ids.
_INPUTS: Mapping[str, Mapping[int, int]] = {
    BASE: {2048: _TEXT_L + _TEXT_G, 2816: _TEXT_G + 6 * _SIZE_WIDTH},
    LORA: {2048: _TEXT_L + _TEXT_G, 2816: _TEXT_G + 6 * _SIZE_WIDTH},
    REFINER: {1280: _TEXT_G, 2560: _TEXT_G + 5 * _SIZE_WIDTH},
}
_UNET_DIVISORS: Mapping[str, int] = {BASE: 5, LORA: 5, REFINER: 6}
_CHANNELS_LEAST = 32  # 3 colours, 4 and 8 latent channels and a LoRA's 8 ranks stay as they are


def published(name: str) -> tuple[Shapes, dict[str, str]]:
    """Return the tensors' shapes and the metadata of one of the three published files; all tensors are F16."""
    known = json.loads(gzip.decompress(_REAL.read_bytes()))[name]
    shapes = {
        tensor: tuple(int(n) for n in shape.split("x") if n)
        for shape, names in known["tensors"].items()
        for tensor in names
    }
    return shapes, known["metadata"]


def header(
    shapes: Mapping[str, Shape], metadata: Mapping[str, str], stored: Stored = "F16", *, file_bytes: int = 0
) -> bytes:
    """Return the beginning of a safetensors file whose tensors follow in order, without gaps; with its length.

    It is padded to a multiple of eight, or so that the file will have ``file_bytes``.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * 2
        entries[name] = {"dtype": stored, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = file_bytes - 8 - end if file_bytes else len(text) + -len(text) % 8
    return length.to_bytes(8, "little") + text.ljust(length)


def reduced(name: str) -> tuple[Shapes, dict[str, str]]:
    """Return the same tensors at divided widths."""
    shapes, metadata = published(name)
    return {tensor: _reduce(name, tensor, shape) for tensor, shape in shapes.items()}, metadata


def _reduce(file: str, tensor: str, shape: Shape) -> Shape:
    if tensor.startswith(("model.diffusion_model.", "lora_unet_")):
        return _divide(shape, _UNET_DIVISORS[file], _INPUTS[file])
    if tensor.startswith("first_stage_model."):
        return _divide(shape, 4, {})
    # The vocabulary, 77 places and a wordless constant keep their size.
    kept = {49408: 49408, 77: 77}
    if tensor.startswith("conditioner.embedders.0.transformer."):
        return _divide(shape, 6, kept)
    return _divide(shape, 5, kept) if tensor.startswith("conditioner.") else shape


def _divide(shape: Shape, divisor: int, given: Mapping[int, int]) -> Shape:
    """Divide the first two axes; kernels of convolutions keep their size."""
    channels = (given.get(n, n // divisor if n >= _CHANNELS_LEAST else n) for n in shape[:2])
    return (*channels, *shape[2:])

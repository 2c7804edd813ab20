"""Miniature SDXL files for the tests: a base, a refiner and a LoRA in the original single-file layout.

They are far too small to draw anything, but every room treats them like the real files. Names and shapes are data
(``tests/data/tiny_checkpoints.json``, grouped by shape); a tensor's values follow from its name alone, so everybody
makes the same bytes and nobody has to store them. Made once per checkout, under ``.cache``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
SPEC_FILE = REPOSITORY / "tests" / "data" / "tiny_checkpoints.json"
CACHE = REPOSITORY / ".cache" / "tiny-v1"

BASE = "tiny_base.safetensors"
REFINER = "tiny_refiner.safetensors"
LORA = "tiny_offset_lora.safetensors"

Shapes = dict[str, tuple[int, ...]]
_UNET = "model.diffusion_model."


def tiny_folder() -> Path:
    """Return the folder that holds the three miniature files, writing them first where they are missing."""
    if not CACHE.is_dir():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="tiny-v1.", dir=CACHE.parent))
        try:
            _write(part)
            os.rename(part, CACHE)  # all three appear at once
        except OSError:
            if not CACHE.is_dir():  # otherwise a parallel run was first, with the same bytes
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return CACHE


def tiny_shapes(label: str) -> Shapes:
    """Read name -> shape of ``tiny_base``, ``tiny_refiner`` or ``tiny_offset_lora``."""
    groups = json.loads(SPEC_FILE.read_text(encoding="ascii"))[label]
    return {name: tuple(int(n) for n in shape.split("x") if n) for shape, names in groups.items() for name in names}


def _write(folder: Path) -> None:
    for label in ("tiny_base", "tiny_refiner"):
        tensors = {name: _weight(label, name, shape) for name, shape in tiny_shapes(label).items()}
        save_file(tensors, folder / f"{label}.safetensors", metadata={"format": "pt"})
    save_file(_lora(tiny_shapes("tiny_offset_lora")), folder / LORA, metadata={"format": "pt"})


def _draw(name: str, shape: tuple[int, ...], std: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * std


def _weight(label: str, name: str, shape: tuple[int, ...]) -> Tensor:
    seed = f"{label}:{name}"
    if name.endswith("position_ids"):
        return torch.arange(shape[-1])[None]
    if name.endswith("logit_scale"):
        return torch.tensor(4.6055).half()
    if len(shape) == 1:
        value = _draw(seed, shape, 0.05) if name.endswith("bias") else 1 + _draw(seed, shape, 0.1)
    elif "token_embedding" in name:
        value = _draw(seed, shape, 0.1)
    elif "position" in name:
        value = _draw(seed, shape, 0.05)
    else:
        value = _draw(seed, shape, 0.7 / math.prod(shape[1:]) ** 0.5)
    return value.half()


def _lora(shapes: Shapes) -> dict[str, Tensor]:
    weights = sorted(
        name
        for name, shape in tiny_shapes("tiny_base").items()
        if name.startswith(_UNET) and name.endswith(".weight") and len(shape) >= 2
    )
    names = (name.removeprefix(_UNET).removesuffix(".weight").replace(".", "_") for name in weights)
    numbers = {f"lora_unet_{name}": number for number, name in enumerate(names)}
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        module, _, part = name.partition(".")
        if part == "alpha":
            tensors[name] = torch.tensor(4.0 if numbers.get(module, 0) % 2 else 2.0)
        elif part == "lora_down.weight":
            tensors[name] = _draw(f"tiny_lora:{name}", shape).half()
        else:
            fan_in = math.prod(shapes[f"{module}.lora_down.weight"][1:])
            gain = 0.5 / (fan_in**0.5 * 4**0.5) if module in numbers else 0.3 / (fan_in**0.5 * 2)
            tensors[name] = _draw(f"tiny_lora:{name}", shape, gain).half()
    return tensors

"""Random weights in the published single-file layout, for computers where the real files are not at hand.

They must be random, not zeros: a card that multiplies zeros draws less power, clocks higher and shows times that no
picture will ever have. Every matrix is scaled by its inputs, so that nothing overflows in half precision however deep
the network is. All values are cut from one pool of normal numbers, which makes a file as fast as the disk can write.
"""

from __future__ import annotations

import math
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fooocus.bench.layout import BASE, LORA, REFINER, Shape, Shapes, Stored, header, published, reduced
from fooocus.errors import StorageError
from fooocus.models.words import amount

SEED = 1
_POOL = 1 << 22  # more than the largest matrix holds; larger ones repeat it
_GAIN = 0.7  # of a matrix: below 1, so that a hundred layers one behind the other stay within half precision
_LORA_GAIN = 0.3


def random_files(
    folder: Path, *, full: bool, stored: Stored = "F16", told: Callable[[str], object] = lambda text: None
) -> tuple[Path, ...]:
    """Return base, refiner and LoRA in ``folder``, writing those that are not there yet, in the format ``stored``.

    Raises :class:`StorageError` before anything is written if the disk has no room for them.
    """
    files = []
    for name in (BASE, REFINER, LORA):
        path = folder / f"{'full' if full else 'reduced'}{'-bf16' if stored == 'BF16' else ''}" / name
        if not path.is_file():
            shapes, metadata = published(name) if full else reduced(name)
            told(f"Writing random weights: {path.name}, {amount(_size_bytes(shapes))}.")
            _write(path, shapes, {**metadata, "fooocus.note": "random weights for measuring; draws nothing"}, stored)
        files.append(path)
    return tuple(files)


def _write(path: Path, shapes: Shapes, metadata: Mapping[str, str], stored: Stored = "F16") -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed, free = _size_bytes(shapes), shutil.disk_usage(path.parent).free
        if free < needed * 1.05:
            raise StorageError(
                f"The random weights {path} need {amount(needed)}, and {amount(free)} are free.",
                "Choose another data folder with --data.",
            )
        with part.open("wb") as file:
            _write_tensors(file, shapes, metadata, stored)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}.", "Choose another data folder with --data.") from error


def _write_tensors(file: BinaryIO, shapes: Shapes, metadata: Mapping[str, str], stored: Stored) -> None:
    file.write(header(shapes, metadata, stored))
    pool = np.random.default_rng(SEED).standard_normal(_POOL, dtype=np.float32)
    scaled: dict[tuple[float, float], np.ndarray] = {}  # a few dozen: matrices have few different numbers of inputs
    for name, shape in shapes.items():
        mean, deviation = _distribution(name, shape)
        if (mean, deviation) not in scaled:
            values = pool * deviation + mean
            scaled[mean, deviation] = values.astype(np.float16) if stored == "F16" else _bfloat16(values)
        _write_values(file, scaled[mean, deviation], zlib.crc32(name.encode()) % _POOL, math.prod(shape))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float32 values as bfloat16's bits: their upper half, rounded to the nearest."""
    return ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def _write_values(file: BinaryIO, pool: np.ndarray, start: int, count: int) -> None:
    """Write ``count`` values of the pool from ``start`` on, beginning again at its end."""
    while count:
        piece = pool[start : start + count]
        file.write(piece.data)
        count -= len(piece)
        start = 0


def _distribution(name: str, shape: Shape) -> tuple[float, float]:
    """Return mean and deviation of a tensor's values by what it is."""
    if name.endswith(".alpha"):
        return 8.0, 0.0
    if name.endswith(".logit_scale"):
        return 4.6, 0.0
    if len(shape) < 2:
        return (0.0, 0.05) if name.endswith("bias") else (1.0, 0.1)
    if "embedding" in name:
        return 0.0, 0.1 if "token" in name else 0.05
    gain = _LORA_GAIN if ".lora_" in name else _GAIN
    return 0.0, gain / math.prod(shape[1:]) ** 0.5


def _size_bytes(shapes: Shapes) -> int:
    return sum(math.prod(shape) * 2 for shape in shapes.values())

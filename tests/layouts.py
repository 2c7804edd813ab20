"""File layouts for the tests: the headers of the real files, UNets of any make, and sparse files that are all header.

A sparse file of the real size takes no room on the disk and reads as zeros, so the loader can be tried on networks of
SDXL's true size anywhere.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fooocus.bench.layout import BASE as BASE
from fooocus.bench.layout import LORA as LORA
from fooocus.bench.layout import REFINER as REFINER
from fooocus.bench.layout import header, published

Shapes = dict[str, tuple[int, ...]]

_REAL = Path(__file__).resolve().parent.parent / "fooocus" / "bench" / "data" / "real_headers.json.gz"
UNET = "model.diffusion_model."


@dataclasses.dataclass(frozen=True)
class RealFile:
    """A published file: its size, its metadata, and name -> shape of its tensors, all of them F16."""

    bytes: int
    metadata: dict[str, str]
    shapes: Shapes


def real_file(name: str) -> RealFile:
    """Read what is known of one of the three published files."""
    known = json.loads(gzip.decompress(_REAL.read_bytes()))[name]
    return RealFile(known["bytes"], known["metadata"], published(name)[0])


def write_sparse(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], *, file_bytes: int | None = None
) -> Path:
    """Write a safetensors file of F16 zeros without using disk; the header is padded to give ``file_bytes``."""
    begin = header(shapes, metadata, file_bytes=file_bytes or 0)
    path.write_bytes(begin)
    os.truncate(path, len(begin) + sum(math.prod(shape) * 2 for shape in shapes.values()))
    return path


@dataclasses.dataclass(frozen=True)
class UnetMake:
    """A UNet by its design: per level the transformer layers of each block (0: no attention) down and up, and between.

    ``middle`` is the number of transformer layers there, -1 for a lone residual block, -2 for nothing at all.
    """

    widths: tuple[int, ...]
    down: tuple[tuple[int, ...], ...]
    middle: int
    up: tuple[tuple[int, ...], ...]
    context: int = 2048
    adm: int = 2816


# Designs as published: arXiv:2307.01952 (SDXL), arXiv:2401.02677 (SSD-1B, Vega), arXiv:2312.04005 (KOALA)
_SDXL_WIDTHS = (320, 640, 1280)
SDXL = UnetMake(_SDXL_WIDTHS, ((0,) * 2, (2,) * 2, (10,) * 2), 10, ((10,) * 3, (2,) * 3, (0,) * 3))
SSD_1B = UnetMake(_SDXL_WIDTHS, ((0, 0), (2, 2), (4, 4)), -1, ((4, 4, 10), (2, 1, 1), (0, 0, 0)))
VEGA = UnetMake(_SDXL_WIDTHS, ((0, 0), (1, 1), (2, 2)), -1, ((2,) * 3, (1,) * 3, (0,) * 3))
KOALA_1B = UnetMake(_SDXL_WIDTHS, ((0,), (2,), (6,)), 6, ((6, 6), (2, 2), (0, 0)))
KOALA_700M = UnetMake(_SDXL_WIDTHS, ((0,), (2,), (5,)), -2, ((5, 5), (2, 2), (0, 0)))


def unet_shapes(make: UnetMake) -> Shapes:
    """List the tensors of a UNet in the original layout."""
    return {UNET + name: shape for name, shape in _unet(make)}


def _unet(make: UnetMake) -> Iterator[tuple[str, tuple[int, ...]]]:
    first, emb = make.widths[0], make.widths[0] * 4
    yield from _layer("time_embed.0", emb, first)
    yield from _layer("time_embed.2", emb, emb)
    yield from _layer("label_emb.0.0", emb, make.adm)
    yield from _layer("label_emb.0.2", emb, emb)
    yield from _layer("input_blocks.0.0", first, 4, 3, 3)
    number, width, skips = 1, first, [first]
    for level, depths in enumerate(make.down):
        for depth in depths:
            yield from _resnet(f"input_blocks.{number}.0", width, make.widths[level], emb)
            width = make.widths[level]
            yield from _transformer(f"input_blocks.{number}.1", width, depth, make.context)
            skips.append(width)
            number += 1
        if level < len(make.down) - 1:
            yield from _layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    if make.middle >= -1:
        yield from _resnet("middle_block.0", width, width, emb)
    if make.middle >= 0:
        yield from _transformer("middle_block.1", width, make.middle, make.context)
        yield from _resnet("middle_block.2", width, width, emb)
    number = 0
    for level, depths in enumerate(make.up):
        for position, depth in enumerate(depths):
            wanted = make.widths[-1 - level]
            yield from _resnet(f"output_blocks.{number}.0", width + skips.pop(), wanted, emb)
            width = wanted
            yield from _transformer(f"output_blocks.{number}.1", width, depth, make.context)
            if position == len(depths) - 1 and level < len(make.up) - 1:
                yield from _layer(f"output_blocks.{number}.{2 if depth else 1}.conv", width, width, 3, 3)
            number += 1
    yield from _layer("out.0", first)
    yield from _layer("out.2", 4, first, 3, 3)


def _layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _resnet(name: str, before: int, after: int, emb: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", after, emb)
    yield from _layer(f"{name}.out_layers.0", after)
    yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.skip_connection", after, before, 1, 1)


def _transformer(name: str, width: int, depth: int, context: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if depth == 0:
        return
    yield from _layer(f"{name}.norm", width)
    for side in ("in", "out"):
        yield from _layer(f"{name}.proj_{side}", width, width)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, source in (("attn1", width), ("attn2", context)):
            yield from _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from _layer(f"{block}.{attention}.to_k", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_v", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_out.0", width, width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _layer(f"{block}.{norm}", width)
        yield from _layer(f"{block}.ff.net.0.proj", width * 8, width)
        yield from _layer(f"{block}.ff.net.2", width, width * 4)

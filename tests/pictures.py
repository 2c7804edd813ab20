"""Pictures with settings inside, many of them fast: one encoding, then only the texts change."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from fooocus.images.metadata import record
from fooocus.request import LoraUse, Recipe, Size


def recipe(**changes: Any) -> Recipe:
    """Return a recipe; ``changes`` are its fields."""
    values: dict[str, Any] = {
        "prompt": "a fox",
        "negative": "text",
        "styles": (),
        "size": Size(128, 96),
        "seed": 7,
        "steps": 30,
        "switch": None,
        "guidance": 7.0,
        "sampler": "dpmpp_2m_sde",
        "schedule": "karras",
        "base": "sd_xl_base_1.0.safetensors",
        "refiner": None,
        "loras": (LoraUse("grain.safetensors", 0.5),),
        "vae": None,
        "clip_skip": 2,
        "size_positive": 1.5,
        "size_negative": 0.8,
        "size_until": 1.0,
    } | changes
    texts = {"positive_text": values["prompt"], "negative_text": values["negative"]}
    return Recipe(**(texts | values))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Maker:
    """Make PNG files of one small picture in a few colours, each with a recipe of its own."""

    def __init__(self, size: tuple[int, int] = (64, 48)) -> None:
        self._plain = [self._coloured(size, hue) for hue in range(0, 256, 32)]

    def png(self, made: Recipe | None, colour: int = 0) -> bytes:
        """Return the bytes of a picture; without a recipe it holds no text."""
        plain = self._plain[colour % len(self._plain)]
        text = chunk(b"iTXt", b"fooocus\0\0\0\0\0" + record(made).encode()) if made else b""
        return plain[:33] + text + plain[33:]  # behind the signature and the header chunk

    def put(self, file: Path, made: Recipe | None, colour: int = 0) -> Path:
        """Write a picture and return its path."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.png(made, colour))
        return file

    def _coloured(self, size: tuple[int, int], hue: int) -> bytes:
        buffer = io.BytesIO()
        shade = Image.linear_gradient("L").resize(size)
        Image.merge("HSV", (Image.new("L", size, hue), Image.new("L", size, 120), shade)).convert("RGB").save(
            buffer, "PNG"
        )
        return buffer.getvalue()

"""Width and height of a picture from the first bytes of its file; no decoder is asked."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

MAX_PIXELS = 64_000_000  # larger pictures are listed, but not opened
_MAX_SEGMENTS = 512
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers of JPEG (ITU-T T.81, table B.1)


def dimensions(file: Path) -> tuple[int, int] | None:
    """Return (width, height) of a PNG, JPEG or WebP file, ``None`` when it is none. Raises ``OSError``."""
    with file.open("rb") as source:
        start = source.read(32)
        size = None
        if start.startswith(b"\x89PNG\r\n\x1a\n") and start[12:16] == b"IHDR" and len(start) >= 24:
            width, height = struct.unpack_from(">II", start, 16)
            size = (width, height)
        elif start.startswith(b"\xff\xd8\xff"):
            source.seek(2)
            size = _jpeg(source)
        elif start[:4] == b"RIFF" and start[8:12] == b"WEBP" and len(start) >= 30:
            size = _webp(start)
    return size if size and 0 < size[0] < 2**31 and 0 < size[1] < 2**31 else None


def _jpeg(source: BinaryIO) -> tuple[int, int] | None:
    for _ in range(_MAX_SEGMENTS):
        mark = source.read(2)
        while mark == b"\xff\xff":  # fill bytes
            mark = b"\xff" + source.read(1)
        if len(mark) < 2 or mark[0] != 0xFF:
            return None
        if mark[1] in _NO_LENGTH:
            continue
        length = int.from_bytes(source.read(2), "big")
        if mark[1] in _FRAMES:
            frame = source.read(5)
            return (int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")) if len(frame) == 5 else None
        if length < 2 or mark[1] == 0xDA:
            return None
        source.seek(length - 2, io.SEEK_CUR)
    return None


def _webp(start: bytes) -> tuple[int, int] | None:
    """Read the first chunk of a WebP file (RFC 9649)."""
    match start[12:16]:
        case b"VP8X":
            return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
        case b"VP8L" if start[20] == 0x2F:
            bits = int.from_bytes(start[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if start[23:26] == b"\x9d\x01\x2a":
            return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
    return None

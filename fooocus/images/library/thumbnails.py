"""Small pictures for lists, each made once and kept under ``data/thumbnails``.

A thumbnail's name follows from the picture's place, time of change and length, so one that is there is right. Pictures
come from strangers as well: only three formats are opened, none above 64 megapixels.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from fooocus.images.library.dimensions import MAX_PIXELS, dimensions
from fooocus.images.library.places import Place, Seen

LONG_SIDE_PX = 320
QUALITY = 82
_FORMATS = ("PNG", "JPEG", "WEBP")
_PAPER = (255, 255, 255)  # what lies behind a transparent picture
_LEFT_SECONDS = 3600.0  # an unfinished file of this age belongs to nobody
_REMEMBERED_FAILURES = 10_000
_MAX_REMOVED = 5000  # in one go; the rest is for the next one


class Thumbnails:
    """Make and keep the thumbnails of the pictures below ``outputs`` in ``folder``."""

    def __init__(self, outputs: Path, folder: Path) -> None:
        self._outputs = outputs
        self._folder = folder
        self._failed: dict[str, None] = {}

    def path(self, place: Place, seen: Seen) -> Path:
        """Return where the thumbnail of a picture lies, or would lie."""
        key = key_of(place, seen)
        return self._folder / key[:2] / f"{key}.jpg"

    def get(self, place: Place, seen: Seen) -> Path | None:
        """Return the file of a thumbnail, made now if need be; ``None`` when the picture cannot be opened."""
        path = self.path(place, seen)
        if path.is_file():
            return path
        key = path.stem
        if key in self._failed:
            return None
        try:
            made = small(self._outputs / place.day / place.name)
            _write(path, made)
        except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
            # Pillow says by these that the bytes are no whole picture; the disk says so by OSError as well.
            logging.getLogger("fooocus.library").info("No thumbnail of %s: %s", place, error)
            if _passes(error):
                return None
            while len(self._failed) >= _REMEMBERED_FAILURES:
                self._failed.pop(next(iter(self._failed)), None)
            self._failed[key] = None
            return None
        return path

    def missing(self, place: Place, seen: Seen) -> bool:
        """Say whether a thumbnail is still to be made."""
        path = self.path(place, seen)
        return path.stem not in self._failed and not path.is_file()

    def remove(self, place: Place, seen: Seen) -> None:
        """Drop the thumbnail of a picture that is gone."""
        _unlink(self.path(place, seen))

    def clean(self, wanted: Collection[str]) -> int:
        """Remove thumbnails whose picture is gone or changed (not among the keys ``wanted``); return how many."""
        removed = 0
        for file in self._folder.glob("*/*"):
            if removed >= _MAX_REMOVED:
                break
            left = file.suffix == ".part" and _age_seconds(file) > _LEFT_SECONDS
            if left or (file.suffix == ".jpg" and file.stem not in wanted):
                removed += _unlink(file)
        return removed


def key_of(place: Place, seen: Seen) -> str:
    """Return what a thumbnail is called."""
    return hashlib.sha256(f"{place}|{seen.mtime_ns}|{seen.size_bytes}".encode()).hexdigest()[:32]


def small(file: Path) -> bytes:
    """Return a JPEG of the picture with :data:`LONG_SIDE_PX` as its long side.

    Raises ``OSError``, ``ValueError`` or one of Pillow's errors for what is no picture, too large or damaged.
    """
    size = dimensions(file)
    if size is None or size[0] * size[1] > MAX_PIXELS:
        raise ValueError("no picture, or one of over 64 megapixels")
    with Image.open(file, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError("a picture of over 64 megapixels")
        image.draft("RGB", (2 * LONG_SIDE_PX, 2 * LONG_SIDE_PX))
        if image.mode not in ("RGB", "L"):
            image.load()
        picture = _opaque(image)
        picture.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _opaque(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, (*_PAPER, 255))
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _passes(error: Exception) -> bool:
    """Say whether another try may do: the system's errors have a number, Pillow's about the bytes have none."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _write(path: Path, data: bytes) -> None:
    """Put a thumbnail in its place whole; it is not forced to the disk, as it can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _unlink(file: Path) -> bool:
    try:
        file.unlink()
    except OSError:  # held by another program, or gone already; the next cleaning sees it again
        return False
    return True


def _age_seconds(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0

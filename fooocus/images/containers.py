"""Texts inside PNG, JPEG and WebP files, read without decoding a pixel and without trusting a byte.

A picture from elsewhere is untrusted input: its chunks may claim any length, its compressed texts may inflate to
gigabytes, its offsets may point anywhere. So the containers are walked here by their published layouts (PNG: ISO/IEC
15948; JPEG: ITU-T T.81 and Exif 2.32; WebP: RFC 9649), only keywords that this program knows are read, and everything
is bounded. Whatever does not fit the layout is as if it were not there.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fooocus.errors import RequestError
from fooocus.request import MAX_PROMPT_CHARACTERS

OURS = "fooocus"  # the PNG keyword and the XMP element of our own record
A1111 = "parameters"  # the PNG keyword that most programs and sites look for
SCHEME = "fooocus_scheme"  # Fooocus 2 says here which of its two layouts ``parameters`` has
GRAPH = "prompt"  # ComfyUI's graph
KEYWORDS = (OURS, A1111, SCHEME, GRAPH)

MAX_TEXTS = 64
MAX_TEXT_BYTES = 256 * 1024
# Two prompts and two styled texts of the longest length, each character an escaped pair; and the rest of the recipe.
MAX_OWN_BYTES = 4 * 12 * MAX_PROMPT_CHARACTERS + 65536
MAX_CHUNKS = 100_000
MAX_DIGITS = 20  # a seed has up to 19

# Exif tags: where other programs put their text in JPEG and WebP.
USER_COMMENT, MAKER_NOTE, DESCRIPTION, MAKE, MODEL = 0x9286, 0x927C, 0x010E, 0x010F, 0x0110
_EXIF_FOLDER = 0x8769
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def read_texts(source: Path | bytes) -> dict[str, str]:
    """Return the known texts of a picture by keyword (:data:`KEYWORDS`).

    Raises :class:`~fooocus.errors.RequestError` naming ``picture`` when the file is missing or neither PNG, JPEG nor
    WebP. A picture without texts gives an empty dictionary.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise RequestError("picture", f"{_name(source)} cannot be read: {error.strerror}.", "Check its name.") from None
    with file:
        start = file.read(12)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            file.seek(8)
            return _png(file)
        if start.startswith(b"\xff\xd8\xff"):
            file.seek(2)
            return _metadata_blocks(_jpeg_blocks(file))
        if start[:4] == b"RIFF" and start[8:] == b"WEBP":
            return _metadata_blocks(_webp_blocks(file))
    raise RequestError("picture", f"{_name(source)} is no PNG, JPEG or WebP picture.", "Choose another file.")


def strict_json(text: str, *, nan_is_null: bool = False) -> Any:
    """Parse JSON without the liberties of Python's reader: no NaN, no infinity, no endless number, no deep nesting.

    ComfyUI writes NaN into its graphs; ``nan_is_null`` reads it as ``None``. Raises :class:`ValueError`.
    """

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError("a number is too long")
        return int(digits)

    def real(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError("a number is too large")
        return number

    def refuse(word: str) -> None:
        if not nan_is_null:
            raise ValueError(f"{word} is no JSON number")

    try:
        return json.loads(text, parse_int=whole, parse_float=real, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _name(source: Path | bytes) -> str:
    return "The picture" if isinstance(source, bytes) else source.name


def _png(file: BinaryIO) -> dict[str, str]:
    texts: dict[str, str] = {}
    seen = 0
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or seen >= MAX_TEXTS:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MAX_OWN_BYTES:
            seen += 1
            data, check = file.read(length), file.read(4)
            if check == struct.pack(">I", zlib.crc32(kind + data)):
                keyword, text = _png_text(kind, data)
                if keyword in KEYWORDS and text:
                    texts.setdefault(keyword, text)
        elif kind == b"IEND":
            break
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return texts


def _png_text(kind: bytes, data: bytes) -> tuple[str, str]:
    """Return keyword and text of one text chunk; an unreadable or oversized one gives empty text."""
    name, zero, rest = data.partition(b"\0")
    keyword = name.decode("latin-1")
    limit = MAX_OWN_BYTES if keyword == OURS else MAX_TEXT_BYTES
    if not zero or keyword not in KEYWORDS:
        return keyword, ""
    if kind == b"tEXt":
        return keyword, rest.decode("latin-1") if len(rest) <= limit else ""
    if kind == b"zTXt":
        return keyword, _inflate(rest[1:], limit).decode("latin-1")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    _, _, rest = rest.partition(b"\0")  # language
    _, _, rest = rest.partition(b"\0")  # keyword in that language
    if compressed:
        rest = _inflate(rest, limit)
    return keyword, rest.decode("utf-8", "replace") if len(rest) <= limit else ""


def _inflate(data: bytes, limit: int) -> bytes:
    try:
        stream = zlib.decompressobj()
        result = stream.decompress(data, limit)
    except zlib.error:
        return b""
    return b"" if stream.unconsumed_tail else result


def _jpeg_blocks(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield ``("exif", tiff)`` and ``("xmp", packet)`` of the segments before the picture data."""
    for _ in range(MAX_TEXTS * 4):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):
            return
        data = file.read(max(0, int.from_bytes(head[2:], "big") - 2))
        if head[1] == 0xE1 and data.startswith(b"Exif\0\0"):
            yield "exif", data[6:]
        elif head[1] == 0xE1 and data.startswith(_XMP):
            yield "xmp", data[len(_XMP) :]


def _webp_blocks(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind in (b"EXIF", b"XMP ") and length <= MAX_OWN_BYTES:
            data = file.read(length)
            yield ("exif", data.removeprefix(b"Exif\0\0")) if kind == b"EXIF" else ("xmp", data)
            file.seek(length % 2, io.SEEK_CUR)
        else:
            file.seek(length + length % 2, io.SEEK_CUR)


def _metadata_blocks(blocks: Iterator[tuple[str, bytes]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for kind, data in blocks:
        found = _xmp_texts(data) if kind == "xmp" else _exif_texts(data)
        texts = {**found, **texts}
    return texts


def _xmp_texts(packet: bytes) -> dict[str, str]:
    """Find our own element; a packet is searched, not parsed, so that no entity is ever expanded."""
    _, opened, rest = packet.partition(b"<fooocus:recipe>")
    text, closed, _ = rest.partition(b"</fooocus:recipe>")
    if not opened or not closed:
        return {}
    plain = text.decode("ascii", "replace")
    return {OURS: plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")}


def _exif_texts(tiff: bytes) -> dict[str, str]:
    tags = _exif_tags(tiff)
    texts: dict[str, str] = {}
    if comment := _comment(tags.get(USER_COMMENT, b"")):
        texts[A1111] = comment
    if scheme := _ascii(tags.get(MAKER_NOTE, b"")):
        texts[SCHEME] = scheme
    # ComfyUI writes its graph into a camera field, as "prompt:{...}".
    for tag in (MODEL, MAKE, DESCRIPTION):
        name, colon, value = _ascii(tags.get(tag, b"")).partition(":")
        if colon and name.lower() == GRAPH:
            texts.setdefault(GRAPH, value)
    return {keyword: text for keyword, text in texts.items() if len(text) <= MAX_TEXT_BYTES}


def _exif_tags(tiff: bytes) -> Mapping[int, bytes]:
    """Return the byte and text values of the first folder and the Exif folder of a TIFF block."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return {}
    tags: dict[int, bytes] = {}
    pending = [struct.unpack_from(order + "I", tiff, 4)[0]]
    for _ in range(2):  # the first folder, then the Exif folder that it points to; a loop of pointers ends here
        if not pending or pending[0] + 2 > len(tiff):
            break
        start = pending.pop()
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for number in range(min(entries, 512)):
            at = start + 2 + 12 * number
            if at + 12 > len(tiff):
                break
            tag, kind, count, value = struct.unpack_from(order + "HHII", tiff, at)
            if tag == _EXIF_FOLDER:
                pending = [value]
            elif kind in (1, 2, 7) and tag in (USER_COMMENT, MAKER_NOTE, DESCRIPTION, MAKE, MODEL):
                offset = at + 8 if count <= 4 else value
                tags.setdefault(tag, tiff[offset : offset + min(count, 2 * MAX_TEXT_BYTES)])
    return tags


def _comment(data: bytes) -> str:
    """Decode an Exif user comment: eight bytes name the coding, and UTF-16 comes in both byte orders."""
    code, body = data[:8], data[8:]
    if code == b"UNICODE\0":
        both = [body.decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
        return max(both, key=lambda text: sum(character.isascii() for character in text)).rstrip("\0")
    if code in (b"ASCII\0\0\0", b"\0" * 8):
        data = body
    return _ascii(data)


def _ascii(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip("\0")

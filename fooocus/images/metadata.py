"""A picture file and the recipe inside it: write both together, and read the recipe back.

PNG carries our record as an ``iTXt`` chunk named ``fooocus``; JPEG and WebP carry it as an XMP element. It is the whole
recipe as JSON in ASCII, so a prompt in any language, an emoji or half of one survives. Beside it stands the text block
that other programs and sites read (:mod:`fooocus.images.a1111`). Neither holds a date, a folder or a name of the
person: the same picture and recipe always give the same bytes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fooocus.errors import RequestError
from fooocus.images.a1111 import parameters_text
from fooocus.images.containers import A1111, OURS, USER_COMMENT, read_texts, strict_json
from fooocus.request import LoraUse, Recipe

Format = Literal["png", "jpeg", "webp"]
LAYOUT = 1  # counts up when the record's layout changes
QUALITY = 95  # of JPEG and WebP; the value that users of Fooocus know
PNG_LEVEL = 4  # a tenth larger than the usual 6 in less than half of the time (53 against 133 ms for 1152x896)
MAX_SEGMENT_BYTES = 65_000  # a JPEG segment holds 65,533, headers included
_EXIF_FOLDER = 0x8769

_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:fooocus="urn:fooocus:recipe:1">'
    "<fooocus:recipe>{}</fooocus:recipe></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def encode(
    image: Image.Image,
    recipe: Recipe,
    format: Format,
    *,
    metadata: bool = True,
    hashes: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of a picture file with its recipe inside.

    ``hashes`` gives the SHA-256 of model and LoRA files (hexadecimal, by file name) for the block that sites read.
    JPEG has room for about 60 KB of text; a longer recipe is left out there, see :func:`fits`.
    """
    buffer = io.BytesIO()
    if format == "png":
        image.save(
            buffer, "PNG", compress_level=PNG_LEVEL, pnginfo=_png_info(recipe, hashes or {}) if metadata else None
        )
        return buffer.getvalue()
    blocks = _blocks(recipe, format, hashes or {}) if metadata else {}
    if format == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True, **blocks)
    else:
        image.save(buffer, "WEBP", quality=QUALITY, **blocks)
    return buffer.getvalue()


def fits(recipe: Recipe, format: Format) -> bool:
    """Say whether the recipe goes into a file of this format; if not, save it beside the picture as ``.json``."""
    return format != "jpeg" or len(_xmp(recipe)) <= MAX_SEGMENT_BYTES


def record(recipe: Recipe) -> str:
    """Return the recipe as compact ASCII JSON, model files by name alone."""
    return json.dumps({"layout": LAYOUT, "recipe": without_folders(recipe).to_json()}, separators=(",", ":"))


def without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe with every model file reduced to its name, so that no folder of the person leaves the house."""
    return dataclasses.replace(
        recipe,
        base=_file_name(recipe.base),
        refiner=_file_name(recipe.refiner) if recipe.refiner else recipe.refiner,
        vae=_file_name(recipe.vae) if recipe.vae else recipe.vae,
        loras=tuple(LoraUse(_file_name(use.name), use.weight) for use in recipe.loras),
    )


def read_recipe(source: Path | bytes) -> Recipe | None:
    """Return the recipe inside a picture of ours (or the text of a ``.json`` saved beside one), ``None`` without one.

    Raises :class:`~fooocus.errors.RequestError` when the file is no picture, or its record is damaged or asks for what
    no request may ask for.
    """
    if isinstance(source, Path) and source.suffix.lower() == ".json":
        try:
            return parse_record(source.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError("picture", f"{source.name} cannot be read: {error}.", "Choose another file.") from None
    text = read_texts(source).get(OURS)
    return None if text is None else parse_record(text)


def parse_record(text: str) -> Recipe:
    """Read what :func:`record` wrote, strictly: every field is there, has its type and lies in its range.

    A stranger may have written it: model files are taken by name alone, never by a path.
    """
    try:
        values: Any = strict_json(text)
    except ValueError as error:
        raise RequestError("picture", f"The recipe in the picture cannot be read: {error}.", _REMEDY) from None
    if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
        raise RequestError("picture", "The picture holds a text of ours, but no recipe.", _REMEDY)
    if values.get("layout") != LAYOUT:
        raise RequestError(
            "picture", f"The recipe has layout {str(values.get('layout'))[:20]}.", "A newer version may read it."
        )
    recipe = without_folders(Recipe.from_json(values["recipe"]))
    recipe.to_request()  # refuses what lies out of range
    return recipe


_REMEDY = "It may have been changed by another program; type the settings in by hand."


def _file_name(reference: str) -> str:
    return re.split(r"[\\/]", reference.rstrip("\\/"))[-1] or reference


def _png_info(recipe: Recipe, hashes: Mapping[str, str]) -> PngInfo:
    info = PngInfo()
    info.add_text(A1111, parameters_text(without_folders(recipe), hashes))
    info.add_itxt(OURS, record(recipe))
    return info


def _blocks(recipe: Recipe, format: Format, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Return the ``exif`` and ``xmp`` blocks that have room."""
    exif = Image.Exif()
    text = parameters_text(without_folders(recipe), hashes)
    # Readers of this block expect big-endian UTF-16 whatever the byte order of the rest.
    exif.get_ifd(_EXIF_FOLDER)[USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    blocks = {"exif": exif.tobytes(), "xmp": _xmp(recipe)}
    return {name: data for name, data in blocks.items() if format == "webp" or len(data) <= MAX_SEGMENT_BYTES}


def _xmp(recipe: Recipe) -> bytes:
    text = record(recipe).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _XMP.format(text).encode("ascii")

"""One picture as the library knows it, read from its file by the strict readers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from fooocus.errors import RequestError
from fooocus.images.findings import Known, file_name
from fooocus.images.foreign import read_settings
from fooocus.images.library.dimensions import dimensions
from fooocus.images.library.places import Place, Seen, clock_ms

MAX_EXCERPT = 600  # characters of a prompt that a list shows; the whole is in the picture
UNCHECKED = Known()
_STRENGTH = re.compile(r":\d{1,2}(\.\d{0,6})?$", re.ASCII)  # of a style that was chosen as ``name:0.7``


@dataclasses.dataclass(frozen=True)
class Entry:
    """Hold one row of the library. ``prompt`` is whole, ``model`` the base's name without folder and suffix."""

    place: Place
    seen: Seen
    clock_ms: int
    width: int
    height: int
    prompt: str = ""
    negative: str = ""
    model: str = ""
    styles: tuple[str, ...] = ()
    seed: str = ""
    origin: str = ""
    favourite: bool = False


def read_entry(file: Path, place: Place, seen: Seen) -> Entry | None:
    """Read a picture; ``None`` when the file is none. One without settings, or with damaged ones, is listed as well."""
    try:
        size = dimensions(file)
        if size is None:
            return None
        values, origin = _values(file)
    except OSError:
        return None
    seed = values.get("seed")
    return Entry(
        place=place,
        seen=seen,
        clock_ms=clock_ms(place.name, seen.mtime_ns),
        width=size[0],
        height=size[1],
        prompt=whole(values.get("prompt", "")),
        negative=whole(values.get("negative", "")),
        model=model_name(str(values.get("base", ""))),
        styles=tuple(_STRENGTH.sub("", whole(style)[:200]) for style in values.get("styles") or ()),
        seed="" if seed is None else str(seed),
        origin=origin,
    )


def model_name(reference: str) -> str:
    """Return how a model is called in lists: its file's name without folder and suffix."""
    return whole(re.sub(r"\.safetensors$", "", file_name(reference), flags=re.IGNORECASE))


def whole(text: str) -> str:
    """Return ``text`` without halves of surrogate pairs, which no database and no answer can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _values(file: Path) -> tuple[dict[str, Any], str]:
    try:
        found = read_settings(file, UNCHECKED)
    except RequestError:
        return {}, ""
    return (dict(found.values), found.origin) if found else ({}, "")

"""The page's controls, one row per field of :class:`~fooocus.request.Request`, and the way back from their values.

A control is found by its field's name, never by its position. Lists (styles, LoRAs) are JSON texts in hidden boxes that
panels of our own draw and write. Adding an option to the page is adding its row here; a test fails when a field has
none. Limits, choices and defaults are not repeated: they come from ``request.py``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from fooocus.errors import RequestError
from fooocus.request import NONE, Request

Group = Literal["prompt", "settings", "styles", "models", "more"]
Kind = Literal["text", "whole", "slider", "choice", "pills", "size", "styles", "model", "loras"]

AUTOMATIC = ""  # the value by which a control says "you choose"
MAX_LORA_ROWS = 64  # more is no wish but a spoiled memory
_LONGEST_NUMBER = 40  # in signs; beyond it nobody reads a number, and of thousands Python makes none
SEED_RANGE = 2**32  # random seeds are short enough to be read out aloud; typed ones may be longer


@dataclasses.dataclass(frozen=True)
class Row:
    """Describe one control. ``low``, ``high``, ``step`` bound the slider where the field allows more than is useful.

    ``folder`` is the kind of model file to list, ``empty`` what the control says when nothing is chosen.
    """

    name: str
    label: str
    help: str
    group: Group
    kind: Kind
    low: float | None = None
    high: float | None = None
    step: float = 1
    folder: str = ""
    empty: str = ""


ROWS: tuple[Row, ...] = (
    Row("prompt", "Prompt", "Describe the picture", "prompt", "text"),
    Row("performance", "Performance", "More steps take longer and show finer detail.", "settings", "pills"),
    Row("size", "Size", "Width × height in pixels, multiples of 8.", "settings", "size"),
    Row("count", "Pictures", "How many to make.", "settings", "slider", high=32),
    Row("format", "File format", "PNG keeps every pixel; JPEG and WebP are smaller.", "settings", "pills"),
    Row("negative", "Negative prompt", "What to keep out of the picture.", "settings", "text", empty="blurry, text"),
    Row("seed", "Seed", "The same seed gives the same picture.", "settings", "whole", empty="Random"),
    Row("styles", "Styles", "Each adds its own words to the prompt.", "styles", "styles", empty="No style"),
    Row("base", "Base model", "The network that draws the picture.", "models", "model", folder="checkpoints"),
    Row("refiner", "Refiner", "Takes over for the last steps.", "models", "model", folder="checkpoints"),
    Row("switch", "Refiner from step", "Left empty: about the last third.", "models", "whole", empty="Automatic"),
    Row("loras", "LoRAs", "Small additions to the model, each with its weight.", "models", "loras", folder="loras"),
    Row("vae", "VAE", "Turns the network's result into pixels.", "models", "model", folder="vae"),
    Row("lines", "Lines of the prompt", "One prompt together, or a picture of each line.", "more", "choice"),
    Row("guidance", "Guidance", "How strictly the prompt is followed.", "more", "slider", 0, 30, 0.1),
    Row("steps", "Steps", "Left empty: as performance says.", "more", "whole", empty="Automatic"),
    Row("sampler", "Sampler", "The algorithm that removes the noise.", "more", "choice"),
    Row("schedule", "Schedule", "How the noise levels are spaced.", "more", "choice"),
    Row("clip_skip", "Clip skip", "2 is right for SDXL.", "more", "slider", 1, 12),
    Row("size_positive", "Size guidance, prompt", "As if from a larger original.", "more", "slider", step=0.05),
    Row("size_negative", "Size guidance, negative", "As if from a smaller one.", "more", "slider", step=0.05),
    Row("size_until", "Size guidance until", "Part of the run in which it acts.", "more", "slider", step=0.05),
)
BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}
METADATA: Mapping[str, Mapping[str, Any]] = {field.name: field.metadata for field in dataclasses.fields(Request)}


def to_request(values: Mapping[str, Any], defaults: Request) -> Request:
    """Turn the controls' values, by field name, into a complete request; what is not there is as in ``defaults``.

    A seed that was left empty is drawn here, so that the stored request is the whole truth. Raises
    :class:`~fooocus.errors.RequestError` naming the field.
    """
    asked = {name: _read(BY_NAME[name], value) if name in BY_NAME else value for name, value in values.items()}
    request = Request.from_json(defaults.to_json() | asked)
    return request if request.seed is not None else dataclasses.replace(request, seed=secrets.randbelow(SEED_RANGE))


def to_values(request: Request) -> dict[str, Any]:
    """Return what every control shows for ``request``; :func:`to_request` of it gives the request back."""
    values = request.to_json()
    for row in ROWS:
        value = values[row.name]
        if row.kind == "styles":
            values[row.name] = json.dumps(value)
        elif row.kind == "loras":
            values[row.name] = lora_rows(value)
        elif row.kind in ("text", "whole", "model") and not isinstance(value, str):
            values[row.name] = AUTOMATIC if value is None else str(value)
    return values


def lora_rows(uses: list[list[Any]] | None) -> str:
    """Return what the LoRAs' control holds for a request's ``loras``: whether they are the base's own, and rows."""
    rows = [{"name": name, "weight": weight, "on": True} for name, weight in uses or ()]
    return json.dumps({"own": uses is None, "rows": rows})


def _read(row: Row, value: Any) -> Any:
    """Turn one control's value into the JSON value of its field."""
    match row.kind:
        case "text":
            return clean(value) if isinstance(value, str) else value
        case "whole":
            return _whole(row, value)
        case "slider":
            return _whole(row, value) if isinstance(METADATA[row.name]["low"], int) else value
        case "model":
            return None if value in (AUTOMATIC, None) and row.name != "base" else value
        case "styles":
            return _parsed(row, value) or [NONE]
        case "loras":
            return _read_loras(row, _parsed(row, value))
        case "size":
            return value if value is not None else ""
    return value


def _whole(row: Row, value: Any) -> int | None:
    """Read a whole number from a text or number control; empty is ``None``."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise RequestError(row.name, f"{row.label}: {text[:40]!r} is no whole number.", "Type digits, or clear it.")
    if len(text) > _LONGEST_NUMBER:
        low, high = METADATA[row.name]["low"], METADATA[row.name]["high"]
        number = f"{text[:_LONGEST_NUMBER]}…"
        raise RequestError(row.name, f"{row.name} is {number}.", f"It must lie between {low} and {high}.")
    return int(text)  # the request says what is too small or too large


def _parsed(row: Row, value: Any) -> Any:
    """Read the JSON text of a list's control; a value that is no text is the list itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "null")
    except (ValueError, RecursionError):
        raise RequestError(row.name, f"The list of {row.label} cannot be read.", "Choose them anew.") from None


def _read_loras(row: Row, value: Any) -> Any:
    """Turn the rows into a request's ``loras``; rows that are switched off or name nothing are left out."""
    if not isinstance(value, dict):
        return value
    rows = value.get("rows") or []
    if value.get("own") or not isinstance(rows, list):
        return None
    if not all(isinstance(one, dict) for one in rows):
        raise RequestError(row.name, "A LoRA without a name was given.", "Choose them anew.")
    return [[one.get("name"), one.get("weight")] for one in rows if one.get("on", True) and one.get("name")]


def clean(text: str) -> str:
    """Drop what no file can hold: lone surrogates and control characters other than line break and tab."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))

"""The values of the page's controls by control name: what they begin with, and what of a former visit may come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.prompt.stock import load_stock
from fooocus.prompt.styles import Styles
from fooocus.request import NONE, Request
from fooocus.ui.fields import AUTOMATIC, BY_NAME, MAX_LORA_ROWS, METADATA, Row, to_values

LORA_WEIGHTS = (-2.0, 2.0)  # of the slider; a number may be typed beyond it, up to MAX_LORA_WEIGHT
MAX_LORA_WEIGHT = 100.0
_LONGEST_NAME = 1000


def initial(defaults: Request) -> dict[str, Any]:
    """Return the value of every control for ``defaults``."""
    return to_values(defaults)


def settings_of(request: Request) -> dict[str, Any]:
    """Return what every control but the prompt shows for ``request``.

    It may name a file that is not there yet, which its panel says.
    """
    values = initial(request)
    return {name: values[name] for name in BY_NAME if name != "prompt"}


def restorable(controls: Mapping[str, Any], config: Config, defaults: Request) -> dict[str, Any]:
    """Return those remembered values that still mean something. A file that is gone is kept: its panel names it."""
    known = initial(defaults)
    kept: dict[str, Any] = {}
    for name, value in controls.items():
        if name not in known:
            continue
        row = BY_NAME[name]
        if row.kind in ("text", "whole", "size"):  # what was typed comes back as it was, right or wrong
            if isinstance(value, str):
                kept[name] = value
        elif _fits(row, value, known[name], config):
            kept[name] = value
    return kept


def _fits(row: Row, value: Any, known: Any, config: Config) -> bool:
    match row.kind:
        case "model":
            return value == known or value in (AUTOMATIC, NONE) or _is_name(value)
        case "styles":
            return value == known or _are_styles(value, load_stock(config.styles_folder).styles)
        case "loras":
            return value == known or _are_loras(value)
        case "choice" | "pills":
            return isinstance(value, str) and value in METADATA[row.name]["choices"]
    low, high = slider_bounds(row, known)
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_name(value: Any) -> bool:
    """Whether a value can name a file in the model folders, where it is looked up; it is never joined to a path."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        return False
    ways = (PurePosixPath(value), PureWindowsPath(value))
    return value.isprintable() and not any(way.is_absolute() or way.drive or ".." in way.parts for way in ways)


def _are_styles(value: Any, styles: Styles) -> bool:
    """Whether a text is a list of references to styles; one whose style has gone is kept, its panel says so."""
    names = _json_of(value)
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in names):
        return False
    try:
        for name in names:
            styles.use(name)
    except RequestError:
        return all(name.isprintable() for name in names)
    return True


def _are_loras(value: Any) -> bool:
    chosen = _json_of(value)
    if not isinstance(chosen, dict) or not isinstance(chosen.get("own"), bool):
        return False
    rows = chosen.get("rows")
    return isinstance(rows, list) and len(rows) <= MAX_LORA_ROWS and all(_is_lora(one) for one in rows)


def _is_lora(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("on"), bool):
        return False
    name, weight = row.get("name"), row.get("weight")
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not abs(weight) <= MAX_LORA_WEIGHT:
        return False
    return name == AUTOMATIC or _is_name(name)


def _json_of(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None


def slider_bounds(row: Row, value: float) -> tuple[float, float]:
    """Return the useful range of a slider, widened to hold the default."""
    metadata = METADATA[row.name]
    low = row.low if row.low is not None else metadata["low"]
    high = row.high if row.high is not None else metadata["high"]
    return min(low, value), max(high, value)

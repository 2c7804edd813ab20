"""Gradio components for the rows of :mod:`fooocus.ui.fields`, by control name.

Styles, models and LoRAs are drawn by panels of our own (``static/``), because what is chosen there needs more words
than a list of Gradio can show; their values stand in hidden boxes that are controls like all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import gradio as gr

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.prompt.styles import Styles, load_styles
from fooocus.request import NONE, Request
from fooocus.ui.choices import SHAPES, choices, shape_of
from fooocus.ui.fields import AUTOMATIC, BY_NAME, MAX_LORA_ROWS, METADATA, ROWS, Group, Row, to_values

LORA_WEIGHTS = (-2.0, 2.0)  # of the slider; a number may be typed beyond it, up to MAX_LORA_WEIGHT
MAX_LORA_WEIGHT = 100.0
DRAWN = ("styles", "model", "loras")  # kinds of rows that have a panel of our own
_LONGEST_NAME = 1000
Controls = dict[str, Any]  # control name -> component


def initial(defaults: Request) -> dict[str, Any]:
    """Return the value of every control for ``defaults``."""
    return to_values(defaults)


def settings_of(controls: Mapping[str, Any], request: Request) -> dict[Any, Any]:
    """Return by component what every control but the prompt shows for ``request``.

    It may name a file that is not there yet, which its panel says.
    """
    values = initial(request)
    return {control: values[name] for name, control in controls.items() if name != "prompt"}


def build_boxes(defaults: Request) -> Controls:
    """Make the hidden boxes of what panels draw, where Gradio's layout stands now. They stay when tabs come and go."""
    values = initial(defaults)
    return {
        row.name: gr.Textbox(values[row.name], elem_id=f"field-{row.name}", visible="hidden", container=False)
        for row in ROWS
        if row.kind in DRAWN
    }


def build_group(group: Group, defaults: Request) -> Controls:
    """Make the controls of one group where Gradio's layout stands now, and the places of what panels draw."""
    made: Controls = {}
    for row in ROWS:
        if row.group != group:
            continue
        if row.kind in DRAWN:
            words = f'field="{row.name}" label="{row.label}" help="{row.help}"'
            place = f"<fooocus-{row.kind} {words}></fooocus-{row.kind}>"
            gr.HTML(place, apply_default_css=False, js_on_load=None, elem_classes="drawn")
            continue
        with gr.Column(elem_id=f"place-{row.name}", elem_classes="place"):
            # What stands at the right end of a field's head comes before the field for those who go by keys.
            if row.name == "seed":
                gr.HTML("<fooocus-seed></fooocus-seed>", apply_default_css=False, js_on_load=None, elem_classes="drawn")
                made[row.name] = _simple(row, defaults)
                continue
            back = gr.Button("Reset", elem_classes="back", size="sm")  # panels.css shows it while the value differs
            made |= _size(row, defaults) if row.kind == "size" else {row.name: _simple(row, defaults)}
            begin = json.dumps(initial(defaults)[row.name])
            back.click(None, None, made[row.name], js=f"() => {begin}")
    return made


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
            return value == known or _are_styles(value, load_styles(config.styles_folder))
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


def _simple(row: Row, defaults: Request) -> Any:
    value = initial(defaults)[row.name]
    common = {"label": row.label, "info": row.help, "value": value, "elem_id": f"field-{row.name}", "interactive": True}
    match row.kind:
        case "pills":
            return gr.Radio(choices(row), elem_classes="pills", **common)
        case "choice":
            return gr.Dropdown(choices(row), **common)
        case "slider":
            low, high = slider_bounds(row, value)
            return gr.Slider(low, high, step=row.step, buttons=[], **common)
    lines = 3 if row.name == "negative" else 1
    return gr.Textbox(lines=lines, max_lines=12, placeholder=row.empty, **common)


def slider_bounds(row: Row, value: float) -> tuple[float, float]:
    """Return the useful range of a slider, widened to hold the default."""
    metadata = METADATA[row.name]
    low = row.low if row.low is not None else metadata["low"]
    high = row.high if row.high is not None else metadata["high"]
    return min(low, value), max(high, value)


def _size(row: Row, defaults: Request) -> Controls:
    """Shapes to press, and the box that holds the size itself: what is pressed is written there, at its scale."""
    size = str(defaults.size)
    shapes = gr.Radio(list(SHAPES), value=shape_of(defaults.size), label=row.label, elem_id="shapes")
    every = gr.Button("All 26 sizes", elem_id="every-shape", size="sm")
    box = gr.Textbox(
        value=size, label=row.help, show_label=False, info=row.help, max_lines=1, elem_id=f"field-{row.name}"
    )
    gr.HTML("<fooocus-size></fooocus-size>", apply_default_css=False, js_on_load=None, elem_classes="drawn")
    known = [size for _, size in SHAPES]
    shapes.input(None, [shapes, box], box, js="(shape, size) => fooocusShapes.press(shape, size)")
    box.change(None, box, shapes, js=f"size => fooocusShapes.match(size, {known!r})")
    every.click(None, None, None, js="() => { document.body.classList.toggle('every-shape') }")
    return {row.name: box}

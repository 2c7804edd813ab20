"""Gradio components for the rows of :mod:`fooocus.ui.fields`, by control name."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fooocus.config import Config
from fooocus.request import Request
from fooocus.ui.choices import SHAPES, choices, shape_of
from fooocus.ui.fields import BY_NAME, LORA_ROWS, METADATA, ROWS, Group, Row, spread, to_values

LORA_WEIGHTS = (-2.0, 2.0)
Controls = dict[str, Any]  # control name -> component


def initial(defaults: Request) -> dict[str, Any]:
    """Return the value of every control for ``defaults``."""
    return spread(to_values(defaults))


def row_of(control: str) -> Row:
    """Return the row that a control belongs to: ``loras.1.name`` is one of ``loras``."""
    return BY_NAME[control.partition(".")[0]]


def build_group(group: Group, config: Config, defaults: Request) -> Controls:
    """Make the controls of one group where Gradio's layout stands now."""
    made: Controls = {}
    for row in ROWS:
        if row.group != group:
            continue
        if row.kind == "loras":
            made |= _loras(row, config, defaults)
        elif row.kind == "size":
            made |= _size(row, defaults)
        else:
            made[row.name] = _simple(row, config, defaults)
    return made


def restorable(controls: dict[str, Any], config: Config, defaults: Request) -> dict[str, Any]:
    """Return those remembered values that still mean something: the file is there, the number is in range."""
    known = initial(defaults)
    kept: dict[str, Any] = {}
    for name, value in controls.items():
        if name not in known or (isinstance(value, list | dict) and row_of(name).kind != "styles"):
            continue
        row = row_of(name)
        if row.kind in ("text", "whole", "size"):  # what was typed comes back as it was, right or wrong
            if isinstance(value, str):
                kept[name] = value
        elif _fits(name, row, value, known, config, defaults):
            kept[name] = value
    return kept


def _fits(name: str, row: Row, value: Any, known: dict[str, Any], config: Config, defaults: Request) -> bool:
    if name.endswith(".weight"):
        return isinstance(value, int | float) and LORA_WEIGHTS[0] <= value <= LORA_WEIGHTS[1]
    if name.endswith((".own", ".on")):
        return isinstance(value, bool)
    if row.kind in ("model", "loras", "styles", "choice", "pills"):
        offered = {stands_for for _, stands_for in choices(row, config, defaults)}
        return all(
            isinstance(item, str) and item in offered for item in (value if isinstance(value, list) else [value])
        )
    low, high = slider_bounds(row, known[name])
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _simple(row: Row, config: Config, defaults: Request) -> Any:
    value = initial(defaults)[row.name]
    common = {"label": row.label, "info": row.help, "value": value, "elem_id": f"field-{row.name}", "interactive": True}
    match row.kind:
        case "pills":
            return gr.Radio(choices(row, config, defaults), elem_classes="pills", **common)
        case "choice":
            return gr.Dropdown(choices(row, config, defaults), **common)
        case "model":
            return gr.Dropdown(choices(row, config, defaults), filterable=True, **common)
        case "styles":
            return gr.Dropdown(choices(row, config, defaults), multiselect=True, **common)
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
    known = [size for _, size in SHAPES]
    shapes.input(None, [shapes, box], box, js="(shape, size) => fooocusShapes.press(shape, size)")
    box.change(None, box, shapes, js=f"size => fooocusShapes.match(size, {known!r})")
    every.click(None, None, None, js="() => { document.body.classList.toggle('every-shape') }")
    return {row.name: box}


def _loras(row: Row, config: Config, defaults: Request) -> Controls:
    values = initial(defaults)
    offered = choices(row, config, defaults)
    low, high = LORA_WEIGHTS
    made: Controls = {}
    with gr.Column(elem_id=f"field-{row.name}"):
        own = gr.Checkbox(values["loras.own"], label="LoRAs: the base's own", info=row.help, interactive=True)
        made["loras.own"] = own
        with gr.Column(elem_id="lora-rows"):
            for i in range(1, LORA_ROWS + 1):
                with gr.Row(elem_classes="lora"):
                    made[f"loras.{i}.on"] = gr.Checkbox(
                        values[f"loras.{i}.on"],
                        label=f"Use LoRA {i}",
                        container=False,
                        interactive=True,
                        elem_classes="use",
                    )
                    made[f"loras.{i}.name"] = gr.Dropdown(
                        offered, value=values[f"loras.{i}.name"], label=f"LoRA {i}", interactive=True, min_width=120
                    )
                    made[f"loras.{i}.weight"] = gr.Slider(
                        low,
                        high,
                        value=values[f"loras.{i}.weight"],
                        step=0.05,
                        label="Weight",
                        buttons=[],
                        min_width=100,
                    )
    own.change(None, own, None, js="own => { document.body.classList.toggle('own-loras', own) }")
    return made

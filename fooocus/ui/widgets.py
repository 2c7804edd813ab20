"""Gradio components for the rows of :mod:`fooocus.ui.fields`, by control name.

Styles, models and LoRAs are drawn by panels of our own (``static/``), because what is chosen there needs more words
than a list of Gradio can show; their values stand in hidden boxes that are controls like all others.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from fooocus.request import Request
from fooocus.ui.choices import SHAPES, choices, shape_of
from fooocus.ui.controls import initial, slider_bounds
from fooocus.ui.fields import ROWS, Group, Row

DRAWN = ("styles", "model", "loras")  # kinds of rows that have a panel of our own
Controls = dict[str, Any]  # control name -> component


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
            begin = f"{json.dumps(row.name)}, {json.dumps(initial(defaults)[row.name])}"
            back.click(None, None, made[row.name], js=f"() => fooocusPanels.beginning({begin})")
    return made


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

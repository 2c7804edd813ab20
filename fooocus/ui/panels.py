"""The Advanced column's parts that belong to no single field, and the wires between Gradio and our own panels.

The panels themselves are drawn in the browser (``static/models.js``, ``static/styles.js``). Here is what they need of
the server besides lists (:mod:`fooocus.ui.data`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from fooocus.config import Config
from fooocus.request import Request
from fooocus.ui.controls import initial
from fooocus.ui.fields import Group
from fooocus.ui.presets_panel import PresetsPanel
from fooocus.ui.styled import styled

QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# Tells the panels what the boxes hold now, whoever has put it there.
_TAKE = "(...values) => { window.fooocusPanels?.take(%s, values, %s) }"


class Panels:
    """Build the parts and wire them. One object serves all tabs. ``begin`` tells what a page begins with."""

    def __init__(self, config: Config, defaults: Request, begin: Callable[[], Request]) -> None:
        self._config, self._defaults = config, defaults
        self._presets = PresetsPanel(config, defaults, begin)

    def begin(self, group: Group) -> None:
        """Add what stands above the controls of a group, where Gradio's layout stands now."""
        if group == "settings":
            self._presets.build()

    def build(self, group: Group) -> None:
        """Add what stands below the controls of a group, where Gradio's layout stands now."""
        if group == "styles":
            self._styled = _html("", "styled")
            _html("<fooocus-cards></fooocus-cards>", "style-cards", "drawn")
        if group == "more":
            _html("<fooocus-notice></fooocus-notice>", "notice-when-done", "drawn")
            gr.Button("Read settings from a picture", elem_id="read-picture")

    def build_hidden(self) -> None:
        """Add the boxes by which panels ask."""
        self._presets.build_hidden()
        self._ask = gr.Textbox(elem_id="field-styled-ask", visible="hidden", container=False)

    def wire(self, controls: Mapping[str, Any]) -> None:
        """Join the panels to the page's controls."""
        every = list(controls.values())
        begin = initial(self._defaults)
        told = _TAKE % (json.dumps(list(controls)), json.dumps(begin))
        gr.on([control.change for control in every], None, every, None, js=told)
        self._presets.wire(controls, QUIET)
        self._ask.change(self._style, self._ask, self._styled, trigger_mode="always_last", queue=False, **QUIET)

    def _style(self, asked: str) -> str:
        return styled(asked or "", self._config)


def _html(text: str, elem_id: str, elem_classes: str = "") -> Any:
    return gr.HTML(text, elem_id=elem_id, elem_classes=elem_classes, apply_default_css=False, js_on_load=None)

"""Presets on the page: choose one, save the present state under a name, rename and delete one's own, go back.

The panel (``static/presets.js``) asks through a hidden box and is answered through another; the answer's number tells
it to which of its questions it belongs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from fooocus.config import Config
from fooocus.errors import FooocusError
from fooocus.prompt.own_presets import delete_preset, rename_preset, save_preset
from fooocus.prompt.presets import layered, load_presets
from fooocus.request import Request
from fooocus.ui.controls import initial, settings_of
from fooocus.ui.fields import to_request

_SAID = "(said) => { window.fooocusPanels?.take(['preset-said'], [said]) }"


class PresetsPanel:
    """Carry out what the panel asks. One object serves all tabs. ``begin`` tells what a page begins with."""

    def __init__(self, config: Config, defaults: Request, begin: Callable[[], Request] | None = None) -> None:
        self._folder = config.styles_folder / "presets"
        self._defaults, self._begin = defaults, begin or (lambda: defaults)
        self._controls: Mapping[str, Any] = {}

    def build(self) -> None:
        """Add the panel's place, where Gradio's layout stands now."""
        begin = escape(json.dumps(initial(self._defaults)))
        place = f'<fooocus-presets begin="{begin}"></fooocus-presets>'
        gr.HTML(place, apply_default_css=False, js_on_load=None, elem_classes="drawn")

    def build_hidden(self) -> None:
        """Add the boxes by which the panel asks and is answered."""
        self._ask = gr.Textbox(elem_id="field-preset-ask", visible="hidden", container=False)
        self._said = gr.Textbox(elem_id="field-preset-said", visible="hidden", container=False)

    def wire(self, controls: Mapping[str, Any], quiet: Mapping[str, Any]) -> None:
        """Join the panel to the page's controls."""
        self._controls = controls
        every = list(controls.values())
        settings = [control for name, control in controls.items() if name != "prompt"]
        self._ask.change(self._answer, {self._ask, *every}, [self._said, *settings], queue=False, **quiet)
        self._said.change(None, self._said, None, js=_SAID)

    def _answer(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Do what is asked and say how it went; what goes wrong is a sentence in the panel."""
        asked = _read(given[self._ask])
        said: dict[str, Any] = {"number": asked.get("number"), "do": asked.get("do")}
        updates: dict[Any, Any] = {}
        try:
            name = str(asked.get("name", ""))
            match asked.get("do"):
                case "take":
                    request = layered(load_presets(self._folder).find(name).values)
                    said["name"], updates = name, settings_of(self._controls, request)
                case "reset":
                    said["name"], updates = "", settings_of(self._controls, self._begin())
                case "save":
                    values = {field: given[control] for field, control in self._controls.items()}
                    # A seed that was left open stays open: it is no part of the settings.
                    seed = values.pop("seed", "")
                    request = to_request(values | ({"seed": seed} if seed else {"seed": "0"}), self._defaults)
                    request = request if seed else Request(**{**vars(request), "seed": None})
                    said["name"] = save_preset(self._folder, name, request, replace=asked.get("replace") is True)
                case "rename":
                    said["name"] = rename_preset(self._folder, name, str(asked.get("to", "")))
                case "delete":
                    delete_preset(self._folder, name)
                    said["name"] = ""
        except FooocusError as error:
            said |= {"sentence": error.sentence, "remedy": error.remedy}
        return {self._said: json.dumps(said), **updates}


def _read(text: str | None) -> dict[str, Any]:
    """Read a question. It comes from a browser and may be anything."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}

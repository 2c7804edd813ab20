"""Presets on the page: choose one, save the present state under a name, rename and delete one's own, go back.

What a preset or going back replaces, the negative prompt among it, is told with the answer, so that it can be undone.

The panel (``static/presets.js``) asks through a hidden box and is answered through another; the answer's number tells
it to which of its questions it belongs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fooocus.config import Config
from fooocus.errors import FooocusError
from fooocus.prompt.own_presets import delete_preset, rename_preset, save_preset
from fooocus.prompt.presets import layered, load_presets
from fooocus.request import Request
from fooocus.ui.actions import CONTROLS, SETTINGS
from fooocus.ui.controls import restorable, settings_of
from fooocus.ui.fields import to_request


class PresetsPanel:
    """Carry out what the panel asks. One object serves all tabs. ``begin`` tells what a page begins with."""

    def __init__(self, config: Config, defaults: Request, begin: Callable[[], Request] | None = None) -> None:
        self._config, self._folder = config, config.styles_folder / "presets"
        self._defaults, self._begin = defaults, begin or (lambda: defaults)

    def answer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked and say how it went; what goes wrong is a sentence in the panel."""
        asked = _read(given["preset-ask"])
        said: dict[str, Any] = {"number": asked.get("number"), "do": asked.get("do")}
        updates: dict[str, Any] = {}
        try:
            name = str(asked.get("name", ""))
            match asked.get("do"):
                case "take":
                    request = layered(load_presets(self._folder).find(name).values)
                    said |= {"name": name, "former": _settings(given)}
                    updates = settings_of(request)
                case "reset":
                    said |= {"name": "", "former": _settings(given)}
                    updates = settings_of(self._begin())
                case "undo":
                    said["name"], former = name, asked.get("former")
                    known = restorable(former if isinstance(former, dict) else {}, self._config, self._defaults)
                    updates = {field: known[field] for field in SETTINGS if field in known}
                case "save":
                    values = {field: given[field] for field in CONTROLS}
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
        return {"preset-said": json.dumps(said), **updates}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    return {field: given[field] for field in SETTINGS}


def _read(text: str | None) -> dict[str, Any]:
    """Read a question. It comes from a browser and may be anything."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}

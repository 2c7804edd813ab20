"""Presets: named files with a part of a request, and the model files that they want.

A file holds ``{"about": text, "request": {field: value}, "wants": {kind: [file]}}``, and ``"knows"`` where its model
draws only what is named there: ``{"subjects": [word], "sentence": text}``. Layers are put on each other from
the built-in defaults through a preset and the person's own settings to the single request; the last word counts.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fooocus.errors import RequestError
from fooocus.request import Request

MAX_FILE_BYTES = 2**18
SHIPPED = ("default", "pocket", "quality")  # come with the program; a person's own are the others
STAND_IN = "pocket"  # the preset whose model comes with the program
# What a field decides about others: who names another base does not want the former one's refiner.
_REPLACES: Mapping[str, tuple[str, ...]] = {
    "base": ("refiner", "loras", "vae", "switch"),
    "refiner": ("switch",),
    "performance": ("steps", "switch"),
    "steps": ("switch",),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Hold one preset. ``values`` are fields as in a request's JSON; ``wants`` names model files by kind.

    A model that draws only a few ``subjects`` has a ``limit``, a sentence that says so.
    """

    name: str
    about: str
    values: Mapping[str, Any]
    wants: Mapping[str, tuple[str, ...]]
    subjects: tuple[str, ...] = ()
    limit: str = ""

    def outside(self, prompt: str) -> str:
        """Return the sentence about the limit if the prompt names nothing that the model draws, else nothing."""
        said = set(re.findall(r"\w+", prompt.lower()))
        known = {form for word in self.subjects for form in (word, f"{word}s")}
        return self.limit if self.subjects and said and not said & known else ""


@dataclasses.dataclass(frozen=True)
class Presets:
    """Hold the presets of a folder by name, and what was wrong with its files."""

    by_name: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(self.by_name)

    def find(self, name: str) -> Preset:
        """Return the preset; raise :class:`~fooocus.errors.RequestError` naming ``preset`` and near names, or all."""
        if name in self.by_name:
            return self.by_name[name]
        near = difflib.get_close_matches(name[:100], self.by_name, n=3, cutoff=0.5)
        remedy = f"Did you mean {', '.join(near)}?" if near else f"Known are {', '.join(self.names)}."
        raise RequestError("preset", f"There is no preset {name[:60]!r}.", remedy)

    def outside(self, prompt: str, base: str) -> str:
        """Return what is to be said about a prompt that the model ``base`` knows nothing of, or nothing."""
        limited = (preset for preset in self.by_name.values() if preset.limit and preset.values.get("base") == base)
        return next((preset.outside(prompt) for preset in limited), "")


def load_presets(folder: Path) -> Presets:
    """Read every ``*.json`` directly in ``folder``; a preset is called like its file."""
    by_name: dict[str, Preset] = {}
    problems: list[str] = []
    for file in sorted(folder.glob("*.json")):
        try:
            by_name[file.stem] = _read_file(file)
        except (OSError, ValueError, RecursionError, RequestError) as error:
            problems.append(f"Preset {file.name} was left out: {error}")
    return Presets(by_name, tuple(problems))


def layered(*layers: Mapping[str, Any]) -> Request:
    """Put partial requests (fields as in JSON) on each other, the last on top, and return the whole.

    A layer that names another base, refiner, performance or number of steps takes back what lower layers had said about
    the fields that hang on it. Raises :class:`~fooocus.errors.RequestError` for an unknown field or a wrong value.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for field, dependents in _REPLACES.items():
            if field in layer and layer[field] != merged.get(field):
                for dependent in dependents:
                    merged.pop(dependent, None)
        merged.update(layer)
    return Request.from_json(merged)


def _read_file(file: Path) -> Preset:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("it is larger than 256 KB.")
    values = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(values, dict) or not isinstance(values.get("request"), dict):
        raise ValueError('it must hold {"about": ..., "request": {...}, "wants": {...}}.')
    wants = values.get("wants", {})
    if not isinstance(wants, dict) or not all(_words(names) for names in wants.values()):
        raise ValueError('"wants" must hold lists of file names by kind.')
    knows = values.get("knows", {"subjects": [], "sentence": ""})
    if not isinstance(knows, dict) or not isinstance(knows.get("sentence"), str) or not _words(knows.get("subjects")):
        raise ValueError('"knows" must hold {"subjects": [word], "sentence": text}.')
    Request.from_json(values["request"])
    return Preset(
        name=file.stem,
        about=str(values.get("about", "")),
        values=values["request"],
        wants={kind: tuple(names) for kind, names in wants.items()},
        subjects=tuple(word.lower() for word in knows["subjects"]),
        limit=knows["sentence"],
    )


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)

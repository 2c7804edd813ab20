"""Settings that were found in a picture or a text, as this page can take them.

Names of models and styles are looked up among those that are here; what is not here is said by name and nothing stands
in for it unsaid. What the page would choose by itself is left to it, so that restored settings look as they were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.images.a1111 import parameters_text
from fooocus.images.containers import A1111, read_texts
from fooocus.images.findings import MAX_ITEMS, Finder, Found, Known
from fooocus.images.metadata import record
from fooocus.prompt.plan import again
from fooocus.prompt.stock import load_stock
from fooocus.prompt.styles import RANDOM, Styles
from fooocus.request import NONE, PERFORMANCES, Recipe, Request, companions
from fooocus.ui.choices import model_files, shown, style_titles, style_words
from fooocus.ui.fields import BY_NAME, ROWS

# Not a part of one picture: how many are made, and the file that they are put into.
_KEPT = ("count", "format")
_STRENGTH = re.compile(r"\d{1,2}(\.\d{0,6})?", re.ASCII)
ORIGINS: Mapping[str, str] = {
    "ours": "Made with this program",
    "fooocus": "Made with Fooocus 2",
    "a1111": "Written by a Stable Diffusion program",
    "comfyui": "Made with ComfyUI",
}


def known_names(config: Config) -> Known:
    """Return the names of all models and styles that are here."""
    return Known(
        bases=tuple(model_files(config, "checkpoints")),
        loras=tuple(model_files(config, "loras")),
        vaes=tuple(model_files(config, "vae")),
        styles=(*load_stock(config.styles_folder).styles.names, RANDOM),
    )


def resolve(found: Found, config: Config) -> Found:
    """Return ``found`` with names that are here, without what is not, and a warning for each of those."""
    values, warnings = dict(found.values), list(found.warnings)
    if found.recipe is not None:
        request, more = _asked_again(found.recipe, config)
        values, warnings = request.to_json(), [*warnings, *more]
    values = {name: value for name, value in values.items() if name not in _KEPT}
    checked = check_names(values, known_names(config), found.origin)
    return Found(found.origin, tidy(checked.values), (*warnings, *checked.warnings), found.recipe)


def check_names(values: Mapping[str, Any], known: Known, origin: str = "ours") -> Found:
    """Return those of ``values`` (fields as in a request's JSON) that can be asked for here, and warn of the others."""
    finder = Finder(origin, known)
    for name, value in values.items():
        match name:
            case "base" | "refiner" | "vae" if value is not None:
                finder.put_model(name, value)
            case "loras" if isinstance(value, list):
                finder.put_loras([(use[0], use[1]) for use in value if isinstance(use, list | tuple) and len(use) == 2])
            case "styles" if isinstance(value, list):
                _put_styles(finder, value)
            case _ if value is None and name in BY_NAME:
                finder.values[name] = None
            case _:
                finder.put(name, value)
    if values.get("refiner") not in (None, NONE) and finder.values.get("refiner") is None:
        finder.values["refiner"] = NONE  # without a word the base's own would come in
    if finder.values.get("refiner") == NONE and finder.values.get("switch") is not None:
        finder.values["switch"] = None
    return finder.found()


def _put_styles(finder: Finder, references: list[Any]) -> None:
    """Keep styles that are here, each with its strength: ``name`` or ``name:strength``."""
    kept: list[str] = []
    for reference in map(str, references[:MAX_ITEMS]):
        name, _, strength = reference.rpartition(":")
        weighed = bool(name) and _STRENGTH.fullmatch(strength) and reference not in (finder.known.styles or ())
        finder.put_styles([name if weighed else reference])
        kept += [f"{found}:{strength}" if weighed else found for found in finder.values["styles"]]
    finder.values["styles"] = kept


def tidy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave to the page what it would choose by itself, where that comes to the same."""
    tidied = dict(values)
    base = tidied.get("base")
    if isinstance(base, str) and {"refiner", "loras"} <= tidied.keys():
        own = companions(base)
        uses = tuple((name, weight) for name, weight in tidied["loras"] or ())
        if tidied["loras"] is not None and uses == own.loras and tidied["refiner"] == (own.refiner or NONE):
            tidied["loras"] = tidied["refiner"] = None
    if {"steps", "switch"} <= tidied.keys():
        for name, bundle in PERFORMANCES.items():
            if tidied["steps"] == bundle.steps and tidied["switch"] in (bundle.switch, None):
                tidied |= {"performance": name, "steps": None, "switch": None}
    return tidied


def to_json(found: Found, config: Config, source: Path | bytes | str) -> dict[str, Any]:
    """Return what the page shows of settings: all for reading, ``values`` for restoring, texts for copying."""
    resolved = resolve(found, config)
    whole = found.values if found.recipe is None else found.recipe.to_json()
    values = dict(resolved.values)
    if values.get("seed") is not None:
        values["seed"] = str(values["seed"])  # a browser's numbers end at 2**53
    return {
        "origin": ORIGINS.get(found.origin, found.origin),
        "prompt": str(whole.get("prompt") or ""),
        "negative": str(whole.get("negative") or ""),
        "rows": readable(whole, load_stock(config.styles_folder).styles),
        "values": values,
        "warnings": list(resolved.warnings),
        "text": _text(found, source),
        "json": record(found.recipe) if found.recipe else json.dumps(dict(found.values)),
    }


def readable(values: Mapping[str, Any], styles: Styles) -> list[list[str]]:
    """Return settings as pairs of words, in the order of the page; prompts stand apart.

    Styles have a third one: what the files call them, where people read another name.
    """
    pairs: list[list[str]] = []
    for row in ROWS:
        value = values.get(row.name)
        if row.name in ("prompt", "negative", "lines", "count", "format") or value in (None, "", [], ()):
            continue
        if row.name == "performance" and values.get("steps") is not None:
            continue
        pairs.append([row.label, *(_styles(value, styles) if row.kind == "styles" else [_words(row.kind, value)])])
    return pairs


def _asked_again(recipe: Recipe, config: Config) -> tuple[Request, list[str]]:
    stock = load_stock(config.styles_folder)
    try:
        request = again(recipe, stock.styles, stock.lists)
    except RequestError as error:
        return recipe.to_request(), [str(error)]
    if request.styles == recipe.styles:
        return request, []
    names = ", ".join(recipe.styles)
    return request, [f"These styles have changed or are not here: {names}. Their words are in the prompt instead."]


def _styles(references: Any, styles: Styles) -> list[str]:
    """Return chosen styles as people read them, and, where it is something else, as the files call them."""
    titles, names = style_titles(styles), [str(reference) for reference in references]
    words, ids = ", ".join(style_words(name, styles, titles) for name in names), ", ".join(names)
    return [words] if words == ids else [words, ids]


def _words(kind: str, value: Any) -> str:
    match kind:
        case "size":
            return str(value).replace("x", " × ")
        case "loras":
            return ", ".join(f"{_stem(name)} ({weight:g})" for name, weight in value)
        case "model":
            return _stem(str(value))
        case "choice" | "pills":
            return shown(str(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")


def _text(found: Found, source: Path | bytes | str) -> str:
    """Return the settings as people paste them elsewhere: the block that programs of this kind read."""
    if found.recipe is not None:
        return parameters_text(found.recipe, {})
    if isinstance(source, str):
        return source.strip()
    return read_texts(source).get(A1111) or json.dumps(dict(found.values))

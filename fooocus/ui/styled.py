"""What the chosen styles make of the present prompt, for the Styles tab: the texts that the model will read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.prompt.plan import plan
from fooocus.prompt.stock import load_stock
from fooocus.prompt.styles import RANDOM
from fooocus.request import Request
from fooocus.ui.fields import to_request

_LONGEST = 4000  # characters of a text that are shown; nobody reads more in a column
_NOTHING = "…"  # stands for a prompt that is not there yet
_ASKED = ("prompt", "negative", "styles", "seed")


def styled(asked: str, config: Config) -> str:
    """Return both texts as HTML, the person's own words marked in them. ``asked`` is JSON from the panel.

    It is the first picture's text: where a seed is left open, lists and the random style draw as for seed 0.
    """
    values = _read(asked)
    if values is None:
        return ""
    try:
        shown = {"prompt": values["prompt"] if values["prompt"].strip() else _NOTHING, "seed": values["seed"] or "0"}
        request = to_request({**values, **shown, "count": 1}, Request())
        stock = load_stock(config.styles_folder)
        recipe = plan(request, stock.styles, stock.lists)[0]
    except RequestError as error:
        return f'<p class="styled-problem">{escape(f"{error.sentence} {error.remedy}".strip())}</p>'
    if not recipe.styles and recipe.positive_text == recipe.prompt:
        return ""
    drawn = not values["seed"] and RANDOM in values["styles"]
    note = '<p class="styled-note">The random style is drawn when the picture is made; this is one of them.</p>'
    return (
        '<dl class="styled"><dt>The model reads</dt>'
        f"<dd translate=no>{_marked(recipe.positive_text, recipe.prompt)}</dd>"
        f"<dt>It keeps out</dt><dd translate=no>{_marked(recipe.negative_text, recipe.negative) or '–'}</dd></dl>"
        f"{note if drawn else ''}"
    )


def _read(asked: str) -> Mapping[str, Any] | None:
    """Read what the panel asks. It comes from a browser and may be anything."""
    try:
        values = json.loads(asked)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or set(values) != set(_ASKED):
        return None
    styles = values["styles"]
    if not isinstance(styles, list) or not all(isinstance(name, str) for name in styles):
        return None
    return values if all(isinstance(values[name], str) for name in ("prompt", "negative", "seed")) else None


def _marked(text: str, own: str) -> str:
    """Return a text as HTML with the person's words marked where they stand in it."""
    own = own.strip(" \t\r\n,.")
    place = text.find(own) if own else -1
    if place < 0:
        return escape(_short(text))
    end = place + len(own)
    return f"{escape(_short(text[:place]))}<mark>{escape(_short(own))}</mark>{escape(_short(text[end:]))}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"

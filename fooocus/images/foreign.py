"""Settings from any picture or pasted text: ours, Fooocus 2, the ``parameters`` block, ComfyUI.

Nothing found here is applied by itself; the page shows it and the person decides.
"""

from __future__ import annotations

from pathlib import Path

from fooocus.errors import RequestError
from fooocus.images.a1111 import looks_like_parameters, read_parameters
from fooocus.images.comfyui import looks_like_graph, read_graph
from fooocus.images.containers import A1111, GRAPH, MAX_OWN_BYTES, OURS, read_texts, strict_json
from fooocus.images.findings import Found, Known
from fooocus.images.fooocus2 import looks_like_fooocus, read_fooocus
from fooocus.images.metadata import parse_record
from fooocus.request import Request


def read_settings(source: Path | bytes, known: Known) -> Found | None:
    """Return the settings inside a PNG, JPEG or WebP picture, ``None`` when there are none.

    Raises :class:`~fooocus.errors.RequestError` when the file is no such picture.
    """
    texts = read_texts(source)
    warnings: tuple[str, ...] = ()
    for keyword in (OURS, A1111, GRAPH):
        if keyword not in texts:
            continue
        try:
            found = read_pasted(texts[keyword], known)
        except RequestError as error:
            warnings += (str(error),)
            continue
        if found is not None:
            return Found(found.origin, found.values, warnings + found.warnings, found.recipe)
    return Found("ours", {}, warnings) if warnings else None


def read_pasted(text: str, known: Known) -> Found | None:
    """Return the settings of a pasted text, ``None`` for a text that is none of the layouts (a plain prompt).

    Raises :class:`~fooocus.errors.RequestError` for a damaged record of ours.
    """
    text = text.strip("\ufeff \t\r\n\0").replace("\r\n", "\n")
    if not text.startswith("{"):
        return read_parameters(text, known) if looks_like_parameters(text) else None
    try:
        values = strict_json(text[:MAX_OWN_BYTES], nan_is_null=True)
    except ValueError:
        return None
    if "recipe" in values and "layout" in values:
        recipe = parse_record(text)
        return Found("ours", recipe.to_request().to_json(), recipe=recipe)
    if looks_like_graph(values):
        return read_graph(values, known)
    if isinstance(values.get("prompt"), dict) and looks_like_graph(values["prompt"]):
        return read_graph(values["prompt"], known)
    if values and set(values) <= set(Request().to_json()):
        try:
            request = Request.from_json(values).to_json()
            return Found("ours", {name: value for name, value in request.items() if name in values})
        except RequestError:
            if not looks_like_fooocus(values):
                raise
    return read_fooocus(values, known) if looks_like_fooocus(values) else None

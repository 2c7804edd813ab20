"""Put settings from a picture or a text into all controls at once, and bring back what stood there.

The browser sends an order through a hidden box: values as fields of a request's JSON, and whether the seed is wanted.
They are checked here again, whoever sent them. What stood in the controls before goes into another hidden box of that
tab, so that it can be undone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.images.containers import strict_json
from fooocus.images.findings import MAX_WARNINGS
from fooocus.prompt.presets import layered
from fooocus.request import Request
from fooocus.ui.actions import CONTROLS
from fooocus.ui.fields import clean, to_values
from fooocus.ui.resolve import check_names, known_names

_MAX_CHARACTERS = 4_000_000
_WARNING_CHARACTERS = 300
_DONE = '<button type="button" data-restore="close" aria-label="Close">×</button>'


@dataclasses.dataclass(frozen=True)
class Restored:
    """Hold a request with the restored values, the names of its fields that were restored, and what to say."""

    request: Request
    fields: frozenset[str]
    warnings: tuple[str, ...]


class Restorer:
    """The way from an order to every control, and to the line that says what was restored."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def obey(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an order: restore values, or bring back what stood in the controls before."""
        try:
            order = strict_json(str(given["restore"] or "")[:_MAX_CHARACTERS])
        except ValueError:
            order = None
        if not isinstance(order, dict) or not isinstance(order.get("warnings", []), list):
            return {"restored": said("The settings cannot be read.", ())}
        if order.get("undo"):
            return self._back(str(given["former"] or ""))
        values = order["values"] if isinstance(order.get("values"), dict) else {}
        try:
            restored = restore(values, self._config, seed=order.get("seed") != "new", whole=bool(order.get("whole")))
        except RequestError as error:
            return {"restored": said(str(error), ())}
        now = {name: given[name] for name in CONTROLS}
        # What was missing when the picture was read is not among the values any more, so the order tells it again.
        told = [str(words)[:_WARNING_CHARACTERS] for words in order.get("warnings", [])[:MAX_WARNINGS]]
        line = said("Settings restored.", tuple(dict.fromkeys((*told, *restored.warnings))), undo=True)
        return self._shown(restored) | {"former": json.dumps(now), "restored": line}

    def _shown(self, restored: Restored) -> dict[str, Any]:
        """Return what every control shows whose field was restored."""
        values = to_values(restored.request)
        return {name: values[name] for name in CONTROLS if name in restored.fields}

    def _back(self, former: str) -> dict[str, Any]:
        """Return what stood in the controls before; the box comes from the browser."""
        try:
            kept = strict_json(former[:_MAX_CHARACTERS])
        except ValueError:
            kept = None
        if not isinstance(kept, dict):
            return {"restored": ""}
        back = {name: kept[name] for name in CONTROLS if _is_plain(kept.get(name))}
        return back | {"restored": said("As it was before.", ()), "former": ""}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def restore(values: Mapping[str, Any], config: Config, *, seed: bool, whole: bool = False) -> Restored:
    """Check values once more and return them as a request. With ``seed`` false the seed is left to chance.

    Values that are ``whole``, of a job and not of a picture, say also how many are made, and in which format. Raises
    :class:`~fooocus.errors.RequestError` when they contradict each other.
    """
    read = {name: value for name, value in values.items() if whole or name not in ("count", "format")}
    if isinstance(read.get("seed"), str):  # a browser's numbers end at 2**53
        read["seed"] = int(read["seed"]) if read["seed"].isascii() and read["seed"].isdigit() else None
    found = check_names(read, known_names(config))
    kept = {name: clean(value) if isinstance(value, str) else value for name, value in found.values.items()}
    if not kept:
        raise RequestError("picture", "There are no settings that could be restored.")
    if "seed" in kept and not seed:
        kept["seed"] = None
    return Restored(layered(kept), frozenset(kept), found.warnings)


def said(words: str, warnings: tuple[str, ...], *, undo: bool = False) -> str:
    """Return the line: what happened, what is missing, the way back."""
    listed = "".join(f"<span>{escape(clean(warning))}</span>" for warning in warnings)
    back = '<button type="button" data-restore="undo">Undo</button>' if undo else ""
    return f'<p class="restored" role="status"><b>{escape(clean(words))}</b>{listed}{back}{_DONE}</p>'

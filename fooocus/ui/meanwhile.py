"""Which settings the page begins with: those that were asked for, or a stand-in's until their model files are here.

The stand-in is a preset whose files come with the program. A page that began with it goes over to the real settings by
itself when the last file has arrived, and takes along whatever a person has set differently in the meantime.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from fooocus.errors import RequestError
from fooocus.request import Request, companions, parse_size
from fooocus.ui.choices import shape_of
from fooocus.ui.fields import to_values

ON = "on"  # what the hidden box of a page says whose settings are the stand-in's
ARRIVED = (
    '<p class="hint" role="status"><span>The models are here: pictures are drawn with them from now on.</span></p>'
)


def carried_over(values: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls that change when a page goes from ``before`` to ``after``; all are values by control name.

    What a person has set stays, except the size, of which the shape stays: a miniature's pixels are too few for others.
    A refiner and LoRAs that the base brings by itself are no choice of a person, also where a preset spells them out.
    With another base than the one that the page began with, nothing changes at all.
    """
    if values.get("base") != before["base"]:
        return {}
    changed = {name for name in after if name in values and name in before and after[name] != before[name]}
    own = companions(before["base"])
    spelt = to_values(Request(base=before["base"], refiner=own.refiner, loras=own.loras))
    left = {name: spelt[name] for name in ("refiner", "loras")} if own.refiner else {}
    settled = {name: after[name] for name in changed if values[name] in (before[name], left.get(name, before[name]))}
    return settled | ({"size": _same_shape(values["size"], after["size"])} if "size" in changed - set(settled) else {})


def beginning(now: Request, defaults: Request) -> str:
    """Return as JSON what the controls of a page begin with where that is not what ``defaults`` say: by control name.

    The page itself knows ``defaults`` only, with which it was made.
    """
    usual = to_values(defaults)
    return json.dumps({name: value for name, value in to_values(now).items() if value != usual[name]})


def drawn_by(request: Request, spare: Request) -> Request:
    """Return the same request for the stand-in's models, at the size and guidance that they were made for."""
    theirs = ("base", "refiner", "loras", "vae", "size", "guidance")
    return dataclasses.replace(request, switch=None, **{name: getattr(spare, name) for name in theirs})


def _same_shape(size: Any, otherwise: str) -> str:
    """Return the trained size of the shape that ``size`` has at its scale, if it has one."""
    try:
        return shape_of(parse_size(str(size))) or otherwise
    except RequestError:  # it was being typed
        return otherwise

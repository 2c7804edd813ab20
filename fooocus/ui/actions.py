"""What the page asks the server, by name: which boxes it sends along, and which the answer may change.

A box is known by a name of ours: a control by that of its field in :mod:`fooocus.ui.fields`, the others by their id in
the document. The layout (:mod:`fooocus.ui.layout`) wires events of the page to these names; what is done then stands in
:mod:`fooocus.ui.page`. So the process that answers needs no Gradio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fooocus.ui.fields import ROWS

CONTROLS: tuple[str, ...] = tuple(row.name for row in ROWS)
SETTINGS: tuple[str, ...] = tuple(name for name in CONTROLS if name != "prompt")


@dataclasses.dataclass(frozen=True)
class Action:
    """One thing that the page asks: the boxes whose values are ``given``, and those that are ``told`` something.

    What a person asks by pressing tells ``problem``, where it is said if it cannot be done.
    """

    name: str
    given: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action("open", ("memory",), (*CONTROLS, "advanced", "loved", "meanwhile", "began", "me", "found")),
        Action("go_over", (*CONTROLS, "meanwhile"), (*CONTROLS, "meanwhile", "began", "hint")),
        Action("order", ("order",), ("problem",)),
        Action(
            "generate",
            (*CONTROLS, "replaces"),
            (*CONTROLS, "made", "replaces", "problem", "tabs", "advanced"),
        ),
        Action("estimate", CONTROLS, ("time",)),
        Action("check", ("prompt", "base"), ("hint",)),
        Action("remedy", ("remedy",), ("made", "problem")),
        Action("card", (), ("banner",)),
        Action("stop", ("shown",), ("problem",)),
        Action("skip", ("shown",), ("problem",)),
        Action("style", ("styled-ask",), ("styled",)),
        Action("preset", ("preset-ask", *CONTROLS), ("preset-said", *SETTINGS, "problem")),
        Action("restore", ("restore", "former", *CONTROLS), (*CONTROLS, "former", "restored", "problem")),
    )
}

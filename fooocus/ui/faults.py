"""The card that says why a job has ended early, with the buttons that do what can be done about it.

Which buttons stand there follows from the error's class alone, so a new error gets its buttons by a row here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from fooocus.errors import (
    BrokenPicture,
    DeviceOutOfMemory,
    IncompatibleLora,
    MismatchedModel,
    MissingModel,
    RequestError,
    StorageError,
    UnreadableModel,
    UnsupportedModel,
    WorkerError,
)
from fooocus.request import MIN_SIDE_PX, SIZE_STEP_PX, Size
from fooocus.ui.fields import BY_NAME
from fooocus.ui.stream import View

_GRID_PX = 64  # sizes of real models are multiples of this; smaller ones, of miniatures, go by cells
_LARGE_PX = 512
_HALF = math.sqrt(0.5)  # of each side: half the pixels

# What a button does (see :mod:`fooocus.ui.remedies`) and says.
_WORDS: Mapping[str, str] = {
    "fetch": "Fetch what is missing",
    "miniature": "Draw it with the miniature model",
    "retry": "Retry",
    "again": "Try again",
    "free": "Free memory and retry",
    "smaller": "Retry smaller",
    "models": "Choose another model",
    "setting": "Show the setting",
}
_BY_CODE: Mapping[str, tuple[str, ...]] = {
    RequestError.__name__: ("setting",),
    MissingModel.__name__: ("fetch", "miniature", "models", "again"),
    UnreadableModel.__name__: ("models",),
    UnsupportedModel.__name__: ("models",),
    MismatchedModel.__name__: ("models",),
    IncompatibleLora.__name__: ("models",),
    DeviceOutOfMemory.__name__: ("free", "smaller"),
    BrokenPicture.__name__: ("retry",),
    StorageError.__name__: ("again",),
    WorkerError.__name__: ("retry",),
    "Defect": ("retry",),
}


def card(view: View, offers: frozenset[str] = frozenset()) -> str:
    """Return the card of a failed job; ``offers`` as in :func:`remedies`."""
    buttons = "".join(_button(kind, view) for kind in remedies(view, offers))
    copy = (
        '<button type="button" class="copy" data-report title="Without names, prompts and paths">Copy report</button>'
    )
    return (
        f'<div class="fault" role="alert"><b>{escape(view.sentence)}</b><span>{escape(view.remedy)}</span>'
        f'<div class="remedies">{buttons}{copy}</div></div>'
    )


def remedies(view: View, offers: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return what can be done about a failed job, best first.

    ``offers`` are those that depend on what there is: "fetch", "miniature".
    """
    kinds = _BY_CODE.get(view.code, ("retry",))
    if "memory ran out" in view.sentence:  # of the computer: its worker says so, or has died of it
        kinds = ("free", "smaller")
    impossible = {
        "fetch": "fetch" not in offers,
        "miniature": "miniature" not in offers,
        "smaller": smaller(Size(*view.size)) is None,
        "setting": view.field not in BY_NAME,
    }
    return tuple(kind for kind in kinds if not impossible.get(kind, False)) or ("retry",)


def smaller(size: Size) -> Size | None:
    """Return a size of about half the pixels and the same shape, ``None`` where it would be too small to draw."""
    step = _GRID_PX if min(size) >= _LARGE_PX else SIZE_STEP_PX
    width, height = (max(step, round(side * _HALF / step) * step) for side in size)
    if min(width, height) < MIN_SIDE_PX or width * height >= size.width * size.height:
        return None
    return Size(width, height)


def _button(kind: str, view: View) -> str:
    less = smaller(Size(*view.size)) if kind == "smaller" else None
    title = f' title="{less.width} × {less.height} instead of {view.size[0]} × {view.size[1]}"' if less else ""
    return f'<button type="button" data-remedy="{kind}"{title}{_place(kind, view)}>{_WORDS[kind]}</button>'


def _place(kind: str, view: View) -> str:
    """Return the tab and the field that a button leads to, for those that lead to one."""
    field = view.field
    if kind == "models":
        field = "loras" if view.code == IncompatibleLora.__name__ else "base"
    if kind not in ("models", "setting"):
        return ""
    return f' data-tab="{BY_NAME[field].group}" data-field="{field}"'

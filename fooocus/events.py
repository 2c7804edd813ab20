"""What a job can say while it runs. Events are the only way back from the worker to the page.

A job says any number of :class:`Queued`, :class:`Stage`, :class:`Step`, :class:`Saved`, :class:`LeftOut` and
:class:`Notice`, then exactly one of :class:`Finished`, :class:`Failed` and :class:`Cancelled`. :class:`Paused` is in
between: it ends the worker's run (:data:`LAST`) but not the job, which says more when it is resumed. Events cross the
process border as JSON objects whose ``event`` key is the class name in lower case. Pictures are counted from 1, because
a person reads the numbers. A job may work on them in turns: an event speaks of its own picture and of no other.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any, Literal, get_args

from fooocus.errors import FooocusError, RequestError

StageName = Literal["starting", "loading", "reading", "sampling", "refining", "decoding", "saving"]


@dataclasses.dataclass(frozen=True)
class Queued:
    """The job is stored. ``ahead`` jobs run before it."""

    ahead: int


@dataclasses.dataclass(frozen=True)
class Stage:
    """A new part of the work begins on picture ``picture`` of ``pictures``."""

    name: StageName
    picture: int
    pictures: int


@dataclasses.dataclass(frozen=True)
class Step:
    """``step`` of ``steps`` sampling steps are done on this picture. ``preview`` is a JPEG of the picture so far.

    Pictures that are made at once say it one after the other; the one that the last :class:`Stage` spoke of comes last,
    and it alone has a preview.
    """

    picture: int
    pictures: int
    step: int
    steps: int
    preview: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Saved:
    """A finished picture is safely on disk at ``path`` (absolute)."""

    picture: int
    pictures: int
    path: str
    seed: int


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """The person does not want this picture. Nothing more is said of it."""

    picture: int
    pictures: int


@dataclasses.dataclass(frozen=True)
class Notice:
    """Something the person may want to know but need not act on, for example how many LoRA tensors matched."""

    text: str


@dataclasses.dataclass(frozen=True)
class Paused:
    """The job rests and the card is free; it goes on when it is resumed. Ends a worker's run, not the job.

    ``step`` of ``steps`` steps of picture ``picture`` are kept; 0 means that this picture begins anew. ``preview`` is a
    JPEG of it, ``skipped`` are the pictures that the person did not want. ``kept`` are all pictures of which steps are
    kept, each with their number; the events of earlier versions leave it empty.
    """

    picture: int = 1
    pictures: int = 1
    step: int = 0
    steps: int = 0
    preview: bytes | None = None
    skipped: tuple[int, ...] = ()
    kept: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Finished:
    """Terminal: every picture of the job is saved."""

    paths: tuple[str, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Failed:
    """Terminal: ``sentence`` says why, ``remedy`` what to do. ``field`` names the request's field at fault, if any."""

    code: str
    sentence: str
    remedy: str = ""
    field: str | None = None


@dataclasses.dataclass(frozen=True)
class Cancelled:
    """Terminal: the person stopped the job. Pictures saved before stay."""


Event = Queued | Stage | Step | Saved | LeftOut | Notice | Paused | Finished | Failed | Cancelled
TERMINAL = (Finished, Failed, Cancelled)  # the end of a job
LAST = (*TERMINAL, Paused)  # the end of a worker's run of it
_BY_NAME: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


def to_json(event: Event) -> dict[str, Any]:
    """Turn an event into a JSON object; picture bytes become base64 text."""
    values: dict[str, Any] = {"event": type(event).__name__.lower()}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        values[field.name] = base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
    return values


def from_json(values: dict[str, Any]) -> Event:
    """Read an event back. Raises ``KeyError`` or ``TypeError`` on anything :func:`to_json` did not write."""
    fields = {name: value for name, value in values.items() if name != "event"}
    kind = _BY_NAME[values["event"]]
    if kind in (Step, Paused) and fields.get("preview") is not None:
        fields["preview"] = base64.b64decode(fields["preview"])
    for name in ("paths", "skipped"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if "kept" in fields:
        fields["kept"] = tuple((picture, step) for picture, step in fields["kept"])
    return kind(**fields)


def failure(error: FooocusError) -> Failed:
    """Say an error as a job's last event."""
    field = error.field if isinstance(error, RequestError) else None
    return Failed(error.code, error.sentence, error.remedy, field)

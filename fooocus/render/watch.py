"""How the making of one picture is told and interrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fooocus.diffusion.state import State
from fooocus.errors import FooocusError
from fooocus.events import StageName


class Skipped(FooocusError):
    """The person wants the next picture. Leaves the present one; never shown."""


class TooMany(Exception):
    """There is no room for so many pictures at once: fewer of them go on. Never shown."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """What is called while a picture is made, or several at once.

    ``stage`` is called at the begin of a part, ``step`` after every sampling step with the number of all steps,
    ``check`` between the blocks of a network (it leaves by raising), ``notice`` with what the person may want to know.
    """

    stage: Callable[[StageName], object] = lambda name: None
    step: Callable[[State, int], object] = lambda state, steps: None
    check: Callable[[], object] = lambda: None
    notice: Callable[[str], object] = lambda text: None


SILENT = Watch()

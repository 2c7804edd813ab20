"""What open pages are told of the worker and of the model files: looked at and put into words once for all of them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

from fooocus.jobs.supervisor import Jobs
from fooocus.ui import views, welcome_views
from fooocus.ui.welcome import Look, Welcome

_LOOK_SECONDS = 0.5
_SAME_SECONDS = 0.1  # pages that look within this time see the same


@dataclasses.dataclass(frozen=True)
class Told:
    """The quiet line and the first screen as HTML, and whether every file is known to be here."""

    status: str
    first: str
    complete: bool


class News:
    """Look at worker and files for all open pages."""

    def __init__(self, jobs: Jobs, welcome: Welcome) -> None:
        self._jobs = jobs
        self._welcome = welcome
        self._told_at = 0.0
        self._told = Told("", "", False)
        self._seen: tuple[Look | None, str, str] | None = None

    async def follow(self) -> AsyncIterator[Told]:
        """Yield what there is to tell, and again whenever it has changed, without end."""
        shown: Told | None = None
        while True:
            if time.monotonic() - self._told_at >= _SAME_SECONDS:
                self._told_at = time.monotonic()
                look, state = await self._welcome.look(), self._jobs.worker_state()
                self._say(look, state.phase, state.reason)
            if self._told != shown:
                shown = self._told
                yield shown
            await asyncio.sleep(_LOOK_SECONDS)

    def _say(self, look: Look | None, phase: str, reason: str) -> None:
        """Put a look into words, if it is a new one."""
        seen = self._seen
        if seen is not None and seen[0] is look and seen[1:] == (phase, reason):
            return
        line = views.status(phase, reason) or welcome_views.quiet_line(look)
        first = welcome_views.panel(look) if self._welcome.knows_models else ""
        self._seen = look, phase, reason
        self._told = Told(line, first, look is not None and not look.unfinished)

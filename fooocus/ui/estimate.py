"""How long Generate would take now, in a few words beside the button; nothing while this computer has not shown it."""

from __future__ import annotations

import dataclasses
import os
from html import escape

from fooocus.config import Config
from fooocus.errors import FooocusError
from fooocus.jobs.supervisor import Jobs
from fooocus.models.elsewhere import placed
from fooocus.models.measuring import Counter, models_of, session_of
from fooocus.models.pace import Estimate, PaceMemory, estimate
from fooocus.models.words import duration
from fooocus.prompt.plan import number_of_pictures, plan
from fooocus.prompt.stock import load_stock
from fooocus.request import Request


class Estimator:
    """Tell the time of requests from what earlier pictures took. ``defaults`` name files outside the model folders."""

    def __init__(self, config: Config, jobs: Jobs, defaults: Request) -> None:
        self._config = config
        self._jobs = jobs
        self._memory = PaceMemory(config.data / "pace.sqlite")
        outside = [name for name in (defaults.base, defaults.refiner) if name and os.path.isabs(name)]
        self._counter = Counter(config.folders("checkpoints"), lambda: placed(config.data), outside)

    def line(self, request: Request) -> str:
        """Return the words as HTML; nothing where no time can be told."""
        try:
            count = number_of_pictures(request)
            told = self._estimate(request)
        except FooocusError:
            return ""  # Generate will say what is wrong
        if told is None:
            return ""
        title = f"Learnt from {told.pictures} picture{'s' if told.pictures > 1 else ''} made on this computer"
        if count > 1:
            title += f": {_about(told.picture_seconds)} a picture"
        if told.loading_seconds >= 1:
            title += f", and {_about(told.loading_seconds)} to load the model"
        return f'<p title="{escape(title)}">{_about(told.seconds(count))}</p>'

    def _estimate(self, request: Request) -> Estimate | None:
        learnt = self._memory.newest()
        if not learnt:
            return None
        stock = load_stock(self._config.styles_folder)
        # One picture stands for all: what differs between them, such as words, takes no time.
        first = dataclasses.replace(request, count=1, seed=request.seed or 0)
        recipe = plan(first, stock.styles, stock.lists)[0]
        work = self._counter.count(recipe)
        session = session_of(self._jobs.worker_state().pid)
        return None if work is None else estimate(work, models_of(recipe), session, learnt)


def _about(seconds: float) -> str:
    """Write a time no finer than it is known: 7 s, 12 s, 45 s, 2 min."""
    step = 5 if 40 <= seconds < 90 else 1
    return f"about {duration(max(1.0, round(seconds / step) * step))}"

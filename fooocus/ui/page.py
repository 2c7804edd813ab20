"""What the page answers: for each of :mod:`fooocus.ui.actions` a method that turns boxes' values into boxes' values.

A tab holds the ids of its jobs in a hidden box. A job that is made tells its id, and the tab adds it itself, because
more may be asked for before the first is answered. Whenever the box changes, the tab listens anew
(:mod:`fooocus.ui.live`) to what is still active. So closing a tab ends nothing, and a reloaded tab picks up where it
was. The ids stay in the browser's own storage; settings there and, for the person's other devices, on the server.

Values are found by the names of their boxes, never by position, and come from a browser: they may be anything.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio.to_thread

from fooocus.config import Config
from fooocus.errors import FooocusError, MissingModel, RequestError
from fooocus.jobs.supervisor import Jobs
from fooocus.models.computer import look
from fooocus.request import Request
from fooocus.ui import views
from fooocus.ui.actions import CONTROLS, SETTINGS
from fooocus.ui.banner import banner, torch_version
from fooocus.ui.controls import initial, restorable
from fooocus.ui.estimate import Estimator
from fooocus.ui.fields import BY_NAME, to_request
from fooocus.ui.hints import hints
from fooocus.ui.live import KEPT_IDS
from fooocus.ui.meanwhile import ARRIVED, ON, beginning, carried_over
from fooocus.ui.news import News
from fooocus.ui.people import NO_COOKIE
from fooocus.ui.presets_panel import PresetsPanel
from fooocus.ui.remedies import Remedies
from fooocus.ui.restore import Restorer
from fooocus.ui.stream import View, Watcher
from fooocus.ui.styled import styled
from fooocus.ui.welcome import Welcome

Boxes = Mapping[str, Any]  # values by the names of their boxes
Answer = dict[str, Any]  # a box's new value, or, as an Update, its new properties
Once = Callable[[Boxes, str], Answer]


class Update(dict[str, Any]):
    """Properties of a component that change, in place of its value."""


class Page:
    """Answer the page. One object serves all tabs; what differs between them is passed in."""

    def __init__(
        self,
        config: Config,
        jobs: Jobs,
        defaults: Request,
        watcher: Watcher,
        welcome: Welcome,
        remedies: Remedies,
        estimator: Estimator,
    ) -> None:
        self._config = config
        self._jobs = jobs
        self._defaults = defaults
        self._watcher = watcher
        self._welcome = welcome
        self._remedies = remedies
        self._estimator = estimator
        self._presets = PresetsPanel(config, defaults, self._begin)
        self._restorer = Restorer(config)
        self._news = News(jobs, welcome)
        self._warning: str | None = None
        self._looking = threading.Lock()

    def once(self) -> Mapping[str, Once]:
        """Return by action what answers once. These may write and read files, so they are called in threads."""
        return {
            "open": self._open,
            "go_over": self._go_over,
            "order": self._order,
            "generate": self._generate,
            "estimate": self._estimate,
            "check": self._check,
            "remedy": self._do_remedy,
            "card": self._look_at_card,
            "stop": self._stop_job,
            "skip": self._skip_picture,
            "style": self._style,
            "preset": lambda given, owner: self._presets.answer(given),
            "restore": lambda given, owner: self._restorer.obey(given),
        }

    def _open(self, given: Boxes, owner: str) -> Answer:
        """Give a page back what its browser had: settings, and this tab's jobs or else the person's last ones."""
        values, ids = _recall(given["memory"])
        now = self._begin()
        kept = restorable(values, self._config, now) | self._overtaken(values, now)
        if now is not self._defaults:
            kept = initial(now) | kept
        answer: Answer = {name: kept[name] for name in SETTINGS if name in kept}
        answer["meanwhile"] = "" if now is self._defaults else ON
        answer["began"] = beginning(now, self._defaults)
        if isinstance(values.get("advanced"), bool):
            answer["advanced"] = values["advanced"]
        if isinstance(values.get("loved"), str):  # favourite styles, which the browser reads
            answer["loved"] = values["loved"]
        answer["me"] = owner if owner.startswith(NO_COOKIE) else ""
        mine = self._watcher.mine(ids, owner) or self._watcher.last(owner)
        answer["found"] = " ".join(job.id for job in mine)
        return answer

    def _begin(self) -> Request:
        """Return what a page begins with now: the stand-in's settings while files are missing."""
        return self._welcome.stand_in or self._defaults

    def _overtaken(self, values: dict[str, Any], now: Request) -> dict[str, Any]:
        """Return those remembered values that events have overtaken: models have come or gone since the last visit."""
        spare = self._welcome.spare
        if spare is None or (now is not self._defaults) == (values.get("meanwhile") == ON):
            return {}
        return carried_over(values, initial(spare if now is self._defaults else self._defaults), initial(now))

    def _go_over(self, given: Boxes, owner: str) -> Answer:
        """Go over from the stand-in's settings to the real ones, whose files have all arrived."""
        # The mark stays until the page is opened again: should the browser keep only a part of this, it is made up for.
        answer: Answer = {"meanwhile": given["meanwhile"], "began": beginning(self._begin(), self._defaults)}
        if given["meanwhile"] == ON and self._welcome.spare is not None:
            over = carried_over(_controls(given), initial(self._welcome.spare), initial(self._defaults))
            if over:
                answer |= {"hint": ARRIVED, **over}
        return answer

    def _order(self, given: Boxes, owner: str) -> Answer:
        """Carry out what a button of the first screen says."""
        self._welcome.order(given["order"])
        return {}

    def _generate(self, given: Boxes, owner: str) -> Answer:
        """Make a job of the controls' values; an error names its field and makes none."""
        answer: Answer = {"problem": "", **_unmarked()}
        try:
            asked = to_request(_controls(given), self._defaults)
            id = self._jobs.submit(asked.to_json(), owner, replaces=given["replaces"] or None)
        except FooocusError as error:
            return answer | _marked(error)
        return answer | {"replaces": "", "made": id}

    def _estimate(self, given: Boxes, owner: str) -> Answer:
        """Say how long the present settings would take."""
        try:
            return {"time": self._estimator.line(to_request(_controls(given), self._defaults))}
        except FooocusError:
            return {"time": ""}

    def _check(self, given: Boxes, owner: str) -> Answer:
        """Say what in the prompt will not work."""
        return {"hint": hints(given["prompt"], self._config, given["base"])}

    def _style(self, given: Boxes, owner: str) -> Answer:
        """Show what the chosen styles make of the prompt."""
        return {"styled": styled(given["styled-ask"], self._config)}

    def _do_remedy(self, given: Boxes, owner: str) -> Answer:
        """Do what a button of a failed job says; a new job is followed like any other."""
        try:
            id = self._remedies.order(given["remedy"], owner)
        except FooocusError as error:
            return {"problem": views.problem(error)}
        return {"problem": "", **({"made": id} if id else {})}

    def _look_at_card(self, given: Boxes, owner: str) -> Answer:
        """Say loudly when the processor draws although a card is there."""
        with self._looking:
            if self._warning is None:  # once: asking for the card takes up to a second
                computer = look(self._config.models)
                self._warning = banner(computer.cards, torch_version(), self._config.device, computer.system)
        return {"banner": self._warning}

    def _stop_job(self, given: Boxes, owner: str) -> Answer:
        """Stop the job that the stage shows."""
        for job in self._watcher.mine([given["shown"]], owner):
            self._jobs.cancel(job.id)
        return {}

    def _skip_picture(self, given: Boxes, owner: str) -> Answer:
        """Go on with the next picture of the job that the stage shows."""
        for job in self._watcher.mine([given["shown"]], owner):
            self._jobs.skip(job.id)
        return {}

    async def watch(self, ids: list[str], owner: str) -> AsyncIterator[str]:
        """Yield the stage of the active jobs of a tab, one after the other, until the last has ended."""
        async for view in self._watcher.watch(ids, owner):
            missing = view.code == MissingModel.__name__
            offers = await anyio.to_thread.run_sync(self._offers, view) if missing else frozenset[str]()
            yield views.stage(view, offers=offers)

    def _offers(self, view: View) -> frozenset[str]:
        """Return what can be done about a job that lacks a model."""
        return self._remedies.offers(self._jobs.job(view.job).request)

    async def follow(self) -> AsyncIterator[dict[str, str]]:
        """Yield what the worker is getting ready and which files are missing, for as long as the page is open.

        When all files are here, the last word says so; :meth:`_go_over` knows whether they were missing before.
        """
        async for told in self._news.follow():
            yield {"status": told.status, "first": told.first, "arrived": "yes" if told.complete else ""}


def _controls(given: Boxes) -> dict[str, Any]:
    return {name: given[name] for name in CONTROLS}


def _unmarked() -> Answer:
    """Return the updates that take the mark of an earlier error off every field."""
    return {name: Update(info=BY_NAME[name].help, elem_classes=_classes(name)) for name in SETTINGS}


def _marked(error: FooocusError) -> Answer:
    """Return the updates that show an error below the prompt and, if a field is at fault, beside that field."""
    answer: Answer = {"problem": views.problem(error)}
    field = error.field if isinstance(error, RequestError) else ""
    if field in SETTINGS:
        words = f"{error.sentence} {error.remedy}".strip()
        answer["advanced"] = True
        answer["tabs"] = Update(selected=BY_NAME[field].group)
        answer[field] = Update(info=words, elem_classes=[*_classes(field), "wrong"])
    return answer


def _classes(name: str) -> list[str]:
    return ["pills"] if BY_NAME[name].kind == "pills" else []


def _recall(memory: str) -> tuple[dict[str, Any], list[str]]:
    """Read what the browser kept: the controls' values and the tab's job ids. It may be anything."""
    try:
        kept = json.loads(memory or "{}")
    except (ValueError, RecursionError):
        return {}, []
    if not isinstance(kept, dict) or not isinstance(kept.get("values"), dict):
        return {}, []
    return kept["values"], str(kept.get("jobs", "")).split()[-KEPT_IDS:]

"""The page's layout, and what happens when a person uses it.

A tab holds the ids of its jobs in a hidden box. Making a job adds its id; whenever the box changes, one watcher follows
what is still active. So closing a tab ends nothing, and a reloaded tab picks up where it was. The ids stay in the
browser's own storage; settings there and, for the person's other devices, on the server.

Importing this module imports gradio (seconds); :mod:`fooocus.ui.server` does so only when it builds the page.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import gradio as gr

from fooocus.config import Config
from fooocus.errors import FooocusError, MissingModel, RequestError
from fooocus.jobs.supervisor import Jobs
from fooocus.models.computer import look
from fooocus.request import Request
from fooocus.ui import views, welcome_views
from fooocus.ui.banner import banner, torch_version
from fooocus.ui.controls import build_boxes, build_group, initial, restorable
from fooocus.ui.estimate import Estimator
from fooocus.ui.fields import BY_NAME, Group, to_request
from fooocus.ui.guard import owner_of
from fooocus.ui.hints import hints
from fooocus.ui.languages import LANGUAGE_CHOICE
from fooocus.ui.meanwhile import ARRIVED, ON, carried_over
from fooocus.ui.panels import Panels
from fooocus.ui.remedies import Remedies
from fooocus.ui.restore import Restorer
from fooocus.ui.stream import ACTIVE, View, Watcher
from fooocus.ui.welcome import Look, Welcome

TITLE = "Fooocus"
TABS: tuple[tuple[Group, str], ...] = (
    ("settings", "Settings"),
    ("styles", "Styles"),
    ("models", "Models"),
    ("more", "More"),
)
# What the time of a picture hangs on; the prompt, which may ask for more pictures, is looked at when it is left.
TIMED = ("performance", "size", "count", "steps", "switch", "guidance", "sampler", "base", "refiner", "lines")
_KEPT_IDS = 50  # jobs that a tab remembers; the pictures of older ones are in the outputs folder
_LOOK_AT_WORKER_SECONDS = 0.5
# Streams of answers that Gradio's queue keeps open at once. Each tab holds one for as long as it is open, and another
# while it watches a job; with Gradio's own 40 the twenty-first tab would wait for somebody to leave.
_AT_ONCE = 1000
_SIGN_OF_LIFE_SECONDS = 10.0

# What was typed and set is kept by kept.js: in the browser, and on the server for the same person's other devices.
REMEMBER = """(...values) => {
  const names = %s
  fooocusKept.remember(Object.fromEntries(names.map((n, i) => [n, values[i]])))
}"""
RECALL = """async () => {
  return JSON.stringify({values: await fooocusKept.recall(), jobs: sessionStorage.getItem("fooocus.jobs") || ""})
}"""
RECALL_PROMPT = "() => fooocusKept.prompt(%s)"
JOIN_IDS = """(found, tab) => {
  return [...new Set([...found.split(" "), ...tab.split(" ")])].filter(Boolean).join(" ")
}"""


class Page:
    """Build the page and answer its events. One object serves all tabs; what differs between them is passed in."""

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
        self._controls: dict[str, Any] = {}
        self._said: tuple[tuple[Look | None, str, str] | None, tuple[str, str]] = (None, ("", ""))
        self._panels = Panels(config, defaults, self._begin)
        self._restorer = Restorer(config)
        self._warning: str | None = None

    def build(self) -> gr.Blocks:
        """Return the page as Gradio blocks, wired."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
            with gr.Row(elem_id="room"):
                with gr.Column(elem_id="main"):
                    self._banner = gr.HTML("", elem_id="banner", apply_default_css=False, js_on_load=None)
                    self._stage = gr.HTML(
                        views.stage(View()), elem_id="stage", apply_default_css=False, js_on_load=None
                    )
                    begin = welcome_views.UNKNOWN if self._welcome.knows_models else ""
                    self._first = gr.HTML(begin, elem_id="first", apply_default_css=False, js_on_load=None)
                    self._build_desk()
                with gr.Column(elem_id="advanced"), gr.Tabs(elem_id="tabs") as self._tabs:
                    for group, title in TABS:
                        with gr.Tab(title, id=group):
                            self._panels.begin(group)
                            self._controls |= build_group(group, self._defaults)
                            self._panels.build(group)
                            if group == "more":
                                gr.Button("Use on another device", elem_id="device-open")
                                gr.HTML(LANGUAGE_CHOICE, elem_id="language", apply_default_css=False, js_on_load=None)
            self._controls |= build_boxes(self._defaults)
            self._panels.build_hidden()
            self._restorer.build_hidden()
            self._tab = gr.Textbox(elem_id="tab", visible="hidden", container=False)
            self._replaces = gr.Textbox(elem_id="replaces", visible="hidden", container=False)
            self._found = gr.Textbox(elem_id="found", visible="hidden", container=False)
            self._remedy = gr.Textbox(elem_id="field-remedy-ask", visible="hidden", container=False)
            self._order = gr.Textbox(elem_id="order", visible="hidden", container=False)
            self._meanwhile = gr.Textbox(elem_id="meanwhile", visible="hidden", container=False)
            self._arrived = gr.Textbox(elem_id="arrived", visible="hidden", container=False)
            self._memory = gr.Textbox(visible=False)
            self._wire(blocks)
        blocks.max_threads = _AT_ONCE
        blocks.queue(default_concurrency_limit=None, api_open=False)
        return blocks

    def _build_desk(self) -> None:
        """Lay out the prompt and its buttons, at the lower edge."""
        with gr.Column(elem_id="desk"):
            with gr.Row(elem_id="ask"):
                self._controls["prompt"] = gr.Textbox(
                    placeholder=BY_NAME["prompt"].help,
                    value=self._defaults.prompt,
                    label=BY_NAME["prompt"].label,
                    show_label=False,
                    container=False,
                    max_lines=6,
                    autofocus=True,
                    elem_id="field-prompt",
                    html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),
                )
                self._go = gr.Button("Generate", variant="primary", elem_id="go")
                # Which of the three is shown follows from the stage, by page.css.
                self._skip = gr.Button("Skip", elem_id="skip")
                # What these two, and the queue in the foot line, do is queue.js's affair.
                gr.Button("Pause", elem_id="pause")
                gr.Button("Resume", elem_id="resume")
                self._stop = gr.Button("Stop", elem_id="stop")
            self._problem = gr.HTML("", elem_id="problem", apply_default_css=False, js_on_load=None)
            self._hint = gr.HTML("", elem_id="hint", apply_default_css=False, js_on_load=None)
            gr.HTML(views.EDITS, elem_id="edits", apply_default_css=False, js_on_load=None)
            self._restorer.build_line()
            with gr.Row(elem_id="foot"):
                self._advanced = gr.Checkbox(False, label="Advanced", container=False, elem_id="advanced-switch")
                self._time = gr.HTML("", elem_id="time", apply_default_css=False, js_on_load=None)
                self._status = gr.HTML("", elem_id="status", apply_default_css=False, js_on_load=None)
                gr.Button("Queue", elem_id="queue-open")
                gr.Button("History", elem_id="history-open")

    def _wire(self, blocks: gr.Blocks) -> None:
        """Join events to methods. Outputs show no spinners: the stage says what goes on."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        every = list(self._controls.values())
        remembered = {**self._controls, "advanced": self._advanced, "meanwhile": self._meanwhile}
        # The prompt comes back without asking the server, whose answer might overwrite what was typed meanwhile.
        prompt = self._controls["prompt"]
        blocks.load(None, None, prompt, js=RECALL_PROMPT % json.dumps(self._defaults.prompt))
        opened = [*every, self._advanced, self._meanwhile, self._found]
        blocks.load(self._open, self._memory, opened, js=RECALL, queue=False, **quiet).then(
            None, None, None, js="() => { fooocusKept.begin() }"
        )
        self._found.change(None, [self._found, self._tab], self._tab, js=JOIN_IDS)
        blocks.load(self._follow_worker, None, [self._status, self._first, self._arrived], **quiet)
        changed = [*every, self._meanwhile, self._hint]
        self._arrived.change(self._go_over, {*every, self._meanwhile}, changed, queue=False, **quiet)
        self._order.change(self._welcome.order, self._order, None, trigger_mode="multiple", queue=False, **quiet)
        gr.on(
            [self._go.click, prompt.submit],
            self._generate,
            {*every, self._tab, self._replaces},
            [*every, self._tab, self._replaces, self._problem, self._tabs, self._advanced],
            trigger_mode="multiple",
            queue=False,
            **quiet,
        )
        watched = self._tab.change(self._watch, self._tab, self._stage, trigger_mode="always_last", **quiet)
        timed = [control.change for name, control in self._controls.items() if name in TIMED]
        gr.on(
            [blocks.load, prompt.blur, *timed],
            self._estimate,
            {*every},
            self._time,
            trigger_mode="always_last",
            queue=False,
            **quiet,
        )
        watched.then(self._estimate, {*every}, self._time, queue=False, **quiet)  # it has just learnt
        checked = [prompt, self._controls["base"]]
        prompt.change(self._check, checked, self._hint, trigger_mode="always_last", queue=False, **quiet)
        self._panels.wire(self._controls)
        self._restorer.wire(self._controls, quiet)
        given = [self._remedy, self._tab]
        self._remedy.change(self._do_remedy, given, [self._tab, self._problem], queue=False, **quiet)
        blocks.load(self._look_at_card, None, self._banner, queue=False, **quiet)
        self._stop.click(self._stop_job, self._tab, None, queue=False, **quiet)
        self._skip.click(self._skip_picture, self._tab, None, queue=False, **quiet)
        self._tab.change(None, self._tab, None, js="ids => { sessionStorage.setItem('fooocus.jobs', ids) }")
        self._advanced.change(None, self._advanced, None, js="on => { document.body.classList.toggle('advanced', on) }")
        gr.on(
            [control.change for control in remembered.values()],
            None,
            list(remembered.values()),
            None,
            js=REMEMBER % json.dumps(list(remembered)),
        )

    def _open(self, memory: str, request: gr.Request) -> dict[Any, Any]:
        """Give a page back what its browser had: settings, and this tab's jobs or else the person's last ones."""
        owner = _owner(request)
        values, ids = _recall(memory)
        now = self._begin()
        kept = restorable(values, self._config, now) | self._overtaken(values, now)
        if now is not self._defaults:
            kept = initial(now) | kept
        answer: dict[Any, Any] = {self._meanwhile: "" if now is self._defaults else ON}
        for name, control in self._controls.items():
            if name != "prompt" and name in kept:
                answer[control] = kept[name]
        if isinstance(values.get("advanced"), bool):
            answer[self._advanced] = values["advanced"]
        mine = self._watcher.mine(ids, owner) or self._watcher.last(owner)
        answer[self._found] = " ".join(job.id for job in mine)
        return answer

    def _begin(self) -> Request:
        """Return what a page begins with now: the stand-in's settings while files are missing."""
        return self._welcome.stand_in or self._defaults

    def _overtaken(self, values: dict[str, Any], now: Request) -> dict[str, Any]:
        """Return those remembered values that events have overtaken: models have come or gone since the last visit."""
        spare = self._welcome.spare
        if spare is None or (now is self._defaults and values.get("meanwhile") != ON):
            return {}
        return carried_over(values, initial(spare if now is self._defaults else self._defaults), initial(now))

    def _go_over(self, given: dict[Any, Any]) -> dict[Any, Any]:
        """Go over from the stand-in's settings to the real ones, whose files have all arrived."""
        values = {name: given[control] for name, control in self._controls.items()}
        # The mark stays until the page is opened again: should the browser keep only a part of this, it is made up for.
        answer: dict[Any, Any] = {self._meanwhile: given[self._meanwhile]}
        if given[self._meanwhile] == ON and self._welcome.spare is not None:
            for name, value in carried_over(values, initial(self._welcome.spare), initial(self._defaults)).items():
                answer |= {self._hint: ARRIVED, self._controls[name]: value}
        return answer

    def _generate(self, given: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Make a job of the controls' values; an error names its field and makes none."""
        values = {name: given[control] for name, control in self._controls.items()}
        answer: dict[Any, Any] = {self._problem: "", **self._unmarked()}
        try:
            asked = to_request(values, self._defaults)
            id = self._jobs.submit(asked.to_json(), _owner(request), replaces=given[self._replaces] or None)
        except FooocusError as error:
            return answer | self._marked(error)
        answer[self._replaces] = ""
        answer[self._tab] = " ".join([*str(given[self._tab] or "").split(), id][-_KEPT_IDS:])
        return answer

    def _estimate(self, given: dict[Any, Any]) -> str:
        """Say how long the present settings would take."""
        values = {name: given[control] for name, control in self._controls.items()}
        try:
            return self._estimator.line(to_request(values, self._defaults))
        except FooocusError:
            return ""

    def _check(self, prompt: str, base: str) -> str:
        """Say what in the prompt will not work."""
        return hints(prompt or "", self._config, base or "")

    def _unmarked(self) -> dict[Any, Any]:
        """Return the updates that take the mark of an earlier error off every field."""
        return {
            control: gr.update(info=BY_NAME[name].help, elem_classes=_classes(name))
            for name, control in self._controls.items()
            if name in BY_NAME and name != "prompt"
        }

    def _marked(self, error: FooocusError) -> dict[Any, Any]:
        """Return the updates that show an error below the prompt and, if a field is at fault, beside that field."""
        answer: dict[Any, Any] = {self._problem: views.problem(error)}
        field = error.field if isinstance(error, RequestError) else ""
        if field in BY_NAME and field != "prompt":
            answer[self._advanced] = True
            answer[self._tabs] = gr.update(selected=BY_NAME[field].group)
            if field in self._controls:
                words = f"{error.sentence} {error.remedy}".strip()
                answer[self._controls[field]] = gr.update(info=words, elem_classes=[*_classes(field), "wrong"])
        return answer

    async def _watch(self, tab: str, request: gr.Request) -> AsyncIterator[str]:
        """Show the active jobs of a tab, one after the other, until the last has ended.

        Each answer is the whole stage: of answers in quick succession the browser may take only the last.
        """
        async for view in self._watcher.watch((tab or "").split(), _owner(request)):
            yield views.stage(view, fetchable=self._lacks(view))

    def _lacks(self, view: View) -> bool:
        """Whether what a failed job lacks can be fetched."""
        return view.code == MissingModel.__name__ and bool(self._remedies.fetchable(self._jobs.job(view.job).request))

    def _do_remedy(self, asked: str, tab: str, request: gr.Request) -> dict[Any, Any]:
        """Do what a button of a failed job says; a new job is followed like any other."""
        try:
            id = self._remedies.order(asked or "", _owner(request))
        except FooocusError as error:
            return {self._problem: views.problem(error)}
        followed = {self._tab: " ".join([*(tab or "").split(), id][-_KEPT_IDS:])} if id else {}
        return {self._problem: "", **followed}

    def _look_at_card(self) -> str:
        """Say loudly when the processor draws although a card is there."""
        if self._warning is None:  # once: asking for the card takes up to a second
            computer = look(self._config.models)
            self._warning = banner(computer.cards, torch_version(), self._config.device, computer.system)
        return self._warning

    def _stop_job(self, tab: str, request: gr.Request) -> None:
        """Stop the job that this tab shows."""
        for job in self._watched(tab, request)[:1]:
            self._jobs.cancel(job)

    def _skip_picture(self, tab: str, request: gr.Request) -> None:
        """Go on with the next picture of the job that this tab shows."""
        for job in self._watched(tab, request)[:1]:
            self._jobs.skip(job)

    def _watched(self, tab: str, request: gr.Request) -> list[str]:
        mine = self._watcher.mine((tab or "").split(), _owner(request))
        return [job.id for job in mine if job.state in ACTIVE]

    async def _follow_worker(self) -> AsyncIterator[tuple[str, str, str]]:
        """Say quietly what the worker is getting ready and which files are missing, for as long as the page is open.

        When files were missing and have all come, the third box says so.

        That it never ends has a second reason: Gradio closes a page's stream of answers when nothing is pending, and an
        event that arrives at that moment is never answered. Now and then it yields without news, because only there
        it learns that the page was closed.
        """
        shown, since, missed = None, 0.0, self._begin() is not self._defaults
        while True:
            look, state = await self._welcome.look(), self._jobs.worker_state()
            line, first = self._say(look, state.phase, state.reason)
            arrived = "yes" if missed and look is not None and not look.unfinished else ""
            if (line, first, arrived) != shown or since >= _SIGN_OF_LIFE_SECONDS:
                yield line, first, arrived
                shown, since = (line, first, arrived), 0.0
            await anyio.sleep(_LOOK_AT_WORKER_SECONDS)
            since += _LOOK_AT_WORKER_SECONDS

    def _say(self, look: Look | None, phase: str, reason: str) -> tuple[str, str]:
        """Return the quiet line and the first screen; all tabs see the same look, so it is put into words once."""
        seen, said = self._said
        if seen is None or seen[0] is not look or seen[1:] != (phase, reason):
            line = views.status(phase, reason) or welcome_views.quiet_line(look)
            said = line, welcome_views.panel(look) if self._welcome.knows_models else ""
            self._said = (look, phase, reason), said
        return said


def _owner(request: gr.Request) -> str:
    """Return who asks: the browser's token, or, where cookies are off, this one page view."""
    return owner_of(request.headers.get("cookie", "")) or f"page-{request.session_hash}"


def _classes(name: str) -> list[str]:
    return ["pills"] if BY_NAME[name].kind == "pills" else []


def _recall(memory: str) -> tuple[dict[str, Any], list[str]]:
    """Read what the browser kept: the controls' values and the tab's job ids. It may be anything."""
    try:
        kept = json.loads(memory or "{}")
    except ValueError:
        return {}, []
    if not isinstance(kept, dict) or not isinstance(kept.get("values"), dict):
        return {}, []
    return kept["values"], str(kept.get("jobs", "")).split()[-_KEPT_IDS:]

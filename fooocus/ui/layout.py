"""The page's layout in Gradio's components, and which event asks which of :mod:`fooocus.ui.actions`.

Importing this module imports gradio (seconds), which is needed only to compile the page: see
:mod:`fooocus.ui.compiled`. Nothing here answers anything. What a person typed and what a tab shows come and go as
values of boxes; hidden ones carry what scripts of our own (``static/``) ask and are told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from fooocus.request import Request
from fooocus.ui import views, welcome_views
from fooocus.ui.actions import ACTIONS, CONTROLS, Action
from fooocus.ui.controls import initial
from fooocus.ui.fields import BY_NAME, Group
from fooocus.ui.languages import LANGUAGE_CHOICE
from fooocus.ui.stream import View
from fooocus.ui.widgets import build_boxes, build_group

TITLE = "Fooocus"
TABS: tuple[tuple[Group, str], ...] = (
    ("settings", "Settings"),
    ("styles", "Styles"),
    ("models", "Models"),
    ("more", "More"),
)
# What the time of a picture hangs on; the prompt, which may ask for more pictures, is looked at when it is left.
TIMED = ("performance", "size", "count", "steps", "switch", "guidance", "sampler", "base", "refiner", "lines")
# Boxes by which scripts order and are answered: name, and its id where that is another.
_HIDDEN: Mapping[str, str] = {
    "preset-ask": "field-preset-ask",
    "preset-said": "field-preset-said",
    "styled-ask": "field-styled-ask",
    "loved": "field-loved",
    "restore": "restore",
    "former": "former",
    "tab": "tab",
    "shown": "shown",
    "replaces": "replaces",
    "found": "found",
    "made": "made",
    "remedy": "field-remedy-ask",
    "order": "order",
    "meanwhile": "meanwhile",
    "began": "began",
    "arrived": "arrived",
    "watched": "watched",
    "me": "me",
}
# Stands where live.js puts what the server tells.
_LIVE = "<span data-live hidden></span>"
# What was typed and set is kept by kept.js: in the browser, and on the server for the same person's other devices.
_REMEMBER = """(...values) => {
  const names = %s
  fooocusKept.remember(Object.fromEntries(names.map((n, i) => [n, values[i]])))
}"""
_RECALL = """async () => {
  return JSON.stringify({values: await fooocusKept.recall(), jobs: fooocusStore.session.get("fooocus.jobs") || ""})
}"""
_RECALL_PROMPT = "() => fooocusKept.prompt(%s)"
_JOIN_IDS = """(found, tab) => {
  return [...new Set([...found.split(" "), ...tab.split(" ")])].filter(Boolean).join(" ")
}"""
# A new job's id goes to the end of what the tab holds by now: others may have been asked for meanwhile.
_FOLLOW = "id => { fooocusQueue.follow([id]) }"
_WATCH = "ids => { fooocusStore.session.set('fooocus.jobs', ids); fooocusLive.watch(ids) }"
# The job that is meant by a person who presses Stop, whatever else the tab knows of.
_SHOWN = "() => document.querySelector('#stage .stage')?.dataset.job ?? ''"
# Tells the panels what the boxes hold now, whoever has put it there.
_TAKE = "(...values) => { window.fooocusPanels?.take(%s, values, %s) }"
_SAID = "(said) => { window.fooocusPanels?.take(['preset-said'], [said]) }"


def stub(action: Action) -> Callable[..., Any]:
    """Return what Gradio takes for the function of an action; its name is the action's, and it is never called."""

    async def once(*values: Any) -> None:
        raise NotImplementedError(action.name)

    once.__name__ = action.name
    return once


class Layout:
    """Build the page of ``defaults``. With ``models`` it has a place for what is said of missing model files."""

    def __init__(self, defaults: Request, *, models: bool) -> None:
        self._defaults = defaults
        self._models = models
        self._boxes: dict[str, Any] = {}

    def build(self) -> gr.Blocks:
        """Return the page as Gradio blocks, wired."""
        boxes = self._boxes
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
            with gr.Row(elem_id="room"):
                with gr.Column(elem_id="main"):
                    boxes["banner"] = _html("", "banner")
                    _html(views.stage(View()), "stage")
                    _html(welcome_views.UNKNOWN if self._models else _LIVE, "first")
                    self._build_desk()
                with gr.Column(elem_id="advanced"), gr.Tabs(elem_id="tabs") as boxes["tabs"]:
                    for group, title in TABS:
                        with gr.Tab(title, id=group):
                            self._build_tab(group)
            boxes |= build_boxes(self._defaults)
            for name, id in _HIDDEN.items():
                boxes[name] = gr.Textbox(elem_id=id, visible="hidden", container=False)
            boxes["memory"] = gr.Textbox(visible=False)
            self._wire(blocks)
            self._wire_panels()
            self._wire_browser()
        blocks.queue(default_concurrency_limit=None, api_open=False)
        return blocks

    def _build_tab(self, group: Group) -> None:
        if group == "settings":
            begin = escape(json.dumps(initial(self._defaults)))
            _drawn(f'<fooocus-presets begin="{begin}"></fooocus-presets>')
        self._boxes |= build_group(group, self._defaults)
        if group == "styles":
            self._boxes["styled"] = _html("", "styled")
            _drawn("<fooocus-cards></fooocus-cards>", "style-cards")
        if group == "more":
            _drawn("<fooocus-notice></fooocus-notice>", "notice-when-done")
            gr.Button("Read settings from a picture", elem_id="read-picture")
            gr.Button("Use on another device", elem_id="device-open")
            _html(LANGUAGE_CHOICE, "language")

    def _build_desk(self) -> None:
        """Lay out the prompt and its buttons, at the lower edge."""
        boxes = self._boxes
        with gr.Column(elem_id="desk"):
            with gr.Row(elem_id="ask"):
                boxes["prompt"] = gr.Textbox(
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
            boxes["problem"] = _html("", "problem")
            boxes["hint"] = _html("", "hint")
            _html(views.EDITS, "edits")
            _html(views.AWAY, "away")
            boxes["restored"] = _html("", "restored")
            with gr.Row(elem_id="foot"):
                boxes["advanced"] = gr.Checkbox(False, label="Advanced", container=False, elem_id="advanced-switch")
                boxes["time"] = _html("", "time")
                _html(_LIVE, "status")
                gr.Button("Queue", elem_id="queue-open")
                gr.Button("History", elem_id="history-open")

    def _on(self, event: Any, name: str, *, mode: str | None = None, js: str | None = None) -> Any:
        """Let an event, or several, ask an action. Answers show no spinners: the stage says what goes on."""
        action = ACTIONS[name]
        wired: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "js": js}
        wired |= {"queue": False, "trigger_mode": mode}
        given, told = ([self._boxes[box] for box in names] for names in (action.given, action.told))
        if isinstance(event, list):
            return gr.on(event, stub(action), given, told, **wired)
        return event(stub(action), given, told, **wired)

    def _wire(self, blocks: gr.Blocks) -> None:
        """Join events to actions."""
        boxes = self._boxes
        prompt = boxes["prompt"]
        # The prompt comes back without asking the server, whose answer might overwrite what was typed meanwhile.
        blocks.load(None, None, prompt, js=_RECALL_PROMPT % json.dumps(self._defaults.prompt))
        opened = self._on(blocks.load, "open", js=_RECALL)
        begun = opened.then(None, None, None, js="() => { fooocusKept.begin() }")
        self._on(begun.then, "check")  # a prompt that comes back is no change
        boxes["found"].change(None, [boxes["found"], boxes["tab"]], boxes["tab"], js=_JOIN_IDS)
        boxes["made"].change(None, boxes["made"], None, js=_FOLLOW)
        self._on(boxes["arrived"].change, "go_over")
        self._on(boxes["order"].change, "order", mode="multiple")
        self._on([self._go.click, prompt.submit], "generate", mode="multiple")
        timed = [boxes[name].change for name in TIMED]
        self._on([blocks.load, prompt.blur, *timed], "estimate", mode="always_last")
        self._on(boxes["watched"].change, "estimate")  # it has just learnt
        # Of what is typed, only the last counts.
        self._on(prompt.change, "check", mode="always_last")
        self._on(boxes["remedy"].change, "remedy")
        self._on(blocks.load, "card")
        self._on(self._stop.click, "stop", js=_SHOWN)
        self._on(self._skip.click, "skip", js=_SHOWN)

    def _wire_panels(self) -> None:
        """Join the panels, which are drawn in the browser, to the boxes by which they ask and are told."""
        boxes = self._boxes
        told = _TAKE % (json.dumps(list(CONTROLS)), json.dumps(initial(self._defaults)))
        every = [boxes[name] for name in CONTROLS]
        gr.on([control.change for control in every], None, every, None, js=told)
        boxes["loved"].change(None, boxes["loved"], None, js=_TAKE % ('["loved"]', "null"))
        boxes["began"].change(None, boxes["began"], None, js="(text) => { window.fooocusPanels?.began(text) }")
        self._on(boxes["preset-ask"].change, "preset")
        boxes["preset-said"].change(None, boxes["preset-said"], None, js=_SAID)
        self._on(boxes["styled-ask"].change, "style", mode="always_last")
        self._on(boxes["restore"].change, "restore", mode="multiple")
        boxes["restore"].change(None, None, None, js="() => { document.body.classList.remove('restored-read') }")

    def _wire_browser(self) -> None:
        """Join what happens in the browser alone."""
        boxes = self._boxes
        boxes["tab"].change(None, boxes["tab"], None, js=_WATCH)
        boxes["replaces"].change(None, None, None, js="() => { window.fooocusQueue?.look() }")
        switch = "on => { document.body.classList.toggle('advanced', on) }"
        boxes["advanced"].change(None, boxes["advanced"], None, js=switch)
        names = (*CONTROLS, "advanced", "loved", "meanwhile")
        remembered = [boxes[name] for name in names]
        gr.on([box.change for box in remembered], None, remembered, None, js=_REMEMBER % json.dumps(names))


def _html(text: str, elem_id: str) -> Any:
    return gr.HTML(text, elem_id=elem_id, apply_default_css=False, js_on_load=None)


def _drawn(text: str, elem_id: str | None = None) -> None:
    gr.HTML(text, elem_id=elem_id, apply_default_css=False, js_on_load=None, elem_classes="drawn")

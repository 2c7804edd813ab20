"""Views as HTML: the stage with its picture, progress, gallery and error. Every value from outside is escaped here.

The structure is the same from frame to frame, so that the browser changes attributes in place and nothing flickers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from fooocus.errors import FooocusError
from fooocus.ui import faults
from fooocus.ui.banner import slow
from fooocus.ui.stream import Picture, View

EXAMPLES = (
    "A lighthouse at dusk, soft rain",
    "Portrait of an old sailor, window light",
    "A glass teapot on a mossy stone",
)
# Shown while the page's settings are those of a waiting job that they will replace.
EDITS = (
    '<p>Enter puts this in the place of the waiting job.</p><button type="button" data-queue="keep">Keep both</button>'
)
# Shown while the program does not answer; queue.js, which asks it all the time, knows.
AWAY = (
    '<p class="problem gone" role="alert"><b>The program does not answer.</b> '
    "Look whether its window is still open; this page goes on by itself when it is back.</p>"
    '<p class="problem other" role="alert"><b>Something else answers in the program\'s place.</b> '
    "It may be a proxy or a login page. Reload to see it; this page goes on by itself when the program is back.</p>"
    '<p class="problem locked" role="alert"><b>The program asks for its password again.</b> '
    "It may have been changed. Reload to enter it; what you have typed stays.</p>"
)
# What the miniature knows how to draw; page.css shows these where it stands in for the real models.
MINIATURE_EXAMPLES = (
    "A red circle on a blue background",
    "A yellow star on a purple background",
    "A pink heart on a white background",
)
_TITLE_CHARACTERS = 40
_PLACES = 12  # places of pictures to come that are shown; a longer strip is scrolled anyway

# The stages of the work as a person would say them.
_STAGES: Mapping[str, str] = {
    "": "Starting",
    "starting": "Starting",
    "loading": "Loading the model",
    "reading": "Reading the prompt",
    "sampling": "Drawing",
    "refining": "Refining",
    "decoding": "Developing the picture",
    "saving": "Saving",
}


def stage(view: View, *, offers: frozenset[str] = frozenset()) -> str:
    """Return the whole stage. ``data-title`` is what the tab's title says.

    ``offers`` are the remedies that can be had here for a failed job that lacks a model.
    """
    match view.phase:
        case "empty":
            inside = _empty()
        case "waiting" | "running" | "paused":
            inside = _picture_forming(view) + _strip(view.saved, None, view.pictures) + _progress(view) + _notice(view)
        case _:
            inside = _outcome(view, offers)
    active = " data-active" if view.active else ""
    active += " data-skippable" if view.phase == "running" and view.pictures > 1 else ""
    active += " data-resumable" if view.phase == "paused" or (view.phase == "waiting" and view.held) else ""
    active += f' data-pictures="{view.pictures}" data-saved="{len(view.saved)}"'  # for heard.js
    return (
        f'<section class="stage" data-phase="{view.phase}"{active} data-job="{escape(view.job)}" '
        f'data-waiting="{view.waiting}" '
        f'data-title="{_title(view)}" aria-label="Picture">{slow(view.slow)}{inside}</section>'
    )


def problem(error: FooocusError | None) -> str:
    """Return the line below the prompt that says why no job was made, or nothing."""
    if error is None:
        return ""
    return f'<p class="problem" role="alert"><b>{escape(error.sentence)}</b> {escape(error.remedy)}</p>'


def defect() -> FooocusError:
    """Return what is said of something that nobody thought of."""
    return FooocusError("This could not be done: a defect of this program.", "The log says more.")


def progress_words(view: View) -> str:
    """Return progress as a person reads it: picture 2 of 4 · step 17 of 30 · 6 s left."""
    if view.phase == "waiting":
        return "" if view.held else "Next in line" if not view.ahead else f"Waiting, {view.ahead} ahead"
    words = [f"picture {view.picture} of {view.pictures}"] if view.pictures > 1 and view.picture else []
    if view.phase == "paused":
        return " · ".join(words)
    if view.step:
        words.append(f"step {view.step} of {view.steps}")
    if view.left is not None:
        words.append(f"{duration(view.left)} left")
    return " · ".join(words)


def duration(seconds: float) -> str:
    """Return a time in the unit a person would use; short ones are rounded up, so that 0 s means done."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _title(view: View) -> str:
    prompt = view.prompt.strip().replace("\n", " ")
    prompt = prompt if len(prompt) <= _TITLE_CHARACTERS else prompt[: _TITLE_CHARACTERS - 1].rstrip() + "…"
    match view.phase:
        case "waiting":
            state = "Waiting"
        case "paused":
            state = "Paused"
        case "running":
            state = f"{percent(view)} %"
        case "finished":
            state = "Done"
        case "failed":
            state = "Stopped by an error"
        case _:
            return "Fooocus"
    return escape(f"{state} – {prompt}" if prompt else state)


def percent(view: View) -> int:
    """Return whole percents; 100 only when all is done."""
    return 100 if view.phase == "finished" else min(99, int(view.fraction * 100))


def _empty() -> str:
    examples, miniatures = ("".join(map(_example, words)) for words in (EXAMPLES, MINIATURE_EXAMPLES))
    return (
        f'<div class="empty"><p>What would you like to see?</p><div class="examples">{examples}</div>'
        f'<div class="examples miniature">{miniatures}</div></div>'
    )


def _example(words: str) -> str:
    return f'<button type="button" translate="no" data-example="{escape(words)}">{escape(words)}</button>'


def _frame(view: View, inside: str, kind: str) -> str:
    """Return the paper the picture lies on: it has the picture's shape before there is one, so nothing jumps."""
    width, height = view.size
    style = f"--ratio:{width / height:.4f};--wide:{width}px"
    return f'<div class="paper"><figure class="frame {kind}" style="{style}">{inside}</figure></div>'


def _picture_forming(view: View) -> str:
    if view.preview:
        image = f'<img src="{_frame_url(view)}" alt="The picture so far: {escape(view.prompt)}">'
        return _frame(view, image, "forming")
    if view.saved:
        return _frame(view, _image(view, view.saved[-1]), "forming")
    return _frame(view, '<span class="blank"></span>', "forming")


def _frame_url(view: View) -> str:
    return f"/preview/{quote(view.job, safe='')}?frame={view.preview}"


def _progress(view: View) -> str:
    done = percent(view)
    return (
        '<div class="progress">'
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done}"><i style="transform:scaleX({view.fraction:.3f})"></i></div>'
        f'<p><span class="now">{_now(view)}</span>'
        f'<span class="count">{escape(progress_words(view))}</span></p></div>'
    )


def _now(view: View) -> str:
    """Say in a few words what goes on."""
    match view.phase:
        case "waiting":
            return "Your queue is paused" if view.held else ""
        case "paused":
            return f"Paused at step {view.step} of {view.steps}" if view.step else "Paused"
    return _STAGES.get(view.stage, "Working")


def _notice(view: View) -> str:
    """Return the latest thing the job had to say; its place is kept while there is nothing, so that nothing moves."""
    return f'<p class="notice" title="{escape(view.notice)}">{escape(view.notice)}</p>'


def _outcome(view: View, offers: frozenset[str]) -> str:
    """Return what is left when a job has ended: its pictures, and why it ended early."""
    chosen = view.saved[-1] if view.saved else None
    words = ""
    if view.phase == "failed":
        words = faults.card(view, offers)
    elif view.phase == "cancelled" and chosen is None:
        return _stopped(view)
    elif view.phase == "cancelled":
        words = '<div class="fault quiet" role="status"><span>Stopped.</span></div>'
    if chosen is None:
        return f'<div class="empty">{words or "<p>No picture was made.</p>"}</div>'
    picture = _image(view, chosen)
    if chosen.url:
        picture = f'<button type="button" class="open" data-do="open" aria-label="Open the picture">{picture}</button>'
    return (
        _frame(view, picture, "done")
        + _strip(view.saved, chosen, len(view.saved))
        + _caption(chosen)
        + _notice(view)
        + words
    )


def _stopped(view: View) -> str:
    """Return what is left of a job that was stopped before a picture was saved: its last frame, and the way back.

    The frame is in memory only: page.js shows an empty paper where it has gone.
    """
    where = f"Stopped at step {view.step} of {view.steps}." if view.step else "Stopped."
    how = "With the same settings and the same seed"
    again = f'<button type="button" data-remedy="again" title="{how}">Start again</button>'
    words = f'<div class="stopped" role="status"><span>{where}</span><span>Nothing was saved.</span>{again}</div>'
    if not view.preview:
        return f'<div class="empty">{words}</div>'
    image = f'<img src="{_frame_url(view)}" alt="The picture as far as it came: {escape(view.prompt)}">'
    return _frame(view, image, "unfinished") + words


def _image(view: View, picture: Picture) -> str:
    if not picture.url:
        return '<span class="blank">Saved outside of the outputs folder</span>'
    if not view.prompt:
        return f'<img src="{escape(picture.url)}" alt="The finished picture">'
    return f'<img src="{escape(picture.url)}" alt="{escape(view.prompt)}" translate="no">'


def _strip(pictures: tuple[Picture, ...], chosen: Picture | None, places: int) -> str:
    """Return the row of all pictures of the job; those to come keep their ``places``, so that nothing moves later."""
    if places < 2:
        return '<div class="strip" hidden></div>'
    buttons = "".join(
        f'<button type="button" data-url="{escape(p.url)}" data-seed="{p.seed}" aria-label="Picture {p.number}" '
        f'aria-pressed="{"true" if chosen == p else "false"}"><img src="{escape(p.url)}" alt=""></button>'
        for p in pictures
        if p.url
    )
    return f'<div class="strip">{buttons}{"<span class=slot></span>" * (min(places, _PLACES) - len(pictures))}</div>'


# What can be done with a finished picture: its sign, what pictures.js or advanced.js know it by, and the words.
_ACTIONS = (
    ("heart", 'data-do="favourite" aria-pressed="false"', "Favourite"),
    ("pin", "data-keep-seed", "Keep this seed"),
    ("same", 'data-do="same"', "Restore its settings, with the same seed"),
    ("new", 'data-do="new"', "Restore its settings, with a new seed"),
    ("copy", 'data-do="copy"', "Copy settings"),
    ("bin", 'data-do="delete"', "Delete"),
)


def _caption(picture: Picture) -> str:
    """Return the line below a finished picture: its seed, and quietly what can be done with it."""
    seed = f'<span>Seed <b class="seed">{picture.seed}</b></span>'
    if not picture.url:
        return f'<div class="caption">{seed}</div>'
    buttons = "".join(
        f'<button type="button" class="act sign-{sign}" {what} title="{words}" aria-label="{words}"></button>'
        for sign, what, words in _ACTIONS
    )
    where = f'href="{escape(picture.url)}" download title="Download" aria-label="Download"'
    return f'<div class="caption">{seed}{buttons}<a class="act sign-save save" {where}></a></div>'


def status(phase: str, reason: str) -> str:
    """Return the quiet line about the worker, or nothing when it is ready and the queue can be read."""
    match phase:
        case "starting":
            words = "The engine is starting. You can already generate."
        case "restarting":
            words = f"The engine is starting again. {reason}" if reason else "The engine is starting again."
        case "down":
            words = f"The engine does not start. {reason} Waiting jobs are kept; adding another starts it again."
        case "ready" if reason:
            words = reason
        case _:
            return ""
    return f'<p class="worker {escape(phase)}" role="status" title="{escape(words)}">{escape(words)}</p>'

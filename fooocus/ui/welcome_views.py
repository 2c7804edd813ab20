"""The first screen while model files are missing, and the quiet line once they are there, as HTML.

As in :mod:`fooocus.ui.views`, every value from outside is escaped here, and the structure changes as little as it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from fooocus.models.computer import Computer
from fooocus.models.fetch import FileProgress
from fooocus.models.report import WantedFile, fetch_times, progress_line
from fooocus.models.troubles import too_little_room
from fooocus.models.verdict import Fit
from fooocus.models.words import amount
from fooocus.ui.views import MINIATURE_EXAMPLES
from fooocus.ui.welcome import Look

UNKNOWN = '<div class="unknown"></div>'  # what the page holds until the first look has ended
_FITS: Mapping[Fit, str] = {
    "fits": "everything fits",
    "takes turns": "base and refiner take turns",
    "streams": "models stream from main memory",
    "processor": "no graphics card",
}
_PHASES: Mapping[str, str] = {
    "waiting": "waits for its turn",
    "retrying": "trying again",
    "checking": "checking",
    "elsewhere": "another program is fetching it",
    "paused": "paused",
    "failed": "not fetched",
}


def quiet_line(look: Look | None) -> str:
    """Return one line that says what this computer can do, or how far the download is; the time stands before it."""
    if look is None:
        return ""
    moving = [file for file in look.under_way if file.phase != "paused"]
    if moving:
        reasons = _held_up(look)
        return _back(reasons[0] if reasons else f"Fetching {progress_line(look.progress)}")
    if look.unfinished:
        faults = [look.trouble.sentence] if look.trouble else [file.sentence for file in look.failed]
        if faults:
            return _back(" ".join(("Fetching failed.", faults[0])))
        count = len(look.unfinished)
        words = "1 file is missing" if count == 1 else f"{count} files are missing"
        return _back(f"The miniature model can draw meanwhile: {words}" if look.meanwhile else words)
    computer, verdict = look.survey.computer, look.survey.verdict
    card = computer.cards[0].name.removeprefix("NVIDIA ").removeprefix("GeForce ") if computer.cards else ""
    return _line(f"{card}, {_FITS[verdict.fit]}" if card else _FITS[verdict.fit])


def panel(look: Look | None) -> str:
    """Return what the first screen says while files are missing; nothing when all are there."""
    if look is None:
        return UNKNOWN
    if not look.unfinished:
        return ""
    told = {file.name: file for file in look.progress.files if file.phase not in ("done", "cancelled")}
    reasons = _held_up(look)
    shared = reasons[0] if len(reasons) == 1 else ""  # what holds up all is said once, above them
    rows = "".join(_row(file, told.get(file.entry.name), shared) for file in look.survey.files)
    held = f'<p class="note">{escape(shared)}</p>' if shared else ""
    title = _title(look)
    buttons = _buttons(look)
    # What to do stands beside what went wrong, so that it is in sight on a phone too.
    above, below = (buttons, "") if (look.failed or look.trouble) and not look.under_way else ("", buttons)
    overall = f"{_percent(look)} % – " if look.under_way else ""
    meanwhile = " data-meanwhile" if look.meanwhile else ""
    return (
        f'<section class="welcome"{meanwhile} aria-label="First run" data-title="{overall}{escape(title)}">'
        f'<h2 role="status">{escape(title)}</h2>'
        f"{_fault(look)}{above}{_computer(look)}{_meanwhile(look)}"
        f'{held}<ul class="files">{rows}</ul>'
        f"{_overall(look)}{below}{_by_hand(look)}</section>"
    )


def _held_up(look: Look) -> tuple[str, ...]:
    """Return why nothing comes just now, each reason once; nothing as long as one file comes."""
    begun = [file for file in look.under_way if file.phase not in ("waiting", "paused")]
    stuck = all(file.phase == "retrying" for file in begun)
    return tuple(dict.fromkeys(file.sentence for file in begun)) if stuck else ()


def _meanwhile(look: Look) -> str:
    """Say that one need not wait, with something to try."""
    if not look.meanwhile:
        return ""
    example = MINIATURE_EXAMPLES[0]
    return (
        '<p class="meanwhile">Until the models are here, the miniature model draws simple shapes within seconds: '
        f'<button type="button" data-example="{escape(example)}">{escape(example)}</button></p>'
    )


def _title(look: Look) -> str:
    if any(file.phase != "paused" for file in look.under_way):
        return "Fetching the models"
    if look.under_way:
        return "Paused"
    if look.trouble or look.failed:
        return "Not everything could be fetched"
    return "Before the first picture"


def _computer(look: Look) -> str:
    computer, verdict = look.survey.computer, look.survey.verdict
    warnings = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in verdict.warnings)
    return (
        f'<p class="verdict">{escape(verdict.sentence)}</p>'
        f'<p class="machine">{escape(_machine(computer))}</p>{warnings}'
        '<details data-key="basis"><summary>Where this time comes from</summary>'
        f"<p>{escape(verdict.basis)}.</p><p>{escape(verdict.plan)}</p></details>"
    )


def _machine(computer: Computer) -> str:
    """Say what the computer is in one line."""
    card = computer.cards[0] if computer.cards else None
    words = [computer.processor if card is None else card.name]
    if card is None:
        words.append("1 core" if computer.cores == 1 else f"{computer.cores} cores")
    elif card.memory_bytes:
        words.append(f"{amount(card.memory_bytes)} on the card")
    if computer.memory_bytes:
        words.append(f"{amount(computer.memory_bytes)} memory")
    return " · ".join([*words, f"{amount(computer.disk_free_bytes)} free on the disk"])


def _row(file: WantedFile, progress: FileProgress | None, said: str) -> str:
    """Return a file's row: what it is for, its name, how much of it is there. ``said`` is not said again."""
    name, _, purpose = file.entry.purpose.partition(":")
    size = amount(file.entry.size_bytes) if file.entry.size_bytes else "size unknown"
    done = progress.done_bytes if progress else file.fetched_bytes
    state, words = file.state, size
    if file.state == "here":
        words = "ready"
    elif progress:
        so_far = f"{amount(done)} of {size}" if done or progress.phase == "fetching" else ""
        words = ", ".join(part for part in (_PHASES.get(progress.phase, ""), so_far) if part)
    elif file.state == "unusable":
        words = "cannot be used"
    elif file.state == "begun":
        words = f"{amount(done)} of {size}"
    bar = ""
    moved = done > 0 or (progress is not None and progress.phase != "failed")
    if file.state != "here" and moved and file.entry.size_bytes:
        bar = _bar(done / file.entry.size_bytes, f"Progress of {file.entry.name}")
    use = _use(file) if file.state == "elsewhere" and progress is None else ""
    sentence = progress.sentence if progress and progress.phase != "failed" else file.sentence
    note = f'<p class="note">{escape(sentence)}</p>' if sentence and sentence != said else ""
    shown = name[:1].upper() + name[1:] if purpose else file.entry.name
    about = f"{file.entry.name} · {purpose.strip()}" if purpose else file.entry.licence
    return (
        f'<li data-state="{state}"><div class="what"><b>{escape(shown)}</b>'
        f'<span class="size">{escape(words)}</span></div>'
        f'<p class="about">{escape(about)}</p>{bar}{note}{use}</li>'
    )


def _use(file: WantedFile) -> str:
    folder = file.copy.parent if file.copy else file.target.parent
    return (
        f'<p class="copy"><span>Found on this disk: {escape(str(file.copy))}</span>'
        f'<button type="button" data-order="use" data-name="{escape(file.entry.name)}">'
        f"Use the copy in {escape(folder.name)}</button>"
        f'<button type="button" data-order="place" data-name="{escape(file.entry.name)}" '
        'title="Nothing is written into the folder of models; the file must stay where it is.">'
        "Use it where it is</button></p>"
    )


def _bar(fraction: float, label: str) -> str:
    done = min(1.0, max(0.0, fraction)) * 100
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done:.0f}"><i style="transform:scaleX({done / 100:.3f})"></i></div>'
    )


def _percent(look: Look) -> int:
    return int(100 * look.progress.done_bytes / look.progress.size_bytes) if look.progress.size_bytes else 0


def _overall(look: Look) -> str:
    """Return the bar over all files, once there is something to show."""
    if not look.under_way:
        return ""
    share = look.progress.done_bytes / look.progress.size_bytes if look.progress.size_bytes else 0.0
    words = progress_line(look.progress)
    return f'<div class="overall">{_bar(share, "Progress of all files")}<p>{escape(words)}</p></div>'


def _fault(look: Look) -> str:
    """Return why something did not work: the last order, or each file that failed; one sentence is said once."""
    said = [(look.trouble.sentence, look.trouble.remedy)] if look.trouble else []
    said += [(file.sentence, _brief(file)) for file in look.failed]
    if look.offline:
        said = [("HF_HUB_OFFLINE is set in the environment, so nothing is fetched.", "Take it out and start again.")]
    free, needed = look.survey.computer.disk_free_bytes, look.survey.bytes_to_fetch
    if not said and needed > free == 0:
        none = too_little_room(look.survey.computer.models, needed, free)
        said = [(none.sentence, none.remedy)]
    elif not said and needed > free:
        said = [(f"The disk has {amount(free)} free, {amount(needed)} are needed.", "Make room first.")]
    rows = "".join(f"<b>{escape(s)}</b><span>{escape(r)}</span>" for s, r in dict.fromkeys(said))
    return f'<div class="fault" role="alert">{rows}</div>' if rows else ""


def _brief(file: FileProgress) -> str:
    """Return what to do; the way by hand stands below with its links, for all files."""
    if file.code in ("NoConnection", "TooSlow"):
        return "Check the network and the proxy and try again, or get the files by hand as said below."
    return file.remedy


def _buttons(look: Look) -> str:
    """Return the one thing to do now, and the quiet ones beside it."""
    later = f'<button type="button" data-models="hide">{"Hide" if look.under_way else "Not now"}</button>'
    if look.under_way:
        paused = all(file.phase == "paused" for file in look.under_way)
        first = _order("resume", "Resume", main=True) if paused else _order("pause", "Pause")
        return f'<div class="orders">{first}{_order("cancel", "Cancel")}{later}</div>'
    count, needed = len(look.survey.to_fetch), look.survey.bytes_to_fetch
    if look.offline or not count:
        return f'<div class="orders">{later}</div>'
    words = f"Fetch {count} {'file' if count == 1 else 'files'}, {amount(needed)}"
    again = bool(look.failed) and not look.trouble
    main = _order("fetch", f"Try again: {words[0].lower()}{words[1:]}" if again else words, main=True)
    searching = "Looking for copies on this disk. " if look.searching else ""
    times = f"About {fetch_times(needed)}; it can be paused and goes on after any break."
    hint = f'<p class="hint">{searching}{escape(times)}</p>'
    return f'<div class="orders">{main}{later}</div>{hint}'


def _order(do: str, words: str, *, main: bool = False) -> str:
    return f'<button type="button" data-order="{do}"{" class=main" if main else ""}>{escape(words)}</button>'


def _by_hand(look: Look) -> str:
    """Say which file is got where and into which folder it belongs; open where nothing else helps."""
    rows = "".join(
        f'<li><a href="{escape(look.addresses[file.entry.name])}" target="_blank" rel="noopener noreferrer">'
        f"{escape(file.entry.name)}</a> into <code>{escape(str(file.target.parent))}</code></li>"
        for file in look.unfinished
        if file.entry.name in look.addresses
    )
    needed = look.offline or bool(look.failed) or any(file.phase == "retrying" for file in look.under_way)
    return (
        f'<details class="hand" data-key="hand"{" open" if needed else ""}><summary>Get the files by hand</summary>'
        f"<p>Fetch each with a browser, here or on another computer, and put it where it belongs. "
        f"The page notices by itself.</p><ul>{rows}</ul></details>"
    )


def _back(words: str) -> str:
    """Return a line that leads back to the first screen; page.css hides it while that is shown."""
    return f'<p class="missing"><button type="button" data-models="show">{escape(words)}</button></p>'


def _line(words: str) -> str:
    return f"<p>{escape(words)}</p>"

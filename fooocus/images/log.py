"""The day's pictures on one page, ``index.html`` beside them: opened from disk, without network and without scripts.

A picture's block is appended; what was written before is not touched, so no crash can cost the day; the block of a
picture that is deleted later stays too, with its prompt. The page puts the newest block first by its style sheet.
Prompts may come from strangers' pictures, so every value is escaped and the page forbids itself scripts and addresses
elsewhere. The recipe in a block can be copied and pasted into the prompt box.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from urllib.parse import quote

from fooocus.errors import StorageError
from fooocus.images.metadata import record, without_folders
from fooocus.request import Recipe

NAME = "index.html"
MAX_PAGES = 100
_START = b'<article id="'
_END = b"<!-- end of block -->\n"
_HEAD = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
main {{ display: flex; flex-direction: column-reverse; gap: 2rem; }}
article {{ display: grid; grid-template-columns: minmax(12rem, 1fr) 2fr; gap: 1.5rem; }}
img {{ width: 100%; height: auto; border-radius: 6px; }}
p, dd {{ margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }}
dt, summary {{ opacity: .7; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; font-size: 12px; }}
@media (max-width: 40rem) {{ article {{ grid-template-columns: 1fr; }} }}
</style>
<h1>{title}</h1>
<main>
"""


def append_to_log(picture: Path, recipe: Recipe) -> Path:
    """Add a saved picture to the page in its folder and return the page; a picture that is there already is not added.

    A block that was cut off by a crash is removed first; nothing else ever is. A file of that name that is no page of
    ours stays as it is, and ``index_2.html`` (or the next number that is free) is used. Raises
    :class:`~fooocus.errors.StorageError`; the picture itself is not at risk then.
    """
    head = _HEAD.format(title=_escape(picture.parent.name)).encode()
    block = _block(picture.name, recipe)
    page = picture.parent / NAME
    for number in range(2, MAX_PAGES + 2):
        try:
            with open(page, "a+b") as file:
                file.seek(0)
                before = file.read()
                kept = _kept(before, head)
                if kept is not None:
                    if _anchor(picture.name).encode() not in before[:kept]:
                        file.truncate(kept)
                        file.write(block if kept else head + block)
                        file.flush()
                        os.fsync(file.fileno())
                    return page
        except OSError as error:
            raise StorageError(
                f"The page {page} could not be written: {error.strerror or error}.", "The picture itself is saved."
            ) from error
        page = picture.parent / f"index_{number}.html"
    raise StorageError(f"Every page up to {page} is somebody else's.", "The picture itself is saved.")


def _kept(before: bytes, head: bytes) -> int | None:
    """Return how much of a page stays when a torn block of ours is cut off, ``None`` for a page that is not ours."""
    if head.startswith(before):
        return 0  # empty, or torn inside the head, which is written again
    fixed = head.partition(b"<title>")[0]  # the folder may have had another name then
    _, main, _ = before.partition(b"\n<main>\n")
    if not before.startswith(fixed) or not main:
        return None
    at = before.rfind(_END)
    kept = before.index(main) + len(main) if at < 0 else at + len(_END)
    tail = before[kept:]
    return kept if tail.startswith(_START) or _START.startswith(tail) else len(before)


def _block(name: str, recipe: Recipe) -> bytes:
    address = quote(name.encode("utf-8", "surrogatepass"), safe="")
    plain = without_folders(recipe)
    rows = {
        "Negative": plain.negative,
        "Styles": ", ".join(plain.styles),
        "Size": str(plain.size),
        "Seed": str(plain.seed),
        "Steps": f"{plain.steps}" + (f", refiner from {plain.switch}" if plain.switch is not None else ""),
        "Guidance": f"{plain.guidance:g}",
        "Sampler": f"{plain.sampler}, {plain.schedule}",
        "Base": plain.base,
        "Refiner": plain.refiner or "",
        "LoRAs": ", ".join(f"{use.name} at {use.weight:g}" for use in plain.loras),
        "VAE": plain.vae or "",
    }
    listed = "".join(f"<dt>{key}</dt><dd>{_escape(value)}</dd>" for key, value in rows.items() if value)
    return (
        f'<article {_anchor(name)}><a href="{address}"><img src="{address}" loading="lazy" alt=""></a>\n'
        f"<div><p>{_escape(plain.prompt)}</p>\n<dl>{listed}</dl>\n"
        f"<details><summary>Recipe, to be pasted into the prompt box</summary><pre>{_escape(record(plain))}</pre>"
        f"</details></div></article>\n"
    ).encode() + _END


def _anchor(name: str) -> str:
    return f'id="{_escape(name)}"'


def _escape(text: str) -> str:
    """Escape for text and quoted attributes; what HTML cannot hold becomes a replacement character."""
    plain = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\ufffd", text)
    return html.escape(plain, quote=True)

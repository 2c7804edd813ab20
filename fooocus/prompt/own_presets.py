"""A person's own presets: saved under a name, renamed, deleted. Each is a file like ours, so it can be given away.

Nothing is ever written over by chance: a name that is taken is refused unless replacing it was asked for, ours cannot
be touched at all, and a file is replaced in one step or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fooocus.errors import RequestError, StorageError
from fooocus.prompt.presets import SHIPPED, Preset, load_presets
from fooocus.request import Request

LONGEST_NAME = 60
_FORBIDDEN = '<>:"/\\|?*'  # by one file system or another
# Windows opens devices under these names, whatever their ending.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{i}" for kind in ("com", "lpt") for i in range(1, 10))}
_NOT_KEPT = ("prompt",)  # a preset sets everything but what the picture shows


def checked_name(name: str) -> str:
    """Return the name under which a preset may be saved on every system; raise with the field ``preset``."""
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    if not name:
        raise RequestError("preset", "The preset has no name.", "Type one, such as My portraits.")
    if len(name) > LONGEST_NAME:
        raise RequestError(
            "preset", f"The name has {len(name)} signs.", f"Use at most {LONGEST_NAME}: it becomes a file's name."
        )
    if bad := next((sign for sign in name if sign in _FORBIDDEN or not sign.isprintable()), ""):
        shown = bad if bad.isprintable() else "a sign that cannot be seen"
        raise RequestError("preset", f"The name holds {shown}, which no file may have in its name.", "Leave it out.")
    if name.startswith(".") or name.endswith(".") or name.split(".")[0].strip().casefold() in _DEVICES:
        raise RequestError("preset", f"{name} cannot be the name of a file.", "Choose another name.")
    if len(name.encode()) > 200:  # file systems count bytes and end at 255
        raise RequestError("preset", "The name is too long for a file.", "Choose a shorter one.")
    return name


def save_preset(folder: Path, name: str, request: Request, *, replace: bool = False) -> str:
    """Save the settings of a request and return the preset's name.

    Raises :class:`~fooocus.errors.RequestError` for a name that is none, is ours or is taken, and
    :class:`~fooocus.errors.StorageError` when the file cannot be written.
    """
    name = checked_name(name)
    taken = _taken(folder, name)
    if taken in SHIPPED:
        raise _ours(taken)
    if taken is not None and not replace:
        raise RequestError("preset", f"There is a preset {taken} already.", "Replace it, or choose another name.")
    _write(folder / f"{taken or name}.json", _content(request), replace=replace)
    return taken or name


def rename_preset(folder: Path, name: str, to: str) -> str:
    """Give an own preset another name and return it. Raises like :func:`save_preset`."""
    old, new = _own(folder, name), checked_name(to)
    taken = _taken(folder, new)
    if taken in SHIPPED:
        raise _ours(taken)
    if taken is not None and taken != old.name:
        raise RequestError("preset", f"There is a preset {taken} already.", "Choose another name.")
    with _told(folder):
        os.replace(folder / f"{old.name}.json", folder / f"{new}.json")
    return new


def delete_preset(folder: Path, name: str) -> None:
    """Delete an own preset. Raises like :func:`save_preset`."""
    with _told(folder):
        (folder / f"{_own(folder, name).name}.json").unlink()


def _own(folder: Path, name: str) -> Preset:
    if name in SHIPPED:
        raise _ours(name)
    return load_presets(folder).find(name)  # so a name is looked up and never joined to a path


def _taken(folder: Path, name: str) -> str | None:
    """Return the preset that has this name already, on a system that minds capitals or not; also a broken file's."""
    wanted = name.casefold()
    names = (unicodedata.normalize("NFC", file.stem) for file in folder.glob("*.json"))
    return next((known for known in (*SHIPPED, *names) if known.casefold() == wanted), None)


def _ours(name: str) -> RequestError:
    return RequestError("preset", f"The preset {name} comes with the program.", "Choose another name for yours.")


def _content(request: Request) -> dict[str, Any]:
    """Return what the file holds: all that was decided, so that it stays the same when defaults change."""
    values = {name: value for name, value in request.to_json().items() if name not in _NOT_KEPT and value is not None}
    loras = [use.name for use in request.loras or ()]
    wants = {"checkpoints": [name for name in (request.base, request.refiner) if name and name != "none"]}
    if loras:
        wants["loras"] = loras
    if request.vae:
        wants["vae"] = [request.vae]
    return {"about": "", "request": values, "wants": wants}


def _write(file: Path, content: dict[str, Any], *, replace: bool) -> None:
    """Write a file whole or not at all; without ``replace`` never over another, not even one that came just now."""
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with _told(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            if not replace and file.exists():
                raise RequestError("preset", f"There is a preset {file.stem} already.", "Choose another name.")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or getattr(error, "winerror", None) in (39, 112):
            raise StorageError(f"The disk of {folder} is full.", "Make room, then save again.") from error
        raise StorageError(
            f"The folder {folder} cannot be written: {error.strerror or error}.", "Check that it is yours to write."
        ) from error

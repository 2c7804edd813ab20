"""What was too much for this computer's card, remembered between runs so that nobody runs into it twice.

Kept in a small file by card and by what was asked of it. An entry is forgotten when clearly more memory is free than
when it was written, as another program had the card then, and after a day: who was in the way is not known, and to find
out costs a second.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fooocus.memory.need import Need
from fooocus.memory.plan import Plan, Space, Steps

# So much more than at the time is clearly more.
_CLEARLY, _CLEARLY_BYTES = 1.25, 256 * 2**20
_MOST = 200  # entries; the oldest go first
_KEPT_SECONDS = 24 * 3600
_PICTURES = "pictures"  # that may be made at once; 0: nothing was too many
_NOTED = "noted"  # when, in seconds since 1970


def limits_key(device: str, space: Space, need: Need) -> str:
    """Name a card and what a recipe asks of it."""
    weights = "+".join(str(unet.count) for unet in need.unets)
    asked = f"{need.width}x{need.height}, {need.base.itemsize} bytes, {weights}"
    return f"{device}, {space.card_bytes >> 20} MiB: {asked}{'' if need.guided else ', no guidance'}"


class Limits:
    """The steps that plans had to go down, by key. ``file`` None remembers for this run only."""

    def __init__(self, file: Path | None, now: Callable[[], float] = time.time) -> None:
        self._file, self._now = file, now
        self._entries: dict[str, dict[str, int]] = _read(file) if file is not None else {}

    def steps(self, key: str, space: Space) -> Steps:
        """Return where to begin: at the top, unless the memory ran out before on no more than there is now."""
        entry = self._entry(key, space)
        return Steps(entry["text"], entry["sampling"], entry["decoding"]) if entry else Steps()

    def pictures(self, key: str, space: Space) -> int:
        """Return how many pictures may be made at once, by what was too many on no more memory; 0 where none was."""
        entry = self._entry(key, space)
        return entry[_PICTURES] if entry else 0

    def note(self, key: str, plan: Plan) -> None:
        """Remember that only this plan was small enough; how many pictures have room in it is not known any more."""
        self._remember(key, plan.steps, 0, plan.space)

    def note_pictures(self, key: str, space: Space, pictures: int) -> None:
        """Remember that no more than so many ``pictures`` have room at once."""
        self._remember(key, self.steps(key, space), pictures, space)

    def _entry(self, key: str, space: Space) -> dict[str, int] | None:
        """Return what is remembered; it is forgotten after a day, or where clearly more memory is free than then."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        before, now = entry["free_bytes"], _free(space)
        old = not 0 <= self._now() - entry[_NOTED] < _KEPT_SECONDS  # or the clock was set back
        if old or now > max(before * _CLEARLY, before + _CLEARLY_BYTES):
            del self._entries[key]
            self._write()
            return None
        return entry

    def _remember(self, key: str, steps: Steps, pictures: int, space: Space) -> None:
        self._entries.pop(key, None)
        told = {_PICTURES: pictures, "free_bytes": _free(space), _NOTED: int(self._now())}
        self._entries[key] = dataclasses.asdict(steps) | told
        while len(self._entries) > _MOST:
            del self._entries[next(iter(self._entries))]
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        part = self._file.with_name(self._file.name + ".part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._entries, indent=1), encoding="utf-8")
            os.replace(part, self._file)
        except OSError as error:
            # The picture matters more; next time the memory runs out once more.
            logging.getLogger("fooocus.loading").warning("%s cannot be written: %s", self._file, error)


def _free(space: Space) -> int:
    if space.card:
        return space.card_free_bytes or 0
    return space.main_free_bytes


def _read(file: Path) -> dict[str, dict[str, int]]:
    """Read the file; what somebody else has put there is left out."""
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fields = {*(field.name for field in dataclasses.fields(Steps)), _PICTURES, "free_bytes", _NOTED}
    return {
        str(key): {_PICTURES: 0, **{name: int(number) for name, number in entry.items()}}
        for key, entry in (values.items() if isinstance(values, dict) else ())
        if isinstance(entry, dict)
        and entry.keys() | {_PICTURES} == fields  # versions before this one did not know it
        and all(isinstance(number, int) and number >= 0 for number in entry.values())
    }

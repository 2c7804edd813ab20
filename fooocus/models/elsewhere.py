"""Copies of wanted files that other programs have on this disk, and the ways to use one without fetching it.

A copy counts only if its size and its SHA-256 are right, so it may have any name. It is then linked into the folder of
models (no room is taken), or used in place: noted in a file of this installation that the scan looks at.
"""

from __future__ import annotations

import dataclasses
import json
import os
import string
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fooocus.errors import MissingModel, StorageError, UnreadableModel
from fooocus.models.catalogue import FOLDERS, Entry, Kind
from fooocus.models.hashes import FileMemory
from fooocus.models.hub import hub_cache
from fooocus.models.scan import walk
from fooocus.models.troubles import disk_trouble

# Where programs of this kind keep models, below a folder that people install into; "*" as in a shell.
_PROGRAMS = (
    "*[Ff]ooocus*/models",
    "*[Ff]ooocus*/Fooocus/models",
    "*ComfyUI*/models",
    "*ComfyUI*/ComfyUI/models",
    "*stable-diffusion-webui*/models",
    "*forge*/webui/models",
    "*SwarmUI*/Models",
    "*StabilityMatrix*/Models",
    "*StabilityMatrix*/Data/Models",
    "invokeai/models",
    "pinokio/api/*/app/models",
)
_BASES = (".", "Documents", "Downloads", "Desktop", "AI", "apps", "AppData/Roaming", ".local/share")
_PLACES = "models-in-place.json"


@dataclasses.dataclass(frozen=True)
class Copy:
    """A right copy of a wanted file. ``path`` is the file itself, with links resolved."""

    entry: Entry
    path: Path


def usual_places(environment: Mapping[str, str], root: Path, home: Path | None = None) -> list[Path]:
    """Return the folders of other programs that exist: below the home folder, beside ``root``, on Windows' drives.

    ``root`` is the folder of this program, whose own models are left out. The hub's cache and the folder of downloads
    are among them.
    """
    home = home or Path.home()
    bases = [home / base for base in _BASES] + [root.parent, root.parent.parent]
    if sys.platform == "win32":
        bases += [Path(f"{letter}:\\") for letter in string.ascii_uppercase]
    found = {hub_cache(environment), home / "Downloads"}
    for base in dict.fromkeys(bases):
        for pattern in _PROGRAMS:
            found.update(_glob(base, pattern))
    own = os.path.realpath(root)
    return sorted(place for place in found if place.is_dir() and not _is_inside(place, own))


def find_copies(
    entries: Sequence[Entry], places: Sequence[Path], memory: FileMemory, stop: threading.Event
) -> Iterator[Copy]:
    """Yield a right copy of each wanted file, as soon as one is known. Meant for a thread: hashing takes its time.

    Raises :class:`~fooocus.errors.Stopped` when ``stop`` is set.
    """
    wanted = {entry.size_bytes: entry for entry in entries if entry.sha256 is not None}
    for place in places:
        for stamp in walk(place):
            entry = wanted.get(stamp.size_bytes)
            if entry is None:
                continue
            path = Path(os.path.realpath(stamp.path))
            try:
                right = memory.sha256(path, stop) == entry.sha256
            except (MissingModel, UnreadableModel):
                continue  # not readable, so of no use
            if right:
                del wanted[stamp.size_bytes]
                yield Copy(entry, path)


def link(copy: Copy, models: Path) -> Path:
    """Give the copy a second name in the folder of models; return it.

    A hard link where both are on one disk, which stays whole if the other program deletes its file; else a symbolic
    one. Raises :class:`~fooocus.errors.StorageError`.
    """
    target = copy.entry.target(models)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(copy.path, target)
        except FileExistsError:
            raise
        except OSError:
            target.symlink_to(copy.path)
    except FileExistsError as error:
        raise StorageError(f"{target} is there already.", "Refresh the list of models.") from error
    except OSError as error:
        raise StorageError(
            f"{copy.path} cannot be linked into {target.parent}: {error.strerror or error}.",
            "Use it in place instead.",
        ) from error
    return target


def use_in_place(copy: Copy, data: Path) -> None:
    """Note that the file is used where it is, under the name it has here.

    Raises :class:`~fooocus.errors.StorageError`.
    """
    file, part = data / _PLACES, data / f"{_PLACES}.part"
    noted = {kind: {name: str(path) for name, path in files.items()} for kind, files in placed(data).items()}
    noted.setdefault(copy.entry.kind, {})[copy.entry.name] = str(copy.path)
    try:
        data.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(noted, indent=2), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise disk_trouble(data, error, 0) from error


def placed(data: Path) -> dict[Kind, dict[str, Path]]:
    """Return the files that are used in place, by kind and name."""
    try:
        values = json.loads((data / _PLACES).read_text(encoding="utf-8"))
        return {kind: {name: Path(path) for name, path in values[kind].items()} for kind in FOLDERS if kind in values}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _glob(base: Path, pattern: str) -> list[Path]:
    try:
        return [path for path in base.glob(pattern) if path.is_dir()]
    except OSError:
        return []  # a drive without a disk, or a folder that is not ours to read


def _is_inside(place: Path, folder: str) -> bool:
    real = os.path.realpath(place)
    return real == folder or real.startswith(folder + os.sep)

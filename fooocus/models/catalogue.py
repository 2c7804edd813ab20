"""The files the program knows how to get: data in `catalogue.json`, read and checked here.

A preset's ``wants`` name entries. An entry whose SHA-256 is not published has ``null`` there: the hub is asked when the
file is fetched and the answer is pinned in a file of this installation, so that a later change at the hub is noticed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fooocus.errors import ConfigError, MissingModel
from fooocus.request import Request, companions

Kind = Literal["checkpoint", "lora", "vae", "embedding"]
FOLDERS: Mapping[Kind, str] = {
    "checkpoint": "checkpoints",
    "lora": "loras",
    "vae": "vae",
    "embedding": "embeddings",
}
# What a person reads.
CALLED: Mapping[Kind, str] = {"checkpoint": "checkpoint", "lora": "LoRA", "vae": "VAE", "embedding": "embedding"}
CATALOGUE = Path(__file__).resolve().with_name("catalogue.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file that can be fetched. ``size_bytes`` and ``sha256`` are None until the hub was asked, where unpublished.

    ``remote`` is its path in the repository, the name itself unless said otherwise; ``note`` tells where size and hash
    are from.
    """

    name: str
    kind: Kind
    repository: str
    revision: str
    size_bytes: int | None
    sha256: str | None
    licence: str = ""
    purpose: str = ""
    note: str = ""
    remote: str = ""

    @property
    def path(self) -> str:
        """The path in the repository."""
        return self.remote or self.name

    def target(self, models: Path) -> Path:
        """Return where the file belongs below the folder of models."""
        return models / FOLDERS[self.kind] / self.name


def load_catalogue(file: Path = CATALOGUE) -> dict[str, Entry]:
    """Read the entries by name. Raises :class:`~fooocus.errors.ConfigError` with one line per wrong entry."""
    problems: list[str] = []
    entries: dict[str, Entry] = {}
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        for name, fields in values.items():
            entry = Entry(name=name, **fields)
            problems += [f"{file.name}: {name}: {problem}." for problem in _problems(entry)]
            entries[name] = entry
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError([*problems, f"{file.name} cannot be read: {error}."]) from error
    if problems:
        raise ConfigError(problems)
    return entries


def choose(names: Iterable[str], entries: Mapping[str, Entry]) -> list[Entry]:
    """Return the entries that are named. Raises :class:`~fooocus.errors.MissingModel` for a name that has none."""
    chosen = []
    for name in names:
        if name not in entries:
            raise MissingModel(f"{name} is not in the catalogue.", f"There are: {', '.join(entries)}.")
        chosen.append(entries[name])
    return chosen


def wanted_by(request: Request, entries: Mapping[str, Entry]) -> list[Entry]:
    """Return the entries that a request names, or that go with its base. Files given by their whole path are not."""
    with_base = companions(request.base)
    loras = with_base.loras if request.loras is None else request.loras
    refiner = with_base.refiner if request.refiner is None else request.refiner
    names = [request.base, refiner or "", *(use.name for use in loras)]
    found = (entry for name in names for entry in entries.values() if name in (entry.name, Path(entry.name).stem))
    return list(dict.fromkeys(found))


def _problems(entry: Entry) -> Iterable[str]:
    name, remote = entry.name, PurePosixPath(entry.path)
    if not name or PurePosixPath(name).name != name or "\\" in name or ":" in name or name.startswith("."):
        yield "the name must be that of a file, without a folder"
    if remote.is_absolute() or ".." in remote.parts:
        yield "the path leads out of the repository"
    if entry.kind not in FOLDERS:
        yield f"kind {entry.kind!r} is not one of {', '.join(FOLDERS)}"
    if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
        yield "sha256 must be 64 small hexadecimal digits or null"
    if entry.size_bytes is not None and entry.size_bytes <= 0:
        yield "size_bytes must be positive or null"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repository):
        yield "repository must be owner/name"

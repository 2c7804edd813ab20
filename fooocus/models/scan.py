"""What is there: the model files of all folders, each known by its header and by a name that is a key, never a path.

A scan walks the folders and opens only files that are new or changed. Names come in from prompts, pictures and pages,
so they are looked up among what was found and nothing else; the folders themselves come from the settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from fooocus.errors import MissingModel, ModelError
from fooocus.models.catalogue import CALLED, Kind
from fooocus.models.hashes import Content, FileMemory, Stamp, is_text
from fooocus.models.recognise import recognise_file

SUFFIX = ".safetensors"
_OLD_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_DEPTH = 8  # of subfolders
_BATCH = 200  # files after which a first scan keeps what it learned
_MOST_NAMED = 8  # files that a sentence names; more are a list that nobody reads
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """A model file. ``name`` is its path inside ``folder`` with "/" between; ``shelf`` the kind that folder is for.

    ``content.kind`` is what the file says itself; with ``content.problem`` it cannot be used.
    """

    name: str
    shelf: Kind
    folder: Path
    stamp: Stamp
    content: Content

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.stamp.path)

    @property
    def misplaced(self) -> bool:
        """Whether it lies in the folder of another kind."""
        return not self.content.problem and self.content.kind != self.shelf


class Shelves:
    """The files found by the last :meth:`refresh`; asking never touches the disk except for the file asked for.

    ``folders`` are looked through by kind; the first of several files of one name wins. ``placed`` are single files
    that are used where another program keeps them, by kind and by the name they have here.
    """

    def __init__(
        self,
        folders: Mapping[Kind, tuple[Path, ...]],
        memory: FileMemory,
        placed: Callable[[], Mapping[Kind, Mapping[str, Path]]] = dict,
    ) -> None:
        self._folders = dict(folders)
        self._memory = memory
        self._placed = placed
        self._found: tuple[Found, ...] = ()
        self._refreshing = threading.Lock()

    @property
    def found(self) -> tuple[Found, ...]:
        """All files, also those that cannot be used."""
        return self._found

    def refresh(self, stop: threading.Event | None = None) -> tuple[Found, ...]:
        """Look through the folders again; meant for a thread of its own. A second caller waits for the first."""
        with self._refreshing:
            known = self._memory.contents()
            fresh: list[tuple[Stamp, Content]] = []
            found: dict[tuple[Kind, str], Found] = {}
            for shelf, name, folder, stamp in self._files():
                if stop is not None and stop.is_set():
                    return self._found
                if (content := known.get(stamp)) is None:
                    content = recognise_file(Path(stamp.path))
                    fresh.append((stamp, content))
                    if len(fresh) >= _BATCH:
                        self._memory.remember_contents(fresh)
                        fresh.clear()
                        if len(found) > len(self._found):
                            self._found = tuple(found.values())  # a first scan takes minutes: show what there is
                found.setdefault((shelf, name), Found(name, shelf, folder, stamp, content))
            self._memory.remember_contents(fresh)
            self._found = tuple(found.values())
            return self._found

    def start(self, stop: threading.Event) -> threading.Thread:
        """Refresh in the background; return the thread, so that a test or a button can wait for it."""
        thread = threading.Thread(target=self.refresh, args=(stop,), name="scan of models", daemon=True)
        thread.start()
        return thread

    def names(self, kind: Kind) -> list[str]:
        """List the usable files of a kind, also those in a wrong folder, sorted."""
        return sorted(self._by_name(kind), key=str.casefold)

    def resolve(self, kind: Kind, name: str) -> Found:
        """Find the file that a name means, with or without suffix, subfolder and capitals.

        Raises :class:`~fooocus.errors.MissingModel`, naming similar files, also when the file has vanished since the
        scan, and :class:`~fooocus.errors.ModelError` for a name that fits several files.
        """
        files = self._by_name(kind)
        fitting = match_name(name, files)
        if len(fitting) > 1:
            raise ModelError(f"{name} may mean {', '.join(sorted(fitting))}.", "Give its folder with it.")
        if not fitting:
            folder = next(iter(self._folders.get(kind, ())), Path("models"))
            raise MissingModel(no_such(kind, name, files), f"Put the file into {folder} and refresh.")
        file = files[fitting[0]]
        if not file.path.is_file():
            raise MissingModel(
                f"{file.name} was there and is gone: {file.path}.",
                "Put it back, or choose another and refresh the list.",
            )
        return file

    def _by_name(self, kind: Kind) -> dict[str, Found]:
        """Return the usable files of a kind; the right folder's come first."""
        usable = [file for file in self._found if file.content.kind == kind and not file.content.problem]
        files: dict[str, Found] = {}
        for file in sorted(usable, key=lambda file: file.misplaced):
            files.setdefault(file.name, file)
        return files

    def _files(self) -> Iterator[tuple[Kind, str, Path, Stamp]]:
        for shelf, folders in self._folders.items():
            for folder in folders:
                for stamp in walk(folder):
                    inside = stamp.path[len(str(folder)) :].replace(os.sep, "/")
                    yield shelf, inside.lstrip("/"), folder, stamp
        for shelf, files in self._placed().items():
            for name, path in files.items():
                try:
                    yield shelf, name, path.parent, Stamp.of(path)
                except OSError as error:  # the other program is gone, or its disk
                    _log.info("%s is not there any more: %s", path, error)


def walk(folder: Path, depth: int = _DEPTH) -> Iterator[Stamp]:
    """Yield the model files in a folder and down to ``depth`` below, sorted.

    What begins with a dot is passed over, and so is what cannot be read and what has a name that is no text.
    """
    yield from _walk(str(folder), depth, set())


def _walk(folder: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[Stamp]:
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return  # a link that leads back
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:  # not there, not a folder, or not ours to read
        _log.debug("%s is passed over: %s", folder, error)
        return
    for entry in entries:
        try:
            if entry.name.startswith("."):
                continue
            if not is_text(entry.name):
                _log.warning("%a is passed over: its name is not UTF-8", entry.path)
                continue
            if entry.name.lower().endswith((SUFFIX, *_OLD_SUFFIXES)) and entry.is_file():
                status = entry.stat()
                yield Stamp(entry.path, status.st_size, status.st_mtime_ns)
            elif depth > 0 and entry.is_dir():
                yield from _walk(entry.path, depth - 1, seen)
        except OSError as error:  # it vanished just now
            _log.debug("%s is passed over: %s", entry.path, error)


def match_name(text: str, files: Collection[str]) -> list[str]:
    """Return the files that a name means: exactly if one does, else with other capitals.

    A name goes with or without ``.safetensors`` and with or without its subfolder.
    """
    text = text.replace("\\", "/")
    for fold in (str, str.casefold):
        wanted = {fold(text), fold(text + SUFFIX)}
        whole = [file for file in files if fold(file) in wanted]
        if fitting := whole or [file for file in files if fold(PurePosixPath(file).name) in wanted]:
            return fitting
    return []


def no_such(kind: Kind, text: str, files: Collection[str]) -> str:
    """Say that no file of a kind is called so, naming up to three that look like it, or all where they are few."""
    stems = {_stem(file).casefold(): file for file in files}
    near = [stems[stem] for stem in difflib.get_close_matches(_stem(text).casefold(), stems, n=3)]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    if not near and 0 < len(files) <= _MOST_NAMED:
        hint = f" Known are {', '.join(sorted(files, key=str.casefold))}."
    return f"There is no {CALLED[kind]} named {text}.{hint}"


def _stem(file: str) -> str:
    name = PurePosixPath(file.replace("\\", "/")).name
    return name[: -len(SUFFIX)] if name.casefold().endswith(SUFFIX) else name

"""Everything the first page needs, as one object: what is there, what is missing, and the ways to get it.

The page and the commands `doctor` and `fetch` use the same methods, so they cannot say different things. Construct it
in the composition root; nothing happens before a method is called.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from fooocus.errors import FooocusError, MissingModel, Stopped
from fooocus.models.catalogue import Entry, Kind, choose, load_catalogue
from fooocus.models.computer import Computer, look
from fooocus.models.elsewhere import Copy, find_copies, link, placed, use_in_place, usual_places
from fooocus.models.fetch import Fetcher, HubSettings
from fooocus.models.hashes import FileMemory, Stamp
from fooocus.models.hub import HUB, without_login
from fooocus.models.partfile import Disk, is_there, tidy
from fooocus.models.report import Survey, survey
from fooocus.models.scan import Found, Shelves
from fooocus.models.troubles import DownloadError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where things are: this program, its models and data, the folders by kind, and other programs' by the settings."""

    root: Path
    models: Path
    data: Path
    folders: Mapping[Kind, tuple[Path, ...]]
    others: tuple[Path, ...] = ()


class FirstRun:
    """The models of this installation. ``wanted`` are the entries that the presets name."""

    def __init__(self, places: Places, wanted: Sequence[Entry], settings: HubSettings) -> None:
        self.wanted = tuple(wanted)
        self._places, self._settings = places, settings
        self._memory = FileMemory(places.data / "models.sqlite")
        self._stop = threading.Event()
        self._copies: tuple[Copy, ...] = ()
        self._search: threading.Thread | None = None
        self._computer: Computer | None = None
        self.shelves = Shelves(places.folders, self._memory, lambda: placed(places.data))
        self.fetcher = Fetcher(places.models, places.data, settings, done=lambda path: self.refresh())

    @property
    def searching(self) -> bool:
        """Whether other programs' folders are still being looked through."""
        return self._search is not None and self._search.is_alive()

    @property
    def offline(self) -> bool:
        """Whether the person has forbidden connections, in the way that huggingface_hub's other users know."""
        return self._settings.environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")

    def begin(self) -> None:
        """Look through the folders of models, then for copies of what is missing, both in the background."""
        if not self.searching:
            self._search = threading.Thread(target=self._look_around, name="search for models", daemon=True)
            self._search.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the search that was begun has ended."""
        if self._search is not None:
            self._search.join(seconds)

    def refresh(self) -> None:
        """Look through the folders of models again, in the background."""
        self.shelves.start(self._stop)

    def complete(self) -> bool:
        """Tell whether every wanted file can be used, by a quick look at where each may lie."""
        used, broken = self._elsewhere_but_in_use(), self._problems()
        return all(
            entry.name in used
            or any(is_there(path := folder / entry.name) and path not in broken for folder in folders)
            for entry in self.wanted
            for folders in [self._places.folders.get(entry.kind, ())]
        )

    def survey(self, measured_seconds: float | None = None) -> Survey:
        """Say how things are now; ``measured_seconds`` is what a picture took here, if one was made."""
        if self._computer is None:
            self._computer = look(self._places.models)  # once: asking for the card takes up to a second
        free = Disk().free_bytes(self._places.models)
        return survey(
            self._places.models,
            self.wanted,
            copies=self._copies,
            placed=self._elsewhere_but_in_use(),
            problems=self._problems(),
            measured_seconds=measured_seconds,
            endpoint=without_login(self._settings.environment.get("HF_ENDPOINT", "").rstrip("/") or HUB),
            computer=dataclasses.replace(self._computer, disk_free_bytes=free),
        )

    def fetch(self, names: Sequence[str] | None = None) -> None:
        """Begin to fetch the named files, or all that are neither here nor elsewhere on this disk.

        Raises like :meth:`fooocus.models.fetch.Fetcher.start`; :class:`~fooocus.errors.MissingModel` for an unknown
        name, and :class:`~fooocus.models.troubles.DownloadError` where connections are forbidden.
        """
        if self.offline:
            raise DownloadError(
                "HF_HUB_OFFLINE is set, so nothing is fetched.",
                "Take it out of the environment and start again, or put the files into place by hand.",
            )
        if names is None:
            chosen = list(self.survey().to_fetch)
        else:
            chosen = choose(names, {entry.name: entry for entry in self.wanted})
        if chosen:
            self.fetcher.start(chosen)

    def need(self, names: Sequence[str]) -> None:
        """Begin to fetch files of the catalogue that nobody wanted before; from now on they count as wanted.

        Raises like :meth:`fetch`.
        """
        known = {entry.name: entry for entry in self.wanted}
        chosen = choose(names, {**load_catalogue(), **known})
        self.wanted = tuple(dict.fromkeys((*self.wanted, *chosen)))
        self.fetch([entry.name for entry in chosen])

    def use(self, name: str, how: Literal["link", "in place"] = "link") -> None:
        """Use the copy of a wanted file that another program has.

        Raises :class:`~fooocus.errors.MissingModel` if there is none, and :class:`~fooocus.errors.StorageError`.
        """
        copy = next((copy for copy in self._copies if copy.entry.name == name), None)
        if copy is None or not is_there(copy.path):
            raise MissingModel(f"There is no copy of {name} on this disk any more.", "Look again, or fetch it.")
        if how == "link":
            linked = Stamp.of(link(copy, self._places.models))
            self._memory.remember_sha256(linked, copy.entry.sha256 or "")
        else:
            use_in_place(copy, self._places.data)
        self.refresh()

    def close(self) -> None:
        """End all threads; an unfinished download goes on at the next start."""
        self._stop.set()
        self.fetcher.close()
        self.wait(5)

    def _elsewhere_but_in_use(self) -> dict[str, Path]:
        """Return the files that are used where they are, by name: noted in place, or in a folder of the settings."""
        files = {PurePosixPath(file.name).name: file.path for file in self.shelves.found if _usable(file)}
        return files | {name: path for named in placed(self._places.data).values() for name, path in named.items()}

    def _problems(self) -> dict[Path, str]:
        """Say why files where wanted ones belong are no models; one whose hash was found right is what was wanted."""
        hashes = {entry.target(self._places.models): entry.sha256 for entry in self.wanted}
        broken = [file for file in self.shelves.found if file.path in hashes and _is_broken(file)]
        known = {file.path: self._memory.known_sha256(file.stamp) for file in broken}
        return {
            file.path: file.content.problem
            for file in broken
            if known[file.path] is None or known[file.path] != hashes[file.path]
        }

    def _tidy(self) -> None:
        for entry in self.wanted:
            try:
                tidy(entry.target(self._places.models))
            except (FooocusError, OSError) as error:  # in use by another process, or a folder that is not ours
                _log.debug("%s is not tidied up: %s", entry.name, error)

    def _look_around(self) -> None:
        self.shelves.refresh(self._stop)
        self._tidy()
        used = self._elsewhere_but_in_use()
        missing = [e for e in self.wanted if e.name not in used and not is_there(e.target(self._places.models))]
        if not missing:
            return
        places = [*self._places.others, *usual_places(self._settings.environment, self._places.root)]
        found: list[Copy] = []
        try:
            for copy in find_copies(missing, places, self._memory, self._stop):
                found.append(copy)
                self._copies = tuple(found)
        except Stopped:
            return
        self._copies = tuple(found)


def _usable(file: Found) -> bool:
    return not file.content.problem and not file.misplaced


def _is_broken(file: Found) -> bool:
    """Say whether a file has a problem still, that is, was not exchanged since the scan."""
    try:
        return bool(file.content.problem) and Stamp.of(file.path) == file.stamp
    except OSError:
        return False

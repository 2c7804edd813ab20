"""Model files by name: which there are, and which file a name means."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath

from fooocus.errors import MissingModel, ModelError
from fooocus.models.catalogue import Kind as ModelKind
from fooocus.models.scan import SUFFIX, match_name, no_such, walk


class Catalog:
    """The model folders, by kind; of several folders of a kind the first one wins.

    Folders are looked through at each call, so a file that was just put there is found. ``placed`` tells of files that
    are used where they lie, by kind and name. ``outside`` are the absolute paths that may be asked for, ``None`` for
    any: on Windows even to look whether a stranger's path exists can hand that stranger a password's hash.
    """

    def __init__(
        self,
        folders: Mapping[ModelKind, tuple[Path, ...]],
        placed: Callable[[], Mapping[ModelKind, Mapping[str, Path]]] = dict,
        *,
        outside: Collection[str] | None = None,
    ) -> None:
        self.folders = dict(folders)
        self._placed = placed
        self._outside = outside

    def names(self, kind: ModelKind) -> list[str]:
        """List the files of a kind, sorted: paths inside the folder with "/" between, including ``.safetensors``."""
        return sorted(self._files(kind), key=str.casefold)

    def resolve(self, kind: ModelKind, name: str | Path) -> Path:
        """Find the file that a name or a path means.

        An absolute path that may be asked for is taken as it is. Anything else, a relative path too (names come from
        prompts and strangers' pictures), is a name inside the folders of its kind: with or without ``.safetensors``,
        with or without its subfolder, and if nothing else fits, with other capitals. Raises
        :class:`fooocus.errors.MissingModel`, naming similar files, and :class:`fooocus.errors.ModelError` for a name
        that fits several files or leads out of the folders.
        """
        given = Path(name)
        allowed = self._outside is None or os.fspath(name) in self._outside
        if given.is_absolute() and allowed and os.path.exists(given):
            return given
        text = os.fspath(name).replace("\\", "/")
        parts = PurePosixPath(text).parts
        if not allowed and (given.is_absolute() or given.drive or text.startswith("/")):
            raise ModelError(
                f"{text} lies outside the model folders.",
                f"Put it into {next(iter(self.folders[kind]), 'models')}, or start the page with it, like --base FILE.",
            )
        if given.is_absolute() or given.drive or text.startswith("/"):
            raise MissingModel(f"There is no file {given}.", "Check the path, or download the model first.")
        if ".." in parts or not parts:
            raise ModelError(f"{text!r} is not the name of a model.", "Give a file's name or its whole path.")
        files = self._files(kind)
        found = match_name(text, files)
        if len(found) > 1:
            raise ModelError(f"{text} may mean {', '.join(sorted(found))}.", "Give its folder with it.")
        if found:
            return files[found[0]]
        raise self._missing(kind, text, list(files))

    def _files(self, kind: ModelKind) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for folder in self.folders.get(kind, ()):
            for path in (Path(stamp.path) for stamp in walk(folder)):
                if path.suffix.lower() == SUFFIX:
                    files.setdefault(path.relative_to(folder).as_posix(), path)
        for name, path in self._placed().get(kind, {}).items():
            files.setdefault(name, path)
        return files

    def _missing(self, kind: ModelKind, text: str, files: list[str]) -> MissingModel:
        folder = next(iter(self.folders.get(kind, ())), Path("models"))
        return MissingModel(no_such(kind, text, files), f"Put the file into {folder}, or give its whole path.")

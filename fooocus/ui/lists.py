"""What the page's lists offer: model files, styles and presets as they lie on disk now, for the panels to draw.

The panels ask for a list when they are opened and every few seconds while they are seen, so a file that was dropped
into a folder appears by itself. Only what is new or changed is read again, and a first look through thousands of files
keeps nobody waiting: it goes on in the background while what was found is shown.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any

from fooocus.config import Config
from fooocus.errors import ConfigError
from fooocus.models.catalogue import FOLDERS, load_catalogue
from fooocus.models.elsewhere import placed
from fooocus.models.fitting import FAMILIES, Use, caution, offered, why_not
from fooocus.models.hashes import FileMemory
from fooocus.models.scan import Found, Shelves
from fooocus.models.words import amount
from fooocus.prompt.presets import SHIPPED as OUR_PRESETS
from fooocus.prompt.presets import load_presets
from fooocus.prompt.styles import MAX_STRENGTH, PLACE, RANDOM, SHIPPED, Style, load_styles
from fooocus.request import NONE, Request, companions
from fooocus.ui.choices import style_family, style_titles

USES: tuple[Use, ...] = ("base", "refiner", "lora", "vae")
_REFRESH_SECONDS = 2.0  # between two looks through the folders, however many pages ask
_PATIENCE_SECONDS = 0.5  # that an answer waits for a look to end


class Lists:
    """Answer for all tabs. ``shelves`` are those of the first run, where there is one; else this makes its own.

    Only with a first run is there somebody who could fetch what is missing.
    """

    def __init__(self, config: Config, defaults: Request, shelves: Shelves | None = None) -> None:
        self._config, self._defaults = config, defaults
        self._can_fetch = shelves is not None
        self._shelves = shelves or Shelves(
            {kind: config.folders(folder) for kind, folder in FOLDERS.items()},
            FileMemory(config.data / "models.sqlite"),
            lambda: placed(config.data),
        )
        self._look: threading.Thread | None = None
        self._looked_at = float("-inf")
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def answer(self, what: str, *, fresh: bool = False) -> dict[str, Any] | None:
        """Return the list called ``what``, or ``None`` if there is no such list. ``fresh`` looks again at once."""
        match what:
            case "models":
                return self._models(fresh=fresh)
            case "styles":
                return self._styles()
            case "presets":
                return self._presets()
        return None

    def names(self) -> list[str]:
        """List what all model files are called."""
        return [file.name for file in self._shelves.found]

    def _models(self, *, fresh: bool) -> dict[str, Any]:
        looking = self._refresh(fresh=fresh)
        found = self._shelves.found
        lists: dict[str, Any] = {use: [_model(file, use) for file in offered(found, use)] for use in USES}
        return {
            **lists,
            "given": self._given(),
            "own": {name: _companions(name) for name in self._bases(found)},
            "fetchable": _fetchable() if self._can_fetch else [],
            "folders": {kind: str(self._config.folders(folder)[0]) for kind, folder in FOLDERS.items()},
            "looking": looking,
        }

    def _refresh(self, *, fresh: bool) -> bool:
        """Look through the folders if the last look is old; return whether one is still under way."""
        with self._lock:
            running = self._look is not None and self._look.is_alive()
            if not running and (fresh or time.monotonic() - self._looked_at >= _REFRESH_SECONDS):
                self._look = self._shelves.start(self._stop)
                self._looked_at = time.monotonic()
            look = self._look
        if look is not None:
            look.join(_PATIENCE_SECONDS)
        return look is not None and look.is_alive()

    def _given(self) -> list[str]:
        """List the files outside of the folders that the program was started with; these may be chosen as well."""
        asked = self._defaults
        names = [asked.base, asked.refiner, asked.vae, *(use.name for use in asked.loras or ())]
        return [name for name in names if name and Path(name).is_absolute() and Path(name).is_file()]

    def _bases(self, found: tuple[Found, ...]) -> set[str]:
        return {self._defaults.base, *(file.name for file in offered(found, "base"))}

    def _styles(self) -> dict[str, Any]:
        styles = load_styles(self._config.styles_folder)
        titles = style_titles(styles)
        return {
            "styles": [_style(style, titles[style.name]) for style in styles.by_name.values()],
            "random": RANDOM,
            "strongest": MAX_STRENGTH,
            "problems": list(styles.problems),
            "folder": str(self._config.styles_folder),
        }

    def _presets(self) -> dict[str, Any]:
        presets = load_presets(self._config.styles_folder / "presets")
        return {
            "presets": [
                {
                    "name": one.name,
                    "title": one.name.capitalize() if one.name in OUR_PRESETS else one.name,
                    "about": one.about,
                    "own": one.name not in OUR_PRESETS,
                }
                for one in presets.by_name.values()
            ],
            "problems": list(presets.problems),
        }


def _model(file: Found, use: Use) -> dict[str, Any]:
    path = PurePosixPath(file.name)
    about = [FAMILIES.get(file.content.family, ""), amount(file.stamp.size_bytes)]
    if str(path.parent) != ".":
        about.insert(0, str(path.parent))
    said: dict[str, Any] = {
        "name": file.name,
        "title": path.stem,
        "about": " · ".join(part for part in about if part),
        "why": why_not(file.content, use),
        "doubt": caution(file.content),
    }
    if use == "lora":
        said["words"] = file.content.words.split(", ") if file.content.words else []
    return said


def _companions(base: str) -> dict[str, Any]:
    own = companions(base)
    return {"refiner": own.refiner or NONE, "loras": [list(use) for use in own.loras]}


def _fetchable() -> list[str]:
    """List the files that can be fetched; a catalogue that was spoiled costs the lists nothing else."""
    try:
        return list(load_catalogue())
    except ConfigError:
        return []


def _style(style: Style, title: str) -> dict[str, Any]:
    return {
        "name": style.name,
        "title": title,
        "family": style_family(style),
        "about": _about(style),
        "own": Path(style.file).stem not in SHIPPED,
    }


def _about(style: Style) -> str:
    """Say what a style adds, with dots where the prompt will stand."""
    before, place, after = (part.strip(" ,") for part in style.prompt.partition(PLACE))
    if not place:
        return before or f"Keeps out: {style.negative}"
    return f"{before} … {after}".strip() if before else after.replace(PLACE, "…")

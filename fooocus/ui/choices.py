"""What the page's plain lists offer, and the names by which people know things, such as styles.

Model files, styles and presets are lists of their own, see :mod:`fooocus.ui.lists`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fooocus.config import Config
from fooocus.errors import RequestError
from fooocus.models.scan import SUFFIX, walk
from fooocus.prompt.sizes import SDXL_SIZES, size_label, sizes_like
from fooocus.prompt.styles import SHIPPED, Style, Styles
from fooocus.request import Size
from fooocus.ui.fields import METADATA, Row

Choice = tuple[str, str]  # what is shown, what it stands for

# What people call the shape of a trained size, where that is not its exact ratio; these are shown first.
COMMON_SHAPES: Mapping[str, str] = {
    "1344x768": "16:9",
    "1216x832": "3:2",
    "1152x896": "4:3",
    "1024x1024": "1:1",
    "896x1152": "3:4",
    "832x1216": "2:3",
    "768x1344": "9:16",
}
# The 26 trained sizes as shapes, widest first: what is shown, what it stands for at one megapixel.
SHAPES: tuple[Choice, ...] = tuple(
    (COMMON_SHAPES.get(str(size), size_label(size).partition("(")[2].rstrip(")")), str(size))
    for size in reversed(SDXL_SIZES)
)
_SHOWN: Mapping[str, str] = {
    "speed": "Speed · 30 steps",
    "quality": "Quality · 60 steps",
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WebP",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S ancestral",
    "euler": "Euler",
    "euler_ancestral": "Euler ancestral",
    "heun": "Heun",
    "dpm_2": "DPM 2",
    "dpm_2_ancestral": "DPM 2 ancestral",
    "lms": "LMS",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "lcm": "LCM",
    "karras": "Karras",
    "sgm_uniform": "SGM uniform",
    "ddim_uniform": "DDIM uniform",
}
# How people call the families of our styles; another file's styles stand under the file's own name.
_STYLE_FAMILIES: Mapping[str, str] = {
    "default": "House style",
    "sai": "Classics",
    "ads": "Advertising",
    "artstyle": "Art movements",
    "futuristic": "Futures",
    "game": "Games",
    "misc": "Moods and oddities",
    "papercraft": "Paper",
    "photo": "Photography",
}
# Words in their names that are no plain words.
_SPELLED: Mapping[str, str] = {
    "3d-model": "3D model",
    "gta": "GTA",
    "hdr": "HDR",
    "lowpoly": "Low poly",
    "rpg fantasy game": "RPG fantasy game",
}


def choices(row: Row) -> list[Choice]:
    """Return what a row's list offers."""
    return [(shown(name), name) for name in METADATA[row.name]["choices"]]


def model_files(config: Config, kind: str) -> list[str]:
    """Return the safetensors files of one kind as paths relative to their folder, with forward slashes.

    No file is opened, so this may be asked while somebody types.
    """
    found = {
        Path(stamp.path).relative_to(folder).as_posix()
        for folder in config.folders(kind)
        for stamp in walk(folder)
        if stamp.path.lower().endswith(SUFFIX)
    }
    return sorted(found, key=str.lower)


def shape_of(size: Size) -> str | None:
    """Return what of :data:`SHAPES` stands for ``size`` at its scale, if one does."""
    return next((str(shape) for shape, like in zip(SDXL_SIZES, sizes_like(size), strict=True) if like == size), None)


def shown(name: str) -> str:
    """Return a sampler's, schedule's or bundle's name as people write it."""
    return _SHOWN.get(name, name.replace("_", " ").capitalize())


def style_family(style: Style) -> str:
    """Return what a style's family is called."""
    family = Path(style.file).stem
    return _STYLE_FAMILIES.get(family, shown(family))


def style_titles(styles: Styles) -> dict[str, str]:
    """Return all styles' names as a person reads them; those that would read the same say their family behind a dot."""
    titles = {style.name: style_title(style.name, Path(style.file).stem) for style in styles.by_name.values()}
    times = Counter(title.casefold() for title in titles.values())
    return {
        name: f"{title} · {style_family(styles.by_name[name])}" if times[title.casefold()] > 1 else title
        for name, title in titles.items()
    }


def style_title(name: str, family: str) -> str:
    """Return a style's name as a person reads it: without the family's, which stands above it."""
    words = name.replace("_", " ").strip()
    if family in SHIPPED:
        words = words.removeprefix(f"{family}-").removesuffix("-default")
        words = _SPELLED.get(words, words)
    return words[:1].upper() + words[1:]


def style_words(reference: str, styles: Styles, titles: Mapping[str, str]) -> str:
    """Return a chosen style as a person reads it: its name, with the strength in brackets where one is given."""
    try:
        use = styles.use(reference)
    except RequestError:  # of another installation
        return reference
    strength = "" if use.strength == 1.0 else f" ({use.strength:g})"
    return titles[use.style.name] + strength

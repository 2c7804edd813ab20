"""What a file can be chosen for, and in words why not. The page greys out what does not fit and says this beside it.

The header alone decides, see :mod:`fooocus.models.recognise`; whether every tensor fits is found out when the file is
loaded. So only what is certain is refused: a file that is of no kind known here may be tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from fooocus.models.catalogue import FOLDERS, Kind
from fooocus.models.hashes import Content
from fooocus.models.scan import Found

Use = Literal["base", "refiner", "lora", "vae"]
SHELF: Mapping[Use, Kind] = {"base": "checkpoint", "refiner": "checkpoint", "lora": "lora", "vae": "vae"}

FAMILIES: Mapping[str, str] = {
    "sdxl": "SDXL",
    "sdxl_base": "SDXL base",
    "sdxl_refiner": "SDXL refiner",
    "sd1": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
}
_KINDS: Mapping[str, str] = {
    "checkpoint": "a checkpoint",
    "lora": "a LoRA",
    "vae": "a VAE",
    "embedding": "an embedding",
}
_OTHERS = ("sd1", "sd2", "sd3", "flux")
UNSURE = "Its kind is not known here; it may not work."


def offered(found: Iterable[Found], use: Use) -> list[Found]:
    """Return the files of the folders that are looked through for ``use``, sorted by name.

    In a folder that serves several kinds, as the miniature's does, what is of another kind is not listed here.
    """
    files = list(found)
    at_home = {file.path for file in files if not file.content.problem and not file.misplaced}
    here = [file for file in files if file.shelf == SHELF[use]]
    return sorted(
        (file for file in here if not (file.misplaced and file.path in at_home)), key=lambda file: file.name.casefold()
    )


def why_not(content: Content, use: Use) -> str:
    """Return why a file cannot be chosen for ``use``, or nothing."""
    if content.problem:
        return "" if _is_mystery(content) else content.problem
    if content.family in _OTHERS:
        return f"It is made for {FAMILIES[content.family]}; this program draws with SDXL."
    if content.kind != SHELF[use] and not (use == "vae" and content.family == "sdxl_base"):
        folder = FOLDERS.get(content.kind, "")  # type: ignore[call-overload]
        return f"It is {_KINDS.get(content.kind, 'something else')}; move it to the folder {folder}."
    match use, content.family:
        case "base", "sdxl_refiner":
            return "It is a refiner: it can only finish pictures."
        case "refiner", "sdxl_base":
            return "It is a base model and cannot be the refiner."
        case "lora", "sdxl_refiner":
            return "It is made for the refiner; LoRAs are added to the base."
    return ""


def caution(content: Content) -> str:
    """Return a doubt about a file that may be chosen, or nothing."""
    return UNSURE if _is_mystery(content) else ""


def _is_mystery(content: Content) -> bool:
    return content.problem == "It is of no kind known here."

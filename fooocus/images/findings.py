"""What was found in a picture from elsewhere: settings that this program has too, and warnings about the rest.

Every value is tried as a request of its own before it is kept, so that one odd value costs only itself. Names of models
and styles are looked up among those at hand and never taken for paths.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fooocus.errors import RequestError
from fooocus.request import NONE, SAMPLERS, SCHEDULES, Recipe, Request

MAX_WARNINGS = 20
MAX_ITEMS = 64  # LoRAs or styles of one picture
# Schedules that have other names elsewhere.
_SCHEDULES = {"ays": "align_your_steps", "sgm uniform": "sgm_uniform", "uniform": "normal"}


@dataclasses.dataclass(frozen=True)
class Known:
    """Hold the names at hand, each a file (with or without folder) or style; ``None``: not checked."""

    bases: tuple[str, ...] | None = None
    loras: tuple[str, ...] | None = None
    vaes: tuple[str, ...] | None = None
    styles: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """Hold settings as fields of a request's JSON; ``recipe`` only for a picture of ours.

    ``origin`` is ``ours``, ``fooocus``, ``a1111`` or ``comfyui``.
    """

    origin: str
    values: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    recipe: Recipe | None = None


class Finder:
    """Collect the values of one picture; each method checks what it is given and warns instead of raising."""

    def __init__(self, origin: str, known: Known) -> None:
        self.origin = origin
        self.known = known
        self.values: dict[str, Any] = {}
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        """Keep a warning, each once and not too many."""
        if sentence not in self.warnings and len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(sentence)

    def put(self, field: str, value: Any) -> None:
        """Keep ``value`` for a field of the request if the request takes it."""
        if value is None:
            return
        try:
            Request.from_json({field: value})
        except RequestError as error:
            self.warn(f"{field} was left out: {error.sentence}")
        else:
            self.values[field] = value

    def put_number(self, field: str, value: Any, *, whole: bool = False) -> None:
        """Keep a number that may have come as text."""
        text = str(value).strip()[:40]
        if re.fullmatch(r"[+-]?\d{1,20}(\.\d{1,20})?", text) and not isinstance(value, bool):
            self.put(field, int(text.partition(".")[0]) if whole else float(text))
        elif value is not None:
            self.warn(f"{field} was left out: {text!r} is no number.")

    def put_size(self, width: Any, height: Any) -> None:
        """Keep a size, rounded down to whole latent cells."""
        digits = [str(side).strip() for side in (width, height)]
        if all(re.fullmatch(r"\d{1,5}", side) for side in digits):
            self.put("size", "x".join(str(int(side) // 8 * 8) for side in digits))

    def put_sampler(self, name: Any) -> None:
        """Keep a sampler by the name that k-diffusion style programs use."""
        plain = str(name).strip().removesuffix("_gpu")
        plain = {"uni_pc_bh2": "uni_pc", "dpm_2_a": "dpm_2_ancestral"}.get(plain, plain)
        if plain in SAMPLERS:
            self.put("sampler", plain)
        else:
            self.warn(f"The sampler {plain[:40]!r} is not known here.")

    def put_schedule(self, name: Any) -> None:
        """Keep a schedule by its name or label."""
        plain = str(name).strip().casefold()
        plain = _SCHEDULES.get(plain, plain).replace(" ", "_")
        if plain in SCHEDULES:
            self.put("schedule", plain)
        elif plain != "automatic":
            self.warn(f"The schedule {plain[:40]!r} is not known here.")

    def put_model(self, field: str, name: Any) -> None:
        """Keep a base, refiner or VAE by its file name; an unknown one is a warning."""
        text = file_name(str(name))
        if not text or text.casefold() in (NONE, "default (model)", "automatic"):
            if field == "refiner":
                self.values["refiner"] = NONE
            return
        files = self.known.vaes if field == "vae" else self.known.bases
        if found := self._look_up("model", text, files):
            self.put(field, found)

    def put_loras(self, uses: Iterable[tuple[Any, Any]]) -> None:
        """Keep LoRAs by file name, each once; weights may have come as text."""
        kept: dict[str, list[Any]] = {}
        for name, weight in list(uses)[:MAX_ITEMS]:
            text = file_name(str(name))
            if not text or text.casefold() == NONE:
                continue
            if not re.fullmatch(r"[+-]?(\d{1,4}(\.\d{0,17})?|\.\d{1,17})", str(weight).strip()):
                self.warn(f"The LoRA {text[:60]} was left out: its weight is {str(weight)[:20]!r}.")
            elif found := self._look_up("LoRA", text, self.known.loras):
                kept.setdefault(_key(found), [found, float(weight)])
        self.values["loras"] = list(kept.values())

    def put_styles(self, names: Sequence[Any]) -> None:
        """Keep styles by name; unknown ones are warnings."""
        found = [self._look_up("style", str(name).strip(), self.known.styles) for name in names[:MAX_ITEMS]]
        self.values["styles"] = [name for name in found if name]

    def put_size_guidance(self, factors: Sequence[str] = ("1", "1", "1")) -> None:
        """Keep the two size factors and the part of the run that they act on; other programs have none: 1, 1."""
        if len(factors) == 3:
            for field, value in zip(("size_positive", "size_negative", "size_until"), factors, strict=True):
                self.put_number(field, value)

    def put_switch(self, share: Any) -> None:
        """Keep the refiner's first step from a share of the steps, if there are a refiner and steps."""
        steps, refiner = self.values.get("steps"), self.values.get("refiner", NONE)
        if steps is None or refiner == NONE or not re.fullmatch(r"[01](\.\d{1,17})?", str(share).strip()):
            return
        self.values["switch"] = min(steps, round(steps * float(share)))

    def found(self) -> Found:
        """Return what was collected; values that contradict each other as a whole are left out."""
        for _ in range(len(self.values)):
            try:
                Request.from_json(self.values)
                break
            except RequestError as error:
                self.values.pop(error.field, None)
                self.warn(f"{error.field} was left out: {error.sentence}")
        return Found(self.origin, dict(self.values), tuple(self.warnings))

    def _look_up(self, kind: str, name: str, names: tuple[str, ...] | None) -> str:
        if names is None:
            return name
        for known in names:
            if _key(known) == _key(name):
                return known
        self.warn(f"The {kind} {name[:60]!r} is not here.")
        return ""


def numbers(value: Any) -> list[str]:
    """Find the unsigned numbers of ``(1152, 896)``, ``1152 × 896`` or a list."""
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value[:MAX_ITEMS])
    return re.findall(r"\d{1,6}(?:\.\d{1,6})?", str(value or "")[:100])


def file_name(reference: str) -> str:
    """Return the last part of a path of either kind, without control characters."""
    return re.sub(r"[\x00-\x1f]", "", re.split(r"[\\/]", reference.strip().rstrip("\\/"))[-1]).strip()[:200]


def _key(name: str) -> str:
    """Return what spellings of one name have in common: no folder, no suffix, no hyphens, small letters."""
    plain = re.sub(r"\.(safetensors|ckpt|pt|pth|bin)$", "", file_name(name).casefold())
    return re.sub(r"[-_\s]+", " ", plain).strip()

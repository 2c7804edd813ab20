"""What is asked for (:class:`Request`) and what one picture is made from (:class:`Recipe`).

A request is what a person fills in: most fields may be left alone, several pictures may be asked for. A recipe is one
picture with every choice made; it is what the PNG carries, and the same recipe gives the same picture. Both are frozen,
both turn into JSON and back, and a request refuses wrong values here, before any job is made or any weight is touched.

:data:`fooocus.request.Request`'s field metadata (``help``, ``low``, ``high``, ``choices``) is the single source for the
command line's options and the page's controls.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fooocus.errors import RequestError

DEFAULT_BASE = "sd_xl_base_1.0.safetensors"
DEFAULT_STYLE = "cinematic-default"
NONE = "none"  # the word by which a person declines a refiner or a style
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 200_000  # over 10,000 words; a bound so that a pasted file is refused at the door
MAX_STEPS = 1000  # the noise table has 1000 entries; more steps cannot be told apart
MAX_PICTURES = 1000
SIZE_STEP_PX = 8  # one latent cell
MIN_SIDE_PX, MAX_SIDE_PX = 64, 4096

SAMPLERS = (
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "dpmpp_2s_ancestral",
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "ddim",
    "uni_pc",
    "lcm",
)
SCHEDULES = (
    "karras",
    "exponential",
    "normal",
    "simple",
    "sgm_uniform",
    "ddim_uniform",
    "align_your_steps",
    "beta",
)


class Performance(NamedTuple):
    """A named bundle: number of steps and the first step that the refiner answers."""

    steps: int
    switch: int


# The two bundles of the first Fooocus: its base answers 21 of 30 and 41 of 60 evaluations.
PERFORMANCES: Mapping[str, Performance] = {"speed": Performance(30, 21), "quality": Performance(60, 41)}


class Size(NamedTuple):
    """Width and height of a picture in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class LoraUse(NamedTuple):
    """A LoRA file (name or path) and the weight at which it is added."""

    name: str
    weight: float


class Companions(NamedTuple):
    """The refiner and the LoRAs that go with a base when the person says nothing about them."""

    refiner: str | None
    loras: tuple[LoraUse, ...]


ALONE = Companions(None, ())


def companions(base: str) -> Companions:
    """Return what goes with a base, however its file is named: with or without folder and suffix, in any case."""
    return COMPANIONS.get(_file_name(base), ALONE)


def declined(name: str | None) -> bool:
    """Say whether a person wants no such model: nothing written, or the word none."""
    return not name or name.strip().casefold() in ("", NONE)


def _file_name(reference: str) -> str:
    name = re.split(r"[\\/]", reference)[-1].casefold()
    return name if name.endswith(".safetensors") else f"{name}.safetensors"


# A base that is not listed stands alone: another person's checkpoint needs neither SDXL's refiner nor its offset LoRA.
COMPANIONS: Mapping[str, Companions] = {
    DEFAULT_BASE: Companions(
        "sd_xl_refiner_1.0.safetensors", (LoraUse("sd_xl_offset_example-lora_1.0.safetensors", 0.5),)
    )
}


def _field(default: Any, text: str, *, low: float = 0, high: float = 0, choices: tuple[str, ...] = ()) -> Any:
    """Declare a field with its help text for command line and page; ``high`` limits numbers, ``choices`` words."""
    limits = {"low": low, "high": high} if high else {"choices": choices} if choices else {}
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclasses.dataclass(frozen=True)
class Request:
    """Hold everything a person can ask for. ``None`` means "you choose", and :mod:`fooocus.prompt.plan` does.

    Raises :class:`~fooocus.errors.RequestError` naming the field when a value is out of range or values contradict.
    """

    prompt: str = _field("", "what the picture shows")
    negative: str = _field("", "what to keep out of the picture")
    styles: tuple[str, ...] = _field((DEFAULT_STYLE,), "style templates put around the prompt, or none")
    performance: str = _field("speed", "speed: 30 steps, quality: 60 steps", choices=tuple(PERFORMANCES))
    lines: str = _field(
        "together", "a prompt of several lines: one prompt, or a picture of each", choices=("together", "each")
    )
    size: Size = _field(Size(1152, 896), "width x height in pixels, multiples of 8")
    count: int = _field(1, "how many pictures, with seeds counting up", low=1, high=MAX_PICTURES)
    seed: int | None = _field(None, "number that fixes the noise; left out: random", low=0, high=MAX_SEED)
    format: str = _field("png", "file format of the pictures", choices=("png", "jpeg", "webp"))
    steps: int | None = _field(None, "sampling steps; left out: from performance", low=1, high=MAX_STEPS)
    switch: int | None = _field(None, "first step that the refiner answers", low=0, high=MAX_STEPS)
    guidance: float = _field(7.0, "how strictly the prompt is followed", low=0.0, high=100.0)
    sampler: str = _field("dpmpp_2m_sde", "algorithm that walks the noise levels", choices=SAMPLERS)
    schedule: str = _field("karras", "spacing of the noise levels", choices=SCHEDULES)
    base: str = _field(DEFAULT_BASE, "base checkpoint: name in models/checkpoints, or path")
    refiner: str | None = _field(None, "refiner checkpoint, or none; left out: the base's own")
    loras: tuple[LoraUse, ...] | None = _field(None, "LoRA file and weight; left out: the base's own")
    vae: str | None = _field(None, "VAE file; left out: the one inside the base")
    clip_skip: int = _field(2, "which text layer from the end is read; 2 is SDXL's", low=1, high=48)
    size_positive: float = _field(1.5, "size guidance: factor on the original size, prompt", low=0.1, high=4.0)
    size_negative: float = _field(0.8, "size guidance: factor on the original size, negative prompt", low=0.1, high=4.0)
    size_until: float = _field(
        1.0, "size guidance acts on this first part of the run; below 1 sizes are whole numbers", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_limits(field, getattr(self, field.name))
        for name in ("prompt", "negative"):
            if len(getattr(self, name)) > MAX_PROMPT_CHARACTERS:
                raise RequestError(
                    name, f"The {name} is longer than {MAX_PROMPT_CHARACTERS} characters.", "Shorten it."
                )
        _check_size(self.size)
        _check_names(self)
        if self.switch is not None and declined(self.refiner or companions(self.base).refiner):
            raise RequestError("switch", "A switch step was given but no refiner.", "Choose a refiner or drop switch.")
        if self.switch is not None and self.steps is not None and self.switch > self.steps:
            raise RequestError(
                "switch", f"Switch {self.switch} lies beyond the last of {self.steps} steps.", "Lower it."
            )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; :meth:`from_json` of it gives an equal request."""
        values = dataclasses.asdict(self)
        values["size"] = str(self.size)
        values["styles"] = list(self.styles)
        values["loras"] = None if self.loras is None else [list(use) for use in self.loras]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Request:
        """Read a request strictly: an unknown field or a value of another type is an error naming the field."""
        return cls(**_read(cls, values))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hold one picture with every choice made. The number of the picture in its job is no part of it: picture ``i`` of
    a job is exactly the picture of seed + i alone.

    ``positive_text`` and ``negative_text`` are what the text encoders read; ``prompt``, ``negative`` and ``styles`` are
    what they were put together from, with wildcards drawn and everything else that the prompt language says followed.
    ``switch`` is the first step that the refiner answers, ``None`` without a refiner.
    """

    prompt: str
    negative: str
    styles: tuple[str, ...]
    positive_text: str
    negative_text: str
    size: Size
    seed: int
    steps: int
    switch: int | None
    guidance: float
    sampler: str
    schedule: str
    base: str
    refiner: str | None
    loras: tuple[LoraUse, ...]
    vae: str | None
    clip_skip: int
    size_positive: float
    size_negative: float
    size_until: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; :meth:`from_json` of it gives an equal recipe."""
        values = dataclasses.asdict(self)
        values["size"] = str(self.size)
        values["styles"] = list(self.styles)
        values["loras"] = [list(use) for use in self.loras]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Read a recipe strictly; missing, unknown and mistyped fields are errors that name the field."""
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
        if missing:
            raise RequestError(missing[0], f"The recipe lacks {missing[0]}.", "It may come from another program.")
        return cls(**_read(cls, values))

    def to_request(self) -> Request:
        """Return the request that plans exactly this recipe: the styled texts are asked for as they are."""
        return Request(
            prompt=self.prompt,
            negative=self.negative,
            styles=self.styles,
            size=self.size,
            seed=self.seed,
            steps=self.steps,
            switch=self.switch,
            guidance=self.guidance,
            sampler=self.sampler,
            schedule=self.schedule,
            base=self.base,
            refiner=self.refiner or NONE,
            loras=self.loras,
            vae=self.vae,
            clip_skip=self.clip_skip,
            size_positive=self.size_positive,
            size_negative=self.size_negative,
            size_until=self.size_until,
        )


def parse_size(text: str) -> Size:
    """Read ``1152x896`` (also with × or *)."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX×*]\s*(\d{1,5})\s*", text)
    if not match:
        raise RequestError("size", f"{text[:40]!r} is not a size.", "Write it as width x height, for example 1152x896.")
    return Size(int(match[1]), int(match[2]))


def parse_lora(text: str) -> LoraUse:
    """Read ``FILE:WEIGHT``; the last colon counts, so that a Windows path may hold one. Without a weight it is 1."""
    name, colon, weight = text.rpartition(":")
    if not colon or re.fullmatch(r"[\\/].*", weight):
        return LoraUse(text, 1.0)
    try:
        return LoraUse(name, float(weight))
    except ValueError:
        raise RequestError(
            "loras", f"{weight[:40]!r} is not a LoRA weight.", "Write FILE:WEIGHT, like x:0.5."
        ) from None


def _check_limits(field: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value outside its field's ``low``..``high`` or ``choices``; NaN is outside of everything."""
    if value is None or not field.metadata:
        return
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise RequestError(field.name, f"{field.name} {value!r} is not known.", f"Choose one of {', '.join(choices)}.")
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is not None and high is not None and not low <= value <= high:
        raise RequestError(field.name, f"{field.name} is {value}.", f"It must lie between {low} and {high}.")


def _check_size(size: Size) -> None:
    for name, side in (("Width", size.width), ("Height", size.height)):
        if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            raise RequestError("size", f"{name} is {side}.", f"It must lie between {MIN_SIDE_PX} and {MAX_SIDE_PX}.")
        if side % SIZE_STEP_PX:
            nearest = round(side / SIZE_STEP_PX) * SIZE_STEP_PX
            raise RequestError("size", f"{name} {side} is no multiple of {SIZE_STEP_PX}.", f"Try {nearest}.")


def _check_names(request: Request) -> None:
    if not request.base.strip():
        raise RequestError("base", "No base checkpoint is named.", f"Leave it out for {DEFAULT_BASE}.")
    for use in request.loras or ():
        if not use.name.strip():
            raise RequestError("loras", "A LoRA without a name was given.", "Name its file.")
        if not math.isfinite(use.weight):
            raise RequestError("loras", f"The weight of {use.name} is {use.weight}.", "Give a number, like 0.5.")


# Which Python types a JSON value may have, by the field's annotation.
_TYPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,)}


def _read(cls: type[Request] | type[Recipe], values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert JSON values to field values, strictly."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise RequestError(name, f"There is no field {name!r}.", f"Known are {', '.join(fields)}.")
        result[name] = _convert(name, str(fields[name].type), value)
    return result


def _convert(name: str, annotation: str, value: Any) -> Any:
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    if kind == "Size" and isinstance(value, str):
        return parse_size(value)
    if kind == "tuple[str, ...]" and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(item for item in value if item != NONE)
    if kind == "tuple[LoraUse, ...]" and isinstance(value, list | tuple):
        return tuple(_lora(item) for item in value)
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return _float(name, value)
    if isinstance(value, _TYPES.get(kind, ())) and not isinstance(value, bool):
        return value
    raise RequestError(name, f"{name} has a value of the wrong kind: {str(value)[:60]!r}.", f"Expected {kind}.")


def _float(field: str, value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise RequestError(field, f"{field} has a number of {len(str(value))} digits.", "Give a smaller one.") from None


def _lora(item: Any) -> LoraUse:
    match item:
        case [str(name), int() | float() as weight] if not isinstance(weight, bool):
            return LoraUse(name, _float("loras", weight))
        case str(text):
            return parse_lora(text)
    raise RequestError("loras", f"{str(item)[:60]!r} is not a LoRA and a weight.", "Write FILE:WEIGHT, like x:0.5.")

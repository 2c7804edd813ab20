"""Settings of this installation, frozen at start: where files live, how the page is served, what to compute on.

Every setting has a default; a config file (``config.json`` beside ``launch.py``) overrides it, an environment variable
``FOOOCUS_<NAME>`` overrides that, and a command-line argument overrides all. All mistakes are reported at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fooocus.errors import ConfigError, RequestError
from fooocus.request import Request

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,2})?")
MODEL_KINDS = ("checkpoints", "loras", "vae", "embeddings")
# What may be switched on for speed beside what is always on; each is told in the Fast class below.
FAST_EXTRAS = ("graphs", "fp16-accumulation", "cudnn-attention", "batches")
# How programs of this kind call the folder of a kind of model; the first that exists is taken.
_FOLDER_NAMES: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints", "Stable-diffusion"),
    "loras": ("loras", "Lora"),
    "vae": ("vae", "VAE"),
    "embeddings": ("embeddings",),
}


def _field(default: Any, text: str, *, low: float = 0, high: float = 0, choices: tuple[str, ...] = ()) -> Any:
    """Declare a field with its help text; numbers are limited where ``high`` is given, words where ``choices`` are."""
    limits = {"low": low, "high": high} if high else {"choices": choices} if choices else {}
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclasses.dataclass(frozen=True)
class Fast:
    """What is done for speed. The first two are on unless ``--fast off``, the others only when they are named.

    ``keep_text``: the text's keys and values are computed once per prompt; the same bits. ``short_numbers``: the device
    may choose 16 bits where that is faster or smaller; otherwise float32. ``graphs``: CUDA graphs per network and size.
    ``fp16_accumulation``: GeForce cards add up in half precision where that moves a network's answers little.
    ``cudnn_attention``: cuDNN's attention before the others. ``batches``: pictures that differ in their seed only are
    advanced by the same calls of a network, as many as memory has room for; the first is there later, and the last bits
    are others.
    """

    keep_text: bool = True
    short_numbers: bool = True
    graphs: bool = False
    fp16_accumulation: bool = False
    cudnn_attention: bool = False
    batches: bool = False


def read_fast(text: str) -> Fast:
    """Read "auto", "off", or names of extras with commas between. Raises ValueError in words."""
    if text == "off":
        return Fast(keep_text=False, short_numbers=False)
    names = [name.strip() for name in text.split(",") if name.strip() and name.strip() != "auto"]
    for name in names:
        if name not in FAST_EXTRAS:
            raise ValueError(f"{name!r} is none of auto, off, {', '.join(FAST_EXTRAS)}.")
    return dataclasses.replace(Fast(), **{name.replace("-", "_"): True for name in names})


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold the settings. Folders are absolute after :func:`load_config`."""

    models: Path = _field(ROOT / "models", "folder of models, one subfolder per kind")
    styles_folder: Path = _field(ROOT / "styles", "folder of style files")
    outputs: Path = _field(ROOT / "outputs", "folder that pictures are written to")
    data: Path = _field(ROOT / "data", "folder for the queue, logs and caches")
    host: str = _field("127.0.0.1", "address that the page is served on")
    port: int = _field(7865, "port of the page; the next free one is taken when it is in use", low=0, high=65535)
    listen: bool = _field(False, "serve the page to the whole network; wants a password")
    password: str = _field("", "password of the page; needed with listen")
    browser: bool = _field(True, "open the page in the browser at start")
    metadata: bool = _field(True, "write each picture's recipe into its file")
    request: Mapping[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "what requests begin with, by field", "file_only": True},
    )
    device: str = _field("auto", "auto, cpu, cuda, cuda:1, mps or xpu")
    dtype: str = _field("auto", "number format of the networks", choices=DTYPES)
    fast: str = _field("auto", f"auto, off, or what to try for speed, with commas: {', '.join(FAST_EXTRAS)}")
    vae_dtype: str = _field(
        "float32", "number format of the decoder; what breaks in half precision is decoded again", choices=DTYPES[1:]
    )
    extra_models: str = _field("", f"more folders of models, such as another program's, with {os.pathsep} between")
    mirrors: str = _field("", "addresses of hubs to fetch from when the first fails, with commas between")
    rate_limit: int = _field(0, "most megabytes per second that downloads may take; 0 for no limit", high=10_000)

    @property
    def extra_folders(self) -> tuple[Path, ...]:
        """The folders of ``extra_models``, absolute."""
        named = (text.strip() for text in self.extra_models.split(os.pathsep))
        return tuple(Path(os.path.abspath(Path(text).expanduser())) for text in named if text)

    def folders(self, kind: str) -> tuple[Path, ...]:
        """Return the folders in which models of ``kind`` (one of :data:`MODEL_KINDS`) are looked for.

        An extra folder has a folder for each kind, as other programs name them, or is itself a folder of files. Of the
        first sort only the kind's own folder counts: else a file in it would have two names.
        """
        # The miniature that comes with the program has a folder of its own, so that it is kept apart from the person's.
        pocket = (self.models / "pocket",) if kind in ("checkpoints", "loras") else ()
        extra = (found for folder in self.extra_folders for found in _shelf(folder, kind))
        return (self.models / kind, *pocket, *extra)


def _shelf(folder: Path, kind: str) -> tuple[Path, ...]:
    """Return where in ``folder`` files of a kind lie: nowhere if there are folders of other kinds only."""
    for name in _FOLDER_NAMES[kind]:
        if (folder / name).is_dir():
            return (folder / name,)
    sorted_by_kind = any((folder / name).is_dir() for names in _FOLDER_NAMES.values() for name in names)
    return () if sorted_by_kind or not folder.is_dir() else (folder,)


def load_config(arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None) -> Config:
    """Merge defaults, config file, environment and arguments.

    ``arguments`` holds parsed values by field name (``None``: not given). Raises :class:`ConfigError` with one line for
    every wrong value, each naming where it came from.
    """
    problems: list[str] = []
    merged: dict[str, Any] = {}
    sources = (
        (_read_file(file or ROOT / "config.json", problems), "config.json: "),
        ({k[8:].lower(): v for k, v in environment.items() if k.startswith("FOOOCUS_")}, "environment: FOOOCUS_"),
        ({k: v for k, v in arguments.items() if v is not None}, "argument --"),
    )
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for values, origin in sources:
        for name, value in values.items():
            if name not in fields:
                # Other programs' or the launcher's variables may share the prefix; a config file's may not.
                if origin.startswith("config"):
                    problems.append(f"{origin}{name} is not a setting.")
                continue
            try:
                merged[name] = _convert(fields[name], value)
            except ValueError as error:
                shown = name.upper() if origin.startswith("environment") else name
                problems.append(f"{origin}{shown}: {error}")
    config = Config(**merged)
    if config.listen and not config.password:
        problems.append("listen opens the page to the network and needs a password.")
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(config, host="0.0.0.0" if config.listen and "host" not in merged else config.host)


def _read_file(file: Path, problems: list[str]) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {error}.")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{file.name} must hold one JSON object.")
        return {}
    return values


def _convert(field: dataclasses.Field[Any], value: Any) -> Any:
    """Turn text or a JSON value into the field's type; raise ValueError in words."""
    if field.name == "request":
        if not isinstance(value, dict):
            raise ValueError("it must be an object with fields of a request, in config.json.")
        try:
            Request.from_json(value)
        except RequestError as error:
            raise ValueError(str(error)) from error
        return value
    if field.type == "Path":
        if not isinstance(value, str | Path) or not str(value):
            raise ValueError(f"{value!r} is not a folder.")
        return Path(os.path.abspath(Path(value).expanduser()))
    if field.type == "bool":
        known = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if str(value).lower() not in known:
            raise ValueError(f"{value!r} is neither yes nor no.")
        return known[str(value).lower()]
    if field.type == "int":
        number = int(str(value)) if str(value).lstrip("-").isdigit() else None
        if number is None or not field.metadata["low"] <= number <= field.metadata["high"]:
            raise ValueError(
                f"{value!r} is not a whole number from {field.metadata['low']} to {field.metadata['high']}."
            )
        return number
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text.")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}.")
    if field.name == "fast":
        read_fast(value)
    if field.name == "device" and not DEVICE.fullmatch(value):
        raise ValueError(f"{value!r} is not one of auto, cpu, cuda, cuda:1, mps, xpu.")
    return value

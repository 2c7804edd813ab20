"""The report that a person can copy when something went wrong: what a helper needs, and nothing that tells who asks.

:func:`report` is pure; :func:`gather` finds out what this computer and this job are.
"""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fooocus.config import ROOT, Config
from fooocus.events import Failed
from fooocus.jobs.store import Job
from fooocus.models.catalogue import load_catalogue
from fooocus.models.computer import Computer
from fooocus.models.words import amount
from fooocus.prompt.styles import RANDOM, SHIPPED, load_styles
from fooocus.request import NONE
from fooocus.ui.discreet import Private, cleaned

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "accelerate", "gradio", "numpy", "pillow")
_TAIL_BYTES = 64_000
_TRACE_LINES = 80
_SHOWN_SETTINGS = ("device", "dtype", "metadata", "listen", "port", "rate_limit")
_TEXTS = ("prompt", "negative")
_OURS = ("pocket_base.safetensors", "pocket_refiner.safetensors", "pocket_offset_lora.safetensors")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a report tells. ``request`` and ``settings`` hold only what may be shown."""

    versions: Mapping[str, str]
    computer: tuple[str, ...]
    settings: Mapping[str, Any]
    request: Mapping[str, Any]
    error: tuple[str, ...]
    trace: str


def report(facts: Facts, private: Private) -> str:
    """Return the report as text that can be pasted anywhere."""
    rows = [
        "Fooocus report",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        *(f"Computer: {line}" for line in facts.computer),
        "Settings: " + ", ".join(f"{name}={value}" for name, value in facts.settings.items()),
        "Asked for: " + ", ".join(f"{name}={value}" for name, value in facts.request.items()),
        "",
        *(f"Error: {line}" for line in facts.error if line),
        "",
        *(["Log:", facts.trace] if facts.trace.strip() else ["Log: nothing was written."]),
    ]
    return cleaned("\n".join(rows), private).strip() + "\n"


def gather(config: Config, computer: Computer, job: Job, found: Iterable[str]) -> tuple[Facts, Private]:
    """Find out the facts of a failed job, and what of them is private. ``found`` are the names of all model files."""
    asked = job.request
    harmless = {*load_catalogue(), *_OURS}
    failed = job.terminal if isinstance(job.terminal, Failed) else None
    facts = Facts(
        versions=versions(),
        computer=_computer(computer),
        settings={name: getattr(config, name) for name in _SHOWN_SETTINGS},
        request=_asked(asked, harmless, config),
        error=(failed.code, failed.sentence, failed.remedy) if failed else (job.state,),
        trace=trace_of(job.id, _tail(config.data / "worker.log")),
    )
    loras = [str(use[0]) for use in asked.get("loras") or () if use]
    models = [*found, *loras, *(str(asked.get(kind) or "") for kind in ("base", "refiner", "vae"))]
    own_styles = [name for name in _styles(asked) if not _is_ours(name, config)]
    names = [spelling for name in models if name not in harmless for spelling in _spellings(name)]
    private = Private(
        texts=tuple(str(asked.get(name) or "") for name in _TEXTS),
        names=tuple(name for name in (*names, *own_styles, *_people()) if name and name != NONE),
        folders=tuple(
            str(folder)
            for folder in (config.models, config.styles_folder, config.outputs, config.data, ROOT, Path.home())
        )
        + tuple(str(folder) for folder in config.extra_folders),
    )
    return facts, private


def versions() -> dict[str, str]:
    """Return the versions of the program, of Python and of the packages that pictures hang on; none is imported."""
    known = {"Fooocus": _own_version(), "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            known[name] = "not installed"
    return known


def trace_of(id: str, log: str) -> str:
    """Return those lines of the worker's log that belong to a job: from its last mention on, or else the end."""
    lines = log.splitlines()
    mentions = [number for number, line in enumerate(lines) if f"job {id}" in line]
    if not mentions:
        return "\n".join(lines[-_TRACE_LINES // 2 :])
    begin = mentions[-1]
    end = next((n for n in range(begin + 1, len(lines)) if " job " in lines[n] and id not in lines[n]), len(lines))
    part = lines[begin:end]
    # The end of a long trace tells more than its begin.
    return "\n".join(part if len(part) <= _TRACE_LINES else [part[0], "...", *part[2 - _TRACE_LINES :]])


def _own_version() -> str:
    try:
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, KeyError, ValueError):
        return "unknown"


def _computer(computer: Computer) -> tuple[str, ...]:
    cards = [f"{card.name}, {amount(card.memory_bytes)}" for card in computer.cards] or ["no graphics card"]
    return (
        f"{computer.system}, {computer.processor}, {computer.cores} cores, {amount(computer.memory_bytes)} memory",
        *cards,
        f"{amount(computer.disk_free_bytes)} of the disk free",
    )


def _asked(asked: Mapping[str, Any], harmless: set[str], config: Config) -> dict[str, Any]:
    """Return what was asked for without texts, and without names but those that everybody has."""

    def known(name: Any) -> Any:
        return str(name).removesuffix(".safetensors") if name in harmless or name in (None, NONE) else "own"

    said = {name: value for name, value in asked.items() if name not in _TEXTS and name != "seed"}
    for kind in ("base", "refiner", "vae"):
        said[kind] = known(said.get(kind))
    loras = (f"{known(use[0])} {use[1]}" for use in asked.get("loras") or () if len(use) == 2)
    said["loras"] = None if asked.get("loras") is None else " + ".join(loras)
    said["styles"] = " + ".join(name if _is_ours(name, config) else "own" for name in _styles(asked))
    said["prompt"] = f"{len(str(asked.get('prompt') or ''))} signs"
    said["negative"] = f"{len(str(asked.get('negative') or ''))} signs"
    return said


def _styles(asked: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in asked.get("styles") or ()]


def _is_ours(reference: str, config: Config) -> bool:
    name = reference.rpartition(":")[0] or reference
    style = load_styles(config.styles_folder).by_name.get(name)
    return name == RANDOM or (style is not None and Path(style.file).stem in SHIPPED)


def _spellings(name: str) -> Iterable[str]:
    path = name.replace("\\", "/")
    file = path.rpartition("/")[2]
    return (name, path, file, file.rpartition(".")[0] or file)


def _people() -> Iterable[str]:
    """Return what this person and this computer are called."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # nobody is logged in, as in a container
        user = ""
    return (user, Path.home().name, platform.node(), platform.node().partition(".")[0])


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""

"""Measurements as a table for people, and both as files. No torch here: a table can be made again from its JSON."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fooocus.errors import StorageError

_NOT_MEASURED = "–"
_REST_LOAD = 0.25
_KINDS_OF = {"base": "base UNet, one call", "refiner": "refiner UNet, one call", "vae": "VAE decoding"}


def save(result: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write table and JSON into ``folder``; an earlier measurement of the same day and machine is replaced."""
    name = _file_name(result)
    table, values = folder / f"{name}.md", folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in ((table, markdown(result)), (values, json.dumps(result, indent=1))):
            part = path.with_name(path.name + ".part")
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
    except OSError as error:
        raise StorageError(
            f"The table {table} cannot be written: {error}.", "Choose another folder with --out."
        ) from error
    return table, values


def markdown(result: Mapping[str, Any]) -> str:
    """Return the whole table."""
    setting, machine = result["setting"], result["machine"]
    peer, floor = bool(result["peer"]), bool(result.get("floor"))
    columns = ["diffusers", "ours / diffusers"] * peer + ["floor", "ours / floor"] * floor
    command = f"python launch.py bench {result.get('options', '')}".strip()
    lines = [
        f"# {_title(result)}",
        "",
        f"`{command}`, {result['date']}, commit {result['commit'] or 'unknown'}, {_versions(result['versions'])}.",
        "",
        f"{machine['computing']}; {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{_gib(machine['memory_bytes'])} of main memory; {machine['system']}.{_busy(machine)}",
        "",
        _conditions(setting),
        "",
        f"| seconds | ours | {' | '.join(columns)}".rstrip(" |") + " |",
        "|---" * (2 + len(columns)) + "|",
        *(_row(name, key, result) for name, key in _ROWS),
        "",
        "Each cell is the median and, in brackets, the least and the greatest. A step is one with prompt and negative "
        "prompt. Each picture has a new prompt and the same negative prompt: ours knows that one from the picture "
        "before, diffusers reads both. "
        "The pause at the refiner is what its first step takes longer than its others. Ours includes previews, "
        "events and the saved file; diffusers' ends with the pixels."
        if peer
        else "Each cell is the median and, in "
        "brackets, the least and the greatest. The pause at the refiner is what its first step takes longer.",
        *(("", _floor(result["floor"])) if floor else ()),
        "",
        *_beside(result),
        "",
        *_kinds(result),
        *(f"\nThe program said: {notice}" for notice in result.get("notices", ())),
    ]
    return "\n".join(lines).rstrip() + "\n"


_ROWS = (
    ("a picture", "picture"),
    ("a step of the base", "base"),
    ("a step of the refiner", "refiner"),
    ("the pause at the refiner", "swap"),
    ("reading the prompt", "text"),
    ("decoding", "decode"),
    ("saving the file", "save"),
)


def _row(name: str, key: str, result: Mapping[str, Any]) -> str:
    ours = [_value(timing, key) for timing in result["ours"]]
    cells = [name, _cell(ours)]
    if result["peer"]:
        theirs = [_value(timing, key) for timing in result["peer"]] if key != "save" else []
        both = _known(ours) and _known(theirs)
        ratio = _median(ours) / _median(theirs) if both and key != "swap" and _median(theirs) > 0 else math.nan
        cells += [_cell(theirs), _ratio(ratio)]
    if floor := result.get("floor"):
        least = floor.get(key) or math.nan
        cells += [_cell([least]), _ratio(_median(ours) / least if _known(ours) else math.nan)]
    return f"| {' | '.join(cells)} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else _NOT_MEASURED


def _floor(floor: Mapping[str, Any]) -> str:
    """Say what the floor is made of."""
    rates = " and ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in floor["rates"].items())
    return (
        f"The floor is what the arithmetic alone would take: {floor['operations'] / 1e12:.3g} tera-operations a "
        f"picture, at the rate of large matrix products on this device in this run, {rates} (tera-operations a "
        "second). What is above it: memory that is read and written between two operations, kernels that are started "
        "and waited for, convolutions that are slower than matrix products; of a picture also its texts and its file. "
        "Below it is who needs fewer operations than are counted, as Winograd's convolutions do."
    )


def _value(timing: Mapping[str, Any], key: str) -> float:
    steps, switch = timing["steps"], timing["switch"]
    base, refined = steps[:switch], steps[switch:]
    match key:
        case "base":
            return statistics.median(base[1:] or base) if base else math.nan
        case "refiner":
            return statistics.median(refined[1:] or refined) if refined else math.nan
        case "swap":
            return refined[0] - statistics.median(refined[1:]) if len(refined) > 1 else math.nan
    return float(timing[key])


def overhead(timing: Mapping[str, Any]) -> float:
    """Return what a step takes beside the network's calls, as a part of these; the first of each network left out."""
    steps, calls = timing["steps"], timing["calls"]
    steady = [i for i in range(1, len(steps)) if i != timing["switch"]]
    inside = sum(calls[i] for i in steady)
    return (sum(steps[i] for i in steady) - inside) / inside if inside else math.nan


_MEMORIES = (
    ("main memory", "main_bytes"),
    ("main memory without pages of mapped files", "own_bytes"),
    ("the device's memory that torch had", "device_bytes"),
    ("the whole card's memory, driver and other programs included", "card_bytes"),
)


def _beside(result: Mapping[str, Any]) -> list[str]:
    """Return the table of what happens beside the pictures."""
    rows = [("our loop beside the network's calls, share of these", _percents([overhead(t) for t in result["ours"]]))]
    if result["peer"]:
        theirs = _percents([overhead(t) for t in result["peer"]])
        rows.append(("diffusers' loop beside the network's calls", theirs))
    rows += [(f"{role} UNet asked alone, s", _cell(seconds)) for role, seconds in result["bare_call_seconds"].items()]
    rows.append(("another weight of the LoRA, s", _cell(result["lora_change_seconds"])))
    if together := result.get("together_seconds"):
        rows.append(("each picture of a job of four, as many at once as there is room for, s", _cell(together)))
    rows += [(f"loading {name}, s", _cell(seconds)) for name, seconds in result["load_seconds"].items()]
    apart = result.get("device_memory") or {}
    for name, key in _MEMORIES:
        for who, timings in (("ours", result["ours"]), ("diffusers", result["peer"])):
            found = [apart[who]] if key in apart.get(who, {}) else timings
            known = [timing[key] for timing in found if timing.get(key)]
            if known:
                rows.append((f"most of {name}, {who}", _gib(max(known))))
    return ["| beside | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _kinds(result: Mapping[str, Any]) -> list[str]:
    found = result["kinds_seconds"]
    if not found:
        return []
    names = list(next(iter(found.values())))
    head = ["| kernels' time | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    rows = []
    for place, seconds in found.items():
        total = sum(seconds.values()) or 1.0
        cells = (f"{100 * seconds.get(name, 0.0) / total:.0f} %" for name in names)
        rows.append(f"| {_KINDS_OF[place]}, {_number(total)} s | {' | '.join(cells)} |")
    return [*head, *rows]


def _title(result: Mapping[str, Any]) -> str:
    machine, setting = result["machine"], result["setting"]
    where = machine["card"] or machine["processor"]
    if setting["full_size"]:
        return f"SDXL at full size on {where}"
    return f"SDXL at reduced size on {where}" if setting["random_weights"] else f"{setting['files'][0]} on {where}"


def _conditions(setting: Mapping[str, Any]) -> str:
    weights = "random weights" if setting["random_weights"] else f"the files {', '.join(setting['files'])}"
    size = (
        "SDXL's true size"
        if setting["full_size"]
        else "widths divided by about five, every layer kept: these seconds are not SDXL's"
        if setting["random_weights"]
        else "whatever size these files have"
    )
    width, _, height = setting["size"].partition("x")
    return (
        f"{weights[0].upper()}{weights[1:]}, {size}; {width} × {height} pixels, {setting['steps']} steps of which the "
        f"base does {setting['switch']}, guidance {setting['guidance']:g}, {setting['sampler']} (diffusers: Euler), "
        f"{setting['dtype']}, fast {setting.get('fast', 'auto')}, decoded in float32, {setting['runs']} pictures of "
        "each in turns after one that does not count."
    )


def _busy(machine: Mapping[str, Any]) -> str:
    """Say that the computer was not alone with this; a load of a quarter of a core is a system at rest.

    At the end the load holds our own threads as well.
    """
    begin, end = machine.get("load"), machine.get("load_at_end")
    load = max((value for value in (begin, end and end - machine["threads"]) if value is not None), default=0.0)
    if load < _REST_LOAD:
        return ""
    return f" **Other programs were running (load {load:g}): times are longer and scatter more than they need to.**"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _file_name(result: Mapping[str, Any]) -> str:
    machine, setting = result["machine"], result["setting"]
    where = re.sub(r"[^a-z0-9]+", "-", (machine["card"] or "processor").lower()).strip("-")
    size = "full" if setting["full_size"] else "reduced" if setting["random_weights"] else "own"
    fast = "" if setting.get("fast", "auto") == "auto" else "-" + setting["fast"].replace(",", "-").replace(" ", "")
    return f"bench-{where}-{size}-{setting['dtype']}{fast}"


def _cell(values: Sequence[float]) -> str:
    known = _known(values)
    if not known:
        return _NOT_MEASURED
    middle = _number(statistics.median(known))
    return middle if len(known) == 1 else f"{middle} ({_number(min(known))} to {_number(max(known))})"


def _percents(values: Sequence[float]) -> str:
    known = [100 * value for value in _known(values)]
    if not known:
        return _NOT_MEASURED
    return f"{statistics.median(known):.2f} % ({min(known):.2f} to {max(known):.2f})"


def _number(value: float) -> str:
    """Write seconds with three significant digits, never finer than tenths of a millisecond."""
    if abs(value) < 1e-4:
        return "0"
    digits = max(0, min(4, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:.{digits}f}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _median(values: Iterable[float]) -> float:
    return statistics.median(_known(values))

"""The text block named ``parameters`` that Stable Diffusion programs and sharing sites exchange.

Its layout: the prompt, a line ``Negative prompt: ...``, and a last line of ``Key: value`` pairs joined by commas, where
a value that holds a comma, a colon or a newline is quoted as JSON. There is no standard; the keys here are those that
readers in the wild look for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fooocus.images.findings import Finder, Found, Known, numbers
from fooocus.request import Recipe

NEGATIVE = "Negative prompt:"
MAX_CHARACTERS = 256 * 1024
VERSION = "Fooocus"

# Our names of samplers and schedules, and what the block calls them.
SAMPLER_LABELS: Mapping[str, str] = {
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "lms": "LMS",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "lcm": "LCM",
}
SCHEDULE_LABELS: Mapping[str, str] = {
    "karras": "Karras",
    "exponential": "Exponential",
    "normal": "Normal",
    "simple": "Simple",
    "sgm_uniform": "SGM Uniform",
    "ddim_uniform": "DDIM Uniform",
    "align_your_steps": "Align Your Steps",
    "beta": "Beta",
}


def parameters_text(recipe: Recipe, hashes: Mapping[str, str]) -> str:
    """Return the block for a recipe. ``hashes`` holds SHA-256 sums by file name; what it lacks is left out.

    LoRAs are written as tags behind the prompt, as readers expect. Halves of surrogate pairs cannot be written in a
    text encoding and become question marks; our own record keeps them.
    """
    tags = "".join(f" <lora:{_stem(use.name)}:{use.weight:g}>" for use in recipe.loras)
    pairs: dict[str, str] = {
        "Steps": str(recipe.steps),
        "Sampler": SAMPLER_LABELS[recipe.sampler],
        "Schedule type": SCHEDULE_LABELS[recipe.schedule],
        "CFG scale": f"{recipe.guidance:g}",
        "Seed": str(recipe.seed),
        "Size": str(recipe.size),
        # Fooocus 2 uses this key for the same three numbers.
        "ADM Guidance": f"({recipe.size_positive:g}, {recipe.size_negative:g}, {recipe.size_until:g})",
        "Model hash": _short(hashes.get(recipe.base, "")),
        "Model": _stem(recipe.base),
        "VAE": _stem(recipe.vae or ""),
        "Clip skip": str(recipe.clip_skip),
    }
    if recipe.refiner and recipe.switch is not None:
        short = _short(hashes.get(recipe.refiner, ""))
        pairs["Refiner"] = _stem(recipe.refiner) + (f" [{short}]" if short else "")
        pairs["Refiner switch at"] = f"{recipe.switch / recipe.steps:.4g}"
    known = [(use, hashes[use.name]) for use in recipe.loras if hashes.get(use.name)]
    pairs["Lora hashes"] = ", ".join(f"{_stem(use.name)}: {_short(sum_)}" for use, sum_ in known)
    pairs["Version"] = VERSION
    last = ", ".join(f"{key}: {_quote(value)}" for key, value in pairs.items() if value)
    lines = [recipe.positive_text + tags]
    if recipe.negative_text:
        lines.append(f"{NEGATIVE} {recipe.negative_text}")
    return "\n".join([*lines, last]).replace("\0", "").encode("utf-8", "replace").decode()


def looks_like_parameters(text: str) -> bool:
    """Say whether a text ends in such a line of pairs."""
    return _SETTINGS.match(text.rstrip().rpartition("\n")[2]) is not None


def read_parameters(text: str, known: Known) -> Found:
    """Return the settings of such a block, from whichever program. LoRA tags leave the prompt and become LoRAs."""
    finder = Finder("a1111", known)
    body, _, last = text[:MAX_CHARACTERS].rstrip().rpartition("\n")
    if not _SETTINGS.match(last):
        body, last = text[:MAX_CHARACTERS], ""
    pairs = _pairs(last)
    positive, _, negative = ("\n" + body).partition("\n" + NEGATIVE)
    prompt = _neutral(finder, positive.removeprefix("\n"))
    finder.put("prompt", _TAG.sub("", prompt).rstrip() if _TAG.search(prompt) else prompt)
    finder.put("negative", _neutral(finder, negative.strip()))
    finder.put_loras(_loras(prompt, pairs))
    finder.values["styles"] = []  # whatever was chosen there is part of the written-out prompt
    _put_pairs(finder, pairs)
    if re.search(r"(?<!\\)\[", prompt):
        finder.warn("Square brackets weaken or change words elsewhere; here they are read as text.")
    if re.search(r"\b(BREAK|AND)\b", prompt):
        finder.warn("BREAK and AND join prompts elsewhere; here they are read as words.")
    for key, feature in _MISSING.items():
        if any(name.startswith(key) for name in pairs):
            finder.warn(f"The picture was made with {feature}, which is not repeated here.")
    return finder.found()


_SETTINGS = re.compile(r"\s*Steps: *\d+ *(,|$)")
_PAIR = re.compile(r'\s*([A-Za-z][\w .()/-]{0,60}): *("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_TAG = re.compile(r"[ \t]*<lora:([^<>:]{1,200}):([^<>:]{1,40})(?::[^<>]{0,40})?>", re.IGNORECASE)
# What is an array or a word list here, and plain text elsewhere. The possessive + keeps a long run of underscores from
# being tried from each of its places.
_ARRAY = re.compile(r"\[\[([^\[\],]*,[^\[\]]*)\]\]")
_LIST = re.compile(r"(?<!_)_{2,}+([^\W_](?:[\w/-]{0,80}?[^\W_])?)_{2,}")
_MISSING: Mapping[str, str] = {
    "Hires": "a second, larger pass",
    "ControlNet": "ControlNet",
    "ADetailer": "a detail pass",
    "Variation seed": "a variation seed",
    "Face restoration": "face restoration",
    "Tiling": "tiling",
    "Mask": "a mask",
    "Eta": "another eta",
    "AddNet": "additional networks",
    "Emphasis": "another reading of weights",
}
_LABELS = {label.casefold(): name for name, label in SAMPLER_LABELS.items()}


def _pairs(line: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for match in _PAIR.finditer(line):
        value = match[2].strip()
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value.strip('"')
        pairs.setdefault(match[1], value)
    return pairs


def _neutral(finder: Finder, text: str) -> str:
    """Rewrite what means something here and nothing elsewhere, so that it stays text."""
    if _LIST.search(text):
        finder.warn("Words between double underscores name a list here; they were given single ones.")
    return _LIST.sub(r"_\1_", _ARRAY.sub(r"[ [\1] ]", text))


def _put_pairs(finder: Finder, pairs: Mapping[str, str]) -> None:
    finder.put_number("steps", pairs.get("Steps"), whole=True)
    finder.put_number("seed", pairs.get("Seed"), whole=True)
    finder.put_number("guidance", pairs.get("CFG scale"))
    if "Clip skip" in pairs:
        # Other programs read the layer before the last one of SDXL's encoders even where they write 1.
        elsewhere = pairs["Clip skip"] == "1" and pairs.get("Version") != VERSION
        finder.put_number("clip_skip", "2" if elsewhere else pairs["Clip skip"], whole=True)
    finder.put_size_guidance(numbers(pairs["ADM Guidance"]) if "ADM Guidance" in pairs else ("1", "1", "1"))
    width, _, height = pairs.get("Size", "").partition("x")
    finder.put_size(width, height)
    if "Sampler" in pairs:
        _put_sampler(finder, pairs["Sampler"], pairs.get("Schedule type", pairs.get("Scheduler", "")))
    if "Model" in pairs:
        finder.put_model("base", pairs["Model"])
    finder.put_model("vae", pairs.get("VAE", ""))
    finder.put_model("refiner", re.sub(r" \[[0-9a-f]+\]$", "", pairs.get("Refiner", "")))
    finder.put_switch(pairs.get("Refiner switch at", ""))


def _put_sampler(finder: Finder, label: str, schedule: str) -> None:
    """Split labels of older versions, where the schedule is part of the sampler: ``DPM++ 2M SDE Karras``."""
    plain = label.strip().casefold()
    for suffix in ("karras", "exponential"):
        if plain.endswith(" " + suffix):
            plain, schedule = plain.removesuffix(suffix).strip(), schedule or suffix
    if schedule:
        finder.put_schedule(schedule)
    else:
        finder.put("schedule", "normal")
    finder.put_sampler(_LABELS.get(plain, label))
    if schedule.casefold() == "automatic":
        # "Automatic" leaves the choice to the sampler: Karras for the DPM++ family.
        finder.put("schedule", "karras" if plain.startswith("dpm++") else "normal")


def _loras(prompt: str, pairs: Mapping[str, str]) -> list[tuple[str, str]]:
    tags = [(match[1], match[2]) for match in _TAG.finditer(prompt)]
    listed = [item.rpartition(":") for item in pairs.get("Lora weights", "").split(",") if ":" in item]
    return tags or [(name.strip(), weight.strip()) for name, _, weight in listed]


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) else value


def _short(sha256: str) -> str:
    return sha256[:10]


def _stem(name: str) -> str:
    return re.sub(r"\.(safetensors|ckpt|pt|bin)$", "", name)

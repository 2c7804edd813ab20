"""The text block named ``parameters`` that Stable Diffusion programs and sharing sites exchange.

Its layout: the prompt, a line ``Negative prompt: ...``, and a last line of ``Key: value`` pairs joined by commas, where
a value that holds a comma, a colon or a newline is quoted as JSON. There is no standard; the keys here are those that
readers in the wild look for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fooocus.request import Recipe

NEGATIVE = "Negative prompt:"
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


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) else value


def _short(sha256: str) -> str:
    return sha256[:10]


def _stem(name: str) -> str:
    return re.sub(r"\.(safetensors|ckpt|pt|bin)$", "", name)

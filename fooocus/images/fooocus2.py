"""Settings from pictures of Fooocus 2: its JSON, in the file or copied from its log, keyed by field or by label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fooocus.images.findings import Finder, Found, Known, numbers

_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_LABELS: Mapping[str, str] = {"fooocus v2 expansion": "prompt_expansion"}
_NOT_REPEATED: Mapping[str, str] = {
    "freeu": "FreeU",
    "prompt_expansion": "prompt expansion",
    "adaptive_cfg": "adaptive guidance",
}
# Performances that are a LoRA of their own with other steps; their values are in the other fields.
_FAST = ("extreme speed", "lightning", "hyper-sd")


def looks_like_fooocus(values: Mapping[str, Any]) -> bool:
    """Say whether a JSON object has the fields of Fooocus 2."""
    keys = {_field(key) for key in values}
    return "prompt" in keys and len(keys & {"resolution", "base_model", "performance", "guidance_scale", "styles"}) >= 2


def read_fooocus(values: Mapping[str, Any], known: Known) -> Found:
    """Return the settings of such an object."""
    finder = Finder("fooocus", known)
    fields = {_field(key): value for key, value in values.items()}
    finder.put("prompt", fields.get("prompt"))
    finder.put("negative", fields.get("negative_prompt"))
    if "styles" in fields:
        finder.put_styles(_names(fields["styles"]))
    _put_performance(finder, fields)
    size = numbers(fields.get("resolution"))
    if len(size) == 2:
        finder.put_size(*size)
    for field, ours in (("guidance_scale", "guidance"), ("seed", "seed"), ("clip_skip", "clip_skip")):
        if field in fields:
            finder.put_number(ours, fields[field], whole=ours != "guidance")
    finder.put_size_guidance(numbers(fields.get("adm_guidance")))
    if "sampler" in fields:
        finder.put_sampler(fields["sampler"])
    if "scheduler" in fields:
        finder.put_schedule(fields["scheduler"])
    if "base_model" in fields:
        finder.put_model("base", fields["base_model"])
    finder.put_model("refiner", fields.get("refiner_model", ""))
    finder.put_model("vae", fields.get("vae", ""))
    finder.put_switch(fields.get("refiner_switch", ""))
    finder.put_loras(_loras(fields))
    for field, feature in _NOT_REPEATED.items():
        if fields.get(field):
            finder.warn(f"The picture was made with {feature}, which is not repeated here.")
    return finder.found()


def _field(key: str) -> str:
    """Turn a label of the log (``Guidance Scale``, ``LoRA 1``) into the field that the file would have."""
    plain = key.strip().casefold()
    if match := re.fullmatch(r"lora (\d)", plain):
        return f"lora_combined_{match[1]}"
    if match := re.fullmatch(r"lora \[(.{1,200})\] weight", plain):
        return f"lora_named_{match[1]}"
    return _LABELS.get(plain, plain.replace(" ", "_"))


def _put_performance(finder: Finder, fields: Mapping[str, Any]) -> None:
    performance = str(fields.get("performance", "")).strip().casefold()
    if performance in ("speed", "quality"):
        finder.put("performance", performance)
    elif performance in _FAST:
        finder.warn(f"The performance {performance[:40]!r} is not known here; its steps and LoRA are used.")
    if "steps" in fields:
        finder.put_number("steps", fields["steps"], whole=True)
    elif performance in ("speed", "quality"):
        finder.put("steps", 30 if performance == "speed" else 60)


def _names(value: Any) -> list[str]:
    """Read a list, or the text of a Python list of strings, by its quotes alone."""
    if isinstance(value, list):
        return [name for name in value if isinstance(name, str)]
    return [one or two for one, two in _QUOTED.findall(str(value)[:10_000])]


def _loras(fields: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Read ``lora_combined_1: "file : weight"``, or else ``loras: [[stem, weight, hash]]``."""
    uses: list[tuple[Any, Any]] = []
    for number in range(1, 33):
        text = fields.get(f"lora_combined_{number}")
        if isinstance(text, str) and ":" in text:
            name, _, weight = text.rpartition(":")
            uses.append((name.strip(), weight.strip()))
    uses += [(key.removeprefix("lora_named_"), value) for key, value in fields.items() if key.startswith("lora_named_")]
    listed = fields.get("loras")
    if not uses and isinstance(listed, list):
        uses = [(item[0], item[1]) for item in listed if isinstance(item, list) and len(item) >= 2]
    return uses

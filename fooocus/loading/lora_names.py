"""Which module of which network a LoRA key means.

Trainers write the same module in many ways: with dots or underscores, in the block numbering of the original code (LDM)
or in that of diffusers, with a prefix or without. Underscored names cannot be split again ("to_out_0" may be two or
three steps), so nothing is parsed here: every name a trainer could write is made from the names that the network really
has, here and in its checkpoint, and a key is looked up in that table. So miniature and pruned networks need no special
case.

Strings only; no tensor is touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# What follows the module name in a key, and the part it names. Adapter names ("default") may stand between.
_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"
_SUFFIXES: tuple[tuple[re.Pattern[str], str | None], ...] = (
    (re.compile(r"[._]lora(?:_linear_layer)?[._](up|down|mid)(?:\.weight)?$"), None),
    (re.compile(rf"\.lora_A{_ADAPTER}(?:\.weight)?$"), "down"),
    (re.compile(rf"\.lora_B{_ADAPTER}(?:\.weight)?$"), "up"),
    (re.compile(r"\.lora_magnitude_vector(?:\.[^.]+){0,2}$"), "magnitude"),
    (re.compile(r"(?:[._]lora)?\.(alpha)$"), None),
    (re.compile(rf"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)){_ADAPTER}(?:\.weight)?$"), None),
    (re.compile(r"\.(dora_scale|diff|diff_b|w_norm|b_norm)$"), None),
)

# Methods that add something this program does not compute; a file with them would give a wrong picture without a word.
_FOREIGN = re.compile(r"\.(oft_\w+|boft_\w+|oft_R|on_input|vera_lambda_\w+|[ab][12])(?:\.[^.]+)*$")

# A prefix (dots already underscores) and the networks it speaks of; of several, the first that is there.
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lora_unet_", ("unet",)),
    ("lora_te1_", ("text_l",)),
    ("lora_te2_", ("text_g",)),
    ("lora_te_", ("text_l", "text_g")),
    ("text_encoder_2_", ("text_g",)),
    ("text_encoder_", ("text_l", "text_g")),
    ("model_diffusion_model_", ("unet",)),
    ("diffusion_model_", ("unet",)),
    ("lycoris_", ("unet",)),
    ("unet_", ("unet",)),
    ("", ("unet",)),
)

_UNET_STORED = "model.diffusion_model."
_OLD_TEXT_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


@dataclass(frozen=True)
class KeyName:
    """A tensor name of a LoRA file, taken apart: the module as written there, and the part of its delta."""

    module: str
    part: str


def split_key(key: str) -> KeyName | None:
    """Take a tensor name apart; None when it is not a part of any delta known here."""
    for pattern, part in _SUFFIXES:
        if found := pattern.search(key):
            if found.start() == 0:
                return None
            return KeyName(key[: found.start()], part or found.group(1))
    return None


def foreign_method(key: str) -> str | None:
    """Name the method (OFT, GLoRA, ...) of a key that belongs to a kind of adapter not computed here, else None."""
    found = _FOREIGN.search(key)
    if not found:
        return None
    word = found.group(1).lower()
    if "oft" in word:
        return "OFT"
    if word.startswith("vera"):
        return "VeRA"
    return "IA3" if word == "on_input" else "GLoRA"


def locate(module: str, tables: Mapping[str, Mapping[str, str]]) -> tuple[str, str] | None:
    """Find the network kind and the module path that ``module`` (as written in a LoRA file) means.

    ``tables`` holds one :func:`module_table` per network kind at hand. None when no network has such a module.
    """
    name = module.replace("base_model.model.", "").replace(".", "_").replace("_processor_", "_")
    for prefix, kinds in _PREFIXES:
        if name.startswith(prefix):
            kind = next((kind for kind in kinds if kind in tables), None)
            path = tables[kind].get(_bare_text(kind, name[len(prefix) :])) if kind else None
            if kind and path:
                return kind, path
    return None


def module_table(kind: str, stored: Mapping[str, str]) -> dict[str, str]:
    """Map every underscored name a trainer could write to the module path, for one network.

    ``kind`` is "unet", "text_l" or "text_g"; ``stored`` maps each parameter's name to its name in the checkpoint, which
    for a UNet is the original code's. Raises ValueError when two modules would be written alike, which no network known
    here does.
    """
    table: dict[str, str] = {}
    for parameter, key in stored.items():
        path = parameter.rpartition(".")[0]
        names = _written(kind, path)
        if kind == "unet":
            names += _written(kind, key.removeprefix(_UNET_STORED).rpartition(".")[0])
        for name in names:
            if table.setdefault(name, path) != path:
                raise ValueError(f"the name {name} means both {table[name]} and {path}")
    return table


def _written(kind: str, path: str) -> list[str]:
    """List the underscored spellings of one path."""
    name = _bare_text(kind, path.replace(".", "_"))
    if kind == "unet":
        return [name, name.removesuffix("_0")] if name.endswith("_to_out_0") else [name]
    stem, inside, last = name.rpartition("self_attn_")
    return [name, f"{stem}{inside}{_OLD_TEXT_NAMES[last]}"] if inside and last in _OLD_TEXT_NAMES else [name]


def _bare_text(kind: str, name: str) -> str:
    """Drop the wrapper name that some versions of the text encoder have and others have not."""
    return name if kind == "unet" else name.removeprefix("text_model_")

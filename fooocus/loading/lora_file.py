"""A LoRA file: which modules it changes, by which method, and for which family of models it was made.

Reading takes names, shapes and the maker's notes; the tensors stay in the mapped file until a weight is really patched
(:mod:`fooocus.loading.lora`). Files that are something else (a checkpoint, an embedding, a LoRA for Flux) are refused
here with a sentence, because applied by force they would do nothing, or nonsense, without an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fooocus.errors import UnreadableModel, UnsupportedModel
from fooocus.loading.lora_deltas import Shape, delta_size, method_of, rank_of, scale_of
from fooocus.loading.lora_names import foreign_method, split_key
from fooocus.loading.tensors import TensorFile, carried
from fooocus.models.notes import json_note, trigger_words

TENSOR_LIMIT = 20_000  # SDXL's largest real LoRAs have under 8,000; more is an attack or something else
_LARGEST_ALPHA = 1e6  # real ones are near the rank, at most some hundreds

SDXL, SDXL_REFINER = "Stable Diffusion XL", "the Stable Diffusion XL refiner"
_USABLE = (SDXL, SDXL_REFINER, "")
# Words in the maker's notes, in this order: "stable-diffusion-xl-v1-base" also contains "stable-diffusion".
_NOTES: tuple[tuple[str, str], ...] = (
    (r"flux", "Flux"),
    (r"sd_?3|stable-diffusion-3", "Stable Diffusion 3"),
    (r"xl.*refiner", SDXL_REFINER),
    (r"sdxl|stable-diffusion-xl", SDXL),
    (r"sd_?v?2|stable-diffusion-v?2", "Stable Diffusion 2"),
    (r"sd_?v?1|stable-diffusion-v?1", "Stable Diffusion 1"),
    (r"hunyuan|wan[-_ ]?2|qwen|lumina|chroma|pixart|kolors|cascade", "another kind of model"),
)
# Names of modules that only these networks have.
_MODULES: tuple[tuple[str, str], ...] = (
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"double_blocks|single_blocks|single_transformer_blocks", "Flux"),
    (r"^(?:lora_)?transformer[._]", "Flux, Stable Diffusion 3 or another transformer"),
)
# Width of the text that cross-attention reads (B, T, D): D tells the families apart.
_CONTEXT_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: SDXL_REFINER, 2048: SDXL}
_READS_TEXT = re.compile(r"unet.*attn2[._](?:processor[._])?to_k$|^(?:down|mid|up)_block.*attn2[._]to_k$")


@dataclass(frozen=True)
class Lora:
    """A LoRA file that was read and recognised; its tensors are still in the file.

    ``modules`` maps each module, named as in the file, to its parts and their tensor names. ``unknown`` are tensors
    that belong to no delta. ``family`` is empty when neither names, notes nor shapes tell it. ``stamp`` changes when
    the file does.
    """

    file: TensorFile
    stamp: tuple[str, int, int]
    modules: Mapping[str, Mapping[str, str]]
    unknown: tuple[str, ...]
    family: str
    _finite: set[str] = field(default_factory=set, repr=False, compare=False)
    _scales: dict[tuple[str, str], float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def name(self) -> str:
        """The file's name without its ending, as the page shows it."""
        return self.file.path.stem

    @property
    def metadata(self) -> Mapping[str, str]:
        """The maker's notes, such as ``ss_base_model_version`` or ``modelspec.architecture``; texts, never trusted."""
        return self.file.header.metadata

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The words its maker says it listens to, else the most frequent tags it was trained with; often none."""
        return trigger_words(self.metadata)

    def shapes(self, module: str) -> dict[str, Shape]:
        """Return the shape of each part of a module."""
        return {part: self.file.header.tensors[key].shape for part, key in self.modules[module].items()}

    def tensors(self, module: str, device: torch.device) -> dict[str, Tensor]:
        """Return the parts of a module, without alpha, in float32 on ``device``."""
        found = {part: self.file.tensor(key) for part, key in self.modules[module].items() if part != "alpha"}
        # Moved before it is widened, so that half the bytes travel.
        return {part: carried(tensor, device).to(torch.float32) for part, tensor in found.items()}

    def scale(self, module: str, method: str) -> float:
        """Compute alpha / rank of a module.

        Alpha is a tensor of the file; files written by diffusers may have it in their notes instead. Without any, 1.
        Rank-stabilised (alpha / sqrt(rank)) only where the notes say so. Each is computed once.
        """
        if (module, method) not in self._scales:
            self._scales[module, method] = self._scale(module, method)
        return self._scales[module, method]

    def _scale(self, module: str, method: str) -> float:
        alpha, stabilised = _noted_alpha(self.metadata, module)
        if key := self.modules[module].get("alpha"):
            alpha = float(self.file.tensor(key))
        return scale_of(alpha, rank_of(method, self.shapes(module)), rank_stabilised=stabilised)

    def check_finite(self, module: str) -> None:
        """Refuse NaN and infinity in a module's tensors; each is looked at once. Raises :class:`UnreadableModel`."""
        for key in self.modules[module].values():
            if key in self._finite:
                continue
            # The extremes of a tensor with NaN are NaN; ten times faster than asking each number.
            if not all(math.isfinite(extreme) for extreme in self.file.tensor(key).to(torch.float32).aminmax()):
                raise UnreadableModel(
                    f"{self.path.name} holds numbers that are not finite (NaN or infinity) in {key}.",
                    "The training of this LoRA failed, or the file is damaged; use another one.",
                )
            self._finite.add(key)


def read_lora(path: Path) -> Lora:
    """Read the names, shapes and notes of a LoRA file.

    Raises :class:`fooocus.errors.MissingModel`, :class:`fooocus.errors.UnreadableModel` if the file is damaged, and
    :class:`fooocus.errors.UnsupportedModel` if it is no LoRA, uses a method that is not computed here, or is for
    another family of models than Stable Diffusion XL, as far as names and notes tell; shapes speak when it is applied.
    """
    file = TensorFile(path)
    status = path.stat()
    keys = file.header.tensors
    if len(keys) > TENSOR_LIMIT:
        raise UnsupportedModel(f"{path.name} has {len(keys)} tensors, too many for a LoRA.", "Choose another file.")
    modules, unknown = _modules(path, keys)
    told = _family_told(file.header.metadata, modules)
    width = _family_by_width(modules, file.header.shapes)
    # Notes are copied from file to file and can be wrong; a text width of 2048 cannot.
    if told not in _USABLE and width != SDXL:
        raise UnsupportedModel(
            f"{path.name} is a LoRA for {told}, and this program draws with {SDXL}.",
            "Choose a LoRA whose page says SDXL.",
        )
    if not modules:
        raise _no_lora(path, keys)
    lora = Lora(
        file=file,
        stamp=(str(path.resolve()), status.st_size, status.st_mtime_ns),
        modules=modules,
        unknown=tuple(unknown),
        family=SDXL if width == SDXL else told or width,
    )
    for module in modules:
        _check_module(lora, module)
    return lora


def _modules(path: Path, keys: Collection[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    modules: dict[str, dict[str, str]] = {}
    unknown = []
    for key in keys:
        name = split_key(key)
        if name is None:
            if method := foreign_method(key):
                raise UnsupportedModel(
                    f"{path.name} was trained with the method {method}, which this program does not compute.",
                    "Choose a LoRA, LoCon, LoHa, LoKr or DoRA file.",
                )
            unknown.append(key)
        elif modules.setdefault(name.module, {}).setdefault(name.part, key) != key:
            raise UnsupportedModel(
                f"{path.name} holds several LoRAs in one file ({key} stands beside {modules[name.module][name.part]}).",
                "Choose a file with a single one.",
            )
    return modules, unknown


def _check_module(lora: Lora, module: str) -> None:
    shapes = lora.shapes(module)
    method = method_of(shapes)
    if method is None:
        raise UnreadableModel(
            f"{lora.path.name} is incomplete: of {module} it has only {', '.join(sorted(shapes))}.",
            "Delete it and download it again from its page.",
        )
    if (method != "bias" and delta_size(method, shapes) is None) or math.prod(shapes.get("alpha", ())) != 1:
        raise UnreadableModel(
            f"{lora.path.name} is damaged: the tensors of {module} do not fit each other.",
            "Delete it and download it again from its page.",
        )


def _no_lora(path: Path, keys: Collection[str]) -> UnsupportedModel:
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.", "conditioner.")) for key in keys):
        return UnsupportedModel(f"{path.name} is a whole checkpoint, not a LoRA.", "Move it to models/checkpoints.")
    if {"clip_l", "clip_g", "emb_params"} & set(keys):
        return UnsupportedModel(f"{path.name} is an embedding, not a LoRA.", "Move it to models/embeddings.")
    if any("control" in key for key in keys):
        return UnsupportedModel(f"{path.name} is a ControlNet, not a LoRA.", "Choose another file.")
    first = next(iter(keys), "nothing at all")
    return UnsupportedModel(f"{path.name} is not a LoRA: it holds {first[:80]}.", "Choose another file.")


def _family_told(metadata: Mapping[str, str], modules: Collection[str]) -> str:
    """Tell the family by module names that only one has, else by the notes; empty if neither says."""
    for pattern, family in _MODULES:
        if any(re.search(pattern, module) for module in modules):
            return family
    notes = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    return next((family for pattern, family in _NOTES if re.search(pattern, notes)), "")


def _family_by_width(modules: Mapping[str, Mapping[str, str]], shapes: Mapping[str, Shape]) -> str:
    """Guess the family by the width of the text it reads. Only a guess: a miniature may have any width."""
    for module, parts in modules.items():
        method = method_of(parts)
        if _READS_TEXT.search(module) and method and method != "bias":
            size = delta_size(method, {part: shapes[key] for part, key in parts.items()})
            return _CONTEXT_WIDTHS.get(size[1], "") if size else ""
    return ""


def _noted_alpha(metadata: Mapping[str, str], module: str) -> tuple[float | None, bool]:
    """Read alpha (None if not noted) and whether the scale is rank-stabilised from the trainer's notes."""
    arguments = json_note(metadata.get("ss_network_args"))
    stabilised = any(str(arguments.get(name, "")).lower() in ("true", "1") for name in ("rs_lora", "use_rslora"))
    adapter = json_note(metadata.get("lora_adapter_metadata"))  # written by diffusers: "unet.lora_alpha": 8, ...
    network, _, rest = module.partition(".")
    alpha = _number(adapter.get(f"{network}.lora_alpha"))
    patterns = adapter.get(f"{network}.alpha_pattern")
    for name, value in patterns.items() if isinstance(patterns, dict) else ():
        if rest == name or rest.endswith(f".{name}"):
            alpha = _number(value)
    return alpha, stabilised or adapter.get(f"{network}.use_rslora") is True


def _number(value: object) -> float | None:
    """A number from the notes if it is a sane one; JSON may hold NaN, infinity and integers of 400 digits."""
    return float(value) if isinstance(value, int | float) and abs(value) <= _LARGEST_ALPHA else None

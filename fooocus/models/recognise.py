"""What is in a model file, for lists: kind and family, by the names and shapes in its header.

This is the light form that the page can afford; whether every tensor fits is decided by `fooocus.families` when the
file is loaded. A file that is neither is still named, so that the person learns why it is not in the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fooocus.errors import ModelError
from fooocus.models.hashes import Content
from fooocus.models.header import read_header
from fooocus.models.notes import trigger_words

Shapes = Mapping[str, tuple[int, ...]]

# What a name holds if its tensor is part of a LoRA, of any of the kinds that trainers write.
LORA_PARTS = (
    ".lora_up.",
    ".lora_down.",
    ".lora_A.",
    ".lora_B.",
    ".lora.up.",
    ".lora.down.",
    ".hada_w1",
    ".lokr_w",
    "_lora.up",
)
_CONTROL = ("control_model.", "controlnet_", "input_hint_block.")
_UNET = "model.diffusion_model."
# Width of the text that a network reads, which is how its LoRAs and embeddings are told apart.
_CONTEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl_refiner"}


def recognise_file(path: Path) -> Content:
    """Say what a file is; one that cannot be read is of kind "unknown", with the reason."""
    try:
        header = read_header(path)
    except ModelError as error:
        return Content("unknown", "", error.sentence)
    return recognise(header.shapes, header.metadata)


def recognise(shapes: Shapes, metadata: Mapping[str, str]) -> Content:
    """Say what a header describes: kind checkpoint, lora, vae, embedding or unknown, and the family.

    Families are sdxl_base, sdxl_refiner, sdxl (for what is added to them), sd1, sd2, sd3, flux, or empty.
    """
    if any(mark in name for name in shapes for mark in LORA_PARTS):
        return Content("lora", _lora_family(shapes, metadata), words=", ".join(trigger_words(metadata)))
    if any(name.startswith(_CONTROL) for name in shapes):
        return Content("unknown", "", "It is a ControlNet, which is not a checkpoint.")
    if any("double_blocks." in name or "single_transformer_blocks." in name for name in shapes):
        return Content("checkpoint", "flux")
    if any("joint_blocks." in name for name in shapes):
        return Content("checkpoint", "sd3")
    if any(name.startswith(_UNET) for name in shapes):
        return _checkpoint(shapes)
    if any(name.removeprefix("first_stage_model.").startswith(("decoder.conv_in.", "decoder.up.")) for name in shapes):
        return Content("vae", "")
    if (family := _embedding_family(shapes)) is not None:
        return Content("embedding", family)
    if any(name.removeprefix("unet.").startswith("down_blocks.") for name in shapes):
        return Content("unknown", "", "It is a UNet in the diffusers layout, without text encoders and VAE.")
    return Content("unknown", "", "It is of no kind known here." if shapes else "It holds no tensors.")


def _checkpoint(shapes: Shapes) -> Content:
    prefixes = {
        "conditioner.embedders.1.": "sdxl_base",
        "conditioner.embedders.0.model.": "sdxl_refiner",
        "cond_stage_model.transformer.": "sd1",
        "cond_stage_model.model.": "sd2",
    }
    for prefix, family in prefixes.items():
        if any(name.startswith(prefix) for name in shapes):
            return Content("checkpoint", family)
    return Content("unknown", "", "It is a UNet without text encoders.")


def _lora_family(shapes: Shapes, metadata: Mapping[str, str]) -> str:
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in shapes):
        return "flux"
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in shapes):
        return "sdxl"
    for name, shape in shapes.items():
        down = any(mark in name for mark in (".lora_down.", ".lora_A.", ".lora.down."))
        if down and "attn2" in name and ("to_k" in name or "to_v" in name) and len(shape) >= 2:
            return _CONTEXT.get(shape[1], "")
    said = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    return next((family for mark, family in (("xl", "sdxl"), ("v1", "sd1"), ("v2", "sd2")) if mark in said), "")


def _embedding_family(shapes: Shapes) -> str | None:
    """Return the family of a textual inversion, None if it is none."""
    if "clip_g" in shapes:
        return "sdxl" if "clip_l" in shapes else "sdxl_refiner"
    if len(shapes) > 2:  # the usual ones hold a single small table
        return None
    name, shape = next(iter(shapes.items()), ("", ()))
    width = shape[-1] if shape else 0
    small = len(shape) == 1 or (len(shape) == 2 and shape[0] <= 256)
    return {768: "sd1", 1024: "sd2", 1280: "sdxl_refiner"}.get(width) if name and small else None

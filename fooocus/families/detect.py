"""What is in this file? The names and shapes of its tensors tell; a file of another kind is refused by its own name."""

from __future__ import annotations

from collections.abc import Mapping

from fooocus.errors import MismatchedModel, UnsupportedModel
from fooocus.families.layout import LayoutError, UnsupportedLayout
from fooocus.families.records import Architecture, Blueprint, Shapes
from fooocus.families.sdxl import find_family, read_sdxl, read_vae_alone
from fooocus.families.sdxl_vae import is_vae
from fooocus.models.recognise import LORA_PARTS

_DAMAGED = "The file is damaged or made by a tool this program does not know; get it again from its source."
_SDXL = "Choose an SDXL checkpoint, a single .safetensors file of about 6 GB."

# What it is, where it is known by, and what to do. Tried from the top; "^" stands for the beginning of a name.
_FOREIGN: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "a LoRA, an addition to a checkpoint and not one itself",
        LORA_PARTS,
        "Put it into models/loras and choose it under LoRA; choose an SDXL checkpoint as the model.",
    ),
    (
        "a ControlNet, an addition to a checkpoint and not one itself",
        ("^control_model.", "^controlnet_", "controlnet_cond_embedding."),
        _SDXL,
    ),
    ("made for Stable Diffusion 1.x", ("^cond_stage_model.transformer.",), _SDXL),
    ("made for Stable Diffusion 2.x", ("^cond_stage_model.model.",), _SDXL),
    ("made for Stable Diffusion 3", ("joint_blocks.", "^text_encoders."), _SDXL),
    ("made for Flux", ("double_blocks.", "single_transformer_blocks."), _SDXL),
    ("a Playground 2.5 checkpoint, whose noise follows another rule (EDM)", ("^edm_",), _SDXL),
    (
        "a UNet in the diffusers layout, without text encoders and VAE",
        ("^down_blocks.", "^unet.down_blocks."),
        "Get the same model as a single .safetensors file in the original layout.",
    ),
    ("a textual inversion embedding", ("^clip_g", "^clip_l", "^emb_params", "^string_to_param"), _SDXL),
    ("a text encoder", ("^text_model.", "^transformer.resblocks.", "^text_projection"), _SDXL),
    ("a UNet without text encoders", ("^model.diffusion_model.", "^input_blocks."), _SDXL),
)


def recognise(shapes: Shapes, metadata: Mapping[str, str], *, file: str) -> Architecture:
    """Read the architecture of a checkpoint off its tensors' names and shapes.

    ``file`` is its name for the person. Raises :class:`fooocus.errors.UnsupportedModel` if it is something else
    than a checkpoint of a known family, and :class:`fooocus.errors.MismatchedModel` if it is one whose tensors are too
    many, too few or do not fit each other.
    """
    if "edm_mean" in shapes or (family := find_family(shapes)) is None:
        raise _foreign(shapes, file)
    try:
        return read_sdxl(family, shapes, metadata)
    except UnsupportedLayout as error:
        raise UnsupportedModel(f"{file} looks like {family.title}, but {error}.", _SDXL) from error
    except LayoutError as error:
        raise MismatchedModel(f"{file} looks like {family.title} but does not add up: {error}.", _DAMAGED) from error


def recognise_vae(shapes: Shapes, metadata: Mapping[str, str], *, file: str) -> Blueprint:
    """Read the VAE off a stand-alone file or a checkpoint. Raises like :func:`recognise`."""
    if not is_vae(shapes):
        what = _name(shapes)
        raise UnsupportedModel(
            f"{file} is {what[0] if what else 'no VAE'}.", "Choose a VAE of SDXL, a .safetensors file of 150 to 350 MB."
        )
    try:
        return read_vae_alone(shapes, metadata)
    except LayoutError as error:
        raise MismatchedModel(f"{file} looks like a VAE but does not add up: {error}.", _DAMAGED) from error


def _foreign(shapes: Shapes, file: str) -> UnsupportedModel:
    if what := _name(shapes):
        return UnsupportedModel(f"{file} is {what[0]}.", what[1])
    if is_vae(shapes):
        return UnsupportedModel(f"{file} is a VAE and nothing else.", "Put it into models/vae and choose it there.")
    if not shapes:
        return UnsupportedModel(f"{file} holds no tensors.", _SDXL)
    return UnsupportedModel(f"{file} is of no kind known here; it begins with {next(iter(shapes))}.", _SDXL)


def _name(shapes: Shapes) -> tuple[str, str] | None:
    for what, marks, remedy in _FOREIGN:
        if any(key.startswith(mark[1:]) if mark.startswith("^") else mark in key for key in shapes for mark in marks):
            return what, remedy
    return None

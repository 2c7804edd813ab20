"""The VAE of SDXL: from the original names, or from those of diffusers, to ``diffusers.AutoencoderKL``.

Checkpoints carry it under ``first_stage_model.``, stand-alone files without a prefix. The decoder's levels are numbered
from the picture downwards in the original and from the latents upwards in diffusers.
"""

from __future__ import annotations

import re
from typing import Any

from fooocus.families.layout import Declared, LayoutError, count, divides, need
from fooocus.families.records import Blueprint, Shapes, Source

PREFIX = "first_stage_model."

_IN_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    # diffusers before 0.18
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_BLOCK = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(block\.(\d+)|downsample|upsample)\.(.+)")
_MIDDLE_BLOCK = re.compile(r"(encoder|decoder)\.mid\.block_([12])\.(.+)")
_MIDDLE_ATTENTION = re.compile(r"(encoder|decoder)\.(?:mid\.attn_1|mid_block\.attentions\.0)\.(\w+)\.(weight|bias)")


def is_vae(shapes: Shapes) -> bool:
    """Tell whether these tensors hold a VAE's decoder, with or without the checkpoint's prefix."""
    return any(prefix + "decoder.conv_in.weight" in shapes for prefix in (PREFIX, ""))


def read_vae(shapes: Shapes, declared: Declared) -> Blueprint:
    """Plan the VAE of a checkpoint or of a stand-alone file. Raises :class:`LayoutError`."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in shapes) else ""
    keys = [key.removeprefix(prefix) for key in shapes if key.startswith(prefix)]
    levels = count(keys, "decoder.up")
    sources: dict[str, Source] = {}
    for key in keys:
        name = _rename(key, levels)
        matrix = ".mid_block.attentions." in name and len(shapes[prefix + key]) == 4
        sources[name] = Source(prefix + key, flatten=matrix)
    config = _config({name: source.shape(shapes[source.key]) for name, source in sources.items()}, declared)
    return Blueprint("vae", config, sources)


def _rename(key: str, levels: int) -> str:
    if found := _BLOCK.fullmatch(key):
        side, level, slot, position, rest = found.groups()
        if side == "decoder.up":
            level = str(levels - 1 - int(level))
        place = f"resnets.{position}" if position else f"{slot}rs.0"
        return f"{side}_blocks.{level}.{place}.{rest.replace('nin_shortcut', 'conv_shortcut')}"
    if found := _MIDDLE_BLOCK.fullmatch(key):
        side, number, rest = found.groups()
        return f"{side}.mid_block.resnets.{int(number) - 1}.{rest}"
    if found := _MIDDLE_ATTENTION.fullmatch(key):
        side, part, leaf = found.groups()
        return f"{side}.mid_block.attentions.0.{_IN_ATTENTION.get(part, part)}.{leaf}"
    return key.replace(".norm_out.", ".conv_norm_out.")


def _config(shapes: Shapes, declared: Declared) -> dict[str, Any]:
    levels = count(shapes, "encoder.down_blocks")
    if levels == 0 or count(shapes, "decoder.up_blocks") != levels:
        raise LayoutError(f"its VAE goes down {levels} levels and up {count(shapes, 'decoder.up_blocks')}")
    layers = {count(shapes, f"encoder.down_blocks.{level}.resnets") for level in range(levels)}
    if len(layers) != 1:
        raise LayoutError("the levels of its VAE differ in their number of blocks")
    widths = [need(shapes, f"encoder.down_blocks.{level}.resnets.0.conv1.weight", 4)[0] for level in range(levels)]
    groups = declared.vae_norm_groups or declared.norm_groups
    for width in widths:
        divides(groups, width, "normalisation groups, of which there are")
    return {
        "in_channels": need(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": need(shapes, "decoder.conv_out.weight", 4)[0],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers.pop(),
        "latent_channels": need(shapes, "decoder.conv_in.weight", 4)[1],
        "norm_num_groups": groups,
        "scaling_factor": declared.latent_scale,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "decoder.mid_block.attentions.0.to_q.weight" in shapes,
    }

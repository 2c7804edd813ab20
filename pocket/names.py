"""From diffusers' names to those of the original SDXL files: the way that the program's loader goes, walked backwards.

Only what Pocket has is spelt out: networks with the same number of residual blocks at every level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

BASE, REFINER, LORA = "pocket_base.safetensors", "pocket_refiner.safetensors", "pocket_offset_lora.safetensors"
TOKEN_TABLE = "embeddings.token_embedding.weight"

_UNET_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT_OUTSIDE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def unet_places(layers: tuple[int, ...]) -> dict[str, str]:
    """Map places in a UNet (down_blocks.1.resnets.0) to the original's numbers, for ``layers`` of attention by level.

    Every level has two residual blocks on the way down and three up.
    """
    places = dict(_UNET_OUTSIDE)
    last = len(layers) - 1
    number = 1
    for level in range(len(layers)):
        for block in range(2):
            places[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{number}.1"
            number += 1
        if level < last:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level in range(len(layers)):
        for block in range(3):
            places[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{number}.1"
            number += 1
        slot = 2 if layers[last - level] else 1  # behind the transformer, where there is one
        places[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{slot}"
    return places


def unet_name(name: str, places: Mapping[str, str]) -> str:
    """Return a UNet tensor's (or module's) name in the original layout, without its prefix."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        place = places.get(".".join(parts[:cut]))
        if place is None:
            continue
        rest = ".".join(parts[cut:])
        if ".resnets." in name:
            inner, dot, leaf = rest.rpartition(".")
            rest = f"{_UNET_RESNET[inner]}{dot}{leaf}" if inner in _UNET_RESNET else _UNET_RESNET.get(rest, rest)
        return f"{place}.{rest}".removesuffix(".")
    raise KeyError(name)


def unet_tensors(tensors: Mapping[str, Tensor], layers: tuple[int, ...]) -> dict[str, Tensor]:
    """Rename all tensors of a UNet."""
    places = unet_places(layers)
    return {f"model.diffusion_model.{unet_name(name, places)}": tensor for name, tensor in tensors.items()}


def vae_tensors(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Rename all tensors of a VAE; the matrices of its attention become 1x1 convolutions."""
    renamed = {}
    for name, tensor in tensors.items():
        matrix = ".attentions." in name and tensor.dim() == 2
        renamed[f"first_stage_model.{_vae_name(name, levels)}"] = tensor[:, :, None, None] if matrix else tensor
    return renamed


def _vae_name(name: str, levels: int) -> str:
    if found := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        side, level, slot, position, rest = found.groups()
        number = levels - 1 - int(level) if side == "decoder.up" else int(level)
        inner = f"block.{position}" if slot == "resnets" else slot.removesuffix("rs")
        return f"{side}.{number}.{inner}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{found[1]}.mid.attn_1.{_VAE_ATTENTION[found[2]]}.{found[3]}"
    return name.replace(".conv_norm_out.", ".norm_out.")


def text_l_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename all tensors of L, which the original keeps under transformers' own former names."""
    root = "conditioner.embedders.0.transformer.text_model."
    return {root + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def text_g_tensors(tensors: Mapping[str, Tensor], embedder: int) -> dict[str, Tensor]:
    """Rename all tensors of G to OpenCLIP's: query, key and value in one, the projection turned over.

    ``embedder`` is its number in the file: 1 in a base, 0 in a refiner.
    """
    root = f"conditioner.embedders.{embedder}.model."
    renamed = {}
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            renamed[f"{root}text_projection"] = tensor.T
        elif name in _TEXT_OUTSIDE:
            renamed[root + _TEXT_OUTSIDE[name]] = tensor
        elif found := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name):
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            renamed[f"{root}transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(parts)
        elif ".k_proj." in name or ".v_proj." in name:
            continue  # went along with its query
        elif found := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(\w+)", name):
            renamed[f"{root}transformer.resblocks.{found[1]}.{_TEXT_LAYER[found[2]]}.{found[3]}"] = tensor
        else:
            raise KeyError(name)
    return renamed

"""The UNet of SDXL and its relatives: from the original block numbering to ``diffusers.UNet2DConditionModel``.

The original code numbers its blocks through (``input_blocks.0 .. 8``), diffusers nests them (level, then position). The
walk below finds the levels by their down- and upsamplers, so any number of levels, residual blocks and transformer
layers is understood: SDXL base and refiner, pruned relatives whose blocks differ among themselves (SSD-1B) or that lost
the middle attention (Segmind-Vega) or the middle altogether (KOALA-700M), and miniatures.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fooocus.families.layout import Declared, LayoutError, count, divides, need
from fooocus.families.records import Blueprint, Shapes, Source

PREFIX = "model.diffusion_model."

_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_IN_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def read_unet(shapes: Shapes, declared: Declared) -> Blueprint:
    """Plan the UNet found under ``model.diffusion_model.``. Raises :class:`LayoutError` where it contradicts itself."""
    keys = [key.removeprefix(PREFIX) for key in shapes if key.startswith(PREFIX)]
    places = _places(set(keys))
    sources = {_rename(key, places): Source(PREFIX + key) for key in keys}
    return Blueprint("unet", _config({name: shapes[source.key] for name, source in sources.items()}, declared), sources)


def _places(keys: Collection[str]) -> dict[str, str]:
    """Map every original block, such as input_blocks.4.1, to its place in the module: down_blocks.1.attentions.0."""
    places = dict(_OUTSIDE)
    level = position = 0
    for number in range(1, count(keys, "input_blocks")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in keys:
            places[f"{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, position = level + 1, 0
        else:
            places[f"{block}.0"] = f"down_blocks.{level}.resnets.{position}"
            places[f"{block}.1"] = f"down_blocks.{level}.attentions.{position}"
            position += 1
    places["middle_block.0"] = "mid_block.resnets.0"
    places["middle_block.1"] = "mid_block.attentions.0"
    places["middle_block.2"] = "mid_block.resnets.1"
    level = position = 0
    for number in range(count(keys, "output_blocks")):
        block = f"output_blocks.{number}"
        places[f"{block}.0"] = f"up_blocks.{level}.resnets.{position}"
        places[f"{block}.1"] = f"up_blocks.{level}.attentions.{position}"
        position += 1
        for slot in (1, 2):  # after the transformer where there is one
            if f"{block}.{slot}.conv.weight" in keys:
                places[f"{block}.{slot}"] = f"up_blocks.{level}.upsamplers.0"
                level, position = level + 1, 0
    return places


def _rename(key: str, places: dict[str, str]) -> str:
    parts = key.split(".")
    for cut in range(min(4, len(parts)), 1, -1):
        place = places.get(".".join(parts[:cut]))
        if place is None:
            continue
        rest = ".".join(parts[cut:])
        if ".resnets." in place:
            inner, _, leaf = rest.rpartition(".")
            rest = f"{_IN_RESNET.get(inner, inner)}.{leaf}"
        return f"{place}.{rest}"
    return key  # the comparison with the module will call it unexpected


def _config(shapes: Shapes, declared: Declared) -> dict[str, Any]:
    """Read the arguments of ``UNet2DConditionModel`` off the module's own names and shapes."""
    levels = count(shapes, "down_blocks")
    if levels == 0 or count(shapes, "up_blocks") != levels:
        raise LayoutError(f"its UNet goes down {levels} levels and up {count(shapes, 'up_blocks')}")
    layers = [count(shapes, f"down_blocks.{level}.resnets") for level in range(levels)]
    up_layers = [count(shapes, f"up_blocks.{level}.resnets") for level in range(levels)]
    if up_layers != [number + 1 for number in reversed(layers)]:
        raise LayoutError(f"its UNet has {layers} residual blocks on the way down, but {up_layers} up")
    widths = [need(shapes, f"down_blocks.{level}.resnets.0.conv1.weight", 4)[0] for level in range(levels)]
    down = [_depths(shapes, f"down_blocks.{level}", layers[level]) for level in range(levels)]
    up = [_depths(shapes, f"up_blocks.{level}", up_layers[level]) for level in range(levels)]
    for width, depths in zip(widths, down, strict=True):
        divides(declared.norm_groups, width, "normalisation groups, of which there are")
        if any(depths):
            divides(declared.head_width, width, "attention heads of width")
    attention = _first(shapes, ".attn2.to_k.weight", 2)
    projection = _first(shapes, ".proj_in.weight")
    return {
        "in_channels": need(shapes, "conv_in.weight", 4)[1],
        "out_channels": need(shapes, "conv_out.weight", 4)[0],
        "block_out_channels": widths,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "down_block_types": ["CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in down],
        "up_block_types": ["CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in up],
        **_transformers(down, _depth(shapes, "mid_block.attentions.0"), up),
        "mid_block_type": _middle(shapes),
        # diffusers calls the number of heads attention_head_dim
        "attention_head_dim": [max(1, width // declared.head_width) for width in widths],
        "cross_attention_dim": shapes[attention][1],
        "use_linear_projection": len(shapes[projection]) == 2,
        "time_embedding_dim": need(shapes, "time_embedding.linear_1.weight", 2)[0],
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": need(shapes, "add_embedding.linear_1.weight", 2)[1],
        "norm_num_groups": declared.norm_groups,
        "norm_eps": 1e-5,
    }


def _transformers(down: list[list[int]], middle: int, up: list[list[int]]) -> dict[str, Any]:
    """Spell the transformer layers per block as diffusers wants them: a number per level, or a list if blocks differ.

    The middle block takes the last entry; when its depth is not that of the lowest level, an entry is added for it.
    """
    depths = [_spell(level) for level in down]
    if not any(down[-1]):
        depths[-1] = middle or 1  # unused by the level itself
    elif middle and middle != down[-1][0]:
        depths.append(middle)
    mirrored = [level[0] for level in up] == [level[0] for level in reversed(down)]
    if mirrored and len(depths) == len(down) and all(len(set(level)) == 1 for level in (*down, *up)):
        return {"transformer_layers_per_block": depths}
    return {
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": [_spell(level) for level in up],
    }


def _spell(level: list[int]) -> int | list[int]:
    return max(1, level[0]) if len(set(level)) == 1 else level


def _middle(shapes: Shapes) -> str | None:
    if _depth(shapes, "mid_block.attentions.0"):
        return "UNetMidBlock2DCrossAttn"
    return "UNetMidBlock2D" if count(shapes, "mid_block.resnets") else None


def _depths(shapes: Shapes, block: str, layers: int) -> list[int]:
    depths = [_depth(shapes, f"{block}.attentions.{position}") for position in range(layers)]
    if any(depths) and not all(depths):
        raise LayoutError(f"only some blocks of {block} have attention {depths}")
    return depths


def _depth(shapes: Shapes, attention: str) -> int:
    return count(shapes, f"{attention}.transformer_blocks")


def _first(shapes: Shapes, ending: str, axes: int | None = None) -> str:
    for name, shape in shapes.items():
        if name.endswith(ending) and axes in (None, len(shape)):
            return name
    raise LayoutError(f"missing: any tensor named *{ending}")

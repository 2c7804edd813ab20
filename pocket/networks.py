"""Pocket's networks: SDXL's own classes at other widths, and the recipes that say how large and how long.

A :class:`Plan` holds the lengths, widths and rates of a training. ``eighth`` makes pictures of an eighth of SDXL's
width and height, in two hours on a processor; the files that are shipped learnt for longer. ``quarter`` is twice as
large and for a graphics card.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocket.world import Level

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

LATENT_SCALE = 0.13025
"""SDXL's; the VAE's last convolution is rescaled until it holds (:func:`pocket.vae.standardise`)."""

HEAD_WIDTH = 16
SIZE_WIDTH = 32
"""Width of each size id's sinusoid. SDXL's 256 would drown a pooled vector of 128."""

POOLED_WIDTH = 128
TEXT_HEADS = 2


@dataclasses.dataclass(frozen=True)
class Unet:
    """Widths and transformer layers of a UNet's levels; 0 layers is a level without attention."""

    widths: tuple[int, ...]
    layers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """How long and how fast one network is trained: optimiser steps, pictures a step, highest learning rate."""

    steps: int
    batch: int
    rate: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """One training. ``sizes`` are (width, height) in pixels, ``crop_px`` the side of the VAE's training crops.

    ``levels`` are the widening worlds that the base goes through and the part of its steps at which each begins.
    ``text_rate`` is the text encoders' part of its learning rate, and at 0 they stay as the stage text left them.
    """

    sizes: tuple[tuple[int, int], ...]
    levels: dict[Level, float]
    pictures: int
    crop_px: int
    vae_widths: tuple[int, ...]
    vae_groups: int
    text_l_width: int
    text_g_width: int
    base: Unet
    refiner: Unet
    unet_groups: int
    stages: Mapping[str, Stage]
    text_rate: float = 0.3


QUARTER = Plan(
    sizes=((288, 224), (224, 288), (256, 256), (304, 208), (208, 304), (336, 192)),
    levels={"narrow": 0.0, "objects": 0.1, "all": 0.25},
    pictures=160_000,
    crop_px=128,
    vae_widths=(32, 48, 64, 96),
    vae_groups=1,
    text_l_width=8,
    text_g_width=48,
    base=Unet((48, 64, 96), (0, 1, 2)),
    refiner=Unet((32, 48, 48, 48), (0, 1, 1, 0)),
    unet_groups=8,
    stages={
        "vae": Stage(4_000, 48, 1.5e-3),
        "text": Stage(2_000, 256, 2e-3),
        "base": Stage(12_000, 256, 1.2e-3),
        "refiner": Stage(4_000, 256, 1.2e-3),
        "lora": Stage(500, 64, 2e-3),
        "judge": Stage(1_500, 64, 1e-3),
    },
)
# For two hours on a processor. The text encoders learn the whole world before the base does and then stay, so that the
# refiner need not wait for the base.
EIGHTH = dataclasses.replace(
    QUARTER,
    sizes=((144, 112), (112, 144), (128, 128), (168, 96), (96, 168)),
    levels={"narrow": 0.0, "objects": 0.05, "all": 0.125},
    pictures=44_000,
    crop_px=64,
    vae_widths=(24, 32, 48, 64),
    base=Unet((32, 64, 96), (0, 1, 2)),
    unet_groups=4,
    stages={
        "vae": Stage(4_500, 8, 1.5e-3),
        "text": Stage(2_000, 96, 2e-3),
        "base": Stage(15_000, 48, 1.2e-3),
        "refiner": Stage(3_000, 32, 1.2e-3),
        "lora": Stage(250, 16, 2e-3),
        "judge": Stage(1_200, 32, 1e-3),
    },
    text_rate=0.0,
)
PLANS: Mapping[str, Plan] = {"quarter": QUARTER, "eighth": EIGHTH}


def make_vae(plan: Plan) -> AutoencoderKL:
    """Build the VAE: SDXL's, f8 with 4 latent channels, one residual block a level."""
    from diffusers import AutoencoderKL

    levels = len(plan.vae_widths)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=plan.vae_widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=plan.vae_groups,
        scaling_factor=LATENT_SCALE,
    )


def make_text(plan: Plan, vocabulary: int, begin: int, end: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build both text encoders for ``vocabulary`` tokens, of which two mark the begin and the end of a text."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def config(width: int, layers: int, activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=77,
            hidden_act=activation,
            projection_dim=POOLED_WIDTH,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=end,
        )

    return (
        CLIPTextModel(config(plan.text_l_width, 2, "quick_gelu")),
        CLIPTextModelWithProjection(config(plan.text_g_width, 4, "gelu")),
    )


def make_unet(unet: Unet, plan: Plan, *, context_width: int, size_ids: int) -> UNet2DConditionModel:
    """Build a UNet as SDXL's: attention at its deeper levels, text and sizes added to the time embedding."""
    from diffusers import UNet2DConditionModel

    attends = [layers > 0 for layers in unet.layers]
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=unet.widths,
        layers_per_block=2,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        transformer_layers_per_block=tuple(max(1, layers) for layers in unet.layers),
        attention_head_dim=tuple(max(1, width // HEAD_WIDTH) for width in unet.widths),  # diffusers' name for heads
        cross_attention_dim=context_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + size_ids * SIZE_WIDTH,
        norm_num_groups=plan.unet_groups,
        norm_eps=1e-5,
    )


def make_base(plan: Plan) -> UNet2DConditionModel:
    """Build the base's UNet: both encoders' tokens, six size ids."""
    return make_unet(plan.base, plan, context_width=plan.text_l_width + plan.text_g_width, size_ids=6)


def make_refiner(plan: Plan) -> UNet2DConditionModel:
    """Build the refiner's UNet: tokens of G alone, five ids of which the last is the aesthetic score."""
    return make_unet(plan.refiner, plan, context_width=plan.text_g_width, size_ids=5)


def read_text(
    text_l: CLIPTextModel, text_g: CLIPTextModelWithProjection, ids_l: Tensor, ids_g: Tensor, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode token ids (B, 77) as SDXL does: penultimate states of L and of G (B, 77, D), and G's pooled (B, P)."""
    states_l = text_l(ids_l, output_hidden_states=True).hidden_states[-2]
    output = text_g(ids_g, output_hidden_states=True)
    place = (ids_g == end).int().argmax(1)
    last = output.last_hidden_state[torch.arange(len(place), device=place.device), place]
    return states_l, output.hidden_states[-2], last @ text_g.text_projection.weight.T

"""Our reading of the original layout against diffusers' own conversion, tensor by tensor, on the miniatures."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor

from fooocus.loading.checkpoint import open_checkpoint
from tests.tiny import BASE, REFINER, tiny_folder

FILES = [BASE, REFINER]


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.parametrize("name", FILES)
def test_unet(name: str) -> None:
    network = open_checkpoint(tiny_folder() / name).load("unet")
    theirs = convert_ldm_unet_checkpoint(load_file(tiny_folder() / name), dict(network.module.config))
    same(dict(network.module.named_parameters()), theirs)


@pytest.mark.parametrize("name", FILES)
def test_vae(name: str) -> None:
    network = open_checkpoint(tiny_folder() / name).load("vae")
    theirs = convert_ldm_vae_checkpoint(load_file(tiny_folder() / name), dict(network.module.config))
    same(dict(network.module.named_parameters()), theirs)


@pytest.mark.parametrize(
    ("name", "prefix"), [(BASE, "conditioner.embedders.1.model."), (REFINER, "conditioner.embedders.0.model.")]
)
def test_text_g(name: str, prefix: str) -> None:
    network = open_checkpoint(tiny_folder() / name).load("text_g")
    theirs = convert_open_clip_checkpoint(network.module, load_file(tiny_folder() / name), prefix=prefix)
    theirs.pop("text_model.embeddings.position_ids", None)
    same(dict(network.module.named_parameters()), theirs)


def test_the_configuration_of_the_base_is_the_published_one() -> None:
    """Everything that config.json of stable-diffusion-xl-base-1.0 sets, at the miniature's widths."""
    ours = open_checkpoint(tiny_folder() / BASE).load("unet").module
    published = UNet2DConditionModel(
        act_fn="silu",
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        attention_head_dim=[1, 1, 2],
        block_out_channels=[32, 64, 128],
        center_input_sample=False,
        cross_attention_dim=192,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        flip_sin_to_cos=True,
        freq_shift=0,
        layers_per_block=2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        norm_eps=1e-05,
        norm_num_groups=32,
        projection_class_embeddings_input_dim=1664,
        resnet_time_scale_shift="default",
        transformer_layers_per_block=[1, 1, 2],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        upcast_attention=False,
        use_linear_projection=True,
    )
    published.load_state_dict({name: value.float() for name, value in ours.named_parameters()}, strict=True)
    x, t, context = torch.ones(1, 4, 8, 8), torch.tensor([500.0]), torch.ones(1, 77, 192)
    told = {"text_embeds": torch.ones(1, 128), "time_ids": torch.full((1, 6), 256.0)}
    mine = open_checkpoint(tiny_folder() / BASE).load("unet", dtype=torch.float32).module
    with torch.no_grad():
        a, b = (unet.eval()(x, t, context, added_cond_kwargs=told).sample for unet in (mine, published))
    assert torch.equal(a, b)

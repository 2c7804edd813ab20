"""What the networks of opened files need, in the numbers that plans are made of; only headers are looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fooocus.families.records import Blueprint
from fooocus.loading.checkpoint import Checkpoint
from fooocus.loading.tensors import TensorFile, torch_dtype
from fooocus.memory.need import Need, Network, sdxl_vae
from fooocus.request import Size

_OPENED = ("token_embedding.weight", "position_embedding.weight", "text_projection.weight")
_ONCE = (".attn2.to_k.weight", ".attn2.to_v.weight", ".attn2.to_k.bias", ".attn2.to_v.bias")


def network_need(blueprint: Blueprint, file: TensorFile, dtype: torch.dtype) -> Network:
    """Return a network in numbers, computing in ``dtype``. Every tensor counts in its own format."""
    resting = travel = once = opened = widened = copied = count = 0
    for name, source in blueprint.sources.items():
        stored = file.header.tensors[source.key]
        number, format = math.prod(source.shape(stored.shape)), torch_dtype(stored)
        nbytes = number * min(format.itemsize, dtype.itemsize)
        count += number
        resting += nbytes
        once += number if name.endswith(_ONCE) else 0
        opened += number if name.endswith(_OPENED) else 0
        travel += 0 if name.endswith((*_ONCE, *_OPENED)) else nbytes
        widened = max(widened, number) if format.itemsize < dtype.itemsize else widened
        copied += number if format != dtype else 0
    config = blueprint.config
    widths = config.get("block_out_channels", (config.get("hidden_size", 0),))
    return Network(
        count,
        dtype.itemsize,
        resting,
        travel,
        once=once,
        opened=opened,
        widened=widened,
        copied=copied,
        width=widths[0],
        context=config.get("cross_attention_dim", 0),
    )


def recipe_need(
    checkpoints: Sequence[Checkpoint], dtype: torch.dtype, vae_dtype: torch.dtype, size: Size, *, guided: bool
) -> Need:
    """Return what pictures of one size need of a base and perhaps a refiner, in that order."""
    texts, unets, vae = [], [], None
    for checkpoint in checkpoints:
        blueprints, file = checkpoint.architecture.blueprints, checkpoint.file
        texts.append(together([network_need(blueprints[k], file, dtype) for k in checkpoint.architecture.family.text]))
        unets.append(network_need(blueprints["unet"], file, dtype))
        if "vae" in blueprints and vae is None:
            vae = network_need(blueprints["vae"], file, vae_dtype)
    if vae is None:  # it lies in a file of its own; the base is no VAE's size
        vae = sdxl_vae(vae_dtype.itemsize)
    refining = unets[1] if len(unets) > 1 else None
    return Need(tuple(texts), unets[0], refining, vae, size.width, size.height, guided=guided)


def together(networks: list[Network]) -> Network:
    """Return networks that are used at one time as one."""
    return Network(
        sum(network.count for network in networks),
        networks[0].itemsize,
        sum(network.resting_bytes for network in networks),
        sum(network.travel_bytes for network in networks),
        opened=sum(network.opened for network in networks),
        widened=max(network.widened for network in networks),
        copied=sum(network.copied for network in networks),
    )

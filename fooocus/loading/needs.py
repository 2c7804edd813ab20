"""What the networks of opened files need, in the numbers that plans are made of; only headers are looked at."""

from __future__ import annotations

import math
from collections import Counter

import torch

from fooocus.families.records import Blueprint
from fooocus.loading.tensors import TensorFile, torch_dtype
from fooocus.memory.need import Network

_OPENED = ("token_embedding.weight", "position_embedding.weight", "text_projection.weight")
_ONCE = (".attn2.to_k.weight", ".attn2.to_v.weight", ".attn2.to_k.bias", ".attn2.to_v.bias")


def network_need(blueprint: Blueprint, file: TensorFile, dtype: torch.dtype) -> Network:
    """Return a network in numbers, computing in ``dtype``."""
    tensors = file.header.tensors
    counts = {name: math.prod(source.shape(tensors[source.key].shape)) for name, source in blueprint.sources.items()}
    stored: Counter[torch.dtype] = Counter()
    for name, source in blueprint.sources.items():
        stored[torch_dtype(tensors[source.key])] += counts[name]
    format = stored.most_common(1)[0][0]
    config = blueprint.config
    widths = config.get("block_out_channels", (config.get("hidden_size", 0),))
    return Network(
        count=sum(counts.values()),
        itemsize=dtype.itemsize,
        stored_itemsize=min(format.itemsize, dtype.itemsize),
        once=sum(count for name, count in counts.items() if name.endswith(_ONCE)),
        opened=sum(count for name, count in counts.items() if name.endswith(_OPENED)),
        largest=max(counts.values()),
        width=widths[0],
        context=config.get("cross_attention_dim", 0),
        copied=format != dtype,
    )


def together(networks: list[Network]) -> Network:
    """Return networks that are used at one time as one."""
    return Network(
        count=sum(network.count for network in networks),
        itemsize=networks[0].itemsize,
        stored_itemsize=max(network.stored_itemsize for network in networks),
        opened=sum(network.opened for network in networks),
        largest=max(network.largest for network in networks),
        copied=any(network.copied for network in networks),
    )

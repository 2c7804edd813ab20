"""In which order a network's layers work, and which of their weights had better stay on the card.

The order is not read off the module tree, which lists blocks as they were constructed: a pass without data is made and
watched. A pass with data may leave layers out (keys and values of a known text) but turns nothing round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fooocus.families import attention
from fooocus.families.records import Blueprint
from fooocus.loading.network import empty_module

SMALL_BYTES = 64 * 1024
"""Norms and biases of this size stay: they are many, and all of them together weigh less than one layer."""

_ONCE = (".attn2.to_k", ".attn2.to_v")
_LATENT_SIDE = 64  # of the picture of the trial pass; the shares of the work hardly depend on it


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module with weights of its own. ``work`` is how long it computes, in multiplications.

    ``once`` says that it is asked once a prompt; ``opened`` that others reach for its weights past its own call.
    """

    name: str
    work: int = 0
    once: bool = False
    opened: bool = False


def layers_in_order(blueprint: Blueprint) -> tuple[Layer, ...]:
    """Return the layers of a network in the order of their work."""
    module = empty_module(blueprint)
    named = {name: layer for name, layer in module.named_modules() if layer._parameters}
    work: dict[str, int] = {}
    if blueprint.kind == "unet":
        attention.install(module)
        work = _trial(module, blueprint.config, named)
    ordered = [*work, *(name for name in named if name not in work)]
    return tuple(Layer(name, work.get(name, 0), name.endswith(_ONCE), _opened(name, named[name])) for name in ordered)


def _opened(name: str, layer: nn.Module) -> bool:
    # Vocabularies are extended and the text's projection is turned round by render/text.py.
    return isinstance(layer, nn.Embedding) or name == "text_projection"


def _trial(unet: nn.Module, config: Any, named: dict[str, nn.Module]) -> dict[str, int]:
    """Watch one pass of a UNet without data."""
    names = {layer: name for name, layer in named.items()}
    work: dict[str, int] = {}

    def watched(layer: nn.Module, arguments: object, output: Tensor) -> None:
        weight = next(iter(layer._parameters.values()))
        width = weight.shape[0] if weight is not None and weight.dim() > 1 else output.numel()
        work[names[layer]] = sum(p.numel() for p in layer.parameters()) * (output.numel() // max(1, width))

    hooks = [layer.register_forward_hook(watched) for layer in named.values()]
    pooled = config["projection_class_embeddings_input_dim"]
    size_ids = 1  # any number of sizes is understood; what remains is taken for the pooled text
    with torch.no_grad(), torch.device("meta"):
        unet(
            torch.empty(1, config["in_channels"], _LATENT_SIDE, _LATENT_SIDE),
            torch.empty(()),
            encoder_hidden_states=torch.empty(1, 77, config["cross_attention_dim"]),
            added_cond_kwargs={
                "text_embeds": torch.empty(1, pooled - size_ids * config["addition_time_embed_dim"]),
                "time_ids": torch.empty(1, size_ids),
            },
            return_dict=False,
        )
    for hook in hooks:
        hook.remove()
    return work


def choose_resident(sizes: Sequence[int], work: Sequence[int], budget: int, ahead: int) -> list[bool]:
    """Say which layers stay within ``budget`` bytes, so that what travels keeps pace with the work.

    ``sizes`` are bytes, ``work`` any measure of time, both in order; ``ahead`` bytes can be sent before their use.
    The copy is thought to run at one even rate: a layer may travel if the bytes sent since then suffice for it, and
    stays otherwise. The lowest rate at which the ones that stay fit the budget leaves the copy the most time. So the
    heavy and quick layers in the middle stay, and those travel that follow long work.
    """
    total, streamable = sum(sizes), max(1, sum(work))
    if total <= budget:
        return [True] * len(sizes)
    low, high = 0.0, 1.0
    while high < 2**40 and _stay_bytes(sizes, work, high * total / streamable, ahead) > budget:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        if _stay_bytes(sizes, work, middle * total / streamable, ahead) > budget:
            low = middle
        else:
            high = middle
    stays = _stays(sizes, work, high * total / streamable, ahead)
    left = budget - sum(size for size, stay in zip(sizes, stays, strict=True) if stay)
    if left < 0:
        return [False] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index] / max(1, work[index]), index)):
        if not stays[index] and sizes[index] <= left:  # what is left of the budget, to the most pressing ones
            stays[index] = True
            left -= sizes[index]
    return stays


def _stays(sizes: Sequence[int], work: Sequence[int], rate: float, ahead: int) -> list[bool]:
    sent, stays = float(ahead), []
    for size, time in zip(sizes, work, strict=True):
        stays.append(size > sent)
        sent = min(float(ahead), (sent if stays[-1] else sent - size) + time * rate)
    return stays


def _stay_bytes(sizes: Sequence[int], work: Sequence[int], rate: float, ahead: int) -> int:
    return sum(size for size, stay in zip(sizes, _stays(sizes, work, rate, ahead), strict=True) if stay)

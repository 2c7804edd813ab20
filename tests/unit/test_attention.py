"""Our attention processor gives diffusers' bits, and asks for the text's keys and values once per context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from fooocus.families import attention
from fooocus.loading.checkpoint import open_checkpoint


@pytest.fixture
def unet(tiny: Path) -> nn.Module:
    return open_checkpoint(tiny / "tiny_base.safetensors").load("unet", dtype=torch.float32).module


def ask(unet: nn.Module, context: Tensor, timestep: float = 500.0) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pooled, ids = torch.zeros(2, 128), torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)
    with torch.no_grad():
        return unet(
            x,
            torch.tensor(timestep),
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
            return_dict=False,
        )[0]


def cross_layers(unet: nn.Module) -> list[Attention]:
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


def test_it_is_bit_equal_to_the_librarys_and_asks_once(unet: nn.Module) -> None:
    context = torch.randn(2, 77, 192)
    layers = cross_layers(unet)
    for layer in layers:
        assert isinstance(layer.processor, AttnProcessor2_0)
    expected = [ask(unet, context, timestep) for timestep in (900.0, 500.0)]

    attention.install(unet)
    asked: list[str] = []
    for layer in layers:
        layer.to_k.register_forward_hook(lambda *_: asked.append("k"))
        layer.to_v.register_forward_hook(lambda *_: asked.append("v"))
    ours = [ask(unet, context, timestep) for timestep in (900.0, 500.0)]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert len(asked) == 2 * len(layers), "one question for keys and one for values, over both steps"


def test_another_context_is_another_question(unet: nn.Module) -> None:
    first, second = torch.randn(2, 77, 192), torch.randn(2, 77, 192)
    expected = ask(unet, second)
    attention.install(unet)
    ask(unet, first)
    assert torch.equal(ask(unet, second), expected)


def test_forgotten_means_asked_again(unet: nn.Module) -> None:
    """A LoRA may have changed the layer: what was computed before it must not be used."""
    context = torch.randn(2, 77, 192)
    attention.install(unet)
    before = ask(unet, context)
    for layer in cross_layers(unet):
        layer.to_k.weight = nn.Parameter(layer.to_k.weight * 2, requires_grad=False)
    attention.forget(unet)
    assert not torch.equal(ask(unet, context), before)

"""Attention of the SDXL UNets by our own processor: keys and values of the text are computed once per context.

A UNet's cross-attention asks the same question of the same text in every step; only the picture's side changes. Its
keys and values depend on nothing but the context tensor, so they are kept as long as the same tensor object comes in.
The result is the same to the last bit. (diffusers' ``set_attention_backend`` has no effect on this UNet's older
processors.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

# Prompt and negative prompt of very different lengths are asked one after the other, hence two contexts at a time.
_CONTEXTS = 2


class CachingAttention:
    """Processor of one attention layer: softmax(q k^T / sqrt(d)) v, with the text's k and v remembered."""

    def __init__(self) -> None:
        self.keeps = True  # or asks anew each time, as the library does
        self._known: list[tuple[Tensor, Tensor, Tensor]] = []  # context, its keys, its values; newest last

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from ``hidden_states`` (B, h*w, C) to ``encoder_hidden_states`` (B, T, D), or to themselves.

        Where there are fewer contexts than rows, each is that of as many rows that follow each other.
        """
        heads = attn.heads
        query = _split(attn.to_q(hidden_states), heads)  # (B, h*w, C) -> (B, heads, h*w, C/heads)
        if encoder_hidden_states is None:
            key, value = _split(attn.to_k(hidden_states), heads), _split(attn.to_v(hidden_states), heads)
        else:
            key, value = self._text(attn, encoder_hidden_states, heads)
            if len(key) < len(query):  # kept once, however many pictures are made at once
                key, value = (text.repeat_interleave(len(query) // len(key), dim=0) for text in (key, value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))

    def remembered(self, context: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the keys and values of ``context``, the tensors themselves, if they are known."""
        return next(((key, value) for known, key, value in self._known if known is context), None)

    def forget(self) -> None:
        """Drop what is remembered; wanted when the layer's weights change or its memory is needed."""
        self._known.clear()

    def _text(self, attn: Attention, context: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        for known, key, value in self._known:
            if known is context:
                return key, value
        key, value = _split(attn.to_k(context), heads), _split(attn.to_v(context), heads)
        if not self.keeps:
            return key, value
        self._known = [*self._known[1 - _CONTEXTS :], (context, key, value)]
        return key, value


@dataclass(frozen=True, eq=False)
class TextMemory:
    """One layer's keys and values of a text, in tensors that stay where they are."""

    layer: Attention
    key: Tensor
    value: Tensor

    def renew(self, context: Tensor) -> None:
        """Compute those of another text of the same length into the same tensors."""
        self.key.copy_(_split(self.layer.to_k(context), self.layer.heads))
        self.value.copy_(_split(self.layer.to_v(context), self.layer.heads))


def remembered(unet: nn.Module, context: Tensor) -> list[TextMemory]:
    """Return what the layers of ``unet`` know of ``context``."""
    found = []
    for module in unet.modules():
        processor = getattr(module, "processor", None)
        text = processor.remembered(context) if isinstance(processor, CachingAttention) else None
        if text is not None:
            found.append(TextMemory(module, *text))
    return found


def install(unet: nn.Module) -> None:
    """Give every attention layer of a diffusers SDXL UNet its own :class:`CachingAttention`."""
    from diffusers.models.attention_processor import Attention

    for module in unet.modules():
        if isinstance(module, Attention):
            module.processor = CachingAttention()


def keep_text(unet: nn.Module, *, keeps: bool) -> None:
    """Say whether the layers remember the text's keys and values."""
    for module in unet.modules():
        processor = getattr(module, "processor", None)
        if isinstance(processor, CachingAttention):
            processor.keeps = keeps


def forget(unet: nn.Module) -> None:
    """Drop the remembered keys and values of all layers."""
    for module in unet.modules():
        processor = getattr(module, "processor", None)
        if isinstance(processor, CachingAttention):
            processor.forget()


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)

"""Decode latents in stripes: the same picture as in one piece, with a part of the memory.

A VAE's decoder normalises over the whole picture, so tiles that are decoded apart come out with brightness and colours
of their own, and blending their edges only hides that. Here the picture is cut anew in every layer instead: a layer's
map is made stripe by stripe from the map before it, each stripe with the one row above and below that a 3x3 convolution
sees, and what the next normalisation needs of the whole map is gathered while the stripes are written. So there are no
seams to blend, no pixel is computed twice, and the result differs from the whole only in the order of sums.

What is left in memory are two maps at most (the larger one of twice the last width), and with ``keep`` in main memory
not even those. A residual block writes its result over its input, which by then only its own rows are still read from.

Layout: the decoder of diffusers' AutoencoderKL, after the original code (latent diffusion, arXiv:2112.10752).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fooocus.memory.need import STRIPE_BYTES

# Live copies of a stripe while it is normalised, activated and convolved.
_COPIES = 4
_QUERIES = 1024  # rows of attention computed at once, where no fused kernel takes heads as wide as the VAE's
_MOST_ON_METAL = 16384  # places; half of where it goes wrong


class _Map:
    """A feature map (C, h, w) somewhere in memory; remembers what a normalisation wants to know of it."""

    def __init__(self, shape: tuple[int, int, int], keep: torch.device, dtype: torch.dtype, groups: int) -> None:
        self.data = torch.empty(shape, device=keep, dtype=dtype)
        self._groups = groups
        self._seen: list[tuple[int, Tensor, Tensor]] = []  # elements, mean and variance (groups) of each stripe

    @property
    def height(self) -> int:
        return self.data.shape[1]

    def rows(self, first: int, last: int, device: torch.device) -> Tensor:
        """Return the rows first..last on ``device``: (1, C, rows, w)."""
        return self.data[None, :, first:last].to(device)

    def write(self, first: int, stripe: Tensor) -> None:
        """Put a stripe (1, C, rows, w) in its place. Stripes come in order; the first of a pass begins anew."""
        if first == 0:
            self._seen.clear()
        flat = stripe.float().reshape(self._groups, -1)
        variance, mean = torch.var_mean(flat, dim=1, correction=0)
        self._seen.append((flat.shape[1], mean.cpu(), variance.cpu()))
        self.data[: stripe.shape[1], first : first + stripe.shape[2]].copy_(stripe[0])

    def narrowed(self, channels: int) -> None:
        """Keep the first channels only, which were written over."""
        self.data = self.data[:channels]

    def moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each group over the whole map (the parallel form of Chan et al., 1979)."""
        counts = torch.tensor([float(count) for count, _, _ in self._seen], dtype=torch.float64)[:, None]
        means = torch.stack([mean.double() for _, mean, _ in self._seen])
        variances = torch.stack([variance.double() for _, _, variance in self._seen])
        mean = (counts * means).sum(0) / counts.sum()
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / counts.sum()
        return mean.float().to(device), variance.float().to(device)


class _Walk:
    """One decoding: where it computes, where its maps are kept, how large a stripe may be."""

    def __init__(self, decoder: nn.Module, keep: torch.device, stripe_bytes: int, check: Callable[[], object]) -> None:
        weight = next(decoder.parameters())
        self.device, self.dtype, self.keep = weight.device, weight.dtype, keep
        self.groups = int(decoder.conv_norm_out.num_groups)  # type: ignore[union-attr, arg-type]
        self._stripe_bytes = stripe_bytes
        self._check = check

    def new(self, channels: int, height: int, width: int) -> _Map:
        return _Map((channels, height, width), self.keep, self.dtype, self.groups)

    def stripes(self, height: int, width: int, channels: int) -> Iterator[tuple[int, int]]:
        """Yield the first and the last row (exclusive) of every stripe of a map."""
        row_bytes = max(1, width * channels * self.dtype.itemsize * _COPIES)
        rows = max(4, self._stripe_bytes // row_bytes)
        for first in range(0, height, rows):
            self._check()
            yield first, min(first + rows, height)

    def spread(self, whole: Tensor) -> _Map:
        """Keep a map (1, C, h, w) that was made in one piece."""
        made = self.new(*whole.shape[1:])
        made.write(0, whole)
        return made

    def resnet(self, block: Any, x: _Map) -> None:
        """Replace a map by the residual block's answer to it."""
        channels, height, width = x.data.shape
        out = int(block.conv1.out_channels)
        hidden = self.new(out, height, width)
        normed = self._normalise(block.norm1, x)
        for first, last in self.stripes(height, width, max(channels, out)):
            hidden.write(first, _conv(block.conv1, normed, x, first, last, self.device))
        normed = self._normalise(block.norm2, hidden)
        for first, last in self.stripes(height, width, max(channels, out)):
            change = _conv(block.conv2, normed, hidden, first, last, self.device)
            before = x.rows(first, last, self.device)
            x.write(first, change + (before if block.conv_shortcut is None else block.conv_shortcut(before)))
        x.narrowed(out)

    def upsample(self, conv: nn.Conv2d, x: _Map) -> _Map:
        """Double every pixel and convolve."""
        _, height, width = x.data.shape
        made = self.new(conv.out_channels, height * 2, width * 2)
        for first, last in self.stripes(height * 2, width * 2, conv.out_channels):
            made.write(first, _conv(conv, _doubled, x, first, last, self.device, scale=2))
        return made

    def finish(self, norm: nn.GroupNorm, conv: nn.Conv2d, x: _Map) -> Tensor:
        """Return the picture (1, 3, H, W), in main memory unless maps are kept on the device."""
        _, height, width = x.data.shape
        picture = torch.empty(1, conv.out_channels, height, width, dtype=self.dtype, device=self.keep)
        normed = self._normalise(norm, x)
        for first, last in self.stripes(height, width, x.data.shape[0]):
            picture[:, :, first:last].copy_(_conv(conv, normed, x, first, last, self.device))
        return picture

    def _normalise(self, norm: Any, x: _Map) -> Callable[[Tensor], Tensor]:
        """Return the normalisation over the whole map, with its activation, for any rows of it."""
        mean, variance = x.moments(self.device)
        each = x.data.shape[0] // self.groups
        scale = (variance + norm.eps).rsqrt().repeat_interleave(each) * norm.weight.float()
        shift = norm.bias.float() - mean.repeat_interleave(each) * scale
        scale, shift = scale[:, None, None], shift[:, None, None]

        def apply(rows: Tensor) -> Tensor:
            return F.silu(torch.addcmul(shift, rows.float(), scale).to(rows.dtype), inplace=True)

        return apply


def decode_in_stripes(
    vae: Any,
    latents: Tensor,
    *,
    keep: torch.device | None = None,
    stripe_bytes: int = STRIPE_BYTES,
    check: Callable[[], object] = lambda: None,
) -> Tensor:
    """Return the picture (1, 3, H, W), values -1..1, of latents (1, 4, h, w) on the VAE's device.

    ``keep`` is where the maps between layers are kept, the VAE's own device unless given. ``check`` is called before
    every stripe and leaves by raising.
    """
    decoder = vae.decoder
    walk = _Walk(decoder, keep or latents.device, stripe_bytes, check)
    if getattr(vae, "post_quant_conv", None) is not None:
        latents = vae.post_quant_conv(latents)
    x = walk.spread(_middle(decoder, decoder.conv_in(latents), check))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            walk.resnet(resnet, x)
        for upsampler in block.upsamplers or ():
            x = walk.upsample(upsampler.conv, x)
    return walk.finish(decoder.conv_norm_out, decoder.conv_out, x)


def _middle(decoder: Any, x: Tensor, check: Callable[[], object]) -> Tensor:
    """Pass the middle block, which is small and attends from everywhere to everywhere: in one piece."""
    middle = decoder.mid_block
    x = middle.resnets[0](x, None)
    for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
        check()
        if attention is not None:
            x = _attend(attention, x, check)
        x = resnet(x, None)
    return x


def _attend(attention: Any, x: Tensor, check: Callable[[], object]) -> Tensor:
    """Attend with one wide head, some rows at a time, so that the matrix of weights never exists as a whole."""
    height, width = x.shape[2:]
    tokens = attention.group_norm(x).flatten(2).transpose(1, 2)  # (1, C, h, w) -> (1, h*w, C)
    where = _attends_on(x.device, tokens.shape[1])
    query, key, value = (to(tokens).to(where) for to in (attention.to_q, attention.to_k, attention.to_v))
    parts = []
    for part in query.split(_QUERIES, dim=1):
        check()
        parts.append(F.scaled_dot_product_attention(part, key, value))
    mixed = attention.to_out[0](torch.cat(parts, dim=1).to(x.device))
    return x + mixed.transpose(1, 2).unflatten(2, (height, width))


def _attends_on(device: torch.device, places: int) -> torch.device:
    """Return where to attend to so many places: Metal's products of M1 and M2 go wrong over 32767 terms and more.

    (PyTorch's issues 177116 and 193487.) It is one layer, once a picture, and only of very large ones.
    """
    return torch.device("cpu") if device.type == "mps" and places > _MOST_ON_METAL else device


def _conv(
    conv: nn.Conv2d,
    prepare: Callable[[Tensor], Tensor],
    source: _Map,
    first: int,
    last: int,
    device: torch.device,
    scale: int = 1,
) -> Tensor:
    """Return the rows first..last of a 3x3 convolution; ``prepare`` turns the source's rows into its input.

    Behind the picture's edges the convolution sees zeros, between stripes the neighbour's rows.
    """
    above, below = max(0, first - 1), min(source.height * scale, last + 1)
    from_row, to_row = above // scale, -(-below // scale)
    rows = prepare(source.rows(from_row, to_row, device))
    rows = rows[:, :, above - from_row * scale : below - from_row * scale]
    edges = (above - (first - 1), (last + 1) - below)
    if any(edges):
        rows = F.pad(rows, (0, 0, *edges))
    return F.conv2d(rows, conv.weight, conv.bias, padding=(0, 1))


def _doubled(rows: Tensor) -> Tensor:
    return F.interpolate(rows, scale_factor=2.0, mode="nearest")

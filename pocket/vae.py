"""The VAE's beginning and end: it starts as one that knows colours, and ends with latents of unit size.

A VAE trained from random weights spends a long time on finding colour at all, because every normalisation divides it
away. So Pocket's starts from weights that already are an autoencoder of each 8x8 block's mean colour, and learns from
there what is inside the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocket.networks import LATENT_SCALE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

# Two constant channels, +ANCHOR and -ANCHOR, hold each normalisation's mean and spread nearly still, so that what
# passes it is nearly proportional to the colours (-1..1) that the other channels carry.
ANCHOR = 4.0
_COLOURS = 3


@torch.no_grad()
def begin_with_colours(vae: AutoencoderKL) -> None:
    """Set the weights so that the VAE, before any training, returns each block's mean colour.

    Channels 0-2 carry the colours, 3-5 their negatives (for silu(x) - silu(-x) = x), 6 and 7 the anchors, through all
    skip connections; every residual branch and attention ends in zeros and joins in as it learns. Needs one
    normalisation group and at least 8 channels at every level.
    """
    for name, module in vae.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            module.weight.zero_()
            module.bias.zero_()
        elif name.endswith((".conv_shortcut", "samplers.0.conv")):
            _pass_on(module)
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
        conv.weight[:8].zero_()
        conv.bias[:8] = torch.tensor([0.0] * 6 + [ANCHOR, -ANCHOR])
        for channel in range(_COLOURS):
            conv.weight[channel, channel, 1, 1] = 1.0
            conv.weight[channel + _COLOURS, channel, 1, 1] = -1.0
    _read_out(vae.encoder.conv_out, _spread(vae.encoder.conv_norm_out))
    _read_out(vae.decoder.conv_out, _spread(vae.decoder.conv_norm_out))
    vae.encoder.conv_out.bias[4:] = -6.0  # log variance: hardly any noise at first
    nn.init.zeros_(vae.quant_conv.bias)
    nn.init.zeros_(vae.post_quant_conv.bias)
    vae.quant_conv.weight.copy_(torch.eye(8)[:, :, None, None])
    vae.post_quant_conv.weight.copy_(torch.eye(4)[:, :, None, None])


def _pass_on(conv: nn.Conv2d) -> None:
    """Make the first eight channels of a convolution the mean of what it sees of them, and free of the others."""
    size = conv.kernel_size[0]
    assert conv.bias is not None
    conv.weight[:8].zero_()
    conv.bias[:8].zero_()
    for channel in range(8):
        if size == 3 and conv.stride == (2, 2):
            conv.weight[channel, channel, :2, :2] = 0.25  # padded at the far edges only, so these two are the block's
        else:
            conv.weight[channel, channel, size // 2, size // 2] = 1.0


def _spread(norm: nn.GroupNorm) -> float:
    """Estimate what the normalisation divides by: only the anchors count beside small colours and empty channels."""
    return math.sqrt(2 * ANCHOR**2 / norm.num_channels)


def _read_out(conv: nn.Conv2d, spread: float) -> None:
    assert conv.bias is not None
    conv.weight[: _COLOURS + 1].mul_(0.1)
    conv.bias.zero_()
    for channel in range(_COLOURS):
        conv.weight[channel].zero_()
        conv.weight[channel, channel, 1, 1] = spread
        conv.weight[channel, channel + _COLOURS, 1, 1] = -spread


def loss(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training loss of pictures (B, 3, H, W), -1..1, and the mean square error of the reconstruction.

    ``noise`` (B, 4, h, w) draws the latents from the posterior.

    Absolute and square error, the same of the picture's gradients (edges), and a little Kullback-Leibler divergence
    that keeps the latents bounded and smooth (Rombach et al. 2022, arXiv:2112.10752, appendix G).
    """
    posterior = vae.encode(pictures).latent_dist
    seen = vae.decode(posterior.mean + posterior.std * noise).sample
    off = seen - pictures
    across, down = off[..., 1:] - off[..., :-1], off[..., 1:, :] - off[..., :-1, :]
    edges = across.abs().mean() + down.abs().mean()
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    square = off.pow(2).mean()
    return off.abs().mean() + 2 * square + 0.5 * edges + 1e-4 * divergence, square.detach()


@torch.no_grad()
def standardise(vae: AutoencoderKL, batches: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Rescale the VAE's last and first 1x1 convolutions until latents times LATENT_SCALE have mean 0 and spread 1.

    Per channel, measured over ``batches`` of pictures. Returns the mean and spread that were found; the decoded
    pictures do not change.
    """
    found = torch.cat([vae.encode(batch).latent_dist.mean.transpose(0, 1).flatten(1) for batch in batches], 1)
    mean, spread = found.mean(1), found.std(1)
    factor = 1 / (spread * LATENT_SCALE)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= factor[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * factor
    quant.bias[4:] += 2 * factor.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= factor[None, :, None, None]
    return mean, spread

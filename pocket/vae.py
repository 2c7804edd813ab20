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

from fooocus.render.preview import LATENT_TO_RGB
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
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    off = vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float() - pictures
    across, down = off[..., 1:] - off[..., :-1], off[..., 1:, :] - off[..., :-1, :]
    edges = across.abs().mean() + down.abs().mean()
    divergence = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
    square = off.pow(2).mean()
    return off.abs().mean() + 2 * square + 0.5 * edges + 1e-4 * divergence, square.detach()


@torch.no_grad()
def standardise(vae: AutoencoderKL, batches: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Change the VAE's last and first 1x1 convolutions until its latents times LATENT_SCALE are as SDXL's should be.

    Over all ``batches`` of pictures they then have mean 0, spread 1 and no correlation, and of all rotations the one
    for which the program's preview, which is made for SDXL, shows the right colours. Decoded pictures do not change.
    Returns mean and spread before.
    """
    latents, colours = [], []
    for batch in batches:
        encoded = vae.encode(batch).latent_dist.mean
        latents.append(encoded.transpose(0, 1).flatten(1).double())
        blocks = nn.functional.adaptive_avg_pool2d(batch, encoded.shape[2:])
        colours.append(blocks.transpose(0, 1).flatten(1).double())
    z, rgb = torch.cat(latents, 1), torch.cat(colours, 1)  # (4, N), (3, N)
    mean, spread = z.mean(1), z.std(1)
    z, rgb = z - mean[:, None], rgb - rgb.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(z @ z.T / z.shape[1])
    white = axes @ (variances**-0.5).diag() @ axes.T
    # Which rotation R makes F'R(white z) nearest to rgb, F being the preview's factors? Orthogonal Procrustes problem
    # (Schoenemann 1966); F'R does not change the length, so the solution is that of the plain problem.
    factors = torch.tensor(LATENT_TO_RGB, dtype=z.dtype, device=z.device)
    left, _, right = torch.linalg.svd(factors @ rgb @ (white @ z).T)
    turn = left @ right @ white  # (4, 4)
    _put_before_and_after(vae, turn / LATENT_SCALE, mean)
    return mean.float(), spread.float()


def _put_before_and_after(vae: AutoencoderKL, turn: Tensor, mean: Tensor) -> None:
    """Make the latents ``turn`` (z - mean), and the decoder undo that."""
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:4, :, 0, 0].double(), quant.bias[:4].double()
    quant.weight[:4] = (turn @ weight)[:, :, None, None].to(quant.weight)
    quant.bias[:4] = (turn @ (bias - mean)).to(quant.bias)
    quant.bias[4:] += turn.pow(2).mean(1).log().to(quant.bias)  # variances: as if all four were alike
    weight = post.weight[:, :, 0, 0].double()
    post.bias += (weight @ mean).to(post.bias)
    post.weight[:] = (weight @ torch.linalg.inv(turn))[:, :, None, None].to(post.weight)

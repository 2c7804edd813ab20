"""What a picture needs, in bytes: the weights of its networks, and the memory that the work beside them takes.

The work memory is counted, not guessed: live tensors of one pass of the full networks without data, attention in one
piece, at 512, 1024 and 1152x896 px (``benchmarks/activations.py`` counts again). It grows with the picture's area and
the network's width and with nothing else, so one number per kind of network says it for every size and every relative.
"""

from __future__ import annotations

import dataclasses

# Live elements per latent pixel and channel of the first level at the peak of a UNet's pass; counted 15.8 for both.
UNET_ELEMENTS = 16
# Live elements per pixel and channel of the last level when a VAE decodes a picture whole; counted 6.0.
WHOLE_ELEMENTS = 6
# So much more a card's allocator takes for it, as blocks of growing sizes cannot take each other's place: InvokeAI
# measured 5568 MB reserved for float32 at 1024x1024 (its pull request 7674), where 3072 MiB are live.
WHOLE_RESERVED = 1.8
# The same when it decodes in stripes and keeps whole maps: the largest two maps, 2 and 1 widths (`render/stripes.py`).
STRIPED_ELEMENTS = 3
# Its middle block works on the whole map in any case: 8 maps of four widths, of a 64th of the pixels.
MIDDLE_ELEMENTS = 8 * 4 / 64

MIB = 2**20
WORKSPACE_BYTES = 150 * MIB
"""What the libraries' convolution and attention kernels take besides: an assumption until it is measured on a card."""
TEXT_WORK_BYTES = 150 * MIB
"""Hidden states of 33 layers for 8 windows of 77 tokens, twice, and attention over them: counted 120 MiB in float32."""
STRIPE_BYTES = 96 * MIB
"""About what one stripe of the decoder may take; more makes nothing faster."""
RING_BYTES = 256 * MIB
"""Room on the card for weights that are on their way: several layers, so that the copy runs ahead of the work."""
TOKENS = 4 * 77
"""Tokens of prompt and negative prompt whose keys and values are kept; twice the usual length."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network in numbers.

    ``count`` are its weights, ``itemsize`` the bytes of each while it computes. ``resting_bytes`` are all of them as
    they rest: as they are stored, where that takes no more bytes than computing; ``travel_bytes`` those of the weights
    that every step needs. ``once`` of the weights are asked once a prompt (keys and values of the text) and ``opened``
    must be on the device whenever it works, whatever else streams. ``widened`` are the weights of the largest tensor
    that is widened when it is used, ``copied`` those that main memory must hold a copy of to compute with, because the
    file's own numbers are others. ``width`` is the channels of the first level, ``context`` the width of the text it
    reads. Files may mix number formats, so every sum is one over tensors.
    """

    count: int
    itemsize: int
    resting_bytes: int
    travel_bytes: int = 0
    once: int = 0
    opened: int = 0
    widened: int = 0
    copied: int = 0
    width: int = 0
    context: int = 0

    @property
    def weight_bytes(self) -> int:
        """Its weights as it computes with them."""
        return self.count * self.itemsize

    @property
    def widen_bytes(self) -> int:
        """Room for the largest tensor in full width of those that travel in fewer bytes than they compute in."""
        return self.widened * self.itemsize

    @property
    def copied_bytes(self) -> int:
        """The main memory that it takes beside its file to compute on a processor."""
        return self.copied * self.itemsize


@dataclasses.dataclass(frozen=True)
class Need:
    """What a recipe needs. ``texts`` are the encoders of base and refiner; ``pictures`` are made at once."""

    texts: tuple[Network, ...]
    base: Network
    refiner: Network | None
    vae: Network
    width: int
    height: int
    guided: bool = True
    pictures: int = 1

    @property
    def unets(self) -> tuple[Network, ...]:
        """The networks that sample."""
        return (self.base,) if self.refiner is None else (self.base, self.refiner)


def unet_work(need: Need, unet: Network, *, together: bool) -> int:
    """Return the bytes that one call of a UNet takes beside its weights, with the text's keys and values."""
    batch = need.pictures * (2 if need.guided and together else 1)
    latent_px = need.width * need.height // 64
    activations = UNET_ELEMENTS * unet.width * latent_px * batch * unet.itemsize
    kept = unet.once // max(unet.context, 1) * TOKENS * unet.itemsize
    return activations + kept + WORKSPACE_BYTES


def whole_work(need: Need, *, card: bool) -> int:
    """Return the bytes that decoding takes in one piece, on a card or in main memory."""
    elements = WHOLE_ELEMENTS * (WHOLE_RESERVED if card else 1)
    return int(elements * need.vae.width * need.width * need.height * need.vae.itemsize) + WORKSPACE_BYTES


def striped_work(need: Need, *, maps: bool) -> int:
    """Return the bytes that decoding in stripes takes, with the maps between its layers or without them."""
    elements = max(STRIPED_ELEMENTS if maps else 0, MIDDLE_ELEMENTS)
    area = need.vae.width * need.width * need.height * need.vae.itemsize
    return int(elements * area) + STRIPE_BYTES + WORKSPACE_BYTES


def sdxl_need(width: int = 1152, height: int = 896, *, itemsize: int = 2) -> Need:
    """Return what SDXL's base and refiner need, stored in half precision; weights counted on the networks."""
    text_l, text_g = 123_060_480, 694_659_840
    open_l, open_g = 49_408 * 768, 49_408 * 1280 + 1280 * 1280

    def network(
        count: int, largest: int, *, once: int = 0, opened: int = 0, width: int = 0, context: int = 0
    ) -> Network:
        stored = min(itemsize, 2)
        other = itemsize != 2
        return Network(
            count,
            itemsize,
            count * stored,
            (count - once - opened) * stored,
            once=once,
            opened=opened,
            widened=largest if stored < itemsize else 0,
            copied=count if other else 0,
            width=width,
            context=context,
        )

    base = network(2_567_463_684, 29_493_760, once=340_787_200, width=320, context=2048)
    refiner = network(2_259_526_660, 42_469_376, once=133_693_440, width=384, context=1280)
    texts = (
        network(text_l + text_g, 6_558_720, opened=open_l + open_g),
        network(text_g, 6_558_720, opened=open_g),
    )
    return Need(texts, base, refiner, sdxl_vae(), width, height)


def sdxl_vae(itemsize: int = 4) -> Network:
    """Return what SDXL's VAE needs, stored in half precision."""
    count = 83_653_863
    return Network(count, itemsize, count * 2, copied=count if itemsize != 2 else 0, width=128)

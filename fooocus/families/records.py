"""What a model family is, in plain values: no tensors, no files, no network classes.

A checkpoint is recognised from the names and shapes of its tensors alone (:mod:`fooocus.families.detect`). The answer
is an :class:`Architecture`: for each of its networks a :class:`Blueprint` with the configuration to build the module
from and, for every parameter of that module, the :class:`Source` it is read from. ``fooocus.loading`` carries it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["unet", "vae", "text_l", "text_g"]
Prediction = Literal["eps", "v"]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter of a module comes from, and how the stored tensor is turned into the module's layout.

    ``rows`` takes a range of the first axis (query, key and value of OpenCLIP are stored as one tensor), ``transpose``
    swaps both axes of a matrix (OpenCLIP multiplies its text projection from the other side), ``flatten`` drops the
    two trailing axes of a 1x1 convolution that the module holds as a matrix. All three only change the view.
    """

    key: str
    rows: tuple[int, int] | None = None
    transpose: bool = False
    flatten: bool = False

    def view(self, stored: Tensor) -> Tensor:
        """Show a stored tensor in the module's layout, without copying."""
        if self.rows is not None:
            stored = stored[self.rows[0] : self.rows[1]]
        if self.flatten:
            stored = stored.flatten(1)
        return stored.T if self.transpose else stored

    def shape(self, stored: Shape) -> Shape:
        """Say which shape :meth:`view` gives for a stored tensor of shape ``stored``."""
        if self.rows is not None:
            stored = (self.rows[1] - self.rows[0], *stored[1:])
        if self.flatten and stored[2:] == (1, 1):
            stored = stored[:2]
        return stored[::-1] if self.transpose else stored


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """How to build one network: the arguments of its class and the source of each of its parameters."""

    kind: Kind
    config: Mapping[str, Any]
    sources: Mapping[str, Source]


@dataclasses.dataclass(frozen=True)
class Family:
    """What the networks of one family want to be told besides noisy latents, sigma and guidance.

    ``text`` are the encoders whose tokens are joined, in this order, along their width; the pooled vector always comes
    from the last of them. ``size_ids`` names the numbers that follow the pooled vector, in order (SDXL report,
    arXiv:2307.01952, section 2.2; the refiner's last is an aesthetic score).
    """

    name: Literal["sdxl_base", "sdxl_refiner"]
    title: str
    text: tuple[Kind, ...]
    size_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that was read off one checkpoint.

    ``latent_scale`` multiplies VAE latents before the UNet sees them. ``context_width`` is D of the context (B, T, D),
    ``pooled_width`` is P of the pooled text (B, P), ``size_width`` the width of the sinusoid of each size id, so that
    ``adm_width`` = P + size_width * len(family.size_ids). ``zero_terminal_snr`` tells that the file was trained on a
    schedule whose last step is pure noise.
    """

    family: Family
    blueprints: Mapping[Kind, Blueprint]
    prediction: Prediction
    zero_terminal_snr: bool
    latent_scale: float
    context_width: int
    pooled_width: int
    size_width: int
    adm_width: int

"""Latents to pixels: decode, check, round to 8 bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from fooocus.errors import BrokenPicture, RequestError, StorageError
from fooocus.loading.memory import Memory
from fooocus.memory.plan import Decoding
from fooocus.render.interrupt import interruptible
from fooocus.render.stripes import decode_in_stripes
from fooocus.request import Recipe


def decode(
    vae: nn.Module, latents: Tensor, decoding: Decoding = "whole", check: Callable[[], object] = lambda: None
) -> Image.Image:
    """Return the picture of ``latents`` (1, 4, h, w), which are already divided by the VAE's scale.

    Values are clamped to black..white and rounded to the nearest of 256 levels (the original program cuts off the
    fraction, which darkens a picture by half a level on average). Raises :class:`BrokenPicture` rather than return
    black when a value is NaN or infinite. ``decoding`` is the plan's; ``check`` is called between stripes.
    """
    if not finite(latents):
        raise BrokenPicture("The picture broke while it was sampled: its latents hold NaN or infinity.", REMEDY)
    given = latents.to(next(vae.parameters()))
    match decoding:
        case "whole":
            decoded: Tensor = vae.decode(given, return_dict=False)[0]  # type: ignore[operator]  # (1, 3, H, W), -1..1
        case "stripes":
            decoded = decode_in_stripes(vae, given, check=check)
        case _:
            decoded = decode_in_stripes(vae, given, keep=torch.device("cpu"), check=check)
    if not finite(decoded):
        raise BrokenPicture("The picture broke while it was decoded: it holds NaN or infinity.", REMEDY)
    pixels = decoded[0].float().add_(1).mul_(127.5).clamp_(0, 255).round_().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())  # (3, H, W) -> (H, W, 3)


def decode_surely(
    vae: Callable[..., AbstractContextManager[nn.Module]],
    latents: Tensor,
    memory: Memory,
    check: Callable[[], object],
    notice: Callable[[str], object],
) -> Image.Image:
    """Decode as the memory's plan says; what breaks in half precision is decoded once more in float32.

    ``vae`` brings the VAE to where it works, in the number format that it is called with.
    """
    for dtype in dict.fromkeys((memory.vae_dtype, torch.float32)):
        try:
            with vae(dtype=dtype) as module, interruptible(module, check):
                return decode(module, latents, memory.plan.decoding if memory.plan else "whole", check)
        except BrokenPicture:
            if dtype == torch.float32 or not finite(latents):
                raise
        notice(f"The picture broke while it was decoded in {str(dtype).removeprefix('torch.')}: once more in float32.")
    raise AssertionError("the last format is float32")


def check_latents(x: Tensor, recipe: Recipe, step: int) -> None:
    """Raise :class:`BrokenPicture`, naming model and LoRAs, when a step's latents are no numbers any more."""
    if finite(x):
        return
    refined = recipe.refiner is not None and recipe.switch is not None and step > recipe.switch
    model = str(recipe.refiner if refined else recipe.base)
    loras = [] if refined else [f"{use.name} at {use.weight:g}" for use in recipe.loras]
    suspects = f"{model} with {' and '.join(loras)}" if loras else model
    raise BrokenPicture(
        f"The picture broke in step {step} of {recipe.steps}: {suspects} answered with NaN or infinity.", REMEDY
    )


def finite(values: Tensor) -> bool:
    """Say whether no value is NaN or infinite; one pass, because the extremes are NaN where any value is."""
    low, high = values.aminmax()
    return bool((low.isfinite() & high.isfinite()).item())


REMEDY = "Start the program with --dtype float32; if a LoRA has a large weight, lower it."


class LatentsFile:
    """The final latents of a job's pictures for inspection: one tensor ``latent`` (N, 4, h, w), float32.

    Raises before any picture is made: :class:`RequestError` when the pictures differ in size, :class:`StorageError`
    when the file cannot be written.
    """

    def __init__(self, path: Path, recipes: Sequence[Recipe]) -> None:
        self._path = path
        self._latents: list[Tensor] = []
        if len({recipe.size for recipe in recipes}) > 1:
            raise RequestError("size", "Latents of pictures of several sizes do not fit into one file.", "Ask for one.")
        self._write(torch.empty(0, 4, recipes[0].size.height // 8, recipes[0].size.width // 8))

    def add(self, latents: Tensor) -> None:
        """Append one picture's (1, 4, h, w), already divided by the VAE's scale."""
        self._latents.append(latents.float())
        self._write(torch.cat(self._latents))

    def _write(self, latents: Tensor) -> None:
        part = self._path.with_name(self._path.name + ".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"latent": latents.contiguous()}, part)
            os.replace(part, self._path)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{self._path} cannot be written: {error}.", "Choose another --save-latents.") from error

"""Previews that show more than colours, by a small decoder that a person has put beside the models: TAESDXL.

TAESD (Ollin Boer Bohan, https://github.com/madebyollin/taesd, MIT) decodes SDXL's latents with 1.2 million parameters.
It is used on a graphics card that keeps the UNet: there it takes a few hundredths of a step's operations and finds the
room that the UNet's work has just left. On a processor it would lengthen every step, and a card that has to share is
not asked for more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from fooocus.errors import ModelError
from fooocus.loading.device import is_out_of_memory
from fooocus.loading.tensors import TensorFile
from fooocus.render.preview import LONG_SIDE_PX

FOLDER = "vae_approx"
NAME = "taesdxl"  # what the file's name holds: that of the decoder for SD 1 has the same layout and other colours
_DIFFUSERS = "decoder.layers."
_BLOCKS, _WIDTHS = (3, 3, 3, 1), (64, 64, 64, 64)


def find_small_decoder(folders: Iterable[Path]) -> Path | None:
    """Return the first file of a small decoder in ``folders``, none if there is none."""
    files = (file for folder in folders for file in sorted(folder.glob("*.safetensors")))
    return next((file for file in files if NAME in file.name.lower() and "encoder" not in file.name.lower()), None)


class SmallDecoder:
    """TAESD's decoder on ``device``. Raises :class:`~fooocus.errors.ModelError` for a file that holds none."""

    def __init__(self, file: Path, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny

        with torch.device("meta"):
            decoder = DecoderTiny(4, 3, _BLOCKS, _WIDTHS, 2, "relu", "nearest")
        try:
            with TensorFile(file) as stored:
                tensors = {name: stored.tensor(name) for name in stored.header.tensors}
                decoder.load_state_dict({name: t.clone() for name, t in _layers(tensors).items()}, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f"{file} is not TAESD's decoder for SDXL.",
                "Previews are mixed from the latents instead. Take the file away, or put the right one there.",
            ) from error
        self._decoder: nn.Module = decoder.requires_grad_(False).eval().to(device, dtype)
        self.file = file
        self.has_room = True

    @torch.no_grad()
    def picture(self, denoised: Tensor) -> Tensor | None:
        """Decode latents (1, 4, h, w) in the network's scale: (3, H, W) from -1 to 1 on the CPU, float32, 512 px on the
        longer side at most. ``None`` once the card had no room for it.
        """
        if not self.has_room:
            return None
        try:
            given = denoised.to(next(self._decoder.parameters()))  # a paused picture rests in main memory
            decoded = self._decoder(given)[0].float()  # (1, 4, h, w) -> (3, 8 h, 8 w)
            times = -(-max(decoded.shape[1:]) // LONG_SIDE_PX)
            return nn.functional.avg_pool2d(decoded, times).cpu() if times > 1 else decoded.cpu()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logging.getLogger("fooocus.render").info("no room for the small decoder: %s", error)
            self.has_room = False
            return None


def _layers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a decoder's tensors as diffusers' class does. Its own file counts the clamp in front as a layer."""
    inside = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith(_DIFFUSERS)}
    if inside:
        return inside
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        named[f"layers.{int(number) - 1}.{rest}" if number.isdecimal() else name] = tensor
    return named

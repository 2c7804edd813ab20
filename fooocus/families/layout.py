"""Reading a layout: counting numbered blocks, looking up shapes, and the settings a file may declare about itself.

Shapes do not tell everything: how wide an attention head is, how many groups a normalisation has, what VAE latents are
multiplied by, what the network predicts. SDXL's values hold unless the file's safetensors metadata declares others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from fooocus.families.records import Prediction, Shape, Shapes

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "eps",
    "eps": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "velocity": "v",
}


class LayoutError(Exception):
    """The tensors or the declarations contradict themselves. Never leaves this folder: detect names the file."""


class UnsupportedLayout(LayoutError):
    """Nothing is wrong with the file, but it is of a variant that this program does not run."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """What shapes do not tell, with SDXL's values; metadata ``fooocus.<name>`` overrides them.

    ``head_width`` is of the UNet; ``text_l_heads`` and ``text_g_heads`` are counts, 0 meaning width / 64.
    ``norm_groups`` holds for UNet and VAE, ``vae_norm_groups`` (0: the same) for the VAE alone. ``prediction`` is read
    from the published key ``modelspec.prediction_type``, or from a marker tensor that fine-tunes carry.
    """

    head_width: int = 64
    text_l_heads: int = 0
    text_g_heads: int = 0
    norm_groups: int = 32
    vae_norm_groups: int = 0
    latent_scale: float = 0.13025
    prediction: Prediction = "eps"
    zero_terminal_snr: bool = False


def read_declared(names: Iterable[str], metadata: Mapping[str, str]) -> Declared:
    """Read the declarations of a file from its metadata and marker tensors. Raises :class:`LayoutError`."""
    default = Declared()
    names = set(names)
    spelled = metadata.get("modelspec.prediction_type", "").strip().lower()
    if spelled and spelled not in _PREDICTIONS:
        raise UnsupportedLayout(f"it predicts {spelled!r}, and only epsilon and v are known")
    prediction = "v" if "v_pred" in names else _PREDICTIONS.get(spelled, default.prediction)
    whole = ("head_width", "text_l_heads", "text_g_heads", "norm_groups", "vae_norm_groups")
    values = {name: _whole(metadata, name, getattr(default, name)) for name in whole}
    return Declared(
        **values,
        latent_scale=_positive(metadata, "latent_scale", default.latent_scale),
        prediction=prediction,
        zero_terminal_snr="ztsnr" in names,
    )


def count(names: Iterable[str], prefix: str) -> int:
    """Count the numbered children of ``prefix``: one more than the highest number that follows it, 0 without any."""
    start = len(prefix) + 1
    heads = (name[start:].partition(".")[0] for name in names if name.startswith(prefix + "."))
    return max((int(head) + 1 for head in heads if head.isdecimal()), default=0)


def need(shapes: Shapes, name: str, axes: int) -> Shape:
    """Look up a shape that must be there and have ``axes`` axes. Raises :class:`LayoutError`."""
    if name not in shapes:
        raise LayoutError(f"missing: {name}")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise LayoutError(f"misshapen: {name} has shape {list(shapes[name])}, not {axes} axes")
    return shapes[name]


def divides(part: int, whole: int, what: str) -> None:
    """Raise :class:`LayoutError` unless ``part`` divides ``whole``."""
    if whole % part:
        raise LayoutError(f"its width {whole} cannot be split into {what} {part}")


def _whole(metadata: Mapping[str, str], name: str, default: int) -> int:
    text = metadata.get(f"fooocus.{name}", str(default))
    if not text.isdecimal() or int(text) < min(default, 1):
        raise LayoutError(f"its metadata declares fooocus.{name} = {text!r}, not a whole number above 0")
    return int(text)


def _positive(metadata: Mapping[str, str], name: str, default: float) -> float:
    text = metadata.get(f"fooocus.{name}", str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise LayoutError(f"its metadata declares fooocus.{name} = {text!r}, not a number above 0")
    return value

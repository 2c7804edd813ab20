"""The banner above everything: the processor draws although a graphics card is there. Said loudly, with the way out.

What torch is installed is read off its version, because importing it costs the page seconds: builds for cards that are
not PyPI's own say so behind a plus sign.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from html import escape

from fooocus.models.computer import Card, Maker

_BUILDS: dict[Maker, str] = {"nvidia": "cuda", "intel": "xpu", "amd": "rocm"}

# The heart of what a worker says, see loading/device.py; the rest are terms that a log wants and a person does not.
_UNUSED = "there is an NVIDIA card, but the installed torch cannot use it"


def torch_version() -> str:
    """Return the installed torch's version, or nothing."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def banner(cards: Sequence[Card], torch: str, device: str, system: str) -> str:
    """Return the banner as HTML, or nothing where all is as it should be or as the person wants it."""
    card = next((card for card in cards if card.maker in _BUILDS), None)
    if card is None or not torch or not torch.endswith("+cpu"):
        return ""
    if device != "auto":  # the person has chosen, or an error of its own speaks of it
        return ""
    if card.maker == "amd" and system.startswith("Windows"):
        reason = "PyTorch supports no AMD card on Windows."
        remedy = "Expect minutes for a picture; on Linux this card can be used."
    else:
        reason = "The installed torch is a build without graphics."
        remedy = f"Close the program and start it once with <code translate=no>--torch {_BUILDS[card.maker]}</code>."
    return _said(f'<span translate="no">{escape(card.name)}</span>. {reason} {remedy}')


def slow(sentence: str) -> str:
    """Return the banner for what a worker said of itself, which knows more than a version tells; or nothing."""
    if not sentence:
        return ""
    build = _BUILDS["nvidia"]
    reason = "The installed torch cannot use the NVIDIA card." if _UNUSED in sentence else sentence
    remedy = f"Update the card's driver, or start once with <code translate=no>--torch {build}</code>."
    return _said(f"{escape(reason)} {remedy}")


def _said(words: str) -> str:
    return (
        '<div class="banner" role="alert"><p><b>The processor draws, although a graphics card is there.</b> '
        f'{words}</p><button type="button" data-banner-close aria-label="Hide">×</button></div>'
    )

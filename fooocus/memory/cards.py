"""Which graphics cards are not to be used in half precision, and why; a matter of the card's name and generation."""

from __future__ import annotations

# Compute capability from which half precision is at least as fast as single on NVIDIA cards. The GTX 16 series has it
# too but returns NaN for networks of this size in half precision, which is why it is named apart.
_HALF_CAPABILITY = 7.0
_BROKEN_HALF = ("GTX 16", "T550", "T600", "MX450", "MX550")


def against_half(name: str, capability: float) -> str:
    """Say why an NVIDIA card should compute in float32; empty where half precision is right. 0.0 is unknown."""
    if 0 < capability < _HALF_CAPABILITY:
        return "this card is slow in half precision"
    if any(mark in name for mark in _BROKEN_HALF):
        return "this card is wrong in half precision"
    return ""

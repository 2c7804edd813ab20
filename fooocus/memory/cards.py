"""Which graphics cards are not to be used in half precision, and why; a matter of the card's name and generation."""

from __future__ import annotations

import re

# Compute capability from which half precision is at least as fast as single on NVIDIA cards. The GTX 16 series has it
# too but returns NaN for networks of this size in half precision, so its chips (TU116, TU117) are named apart, by all
# the names that they were sold under.
_HALF_CAPABILITY = 7.0
_BROKEN_HALF = re.compile(r"GTX 16|\b(T400|T500|T550|T600|T1000|T1200|T2000|MX450|MX550|CMP 30HX)\b")


def against_half(name: str, capability: float) -> str:
    """Say why an NVIDIA card should compute in float32; empty where half precision is right. 0.0 is unknown."""
    if 0 < capability < _HALF_CAPABILITY:
        return "this card is slow in half precision"
    if _BROKEN_HALF.search(name):
        return "this card is wrong in half precision"
    return ""

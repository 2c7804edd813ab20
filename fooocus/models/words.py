"""Sizes and times as a person reads them."""

from __future__ import annotations


def amount(size_bytes: float) -> str:
    """Write a size: "6.9 GB", "850 MB", "12 kB"; units of 1000, as hubs and disks count."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= size:
            value = size_bytes / size
            return f"{value:.1f} {unit}" if unit == "GB" or value < 10 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """Write a time: "12 s", "5 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def rate(bytes_per_second: float) -> str:
    """Write a speed: "11 MB/s"."""
    return f"{amount(bytes_per_second)}/s"

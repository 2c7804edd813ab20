"""Where pictures lie: ``outputs/<day>/<name>``, and nowhere else. A link is no picture and leads nowhere."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
PICTURE = re.compile(r"[\w-][\w.-]{0,199}\.(png|jpg|webp)", re.ASCII)
# A picture of ours is called after the time of its job, one of Fooocus 2 after day and time.
_CLOCK = re.compile(r"(?:\d{4}-\d{2}-\d{2}_)?([01]\d|2[0-3])-([0-5]\d)-([0-5]\d)(?:-(\d{3}))?_", re.ASCII)


class Place(NamedTuple):
    """Name one picture: the folder of its day and its file name."""

    day: str
    name: str

    def __str__(self) -> str:
        return f"{self.day}/{self.name}"


class Seen(NamedTuple):
    """Hold what a folder says about a file: enough to notice that it was changed."""

    mtime_ns: int
    size_bytes: int


def parse_place(text: str) -> Place | None:
    """Read ``day/name``; anything else is ``None``."""
    day, slash, name = text.partition("/")
    return Place(day, name) if slash and DAY.fullmatch(day) and PICTURE.fullmatch(name) else None


def find_picture(outputs: Path, day: str, name: str) -> Path | None:
    """Return the file of a picture that really lies in a day's folder of ``outputs``, or ``None``."""
    if not DAY.fullmatch(day) or not PICTURE.fullmatch(name):
        return None
    root = outputs.resolve()
    file = (root / day / name).resolve()
    return file if file.is_file() and file.parent == root / day else None


def days_in(outputs: Path) -> dict[str, int]:
    """Return the folders of days, each with the time of its last change (nanoseconds). Raises ``OSError``."""
    with os.scandir(outputs) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False).st_mtime_ns
            for entry in entries
            if DAY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        }


def pictures_in(outputs: Path, day: str) -> dict[str, Seen]:
    """Return the pictures of a day; a folder that has just vanished has none."""
    return dict(_pictures(outputs / day))


def _pictures(folder: Path) -> Iterator[tuple[str, Seen]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if PICTURE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    yield entry.name, Seen(stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        return


def clock_ms(name: str, mtime_ns: int) -> int:
    """Return the time of day of a picture in milliseconds: what its name says, or else when it was last changed."""
    if match := _CLOCK.match(name):
        hours, minutes, seconds, thousandths = match.groups()
        return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(thousandths or 0)
    moment = _local_time(mtime_ns)
    return ((moment[0] * 60 + moment[1]) * 60 + moment[2]) * 1000


def _local_time(mtime_ns: int) -> tuple[int, int, int]:
    try:
        moment = time.localtime(mtime_ns // 1_000_000_000)
    except (OSError, OverflowError, ValueError):  # a date that this system cannot hold
        return (0, 0, 0)
    return (moment.tm_hour, moment.tm_min, moment.tm_sec)

"""Put a finished picture on disk so that it is there whole or not at all, and never in another picture's place.

The bytes go to ``<name>.part``, are forced to the disk, and only then get their name, in a way that fails when the name
is taken. A kill or a power cut leaves at most a ``.part``, which the same picture's next attempt removes. A name that
cannot be had for a moment, because a virus scanner or a program that copies files looks into the fresh one, is asked
for again.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from pathlib import Path

from fooocus.errors import StorageError
from fooocus.renames import retried


def picture_path(folder: Path, created_ms: int, number: int, seed: int, suffix: str) -> Path:
    """Return ``folder/YYYY-MM-DD/<time>_<number>_<seed>.<suffix>`` for picture ``number`` (from 1) of a job.

    ``created_ms`` is when the job was asked for, milliseconds since 1970; it is unique per job, so that a job that is
    run again finds its own pictures by name.
    """
    moment = datetime.datetime.fromtimestamp(created_ms / 1000)
    time = f"{moment:%H-%M-%S}-{created_ms % 1000:03d}"
    return folder / f"{moment:%Y-%m-%d}" / f"{time}_{number:03d}_{seed}.{suffix}"


def save_picture(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path``, or to ``<stem>_2``, ``_3`` ... where another picture has the name.

    Returns the path used. A picture of exactly these bytes that is already there is kept and returned. Raises
    :class:`~fooocus.errors.StorageError` naming the folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        for left in path.parent.glob(f"{path.name}.*.part"):
            _drop(left)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        final = _claim(part, path, data)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"The picture could not be saved in {path.parent}: {error.strerror or error}.",
            "Free some space or choose another folder with --outputs, then generate again.",
        ) from error
    return final


def _claim(part: Path, path: Path, data: bytes) -> Path:
    """Give ``part`` the first free of the names; a name is never taken from a file that has it."""
    attempt, number = path, 1
    while not _rename_exclusive(part, attempt):
        if attempt.stat().st_size == len(data) and attempt.read_bytes() == data:
            _drop(part)
            return attempt
        number += 1
        attempt = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return attempt


def _rename_exclusive(source: Path, target: Path) -> bool:
    """Rename ``source``; return False when ``target`` exists."""
    if os.name == "nt":
        try:
            retried(lambda: os.rename(source, target))  # Windows refuses an existing target
        except FileExistsError:
            return False
        return True
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links (exFAT, some network shares): the name is claimed empty, then replaced.
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        try:
            retried(lambda: os.replace(source, target))
        except OSError:
            _drop(target)  # the empty file: the next attempt needs the name
            raise
        return True
    _drop(source)
    return True


def _drop(left: Path) -> None:
    """Remove what is not needed any more. One that is held stays: it is no reason to lose the picture."""
    with contextlib.suppress(OSError):
        left.unlink()


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

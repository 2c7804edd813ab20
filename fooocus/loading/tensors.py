"""Safetensors files: the header, checked before anything trusts it, and the tensors, mapped and not copied.

The safetensors library is not used for reading, for three reasons. Its errors ("HeaderTooLarge") help nobody: most
broken model files are web pages, half downloads and renamed pickles, and each deserves its own sentence. It touches a
page of every tensor it hands out, which takes seconds on a cold file of 7 GB. And it maps files for private writing, so
that the system must promise memory for the whole file: Windows then says "the paging file is too small", and Linux
refuses where memory and swap together are smaller than the file. Here the mapping is read-only and costs nothing.

A file that shrinks while it is mapped kills the process at the next access (SIGBUS on POSIX). Nothing in the process
can prevent that; downloads must therefore go to another name first and be renamed when complete.

Format: 8 bytes little-endian length of the header, the header as JSON, then the data without gaps
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import stat
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fooocus.errors import MissingModel, UnreadableModel

HEADER_LIMIT_BYTES = 10_000_000  # SDXL's is 0.4 MB; a larger claim is damage or an attack
_LENGTH_BYTES = 8
_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_AGAIN = "Delete it and download it again from its page, as a .safetensors file."
_NO_PICKLE = "Get the same model as a .safetensors file; most model pages offer both."


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What the header says about one tensor: ``dtype`` as the format spells it (F16), ``offset`` in the file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype as torch knows it."""
        return _DTYPES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Header:
    """All tensors of a file by name, and the free texts its maker left."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, all that a family is recognised by."""
        return {name: info.shape for name, info in self.tensors.items()}


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no weights are read.

    Raises :class:`fooocus.errors.MissingModel` if there is no such file and :class:`fooocus.errors.UnreadableModel`,
    with a sentence for each case, if it is anything else than a complete safetensors file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _folder(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableModel(f"{path.name} is a device or a pipe, not a file.", "Choose a .safetensors file.")
        if path.suffix.lower() in _PICKLE_SUFFIXES:
            raise _pickle(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(512)
            _refuse_foreign(path, start, size)
            length = int.from_bytes(start[:_LENGTH_BYTES], "little")
            file.seek(_LENGTH_BYTES)
            text = file.read(length)
    except FileNotFoundError as error:
        raise MissingModel(f"There is no file {path}.", "Check the name, or download the model first.") from error
    except PermissionError as error:
        raise UnreadableModel(
            f"{path.name} may not be read: the system denies access.",
            "Change the permissions of the file or its folder.",
        ) from error
    except OSError as error:
        raise UnreadableModel(
            f"{path.name} cannot be read: {error.strerror or error}.", "Check the disk, or copy the file again."
        ) from error
    if len(text) < length:
        raise UnreadableModel(f"{path.name} breaks off inside its header after {_amount(size)}.", _AGAIN)
    return _parse(path, text, size)


class TensorFile:
    """An open safetensors file: its checked header and its tensors by name, mapped into memory.

    Several may map one file at the same time. While it is open, Windows does not let the file be replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        try:
            self._bytes = _map(path)
        except (OSError, ValueError) as error:  # ValueError: it became empty meanwhile
            raise UnreadableModel(f"{path.name} cannot be mapped into memory: {error}.", "Try again.") from error
        if len(self._bytes) < max((info.offset + info.nbytes for info in self.header.tensors.values()), default=0):
            raise UnreadableModel(f"{path.name} changed while it was opened.", "Wait for its download to finish.")

    def tensor(self, name: str) -> Tensor:
        """Return a stored tensor as it is in the file, as a view of the mapping.

        The memory is read-only, and PyTorch does not know: writing into the tensor kills the process.
        """
        info = self.header.tensors[name]
        stored = self._bytes[info.offset : info.offset + info.nbytes]
        dtype = _DTYPES[info.dtype]
        if info.offset % dtype.itemsize:  # writers before 2023 did not align the data
            stored = stored.clone()
        return stored.view(dtype).view(info.shape)

    def close(self) -> None:
        """Let go of the file. Tensors handed out before keep it mapped for as long as they live."""
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _map(path: Path) -> Tensor:
    """Map a file into memory, read-only, as a tensor of bytes; the tensor keeps the mapping alive."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.uint8)


def _refuse_foreign(path: Path, start: bytes, size: int) -> None:
    """Raise if the first bytes are not those of a safetensors file, saying what they are instead."""
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if 2 <= length <= HEADER_LIMIT_BYTES and start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        return  # tested first: a small header's length bytes can look like a pickle's
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        raise UnreadableModel(f"{path.name} is empty.", _AGAIN)
    if text.startswith(b"version https://git-lfs"):
        raise UnreadableModel(
            f"{path.name} is a git-lfs pointer, a few lines of text that stand for the model.",
            "Run `git lfs pull` in that folder, or download the file itself from its page.",
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise UnreadableModel(
            f"{path.name} is a web page that was saved under a model's name.",
            "The download needs a login or the link was wrong. " + _AGAIN,
        )
    if text.startswith((b"{", b"[")):
        raise UnreadableModel(f"{path.name} is a text, probably a server's answer saved under a model's name.", _AGAIN)
    if start.startswith(b"GGUF"):
        raise UnreadableModel(f"{path.name} is a GGUF file, which this program does not open.", _NO_PICKLE)
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        raise _pickle(path)
    if not start.strip(b"\0"):
        raise UnreadableModel(f"{path.name} holds only zeros: its download never arrived.", _AGAIN)
    if size < _LENGTH_BYTES + 2 or 2 <= length <= min(HEADER_LIMIT_BYTES, _LENGTH_BYTES):
        raise UnreadableModel(f"{path.name} is only {_amount(size)} long, too short for a model.", _AGAIN)
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        raise UnreadableModel(
            f"{path.name} claims a header of {_amount(length)}; at most {_amount(HEADER_LIMIT_BYTES)} is believed.",
            _AGAIN,
        )
    raise UnreadableModel(f"{path.name} is not a safetensors file.", _AGAIN)


def _parse(path: Path, text: bytes, size: int) -> Header:
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
        tensors: dict[str, TensorInfo] = {}
        for name, entry in entries.items():
            tensors[name] = _tensor_info(entry, data_start=len(text) + _LENGTH_BYTES)
        end = _data_end(tensors.values(), data_start=len(text) + _LENGTH_BYTES)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UnreadableModel(f"{path.name} has a damaged header ({reason[:80]}).", _AGAIN) from error
    if size < end:
        raise UnreadableModel(
            f"{path.name} is cut off: {_amount(size, end)} are there.", "The download or copy did not finish. " + _AGAIN
        )
    if size > end:
        raise UnreadableModel(f"{path.name} goes on for {_amount(size - end)} after its last tensor.", _AGAIN)
    return Header(tensors, metadata)


def _tensor_info(entry: dict[str, Any], *, data_start: int) -> TensorInfo:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES:
        raise ValueError(f"number format {dtype!s} is not known")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("sizes must be whole numbers")
    if end - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError("shape and size of a tensor disagree")
    return TensorInfo(dtype, tuple(shape), end - start, data_start + start)


def _data_end(tensors: Iterable[TensorInfo], *, data_start: int) -> int:
    reached = data_start
    for info in sorted(tensors, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != reached:
            raise ValueError("tensors overlap or leave a gap")
        reached += info.nbytes
    return reached


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is used twice")
    return found


def _folder(path: Path) -> UnreadableModel:
    if (path / "model_index.json").exists() or (path / "unet").is_dir():
        return UnreadableModel(
            f"{path.name} is a folder in the diffusers layout.",
            "Get the same model as a single .safetensors file in the original layout.",
        )
    return UnreadableModel(f"{path.name} is a folder, not a model file.", "Choose a .safetensors file in it.")


def _pickle(path: Path) -> UnreadableModel:
    return UnreadableModel(f"{path.name} is a pickle file, and opening one can run any code that is in it.", _NO_PICKLE)


def _amount(bytes_: int, of: int | None = None) -> str:
    """Write a size for a person: "6.9 GB", or with ``of`` "3.1 of 6.9 GB"."""
    largest = bytes_ if of is None else of
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if largest >= size:
            return f"{bytes_ / size:.1f} {unit}" if of is None else f"{bytes_ / size:.1f} of {of / size:.1f} {unit}"
    return f"{bytes_} bytes" if of is None else f"{bytes_} of {of} bytes"

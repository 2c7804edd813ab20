"""Safetensors files: their tensors, mapped and not copied; the header is read and checked by `fooocus.models.header`.

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

import mmap
import warnings
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fooocus.errors import UnreadableModel
from fooocus.models.header import TensorInfo, read_header

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


def torch_dtype(info: TensorInfo) -> torch.dtype:
    """Return the dtype of a stored tensor as torch knows it."""
    return _DTYPES[info.dtype]


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


def carried(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of a mapped file on a device, in its own number format or in ``dtype``.

    Intel's drivers cannot read mapped pages everywhere: told not to block, torch copies them into pinned memory first.
    Apple's graphics know no numbers of one byte: those come in ``dtype``, or in float32.
    """
    if device.type == "mps" and tensor.dtype.itemsize < 2:
        tensor = tensor.to(dtype or torch.float32)
    return tensor.to(device, dtype or tensor.dtype, non_blocking=device.type == "xpu")


def _map(path: Path) -> Tensor:
    """Map a file into memory, read-only, as a tensor of bytes; the tensor keeps the mapping alive."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.uint8)

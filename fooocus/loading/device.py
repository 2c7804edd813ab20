"""What to compute on and in which number format, chosen once, with the reason as text."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import psutil
import torch
from torch import nn

from fooocus.errors import ConfigError, DeviceOutOfMemory
from fooocus.loading.lanes import CudaLane, Lane, PlainLane
from fooocus.memory.cards import against_half
from fooocus.memory.plan import MAIN_SPARE_BYTES

# Capabilities of NVIDIA's cards for data centres (A100, H100 and H200, B200 and B300): there bfloat16 is as fast as
# float16. GeForce cards of the same generations have other numbers and keep float16, which they can also accumulate in.
_DATA_CENTRE = ((8, 0), (9, 0), (10, 0), (10, 3))

# Left free on a card that shares main memory, and the least that torch may have of one.
_CLEAR_BYTES, _LEAST_SHARE = 150 * 2**20, 0.1
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ROUNDED_MIB = 1  # up to here pinned memory is rounded up and kept for later: pixels and latents come again and again


@dataclasses.dataclass(frozen=True)
class Device:
    """Where networks run. ``dtype`` is theirs; the VAE decodes in float32 in any case."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def apart(self) -> bool:
        """Say whether networks have to be copied to the device before they can be used."""
        return self.device.type != "cpu"

    @property
    def common(self) -> bool:
        """Say whether the device's memory is main memory."""
        return self.device.type == "mps"

    @property
    def decodes_whole(self) -> bool:
        """Say whether a VAE may decode in one piece there.

        torch has attention with a head as wide as a VAE's only as a matrix of every place with every other on Apple's
        and Intel's graphics: a gigabyte at 1152x896, and beyond two megapixels more than Metal can address.
        """
        return self.device.type not in ("mps", "xpu")

    def keep_clear(self) -> None:
        """Have torch run out of memory where the system would go on in main memory, many times slower.

        That is what Windows does, and what Metal does beyond the memory it recommends, up to a picture that is wrong.
        """
        if self.device.type == "mps":
            torch.mps.set_per_process_memory_fraction(1.0)  # of what is recommended; torch's own limit is 1.7
        elif self.device.type == "cuda" and _spills():
            free, whole = torch.cuda.mem_get_info(self.device)
            most = torch.cuda.memory_reserved(self.device) + free - _CLEAR_BYTES
            torch.cuda.set_per_process_memory_fraction(min(1.0, max(_LEAST_SHARE, most / whole)), self.device)

    def free_bytes(self) -> int | None:
        """Return the memory that can be had on a graphics card; ``None`` where nobody can tell.

        What torch holds for later use counts as free.
        """
        if self.device.type == "cuda":
            held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + held
        if self.device.type == "xpu":
            reserved = torch.xpu.memory_reserved(self.device)
            return _intel_free(self.device, reserved) + reserved - torch.xpu.memory_allocated(self.device)
        if self.device.type == "mps":
            # Memory is common; the driver recommends how much of it may be used for graphics, and others use it too.
            used = torch.mps.current_allocated_memory()
            held = torch.mps.driver_allocated_memory() - used
            common = psutil.virtual_memory().available + held - MAIN_SPARE_BYTES
            return max(0, min(torch.mps.recommended_max_memory() - used, common))
        return None

    def total_bytes(self) -> int:
        """Return the size of the graphics card's memory; 0 where nobody can tell."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[1]
        if self.device.type == "xpu":
            return int(torch.xpu.get_device_properties(self.device).total_memory)
        return torch.mps.recommended_max_memory() if self.device.type == "mps" else 0

    def lane(self) -> Lane:
        """Return a way for weights to travel to the device while it works."""
        if self.device.type != "cuda":
            return PlainLane(self.device)
        _pin_no_more_than_asked()
        return CudaLane(self.device)

    def take(self, module: nn.Module) -> None:
        """Copy a network to the device. Raises torch's own out-of-memory error; then part of it may be there."""
        module.to(self.device, non_blocking=self.device.type == "xpu")  # as in tensors.carried
        if self.device.type == "xpu":
            self.release_main()  # what it went through on its way

    def release_main(self) -> None:
        """Give back the main memory that torch keeps pinned for later use; nobody else can have it as long."""
        if self.device.type in ("cuda", "xpu"):
            torch.accelerator.empty_host_cache()

    def release(self) -> None:
        """Give the memory that torch holds for later use back to the card."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "xpu":
            torch.xpu.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def _spills() -> bool:
    """Say whether a full card goes on in main memory: Windows' drivers do that, also under its Linux."""
    return sys.platform == "win32" or "microsoft" in platform.release().lower()


def _intel_free(device: torch.device, reserved: int) -> int:
    """Return what is free on one of Intel's cards; some drivers cannot tell, or tell what was free at first."""
    unreserved = int(torch.xpu.get_device_properties(device).total_memory) - reserved
    try:
        return min(torch.xpu.mem_get_info(device)[0], unreserved)
    except RuntimeError:
        return unreserved


_FULL = (
    "out of memory",
    # The processor's allocator speaks of itself, in one way on Linux and in another on Windows.
    "can't allocate memory",
    "not enough memory",
    # cuBLAS and cuDNN ask for workspace of their own, and cuBLAS does when it begins; with Intel the driver speaks.
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine",  # cuDNN tries one after the other, and says no more of those that found no room
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "OUT_OF_DEVICE_MEMORY",
    "OUT_OF_HOST_MEMORY",
    "OUT_OF_RESOURCES",
    "Fail to allocate host memory",
    # Metal's words for too large a buffer, and for work that found no room.
    "Invalid buffer size",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
)
_LOST = "DEVICE_LOST"  # what follows is no lack of memory, whatever it is called


def _pin_no_more_than_asked() -> None:
    """Let torch pin exactly the main memory that is asked for, and not keep it when it is freed.

    It rounds up to powers of two otherwise, so that a parcel of 20 MiB takes 32: two fifths more for SDXL's refiner.
    Only through a private name can it be told once it is imported; without it the memory is merely larger.
    """
    tell = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if tell is None or any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return  # the person has settings of their own
    try:
        tell(f"pinned_max_cached_size_mb:{_ROUNDED_MIB}")
    except (RuntimeError, ValueError) as error:
        logging.getLogger("fooocus.loading").info("pinned memory stays rounded: %s", error)


def is_out_of_memory(error: Exception) -> bool:
    """Tell a full device, or full main memory, from other faults; Metal has no error class of its own for it."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, DeviceOutOfMemory | MemoryError)
    said = str(error)
    return _LOST not in said and (isinstance(error, torch.OutOfMemoryError) or any(text in said for text in _FULL))


def choose_device(device: str = "auto", dtype: str = "auto", *, short_numbers: bool = True) -> Device:
    """Return the device to use. ``device`` is "auto" or a torch device name, ``dtype`` "auto" or a torch dtype name.

    Without ``short_numbers`` "auto" means float32.

    Raises :class:`~fooocus.errors.ConfigError` when a device is asked for that this computer or this torch lacks.
    """
    chosen, reason = _best_device() if device == "auto" else (_named_device(device), "as asked")
    if dtype != "auto":
        best, why = getattr(torch, dtype), "as asked"
    else:
        best, why = _best_dtype(chosen) if short_numbers else (torch.float32, "nothing is done for speed")
    return Device(chosen, best, f"{_title(chosen)} ({reason}), {str(best).removeprefix('torch.')} ({why})")


def _best_device() -> tuple[torch.device, str]:
    refusals = []
    for number, (card, title) in enumerate(_cards()):
        # Of several the first may be the small graphics within a processor.
        refusals.append(_refusal(card))
        if not refusals[-1]:
            return card, title if number == 0 else f"the first that works: {refusals[0]}"
    if refusals:
        return torch.device("cpu"), f"there is a graphics card, but the installed torch cannot use it: {refusals[0]}"
    if os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi"):
        return torch.device("cpu"), "there is an NVIDIA card, but the installed torch cannot use it: see FOOOCUS_TORCH"
    return torch.device("cpu"), "no graphics card was found"


def _cards() -> Iterator[tuple[torch.device, str]]:
    """Yield what torch can see, each with its title, NVIDIA's and AMD's before others."""
    if torch.cuda.is_available():
        for number in range(max(1, torch.cuda.device_count())):
            yield torch.device("cuda", number), "the first graphics card"
    if torch.backends.mps.is_available():
        yield torch.device("mps", 0), "Apple graphics"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        for number in range(max(1, torch.xpu.device_count())):
            yield torch.device("xpu", number), "the first Intel graphics card"


def _refusal(device: torch.device) -> str:
    """Say why a card that is there cannot compute: torch may be built for newer ones, or for others; "" if it can."""
    try:
        torch.ones(2, 2, device=device).mm(torch.ones(2, 2, device=device)).sum().item()
    except RuntimeError as error:
        return "" if is_out_of_memory(error) else (str(error).strip().splitlines() or ["no reason was given"])[0]
    return ""


def _named_device(name: str) -> torch.device:
    try:
        # Of several cards this names the one that is meant, as its tensors do.
        device = torch.empty(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise ConfigError([f"device {name!r} cannot be used here: {lines[0]}"]) from error
    if why := _refusal(device):
        raise ConfigError([f"device {name!r} cannot be used here: {why}"])
    return device


def _best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cpu":
        if unit := _bfloat16_unit():
            return torch.bfloat16, f"fast on this processor, which has {unit}"
        return torch.float32, "exact on a processor"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        # AMD's cards have numbers of another kind here, and some are the same.
        if torch.version.hip is None and (properties.major, properties.minor) in _DATA_CENTRE:
            return torch.bfloat16, "half the memory, and never overflows"
        if why := against_half(properties.name, properties.major + properties.minor / 10):
            return torch.float32, why
    if device.type == "xpu" and not _halves_well(device):
        return torch.float32, "its half precision is wrong with this driver"
    return torch.float16, "half the memory"


def _halves_well(device: torch.device) -> bool:
    """Say whether a product in half precision is about that in float32; some drivers of Intel's cards give zeros.

    As large as a layer of the networks, in which the fault was seen (torch-xpu-ops, issue 5220).
    """
    seeded = torch.Generator().manual_seed(0)
    one, other = torch.randn(64, 1280, generator=seeded), torch.randn(1280, 1280, generator=seeded) / 36
    try:
        found = (one.to(device, torch.float16) @ other.to(device, torch.float16)).cpu().float()
    except RuntimeError:
        return False
    return bool((found - one @ other).norm() < 0.02 * found.norm())


def _bfloat16_unit() -> str:
    """Name what a processor multiplies bfloat16 with; "" where it has nothing for it and float32 is twice as fast.

    Told by its flags alone, so that the same computer always makes the same picture.
    """
    for unit, flag in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
        if getattr(torch.cpu, flag, lambda: False)():
            return unit
    return ""


def _title(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return {"cpu": "processor", "mps": "Apple graphics"}.get(device.type, device.type)

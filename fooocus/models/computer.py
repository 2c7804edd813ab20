"""What this computer is: processor, memory, graphics cards, disk, found out without torch in a fraction of a second."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fooocus.models.partfile import Disk

Maker = Literal["nvidia", "amd", "intel", "apple"]
Ask = Callable[[list[str]], str]
_NVIDIA_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
_VENDORS: dict[str, Maker] = {"0x1002": "amd", "0x8086": "intel"}
_MAKERS: dict[str, Maker] = {"NVIDIA": "nvidia", "Radeon": "amd", "Arc": "intel"}  # by Windows' names
_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"


@dataclasses.dataclass(frozen=True)
class Card:
    """A graphics card. ``memory_bytes`` is 0 where unknown; ``capability`` is NVIDIA's, 0.0 for others."""

    maker: Maker
    name: str
    memory_bytes: int
    capability: float = 0.0


@dataclasses.dataclass(frozen=True)
class Computer:
    """This computer. ``cores`` counts physical ones where known; ``features`` are the processor's flags in Linux."""

    system: str
    processor: str
    cores: int
    features: frozenset[str]
    memory_bytes: int
    cards: tuple[Card, ...]
    models: Path
    disk_free_bytes: int


def run_command(command: list[str]) -> str:
    """Return what a short command printed, "" where it is absent, fails or hangs."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def look(models: Path, root: Path = Path("/"), system: str = sys.platform, ask: Ask = run_command) -> Computer:
    """Find out what this computer is. ``root`` is where a system of Linux keeps its device files."""
    cpu = _read(root / "proc/cpuinfo") if system == "linux" else ""
    name = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpu, re.MULTILINE)
    return Computer(
        system=f"{platform.system()} {platform.release()}",
        processor=name[1].strip() if name else platform.processor() or platform.machine(),
        cores=_cores(cpu),
        features=frozenset(flags[1].split()) if flags else frozenset(),
        memory_bytes=_memory(root, system),
        cards=tuple(_cards(root, system, ask)),
        models=models,
        disk_free_bytes=Disk().free_bytes(models),
    )


def _cores(cpuinfo: str) -> int:
    """Count the physical cores, or half the logical ones where that is not told, but never more than may be used."""
    physical = set(re.findall(r"^physical id\s*:\s*(\d+)[\s\S]*?^core id\s*:\s*(\d+)", cpuinfo, re.MULTILINE))
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return max(1, min(len(physical) or (logical + 1) // 2, usable))


def _memory(root: Path, system: str) -> int:
    """Return the main memory in bytes, or the container's share of it; 0 where unknown."""
    if system == "win32" or sys.platform == "win32":
        return _windows_memory()
    if system == "linux":
        told = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
        total = int(told[1]) * 1024 if told else 0
        limit = _read(root / "sys/fs/cgroup/memory.max").strip()
        return min(total, int(limit)) if limit.isdigit() else total
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _windows_memory() -> int:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API; the fields after the total are not needed but take room."""

        _fields_ = (("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("values", ctypes.c_ulonglong * 7))

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll", None)
    found = kernel is not None and kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.values[0]) if found else 0


def _cards(root: Path, system: str, ask: Ask) -> list[Card]:
    """Return the cards that could compute, the ones this program prefers first."""
    cards = _nvidia(ask)
    if system == "darwin" and platform.machine() == "arm64":
        memory = _memory(root, system)
        return [Card("apple", ask(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple graphics", memory)]
    if system == "linux":
        cards += _linux_cards(root)
    if system == "win32" and not cards:
        cards += _windows_cards()
    return cards


def _nvidia(ask: Ask) -> list[Card]:
    rows = re.findall(r"^(.+), (\d+), (\d+\.\d+)\s*$", ask(_NVIDIA_QUERY), re.MULTILINE)
    return [Card("nvidia", name, int(mib) << 20, float(capability)) for name, mib, capability in rows]


def _linux_cards(root: Path) -> list[Card]:
    cards = []
    for device in sorted(root.glob("sys/class/drm/card*/device")):
        vendor = _read(device / "vendor").strip()
        memory = _read(device / "mem_info_vram_total").strip()
        # Of Intel's, what the launcher takes for a card: older graphics within processors sit on PCI bus 0.
        apart = (device / "driver").resolve().name == "xe" or not device.resolve().name.startswith("0000:00:")
        if vendor in _VENDORS and (vendor == "0x1002" or apart):
            name = _read(device / "product_name").strip() or f"{_VENDORS[vendor].upper()} graphics"
            cards.append(Card(_VENDORS[vendor], name, int(memory) if memory.isdigit() else 0))
    return cards


def _windows_cards() -> list[Card]:
    """Read the registry, which knows the memory of cards that have no tool of their own."""
    cards: list[Card] = []
    if sys.platform == "win32":
        import winreg

        for number in range(16):
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{_ADAPTERS}\{number:04}") as key:
                    name = str(winreg.QueryValueEx(key, "DriverDesc")[0])
                    memory = int(winreg.QueryValueEx(key, "HardwareInformation.qwMemorySize")[0])
            except (OSError, ValueError, TypeError):
                continue  # numbers may have gaps, and adapters that only show a picture tell no memory
            maker = next((maker for mark, maker in _MAKERS.items() if mark in name), None)
            if maker is not None:
                cards.append(Card(maker, name, memory))
    return cards


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

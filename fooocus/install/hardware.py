"""Choose which of PyTorch's builds fits this machine, and say why in words.

`choose_build` looks at files only and is asked at every start. What takes longer, asking the driver for its version and
the index whether it answers, waits until torch is really installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fooocus.errors import ConfigError

TORCH_INDEX = "https://download.pytorch.org/whl/"
# What PyTorch 2.13 is built for, says its RELEASE.md; of CUDA 12.6, 13.0 and 13.2 it calls 13.0 the stable one.
TORCH_FOLDERS = {"cuda": "cu130", "cu126": "cu126", "rocm": "rocm7.2", "xpu": "xpu", "cpu": "cpu", "default": ""}
CUDA_13_DRIVER = 580  # first driver branch that runs CUDA 13 (NVIDIA's compatibility table)
CUDA_13_CAPABILITY = 7.5  # Turing; older cards are only in the CUDA 12.6 build (PyTorch's CUDA support matrix)
CUDA_12_LAST_CAPABILITY = 9.0  # Hopper; newer cards are not in the CUDA 12.6 build (the same matrix)
# What its ROCm 7.2 build is made for (.ci/docker/manywheel/build.sh in its sources): not the small graphics within most
# processors, nor most cards between the large ones.
ROCM_CARDS = re.compile(r"gfx(90[068a]|942|950|1030|110[0-3]|115[01]|120[01])")
DISPLAY_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"  # Windows' registry
ROCM_OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"  # ROCm's own variable: take a card for another one
PROBE_SECONDS = 5.0

Ask = Callable[[list[str]], str]  # a command -> what it printed, "" where it failed


class Build(NamedTuple):
    """Which torch to install and why; `asked` repeats the name where a person chose it."""

    name: str
    why: str
    asked: str = ""


def choose_build(asked: str, installed: str = "", root: Path = Path("/"), system: str = sys.platform) -> Build:
    """Choose the torch build for this machine.

    `asked` is what the person wants, "" or "auto" to detect; `installed` is the build that is there, "" for none.
    Raise ConfigError where there is no such build.
    """
    if asked not in ("", "auto"):
        if asked not in TORCH_FOLDERS:
            raise ConfigError([f"there is no torch build {asked!r}, only auto, {', '.join(TORCH_FOLDERS)}."])
        return Build(asked, "it was asked for", asked)
    if system == "darwin":
        return Build("default", "on macOS the ordinary package supports Apple's Metal")
    found = windows_build() if system == "win32" else linux_build(root)
    # Every build also computes on the CPU: a card unplugged or a driver in mid-update is no reason to replace it.
    return Build(installed, "it is there already") if found.name == "cpu" and installed else found


def linux_build(root: Path) -> Build:
    """Choose by the device files below `root`."""
    nvidia = root / "proc/driver/nvidia/gpus"  # one entry for each card; absent under WSL, which brings its own tool
    if (nvidia.is_dir() and any(nvidia.iterdir())) or (root / "usr/lib/wsl/lib/nvidia-smi").exists():
        return Build("cuda", "an NVIDIA card was found")
    amd = amd_cards(root)
    if (root / "dev/kfd").exists() and (
        not amd or any(map(ROCM_CARDS.fullmatch, amd)) or os.environ.get(ROCM_OVERRIDE)
    ):
        return Build("rocm", f"an AMD card was found ({', '.join(amd) or '/dev/kfd'})")
    for device in sorted(root.glob("sys/class/drm/card*/device")):
        vendor = device / "vendor"
        if not vendor.is_file() or vendor.read_text(encoding="ascii").strip() != "0x8086":
            continue
        # Older integrated graphics sit on PCI bus 0 and have no XPU support; the `xe` driver marks the newer ones.
        if (device / "driver").resolve().name == "xe" or not device.resolve().name.startswith("0000:00:"):
            return Build("xpu", "an Intel card was found")
    if amd:
        related = any(card.startswith("gfx103") for card in amd)
        hint = f", unless {ROCM_OVERRIDE}=10.3.0 makes it take gfx1030's" if related else ""
        return Build("cpu", f"PyTorch has nothing for the AMD graphics that were found ({', '.join(amd)}){hint}")
    return Build("cpu", "no card that PyTorch supports was found")


def amd_cards(root: Path) -> list[str]:
    """Return AMD's graphics as ROCm names them, such as gfx1100; none where the kernel is too old to say."""
    names = []
    for file in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue  # not everybody may read it
        found = re.search(r"^gfx_target_version (\d+)$", text, re.MULTILINE)
        if found and (number := int(found[1])):  # processors have 0
            names.append(f"gfx{number // 10000}{number // 100 % 100}{number % 100:x}")
    return names


def windows_build() -> Build:
    """Choose by NVIDIA's driver library and the names of the display adapters."""
    names = ", ".join(windows_cards())
    if "NVIDIA" in names or Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists():
        return Build("cuda", f"an NVIDIA card or driver was found ({names})")
    if "Arc" in names:
        return Build("xpu", f"an Intel Arc card was found ({names})")
    if "Radeon" in names:
        return Build("cpu", f"PyTorch publishes no build for AMD cards on Windows ({names})")
    return Build("cpu", "no card that PyTorch supports was found")


def windows_cards() -> list[str]:
    """Return the names of the display adapters as the registry has them."""
    names: list[str] = []
    if sys.platform == "win32":
        import winreg

        for number in range(16):
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{DISPLAY_ADAPTERS}\{number:04}") as key:
                    names.append(str(winreg.QueryValueEx(key, "DriverDesc")[0]))
            except OSError:
                continue  # the numbers may have gaps
    return names


def ask(command: list[str]) -> str:
    """Run a short command and return what it printed, "" where it is absent, fails or hangs."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def torch_folder(name: str, ask: Ask = ask) -> tuple[str, str]:
    """Return the folder of PyTorch's index for build `name`, and a remark for the person ("" where there is none).

    NVIDIA cards or drivers too old for CUDA 13 get the CUDA 12.6 build.
    """
    if name != "cuda":
        return TORCH_FOLDERS[name], ""
    answer = ask(["nvidia-smi", "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"])
    rows = re.findall(r"^(\d+\.\d+), (\d+)\.", answer, re.MULTILINE)  # one for each card, such as "8.6, 581.57"
    if not rows:
        return TORCH_FOLDERS["cuda"], ""  # no tool or an odd answer: take the stable build
    capability, driver = max((float(capability), int(driver)) for capability, driver in rows)
    if driver < CUDA_13_DRIVER and capability > CUDA_12_LAST_CAPABILITY:
        return TORCH_FOLDERS["cuda"], "This card needs a newer driver: https://www.nvidia.com/drivers"
    if driver < CUDA_13_DRIVER or capability < CUDA_13_CAPABILITY:
        return TORCH_FOLDERS["cu126"], f"The card (capability {capability}) or its driver ({driver}) needs CUDA 12.6."
    return TORCH_FOLDERS["cuda"], ""


def answers(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Tell whether a server answers at `url` within `seconds`, name resolution included."""
    import ssl
    import urllib.request  # both take longer to import than an ordinary start may last

    found: list[bool] = []

    def probe() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                found.append(True)
        except (OSError, ValueError) as error:
            # A certificate this Python does not know is still an answer: pip may have been told to trust it.
            found.append(isinstance(getattr(error, "reason", None), ssl.SSLError))

    thread = threading.Thread(target=probe, daemon=True)  # urlopen's own limit does not cover name resolution
    thread.start()
    thread.join(seconds + 1)
    return bool(found) and found[0]

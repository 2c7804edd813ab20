"""What goes wrong on computers with Windows, found out before gigabytes are fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from fooocus.install.troubles import InstallError, Place, explained

# Windows opens no longer names of files and makes none of folders unless its registry says so. The longest of all
# packages are licences of torch 2.13 for CUDA, below .venv\Lib\site-packages.
_LONGEST_FILE, _LONGEST_FOLDER = 259, 247
_FILE_INSIDE, _FOLDER_INSIDE = (len("\\.venv\\Lib\\site-packages\\") + letters for letters in (173, 162))
_RUNTIME = "https://aka.ms/vs/17/release/vc_redist.x64.exe"


def check(place: Place, say: Callable[[str], None]) -> None:
    """Raise InstallError for what would end the installation in its middle, or the program at its start."""
    if sys.platform == "win32":
        refuse(place, long_names=_long_names(), runtime=_has_runtime())
        if remark := cloud_remark(place.folder, os.environ):
            say(remark)


def refuse(place: Place, *, long_names: bool, runtime: bool) -> None:
    """Raise InstallError where names would get too long or Microsoft's runtime library is missing."""
    most = min(_LONGEST_FILE - _FILE_INSIDE, _LONGEST_FOLDER - _FOLDER_INSIDE)
    if not long_names and len(str(place.folder)) > most:
        raise explained("file name too long", place)
    if not runtime:
        raise InstallError(
            "Microsoft's Visual C++ runtime is missing, which PyTorch needs.",
            f"Install {_RUNTIME} and start again.",
        )


def cloud_remark(folder: Path, environment: Mapping[str, str]) -> str:
    """Return what to say of a folder that is copied to Microsoft's cloud; "" for others."""
    for name in ("OneDrive", "OneDriveConsumer", "OneDriveCommercial"):
        root = environment.get(name)
        if root and folder.is_relative_to(root):
            return (
                "This folder lies in OneDrive, which will copy everything here to the cloud, 15 GB and more with the "
                "models. Better close this window and move it to a folder such as C:\\Fooocus."
            )
    return ""


def steady_console() -> None:
    """Keep a click into the window from holding the program: marking text stops whoever writes there.

    That is the classic console's QuickEdit; text can still be marked by the window's menu.
    """
    if sys.platform == "win32":
        import ctypes

        kernel, mode = ctypes.windll.kernel32, ctypes.c_uint()
        console = kernel.GetStdHandle(-10)  # standard input
        if kernel.GetConsoleMode(console, ctypes.byref(mode)):
            kernel.SetConsoleMode(console, (mode.value & ~0x40) | 0x80)  # no quick edit; extended flags are meant


def _long_names() -> bool:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
                return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
        except OSError:
            return False
    return True


def _has_runtime() -> bool:
    if sys.platform == "win32":
        import ctypes

        try:
            ctypes.CDLL("msvcp140.dll")
        except OSError:
            return False
    return True

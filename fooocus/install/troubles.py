"""Where the installation keeps things, and what can go wrong with it: each trouble has a sentence and a remedy."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from fooocus.errors import FooocusError

SMALLEST_GB = 3  # the CPU installation takes 1.2 GB, and its packages lie beside it while they are unpacked


class InstallError(FooocusError):
    """The installation cannot go on until the person does something."""


class Place:
    """Name every file the installation reads or writes; all of them lie in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.python = self.venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        self.state = self.venv / "launch.json"
        self.cache = folder / ".cache"
        self.lock = self.cache / "launch.lock"
        self.log = self.cache / "install.log"
        self.temporary = self.cache / "pip"
        self.packages = folder / "requirements.txt"
        self.security = folder / "requirements-security.txt"
        self.test_tools = folder / "tests" / "requirements.txt"

    def sites(self) -> list[Path]:
        """Return the folders that packages are installed in: one, or none yet."""
        return [*self.venv.glob("lib/python3*/site-packages"), *self.venv.glob("Lib/site-packages")]


def python_tag() -> str:
    """Name the running Python as far as packages depend on it, such as `cpython-3.11-x86_64`."""
    return f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}-{platform.machine().lower()}"


# Signs in pip's output or in an error's text; then the sentence; then the remedy. The first row that fits is taken.
TROUBLES = (
    ("no space left|errno 28|winerror 112|not enough space|disk quota",
     "The disk is full.",
     "Free {need} GB at least (about 10 GB for an NVIDIA card) and start again: it goes on from here."),
    ("ensurepip is not|no module named ensurepip|no module named venv|python3-venv",
     "This Python cannot make environments: its venv module is missing.",
     "On Debian or Ubuntu: sudo apt install python{version}-venv. Elsewhere take Python from https://www.python.org/downloads/"),
    ("operation not permitted: 'lib'",
     "The folder {folder} lies on a disk that knows no links, which Python's environments need.",
     "Move it to a disk that is formatted for Linux, for instance below your home folder, and start again."),
    ("read-only file system|permission denied|access is denied|errno 13|errno 30|winerror 5]",
     "The folder {folder} cannot be written to.",
     "Move it to a folder of your own, for instance below your home folder, and start again."),
    ("long path|filename or extension is too long|file name too long|winerror 206",
     "The folder's name is too long for this system: {folder}",
     "Move it to a shorter one such as C:\\Fooocus and start again."),
    ("certificate_verify_failed|certificate verify failed",
     "No secure connection to the package index: its certificate is not trusted here.",
     "Check the clock of this computer; behind a company's proxy, set PIP_CERT to its certificate file."),
    ("name resolution|name or service not known|getaddrinfo|nodename nor servname|failed to establish a new connection"
     "|connection refused|proxyerror|network is unreachable|timed out|connection broken|connection aborted",
     "The packages could not be fetched: there is no connection to the package index.",
     "The first start needs the Internet. Check the connection and start again: it goes on from here."),
    ("no matching distribution",
     "A package is not published for this computer ({tag}).",
     "Python 3.11 to 3.14 from python.org, 64 bit, on Windows, Linux or macOS with Apple silicon is needed."),
    ("",
     "The installation failed: {last}",
     "Start again to retry."),
)  # fmt: skip


def explained(text: str, place: Place, number: int | None = None) -> InstallError:
    """Turn what went wrong into a sentence and a remedy; `number` is the system's error number, where there is one."""
    text_and_number = f"{text} [errno {number}]".lower()
    sentence, remedy = next(row[1:] for row in TROUBLES if any(sign in text_and_number for sign in row[0].split("|")))
    last = (text.strip().splitlines() or ["no reason was given"])[-1]
    names = {"folder": place.folder, "need": SMALLEST_GB, "tag": python_tag(), "last": last}
    names["version"] = f"{sys.version_info[0]}.{sys.version_info[1]}"  # the system's own, or one beside it
    story = f"\nThe whole story is in {place.log}" if place.log.is_file() else ""
    return InstallError(sentence.format(**names), remedy.format(**names) + story)

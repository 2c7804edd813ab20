"""run.bat under Wine: it finds a Python, asks before it gets one, and refuses a file that is not the published one.

The commands it calls (py, python, winget, curl, certutil) are small batch files here. Wine's `call` turns every error
code of a batch file into 1, so only zero and non-zero can be told apart where a stub ends the program.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["plain", "mit Lücke (1)"]
FITS = '@echo off\nif "%~2"=="-c" exit /b {fits}\nif "%~1"=="-c" exit /b {fits}\necho RAN %~n0 %*\nexit /b {code}\n'
ABSENT = "@echo off\nexit /b 1\n"

pytestmark = pytest.mark.skipif(shutil.which("wine") is None, reason="Wine is not installed (apt install wine64 wine)")


class Windows:
    """A copy of the folder, its stubs, and Wine to run its run.bat."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.bin = folder.parent / "bin"
        self.bin.mkdir(parents=True)
        self.folder.mkdir()
        shutil.copy(ROOT / "run.bat", folder)
        (folder / "launch.py").touch()
        for name in ("py", "python", "python3", "winget", "curl", "certutil"):
            self.stub(name, ABSENT)

    def stub(self, name: str, text: str) -> None:
        (self.bin / f"{name}.bat").write_text(text.replace("\n", "\r\n"), newline="")

    def run(self, *arguments: str, keys: str | None = None) -> tuple[int, str]:
        """Run run.bat; `keys` is what is typed, None stands for nobody there."""
        environment = {**self.environment, "WINEPATH": "Z:" + str(self.bin).replace("/", "\\")}
        if keys is None:
            environment["FOOOCUS_NO_PAUSE"] = "1"
        result = subprocess.run(
            ["wine", "cmd", "/c", "run.bat", *arguments],
            cwd=self.folder,
            env=environment,
            input=(keys or "").encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
        return result.returncode, result.stdout.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def wine() -> Iterator[dict[str, str]]:
    prefix = ROOT / ".cache" / "wine"  # 700 MB and 7 s, hence kept between runs
    prefix.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "FOOOCUS_NO_PAUSE")}
    environment.update(WINEDEBUG="-all", WINEARCH="win64", WINEPREFIX=str(prefix), DISPLAY="", LC_ALL="C.UTF-8")
    subprocess.run(["wine", "cmd", "/c", "ver"], env=environment, capture_output=True, timeout=300, check=True)
    yield environment
    subprocess.run(["wineserver", "-k"], env=environment, capture_output=True)


@pytest.fixture(params=FOLDERS)
def windows(request: pytest.FixtureRequest, tmp_path: Path, wine: dict[str, str]) -> Windows:
    return Windows(tmp_path / request.param, wine)


def test_python_found_runs_launch_with_the_arguments(windows: Windows) -> None:
    windows.stub("python", FITS.format(fits=0, code=0))
    code, output = windows.run("generate", "a red circle", "--steps", "4")
    ran = next(line for line in output.splitlines() if line.startswith("RAN"))
    assert re.search(r'RAN python "?[^"]*\\launch\.py"? generate "?a red circle"? --steps 4', ran)
    assert code == 0


def test_launcher_of_windows_is_preferred_with_the_version_that_fits(windows: Windows) -> None:
    only_312 = FITS.format(fits=0, code=0).replace("@echo off", '@echo off\nif not "%1"=="-3.12" exit /b 1')
    windows.stub("py", only_312)
    windows.stub("python", FITS.format(fits=0, code=0))
    assert "RAN py -3.12" in windows.run()[1]


def test_failure_is_told_and_passed_on(windows: Windows) -> None:
    windows.stub("python", FITS.format(fits=0, code=5))
    code, output = windows.run()
    assert code != 0
    assert "It ended with code" in output
    assert "Press any key" not in output


def test_window_stays_open_after_a_failure(windows: Windows) -> None:
    windows.stub("python", FITS.format(fits=0, code=5))
    assert "Press any key" in windows.run(keys="x")[1]


def test_python_that_does_not_fit_is_not_taken(windows: Windows) -> None:
    windows.stub("python", FITS.format(fits=1, code=0))  # the Windows Store's stub answers like this
    code, output = windows.run()
    assert "RAN" not in output
    assert "Python 3.11 to 3.14 is needed" in output
    assert code == 2


def test_inside_of_a_zip_it_says_to_unpack_that(windows: Windows) -> None:
    windows.stub("python", FITS.format(fits=0, code=0))
    (windows.folder / "launch.py").unlink()
    code, output = windows.run()
    assert (code, "RAN" in output) == (2, False) and "Unpack the whole ZIP first" in output


def test_without_python_it_asks_and_takes_winget(windows: Windows) -> None:
    windows.stub("winget", "@echo off\necho WINGET %*\nexit /b 0\n")
    code, output = windows.run(keys="xx")
    assert "Press any key to do so" in output
    assert "WINGET install --exact --id Python.Python.3.13" in output
    assert "--scope user" in output
    assert code == 2  # this winget installs nothing, and there is no curl either
    assert "https://www.python.org/downloads/" in output


def test_file_with_another_hash_is_deleted_and_not_run(windows: Windows) -> None:
    windows.stub("curl", "@echo off\necho not an installer> %4\nexit /b 0\n")
    windows.stub("certutil", f"@echo off\necho SHA256 hash\necho {hashlib.sha256(b'').hexdigest()}\nexit /b 0\n")
    code, output = windows.run(keys="xx")
    assert "is not the one python.org publishes, so it was deleted" in output
    assert "Installing ..." not in output
    assert code == 2
    assert not list(Path(windows.environment["WINEPREFIX"]).glob("drive_c/users/*/Temp/python-3*.exe"))


def test_file_with_the_published_hash_is_installed_into_the_folder(windows: Windows) -> None:
    published = re.search(r"SHA256=([0-9a-f]{64})", (ROOT / "run.bat").read_text())
    assert published is not None
    # The "installer" is a batch file under the installer's name: Wine starts it only to fail, which is all we need.
    windows.stub("curl", "@echo off\necho installer> %4\nexit /b 0\n")
    windows.stub("certutil", f"@echo off\necho SHA256 hash\necho {published[1].upper()}\necho done\nexit /b 0\n")
    code, output = windows.run(keys="xx")
    assert "Installing ..." in output
    assert "The installer of Python did not succeed" in output
    assert code == 2


def test_lines_end_as_windows_wants_them() -> None:
    text = (ROOT / "run.bat").read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n")
    text.decode("ascii")  # the console's code page is unknown

"""The launcher is killed, doubled and starved; the next start must come through by itself.

The real ones run the real launch.py with a real venv and pip in a folder with spaces, umlauts and Chinese signs; what
they install is one tiny wheel made here, so no network is needed.
"""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from fooocus.install import environment
from fooocus.install.environment import drop_damaged, prepare, read_state
from fooocus.install.hardware import Build
from fooocus.install.troubles import InstallError, Place

ROOT = Path(__file__).parents[2]
CPU = Build("cpu", "a test says so")
PROGRAM = "import sys, tiny\nprint('PROGRAM', sys.argv[1:], tiny.NAME)\nsys.exit(int(sys.argv[1]))\n"

posix_only = pytest.mark.skipif(os.name == "nt", reason="kills with POSIX signals")


# --- with venv and pip played by a function


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


class Pip:
    """Plays venv and pip; dies before or after doing its `fatal`-th command, or fails it with `failure`."""

    def __init__(self, place: Place, fatal: int = -1, *, late: bool = False, failure: str = "") -> None:
        self.place = place
        self.fatal = fatal
        self.late = late
        self.failure = failure
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.calls.append(command)
        fatal = len(self.calls) - 1 == self.fatal
        if fatal and self.failure:
            return 1, self.failure
        if fatal and not self.late:
            raise Killed
        if "venv" in command:
            venv.EnvBuilder(symlinks=os.name != "nt").create(self.place.venv)
        if fatal:
            raise Killed
        return 0, ""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "place"
    (folder / "tests").mkdir(parents=True)
    for name, text in (("", "torch==2.13.0"), ("-security", "pillow==13.0.0")):
        (folder / f"requirements{name}.txt").write_text(text)
    (folder / "tests" / "requirements.txt").write_text("pytest")
    monkeypatch.setattr(environment, "answers", lambda url: True)
    return Place(folder)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fatal", range(5))
def test_start_after_a_kill_at_any_step_finishes(place: Place, fatal: int, late: bool) -> None:
    with pytest.raises(Killed):
        prepare(place, CPU, with_tests=True, run=Pip(place, fatal, late=late))
    prepare(place, CPU, with_tests=True, run=Pip(place))
    done = read_state(place)
    assert set(done) == {"python", "torch", "pin", "source", "asked", "packages", "tests"}
    third = Pip(place)
    prepare(place, CPU, with_tests=True, run=third)
    assert third.calls == []


def test_kill_while_torch_is_replaced_is_finished(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    rocm = Build("rocm", "a card was found")
    (place.sites()[0] / "torch-2.13.0+cpu.dist-info").mkdir()
    (place.sites()[0] / "torch-2.13.0+cpu.dist-info/RECORD").write_text("torch-2.13.0+cpu.dist-info/RECORD,,\n")
    with pytest.raises(Killed):
        prepare(place, rocm, run=Pip(place, 1))
    assert "packages" not in read_state(place)
    pip = Pip(place)
    prepare(place, rocm, run=pip)
    assert any("torch==2.13.0" in command for command in pip.calls)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full."),
        ("[Errno -2] Name or service not known", "no connection"),
        ("OSError: [Errno 30] Read-only file system", "cannot be written to"),
    ],
)
@pytest.mark.parametrize("fatal", range(4))
def test_failed_step_is_told_and_done_at_the_next_start(place: Place, fatal: int, failure: str, sentence: str) -> None:
    with pytest.raises(InstallError, match=sentence):
        prepare(place, CPU, run=Pip(place, fatal, failure=failure))
    prepare(place, CPU, run=Pip(place))
    assert "packages" in read_state(place)


def test_full_disk_is_told_before_anything_is_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    pip = Pip(place)
    with pytest.raises(InstallError, match="disk is full"):
        prepare(place, CPU, run=pip)
    assert pip.calls == []


def test_python_without_ensurepip_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InstallError, match="venv module is missing") as caught:
        prepare(place, CPU, run=Pip(place))
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in caught.value.remedy


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_read_only_folder_is_told(place: Place, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *rest: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InstallError, match="cannot be written to") as caught:
        prepare(place, CPU, run=Pip(place))
    assert str(place.folder) in caught.value.sentence


def test_folder_that_cannot_hold_an_environment_is_told(tmp_path: Path, place: Place) -> None:
    folder = tmp_path / f"a{os.pathsep}b"
    place.folder.rename(folder)
    with pytest.raises(InstallError, match="Rename"):
        prepare(Place(folder), CPU, run=Pip(place))


def package(site: Path, name: str, *, files: dict[str, str]) -> Path:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    with open(info / "RECORD", "w", newline="") as record:
        rows = csv.writer(record)
        for file, text in files.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
            rows.writerow([file, "sha256=x", len(text)])
        rows.writerow([f"{info.name}/RECORD", "", ""])
    return info


def test_half_copied_packages_are_forgotten_and_whole_ones_kept(place: Place) -> None:
    site = place.venv / ("Lib" if os.name == "nt" else "lib/python3.11") / "site-packages"
    whole = package(site, "whole", files={"whole/a,b.py": "x = 1"})
    missing = package(site, "missing", files={"missing/a.py": "x", "missing/b.py": "y"})
    (site / "missing/b.py").unlink()
    cut = package(site, "cut", files={"cut/a.py": "four"})
    (site / "cut/a.py").write_text("fo")
    unrecorded = package(site, "unrecorded", files={})
    (unrecorded / "RECORD").unlink()
    (site / "~orch").mkdir()
    drop_damaged(place)
    assert [info.exists() for info in (whole, missing, cut, unrecorded)] == [True, False, False, False]
    assert not (site / "~orch").exists()


# --- with the real launch.py, venv and pip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with the launcher, a program of three lines and one tiny wheel as its only requirement."""
    folder = tmp_path / "mit Lücke 图"
    folder.mkdir()
    shutil.copy(ROOT / "launch.py", folder)
    shutil.copytree(ROOT / "fooocus" / "install", folder / "fooocus" / "install")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "fooocus" / name, folder / "fooocus")
    (folder / "fooocus" / "__main__.py").write_text(PROGRAM)
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "NAME = 'tiny'\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    for name in ("requirements.txt", "requirements-security.txt"):
        (folder / name).write_text("--no-index\n--find-links .\ntiny==1.0\n")
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        [sys.executable, str(folder / "launch.py"), *arguments],
        cwd=folder,
        env={**own, "FOOOCUS_TORCH": "default", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


@posix_only
def test_start_after_kill_9_in_the_midst_of_the_real_thing(copy: Path) -> None:
    first = start(copy, "0")
    deadline = time.monotonic() + 30
    while not list((copy / ".venv").glob("lib/python3*/site-packages/pip")):  # venv is unpacking pip
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (copy / ".venv" / "launch.json").exists()

    said, _ = (second := start(copy, "7", "ü 图")).communicate(timeout=300)
    assert "PROGRAM ['7', 'ü 图'] tiny" in said, said
    assert second.returncode == 7

    said, _ = (third := start(copy, "0")).communicate(timeout=300)
    assert said == "PROGRAM ['0'] tiny\n"
    assert third.returncode == 0


@posix_only
def test_start_waits_for_a_pip_that_outlived_its_launcher_and_for_a_second_start(copy: Path) -> None:
    first = start(copy, "0")
    deadline = time.monotonic() + 30
    while not (copy / ".venv" / "pyvenv.cfg").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)  # only the launcher: the venv command it started goes on
    both = [start(copy, "0"), start(copy, "0")]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    first.communicate()
    assert all("waiting for it to finish" in said for said in outputs), outputs
    assert all("PROGRAM ['0'] tiny" in said for said in outputs), outputs
    assert sum("Successfully installed tiny" in said for said in outputs) == 1, outputs


def test_no_network_at_the_first_start(copy: Path) -> None:
    (copy / "requirements.txt").write_text("--index-url http://127.0.0.1:9/simple\nnothing-of-this-name==1.0\n")
    said, _ = (process := start(copy, "0")).communicate(timeout=300)
    assert process.returncode == 2
    assert "there is no connection to the package index.\nThe first start needs the Internet." in said
    assert said.rstrip().endswith(f"The whole story is in {copy / '.cache' / 'install.log'}")
    assert (copy / ".cache" / "install.log").stat().st_size > 0

"""The launcher's decisions: which torch, what is left to do, what to tell the person, how the program is started."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import launch
from fooocus.cli import _COMMANDS
from fooocus.errors import ConfigError
from fooocus.install import environment, hardware
from fooocus.install.environment import prepare, read_state
from fooocus.install.hardware import Build, choose_build, torch_folder
from fooocus.install.troubles import InstallError, Place, explained

ROOT = Path(__file__).parents[2]
CPU = Build("cpu", "a test says so")


class Pip:
    """Stands for venv and pip: makes an environment without packages and writes down what it is asked."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.calls: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.calls.append(" ".join(command[1:]).replace(str(self.place.folder) + os.sep, ""))
        if "venv" in command:
            venv.EnvBuilder(symlinks=os.name != "nt").create(self.place.venv)
        if "install" in command and any(part.startswith("torch==") for part in command):
            (self.place.sites()[0] / "torch-2.13.0+cpu.dist-info").mkdir(exist_ok=True)
        return 0, ""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "mit Lücke 图"
    (folder / "tests").mkdir(parents=True)
    (folder / "requirements.txt").write_text("torch==2.13.0  # networks\n")
    (folder / "requirements-security.txt").write_text("pillow==13.0.0\n")
    (folder / "tests" / "requirements.txt").write_text("pytest==9.2.0\n")
    monkeypatch.setattr(environment, "answers", lambda url: "/cpu/" in url)
    return Place(folder)


# --- which torch


def machine(root: Path, *files: str) -> Path:
    for name in files:
        path, _, text = name.partition("=")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def intel(root: Path, address: str, driver: str) -> Path:
    device = root / "sys/devices" / address
    machine(root, f"sys/devices/{address}/vendor=0x8086\n")
    (root / "sys/drivers" / driver).mkdir(parents=True)
    (device / "driver").symlink_to(root / "sys/drivers" / driver)
    (root / "sys/class/drm/card0").mkdir(parents=True)
    (root / "sys/class/drm/card0/device").symlink_to(device)
    return root


def test_nvidia_card_gets_cuda(tmp_path: Path) -> None:
    root = machine(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information=", "dev/kfd=")
    build = choose_build("", root=root, system="linux")
    assert (build.name, build.why) == ("cuda", "an NVIDIA card was found")


def test_nvidia_driver_without_a_card_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert choose_build("", root=tmp_path, system="linux").name == "cpu"


def test_nvidia_card_under_wsl_gets_cuda(tmp_path: Path) -> None:
    assert choose_build("", root=machine(tmp_path, "usr/lib/wsl/lib/nvidia-smi="), system="linux").name == "cuda"


def test_amd_card_gets_rocm(tmp_path: Path) -> None:
    assert choose_build("", root=machine(tmp_path, "dev/kfd="), system="linux").name == "rocm"


@pytest.mark.parametrize(
    ("numbers", "override", "name", "why"),
    [
        ((0, 110000), "", "rocm", "an AMD card was found (gfx1100)"),
        ((0, 100306, 90010), "", "rocm", "an AMD card was found (gfx1036, gfx90a)"),
        ((0, 90012), "", "cpu", "PyTorch has nothing for the AMD graphics that were found (gfx90c)"),
        ((0, 100301), "", "cpu", "unless HSA_OVERRIDE_GFX_VERSION=10.3.0 makes it take gfx1030's"),
        ((0, 100301), "10.3.0", "rocm", "an AMD card was found (gfx1031)"),
    ],
)
def test_amd_graphics_that_torch_has_nothing_for_get_no_rocm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], override: str, name: str, why: str
) -> None:
    monkeypatch.setenv(hardware.ROCM_OVERRIDE, override)
    nodes = "sys/class/kfd/kfd/topology/nodes"
    files = [f"{nodes}/{i}/properties=simd_count 4\ngfx_target_version {n}\n" for i, n in enumerate(numbers)]
    build = choose_build("", root=machine(tmp_path, "dev/kfd=", *files), system="linux")
    assert build.name == name and build.why.endswith(why)


@pytest.mark.parametrize(
    ("address", "driver", "name"),
    [("0000:03:00.0", "i915", "xpu"), ("0000:00:02.0", "xe", "xpu"), ("0000:00:02.0", "i915", "cpu")],
    ids=["Arc card", "new integrated", "old integrated"],
)
def test_intel_graphics(tmp_path: Path, address: str, driver: str, name: str) -> None:
    assert choose_build("", root=intel(tmp_path, address, driver), system="linux").name == name


def test_mac_takes_the_ordinary_package(tmp_path: Path) -> None:
    assert choose_build("", root=tmp_path, system="darwin").name == "default"


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        (["Intel(R) UHD Graphics 770", "NVIDIA GeForce RTX 4060"], "cuda"),
        (["Intel(R) Arc(TM) A770 Graphics"], "xpu"),
        (["AMD Radeon RX 7800 XT"], "cpu"),
        ([], "cpu"),
    ],
)
def test_windows_cards(cards: list[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "windows_cards", lambda: cards)
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    assert choose_build("", root=tmp_path, system="win32").name == name


def test_what_is_asked_for_is_taken_and_auto_detects_again(tmp_path: Path) -> None:
    assert choose_build("rocm", root=tmp_path, system="linux")[::2] == ("rocm", "rocm")
    assert choose_build("auto", root=tmp_path, system="linux")[::2] == ("cpu", "")
    with pytest.raises(ConfigError, match=r"cu999.*auto, cuda"):
        choose_build("cu999")


def test_card_that_vanished_keeps_its_torch(tmp_path: Path) -> None:
    assert choose_build("", installed="cuda", root=tmp_path, system="linux").name == "cuda"
    card = machine(tmp_path, "dev/kfd=")
    assert choose_build("", installed="cpu", root=card, system="linux").name == "rocm"


@pytest.mark.parametrize(
    ("answer", "folder", "remark"),
    [
        ("8.6, 581.57\n", "cu130", ""),
        ("8.6, 550.54.14\n", "cu126", "driver"),
        ("6.1, 580.95.05\n", "cu126", "capability 6.1"),
        ("12.0, 570.10\n", "cu130", "newer driver"),
        ("6.1, 580.95\n8.9, 580.95\n", "cu130", ""),
        ("", "cu130", ""),
        ("[N/A], [N/A]\n", "cu130", ""),
    ],
)
def test_old_cards_and_drivers_get_cuda_12(answer: str, folder: str, remark: str) -> None:
    found, said = torch_folder("cuda", ask=lambda command: answer)
    assert found == folder
    assert remark in said
    assert bool(said) == bool(remark)


def test_other_builds_ask_no_driver() -> None:
    def nobody(command: list[str]) -> str:
        raise AssertionError(command)

    folders = [torch_folder(name, ask=nobody)[0] for name in ("rocm", "xpu", "cpu", "default")]
    assert folders == ["rocm7.2", "xpu", "cpu", ""]


@pytest.mark.clock
def test_index_that_does_not_answer_is_known_within_seconds() -> None:
    start = time.monotonic()
    assert not hardware.answers("http://127.0.0.1:9/", seconds=1)
    assert time.monotonic() - start < 3


# --- what is left to do


def test_first_start_does_all_steps_in_order(place: Place) -> None:
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    assert pip.calls[0] == "-m venv .venv"
    assert [call.split(":all:")[1] for call in pip.calls[1:]] == [
        " --retries 3 --timeout 15 torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
        " --retries 3 --timeout 15 -r requirements.txt",
        " --retries 3 --timeout 15 --no-deps -r requirements-security.txt",
    ]


@pytest.mark.clock
def test_second_start_does_nothing_and_is_quick(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    pip = Pip(place)
    start = time.monotonic()
    prepare(place, CPU, run=pip)
    assert time.monotonic() - start < 0.1
    assert pip.calls == []


def test_test_tools_are_installed_only_for_tests(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    pip = Pip(place)
    prepare(place, CPU, with_tests=True, run=pip)
    assert len(pip.calls) == 1
    assert pip.calls[0].endswith("-r tests/requirements.txt -c requirements.txt")
    prepare(place, CPU, run=pip)
    prepare(place, CPU, with_tests=True, run=pip)
    assert len(pip.calls) == 1


def test_changed_pins_are_installed_and_torch_stays(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    place.security.write_text("pillow==13.0.1\n")
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    assert [call.split()[-1] for call in pip.calls] == ["requirements.txt", "requirements-security.txt"]


def test_a_new_torch_comes_from_where_the_last_one_came_from(place: Place) -> None:
    """From the ordinary index it would be for other hardware, and nobody would be told."""
    prepare(place, CPU, run=Pip(place))
    place.packages.write_text("torch==2.14.0  # networks\n")
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    assert pip.calls[0].endswith("torch==2.14.0 --index-url https://download.pytorch.org/whl/cpu")
    assert pip.calls[1].endswith("-r requirements.txt")
    prepare(place, CPU, run=pip)
    assert len(pip.calls) == 3


def test_a_state_of_before_pins_were_noted_costs_nothing(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    state = environment.read_state(place)
    environment.write_state(place, {name: value for name, value in state.items() if name not in ("pin", "source")})
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    assert pip.calls == [] and environment.read_state(place)["pin"] == "2.13.0"


def test_a_torch_from_the_ordinary_index_is_replaced_when_its_build_is_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Build("cuda", "a card was found")
    pip = Pip(place)
    prepare(place, cuda, run=pip)
    prepare(place, cuda, run=pip)
    assert len(pip.calls) == 4, "it is used until somebody asks"
    monkeypatch.setattr(environment, "answers", lambda url: True)
    monkeypatch.setattr(environment, "torch_folder", lambda name: ("cu130", ""))
    asked = Build("cuda", "it was asked for", "cuda")
    prepare(place, asked, anew=True, run=pip)
    assert "uninstall" in pip.calls[4]
    assert pip.calls[5].endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130")
    calls = len(pip.calls)
    prepare(place, asked, anew=True, run=pip)
    assert len(pip.calls) == calls, "it is the right one now"


def test_new_card_replaces_torch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(place, CPU, run=Pip(place))
    monkeypatch.setattr(environment, "answers", lambda url: True)
    pip = Pip(place)
    prepare(place, Build("rocm", "a card was found"), run=pip)
    assert "uninstall" in pip.calls[0]
    assert pip.calls[1].endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/rocm7.2")


def test_silent_index_keeps_a_torch_that_is_there(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(place, CPU, run=Pip(place))
    pip = Pip(place)
    prepare(place, Build("rocm", "a card was found"), run=pip)
    assert not any("torch==" in call or "uninstall" in call for call in pip.calls)
    assert "torch-2.13.0+cpu is kept" in capsys.readouterr().out


def test_silent_index_falls_back_and_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    pip = Pip(place)
    prepare(place, Build("rocm", "an AMD card was found"), run=pip)
    assert pip.calls[1].endswith(" torch==2.13.0")
    said = capsys.readouterr().out
    assert "torch: rocm build, because an AMD card was found." in said
    assert "rocm7.2 does not answer" in said
    assert "ordinary package index" in said


def test_environment_somebody_else_made_is_completed(place: Place) -> None:
    venv.EnvBuilder(symlinks=os.name != "nt").create(place.venv)
    (place.venv / "theirs").touch()
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    assert pip.calls[0].endswith("-m ensurepip --default-pip")
    assert (place.venv / "theirs").exists()


def lost(place: Place) -> None:
    """Leave `.venv` as it is where the Python that made it was moved: on Windows it is there and does not start."""
    text = (place.venv / "pyvenv.cfg").read_text(encoding="utf-8")
    (place.venv / "pyvenv.cfg").write_text(re.sub("(?m)^home = .*$", "home = /nowhere/bin", text), encoding="utf-8")
    place.python.unlink()
    place.python.symlink_to("/nowhere/bin/python3")


@pytest.mark.skipif(os.name == "nt", reason="the Python is a link")
def test_an_environment_whose_python_was_moved_keeps_its_packages(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    (place.sites()[0] / "theirs").touch()
    lost(place)
    del pip.calls[:]
    prepare(place, CPU, run=pip)
    assert pip.calls == ["-m venv --without-pip .venv"]
    assert (place.sites()[0] / "theirs").exists() and environment.tag_of(place) == environment.python_tag()
    assert "was moved; this one takes its place" in capsys.readouterr().out
    prepare(place, CPU, run=pip)
    assert len(pip.calls) == 1, "and that is that"


def test_a_repair_looks_at_every_file_and_fetches_what_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    for name, whole in (("kept", True), ("torn", False)):
        info = place.sites()[0] / f"{name}-1.dist-info"
        info.mkdir()
        (info / "RECORD").write_text(f"{name}.py,sha256=x,{2 if whole else 9}\n")
        (place.sites()[0] / f"{name}.py").write_text("ok")
    torch = place.sites()[0] / "torch-2.13.0+cpu.dist-info"
    (torch / "RECORD").write_text("torch.py,sha256=x,2\n")
    (place.sites()[0] / "torch.py").write_text("ok")
    del pip.calls[:]
    monkeypatch.setattr(launch, "Place", lambda folder: place)
    monkeypatch.setattr(launch, "choose_build", lambda asked, installed: CPU)
    monkeypatch.setattr(launch, "prepare", lambda place, build, **options: prepare(place, build, run=pip, **options))
    assert launch.main(["repair"]) == 0
    assert (place.sites()[0] / "kept-1.dist-info").exists() and not (place.sites()[0] / "torn-1.dist-info").exists()
    assert torch.exists() and not any("torch==" in call for call in pip.calls), "a whole torch is kept"
    assert [call.split()[-1] for call in pip.calls] == ["requirements.txt", "requirements-security.txt"]
    assert "All packages are there and whole." in capsys.readouterr().out

    (place.sites()[0] / "torch.py").unlink()
    (place.sites()[0] / "pip-1.dist-info").mkdir()
    del pip.calls[:]
    assert launch.main(["repair"]) == 0
    assert pip.calls[0].endswith("-m ensurepip --default-pip") and "torch==2.13.0 --index-url" in pip.calls[1]
    (torch / "RECORD").write_text("torch.py,sha256=x,2\n")
    (place.sites()[0] / "torch.py").write_text("ok")
    monkeypatch.setattr(environment, "answers", lambda url: True)
    monkeypatch.setattr(launch, "choose_build", lambda asked, installed: Build("rocm", "a card was found"))
    del pip.calls[:]
    assert launch.main(["repair"]) == 0
    assert "uninstall" in pip.calls[0] and "whl/rocm7.2" in pip.calls[1], "a torch of another build is no whole one"


@pytest.mark.skipif(os.name == "nt", reason="the Python is a link")
def test_an_environment_of_another_python_that_is_gone_is_made_anew(place: Place) -> None:
    pip = Pip(place)
    prepare(place, CPU, run=pip)
    state = read_state(place)
    environment.write_state(place, state | {"python": "cpython-3.1-abacus"})
    (place.sites()[0] / "theirs").touch()
    lost(place)
    del pip.calls[:]
    prepare(place, CPU, run=pip)
    assert pip.calls[0] == "-m venv .venv" and len(pip.calls) == 4
    assert not (place.sites()[0] / "theirs").exists()


def test_environment_of_another_fitting_python_is_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(place, CPU, run=Pip(place))
    pip = Pip(place)
    monkeypatch.setattr(environment, "python_tag", lambda: "cpython-3.14-riscv64")
    prepare(place, CPU, run=pip)
    assert pip.calls == []


def test_choice_is_remembered(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(place, Build("xpu", "asked", asked="xpu"), run=Pip(place))
    assert read_state(place)["asked"] == "xpu"
    seen: list[Build] = []
    monkeypatch.setattr(launch, "Place", lambda folder: place)
    monkeypatch.setattr(launch, "prepare", lambda place, build, with_tests, anew: seen.append(build))
    monkeypatch.setattr(launch, "hand_over", lambda place, arguments: 0)
    monkeypatch.delenv("FOOOCUS_TORCH", raising=False)
    assert launch.main([]) == 0
    assert launch.main(["--torch", "cpu"]) == 0
    monkeypatch.setenv("FOOOCUS_TORCH", "rocm")
    assert launch.main([]) == 0
    assert [build.name for build in seen] == ["xpu", "cpu", "rocm"]


def test_every_package_is_pinned_with_a_reason() -> None:
    for name in ("requirements.txt", "requirements-security.txt", "tests/requirements.txt"):
        text = (ROOT / name).read_text()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert lines
        for line in lines:
            assert re.match(r"[A-Za-z0-9_-]+==[0-9.]+( +# .+)?$", line), line


# --- what to tell


OWN_VENV = f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"  # python3-venv is for the system's own


@pytest.mark.parametrize(
    ("text", "sentence", "remedy"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full.", "Free 3 GB"),
        ("The virtual environment was not created: ensurepip is not\navailable.", "venv module", OWN_VENV),
        ("Error: [Errno 1] Operation not permitted: 'lib' -> '/x/lib64'", "knows no links", "formatted for Linux"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "cannot be written to", "Move it"),
        ("Failed to establish a new connection: refused\nERROR: No matching distribution", "no connection", "Internet"),
        ("WARNING: [Errno -3] Temporary failure in name resolution", "no connection", "Internet"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))", "certificate", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.13.0", "not published", "64 bit"),
        ("HINT: Windows Long Path support", "too long", "shorter"),
        ("first\nERROR: something odd", "The installation failed: ERROR: something odd", "again"),
        ("", "no reason was given", "again"),
    ],
)
def test_troubles_have_a_sentence_and_a_remedy(place: Place, text: str, sentence: str, remedy: str) -> None:
    error = explained(text, place)
    assert sentence in error.sentence
    assert remedy in error.remedy
    assert "\n" not in error.sentence


def test_trouble_names_the_log_where_there_is_one(place: Place) -> None:
    place.cache.mkdir()
    place.log.write_text("story")
    assert str(place.log) in explained("odd", place).remedy


def test_failing_pip_ends_with_code_2(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(place: Place, build: Build, with_tests: bool, anew: bool) -> None:
        raise InstallError("The disk is full.", "Free some space.")

    monkeypatch.setattr(launch, "prepare", fail)
    assert launch.main([]) == 2
    assert capsys.readouterr().err.strip() == "The disk is full.\nFree some space."


@pytest.mark.parametrize("wrong", ["version_info = (3, 10, 13)", "version_info = (3, 15, 0)", "maxsize = 2**31 - 1"])
def test_python_that_does_not_fit_is_told(wrong: str) -> None:
    code = f"import runpy, sys; sys.{wrong}; runpy.run_path({str(ROOT / 'launch.py')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert "Python 3.11 to 3.14 of 64 bits is needed" in result.stderr
    assert "https://www.python.org/downloads/" in result.stderr


def test_old_pythons_can_parse_the_launcher() -> None:
    source = (ROOT / "launch.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__ import" not in source.replace("`from __future__ import annotations`", "")


# --- handing over


def test_option_is_taken_out_of_the_arguments() -> None:
    assert launch.take_option(["generate", "--torch", "cpu", "x"], "--torch") == ("cpu", ["generate", "x"])
    assert launch.take_option(["--torch=xpu"], "--torch") == ("xpu", [])
    assert launch.take_option(["generate"], "--torch") == ("", ["generate"])
    assert launch.main(["--torch"]) == 2


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_before_the_first_start_installs_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    done: list[str] = []
    monkeypatch.setattr(launch, "Place", lambda folder: place)
    monkeypatch.setattr(launch, "prepare", lambda place, build, with_tests, anew: done.append("prepare"))
    monkeypatch.setattr(launch, "hand_over", lambda place, arguments: done.append(*arguments) or 0)
    assert launch.main([asked]) == 0 and done == []
    told = capsys.readouterr().out
    assert all(f"launch.py {command}" in told for command in _COMMANDS) and "--help lists every option" in told
    assert max(map(len, told.splitlines())) <= 120 and told.isascii(), "a console of Windows shows it"
    prepare(place, CPU, run=Pip(place))
    assert launch.main([asked]) == 0 and done == ["prepare", asked], "the program's own help is the full one"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no exec")
def test_program_is_started_with_its_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: Ended())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    launch.hand_over(place, ["generate", "a b"])
    path, command, variables = started[0]
    assert command == [str(place.python), "-m", "fooocus", "generate", "a b"]
    assert path == str(place.python)
    expected = {"PYTHONPATH": str(place.folder), "PYTHONSAFEPATH": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    assert expected.items() <= variables.items()
    assert "HF_HUB_OFFLINE" not in variables and "PYTHONDONTWRITEBYTECODE" not in variables


class Ended:
    """A process that has ended."""

    def wait(self) -> int:
        return 0


@pytest.mark.skipif(os.name == "nt", reason="the stub is a shell script")
def test_all_checks_run_even_if_the_first_fails(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.python.parent.mkdir(parents=True)
    place.python.write_text('#!/bin/sh\necho "called $*"\ncase "$*" in *"ruff check"*) exit 1;; esac\nexit 0\n')
    place.python.chmod(0o755)
    assert launch.run_tests(place, ["-k", "one"]) == 1
    called = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("called", "== FAILED"))]
    assert called == [
        "called -m ruff check .",
        "called -m ruff format --check .",
        "called -m mypy",
        "== FAILED: ruff check; now pytest",
        "called -m pytest -k one",
    ]


@pytest.mark.skipif(os.name == "nt", reason="the stub is a shell script")
def test_code_of_pytest_is_passed_on(place: Place) -> None:
    place.python.parent.mkdir(parents=True)
    place.python.write_text('#!/bin/sh\ncase "$*" in *pytest*) exit 5;; esac\nexit 0\n')
    place.python.chmod(0o755)
    assert launch.run_tests(place, []) == 5


def test_state_that_cannot_be_read_is_no_state(place: Place) -> None:
    prepare(place, CPU, run=Pip(place))
    for text in ("", "[]", "{", json.dumps({"python": 1})[:-1]):
        place.state.write_text(text)
        assert read_state(place) == {}

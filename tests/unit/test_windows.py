"""What is known of Windows, with its functions replaced: long names, a missing runtime, clouds, sleep, the window."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fooocus import awake, cli
from fooocus.install import windows
from fooocus.install.troubles import InstallError, Place, explained
from fooocus.ui import server


def place_of(letters: int) -> Place:
    return Place(Path("/" + "f" * (letters - 1)))


@pytest.mark.parametrize(
    ("letters", "long_names", "refused"), [(60, False, False), (61, False, True), (61, True, False), (150, True, False)]
)
def test_a_folder_whose_packages_would_have_too_long_names_is_told_before_anything_is_fetched(
    letters: int, long_names: bool, refused: bool
) -> None:
    if not refused:
        windows.refuse(place_of(letters), long_names=long_names, runtime=True)
        return
    with pytest.raises(InstallError, match="too long for this system") as told:
        windows.refuse(place_of(letters), long_names=long_names, runtime=True)
    assert "C:\\Fooocus" in told.value.remedy


def test_the_longest_names_are_those_of_the_installed_torch() -> None:
    """A new torch may have longer or shorter ones; then the numbers change."""
    records = [Path(folder) / "torch" for folder in sys.path if (Path(folder) / "torch" / "__init__.py").is_file()]
    (record,) = records[0].parent.glob("torch-*.dist-info/RECORD")
    names = [line.split(",")[0] for line in record.read_text(encoding="utf-8").splitlines()]
    build = record.parent.name.removesuffix(".dist-info").partition("+")
    beyond = len("\\.venv\\Lib\\site-packages\\") + len("+cu130") - len(build[1] + build[2])
    assert max(map(len, names)) + beyond == windows._FILE_INSIDE
    assert max(len(name.rpartition("/")[0]) for name in names) + beyond == windows._FOLDER_INSIDE


def test_a_missing_runtime_is_named_with_its_address() -> None:
    with pytest.raises(InstallError, match="Visual C\\+\\+ runtime") as told:
        windows.refuse(place_of(20), long_names=True, runtime=False)
    assert "vc_redist.x64.exe" in told.value.remedy


def test_windows_own_words_for_long_names_are_understood_in_any_language() -> None:
    text = "[WinError 206] Der Dateiname oder die Erweiterung ist zu lang"
    assert "too long" in explained(text, place_of(20)).sentence


def test_a_folder_in_the_cloud_is_remarked_upon() -> None:
    home = {"OneDrive": "/home/x/OneDrive", "OneDriveCommercial": ""}
    assert "OneDrive" in windows.cloud_remark(Path("/home/x/OneDrive/Desktop/Fooocus"), home)
    assert windows.cloud_remark(Path("/home/x/OneDrive2/Fooocus"), home) == ""
    assert windows.cloud_remark(Path("/home/x/OneDrive/Desktop"), {}) == ""


def test_windows_is_told_to_stay_awake_and_that_it_may_sleep_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(awake, "_windows", lambda: told.append)
    with pytest.raises(ZeroDivisionError), awake.awake():
        assert told == [0x80000001]
        raise ZeroDivisionError
    assert told == [0x80000001, 0x80000000]


def test_a_mac_is_kept_awake_by_its_own_command_if_it_has_that(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert command == ["caffeinate", "-i", "-w", str(os.getpid())]
        assert set(options.values()) == {subprocess.DEVNULL} and len(options) == 3, "nothing of the worker's pipes"
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(awake.subprocess, "Popen", start)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in a worker, whose children have it from there
    try:
        with awake.awake():
            assert started[0].poll() is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started[0].poll() is not None

    def missing(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        raise FileNotFoundError

    monkeypatch.setattr(awake.subprocess, "Popen", missing)
    with awake.awake():
        pass


def test_a_tab_that_hangs_up_is_no_news() -> None:
    def record(error: Exception | None) -> logging.LogRecord:
        told = (type(error), error, None) if error else None
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "Exception in callback", None, told)

    assert not server._is_no_goodbye(record(ConnectionResetError(10054, "reset")))
    assert server._is_no_goodbye(record(OSError("else"))) and server._is_no_goodbye(record(None))


def test_the_window_is_not_offered_as_an_end_where_that_loses_the_running_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("fooocus.app.run_page", lambda config, request, ready: ready("http://x/") or 0)
    for system, offered in (("win32", False), ("linux", True)):
        monkeypatch.setattr(sys, "platform", system)
        assert cli.main(["--data", str(tmp_path), "--outputs", str(tmp_path)]) == 0
        assert ("close this window" in capsys.readouterr().out) == offered

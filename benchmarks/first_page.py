"""How long until the page answers, and until it can be used: the time from starting the program, on this computer.

The first start has a fresh folder of data, so it also compiles the page; the later ones find what it has left there. No
models are there. With ``--browser`` a headless Chromium, which is running already, opens the address as soon as it is
told, as a browser that has never been here: the page counts as usable when the prompt takes text and Generate can be
pressed. Run ``python benchmarks/first_page.py [starts] [--browser]`` in the environment of the program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path, open_page: Callable[[str], None] | None) -> tuple[float, float, float, float]:
    """Start the program and ask for its page.

    Return the seconds until its address was told, until it answered, until it was usable (0 without ``open_page``), and
    the seconds that its process had computed by the time it answered.
    """
    command = [sys.executable, "-m", "fooocus", "--no-browser", "--port", "0"]
    command += ["--data", str(folder / "data"), "--models", str(folder / "models"), "--outputs", str(folder / "out")]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                told = time.monotonic() - began
                with urllib.request.urlopen(found[0]) as answer:
                    assert answer.status == 200 and b"<" in answer.read()
                answered, computed = time.monotonic() - began, core_seconds(process.pid)
                if open_page is not None:
                    open_page(found[0])
                return told, answered, time.monotonic() - began if open_page is not None else 0.0, computed
        raise SystemExit("The program ended without a page.")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def core_seconds(pid: int) -> float:
    """Return how long a process has computed; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def browser(stack: ExitStack) -> Callable[[str], None]:
    """Start Chromium; return what opens an address in it and waits until the page can be used."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT))
    from tests.browser.conftest import find_browser

    path = find_browser()
    chromium: Any = stack.enter_context(sync_playwright()).chromium.launch(executable_path=path, args=["--no-sandbox"])
    stack.callback(chromium.close)

    def open_page(address: str) -> None:
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        tab = context.new_page()
        tab.goto(address, wait_until="commit")
        tab.locator("#field-prompt textarea").fill("a fox")  # waits until it is there, visible and takes text
        tab.locator("#go").click(trial=True)  # waits until it could be pressed
        context.close()

    return open_page


def main() -> None:
    """Print a table of starts."""
    print(f"{os.cpu_count()} logical processors, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    print("| start | address told, s | page answered, s | page usable, s | computed until it answered, s |")
    print("|---|---|---|---|---|")
    counts = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        open_page = browser(stack) if "--browser" in sys.argv else None
        for number in range(1, (counts[0] if counts else 3) + 1):
            told, answered, usable, computed = start(folder, open_page)
            print(f"| {number} | {told:.2f} | {answered:.2f} | {f'{usable:.2f}' if usable else ''} | {computed:.2f} |")


if __name__ == "__main__":
    main()

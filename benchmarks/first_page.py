"""How long until the page answers: the time from starting the program to its first page, on this computer.

Every start uses fresh folders for data and models, as before any model is there. The first one also reads the libraries
from disk. Run ``python benchmarks/first_page.py [starts]`` in the environment of the program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path) -> tuple[float, float]:
    """Start the program and ask for its page; return the seconds until its address was told and until it answered."""
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
                return told, time.monotonic() - began
        raise SystemExit("The program ended without a page.")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    """Print a table of starts."""
    print(f"{os.cpu_count()} logical processors, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    print("| start | address told, s | page answered, s |\n|---|---|---|")
    for number in range(1, int(sys.argv[1] if len(sys.argv) > 1 else 3) + 1):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            told, answered = start(Path(folder))
        print(f"| {number} | {told:.2f} | {answered:.2f} |")


if __name__ == "__main__":
    main()

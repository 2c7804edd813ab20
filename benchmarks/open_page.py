"""What an open page costs the computer while nothing happens, and while a picture forms; Linux, loopback only.

``python benchmarks/open_page.py [seconds]`` in the environment of the tests: Chromium opens the page of a fake engine
that takes twenty steps a second, each with a preview; the processor's time is read off ``/proc``, by kind of process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sessions import page
from tests.browser.conftest import ARGUMENTS, Visitor, find_browser

TICKS = os.sysconf("SC_CLK_TCK")


def spent(root: int) -> dict[int, float]:
    """Return the seconds that each process below ``root`` has computed."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)], seconds[int(folder.name)] = (
            int(fields[1]),
            (int(fields[11]) + int(fields[12])) / TICKS,
        )
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: seconds[pid] for pid in below & seconds.keys()}


def kind_of(pid: int) -> str:
    """Say what a process is: one of Chromium's, the page's server, or anything else."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return "others"
    if "--type=renderer" in command:
        return "the page in the browser"
    if "chrom" in command:
        return "the browser besides"
    return "the server" if "page_process" in command else "others"


def main() -> None:
    """Print a table."""
    from playwright.sync_api import sync_playwright

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    rows: dict[str, Counter[str]] = {}

    def measure(name: str) -> None:
        before = spent(os.getpid())
        time.sleep(seconds)
        rows[name] = Counter()
        for pid, now in spent(os.getpid()).items():
            rows[name][kind_of(pid)] += now - before.get(pid, 0.0)

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        url, _ = stack.enter_context(page(Path(folder)))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        visitor = Visitor(context, context.new_page(), url)
        visitor.open()
        time.sleep(5)
        measure("open, nothing happens")
        visitor.generate("endless")
        visitor.wait_phase("running")
        time.sleep(2)
        measure("a picture forms, twenty steps a second")
        browser.close()
    kinds = ("the page in the browser", "the browser besides", "the server")
    print(f"| in {seconds:.0f} s, seconds of a core | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(f'{found[kind]:.2f}' for kind in kinds)} |")


if __name__ == "__main__":
    main()

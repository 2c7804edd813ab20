"""A real server process and a real headless Chromium for the browser tests.

In continuous integration (``CI`` is set) a missing browser is a failure, on a person's machine a skip that says why.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fakes"
SCREENSHOTS = ROOT / ".cache" / "screenshots"
START_SECONDS = 180.0
# The first is the same engine without windows, tabs and menus, and takes half of the work to start.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: Any) -> None:
    """Give a test that tries again new servers: what it did to the ones before could keep it from passing."""
    if getattr(item, "execution_count", 1) == 1:  # of pytest-rerunfailures
        return
    for name, fixtures in item._fixtureinfo.name2fixturedefs.items():
        for fixture in fixtures:
            if fixture.scope == "module" and name not in _LASTING:
                fixture.finish(item._request)


_LASTING = ("chromium", "used_contexts")


@dataclass
class PageServer:
    """A running page process. ``url`` ends in a slash."""

    url: str
    outputs: Path
    process: subprocess.Popen[str]
    settings: dict[str, Any]

    def pictures(self) -> list[Path]:
        """Return the saved pictures, oldest first."""
        return sorted(self.outputs.rglob("*.png"))


StartPage = Callable[..., PageServer]


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPage]:
    """Return a function that starts a page process and its worker; all are ended after the module's tests.

    ``worker_command`` starts the worker (default: the fake engine; ``{outputs}`` stands for the outputs folder),
    ``config`` holds fields of Config, ``defaults`` fields of Request, ``program`` runs instead of the fakes' page
    process and gets the same JSON argument, with ``settings`` added to it.
    """
    yield from _starter(tmp_path_factory)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Return a page process that the tests of several files use, with our own styles and presets.

    What one test leaves there, others find: pictures in the history, for example.
    """
    starter = _starter(tmp_path_factory)
    yield next(starter)(config={"styles_folder": str(ROOT / "styles")})
    next(starter, None)


def _starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPage]:
    servers: list[PageServer] = []

    def start(
        worker_command: Sequence[str] | None = None,
        *,
        config: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        program: Sequence[str] = (sys.executable, str(FAKES / "page_process.py")),
        settings: dict[str, Any] | None = None,
    ) -> PageServer:
        folder = tmp_path_factory.mktemp("page")
        folders = {name: str(folder / name) for name in ("models", "styles_folder", "outputs", "data")}
        for name in folders:
            (folder / name).mkdir()
        worker = worker_command or (sys.executable, str(FAKES / "page_engine.py"), "{outputs}")
        everything = {
            "config": folders | (config or {}),
            "worker": [part.replace("{outputs}", folders["outputs"]) for part in worker],
            "defaults": {"size": "256x192"} | (defaults or {}),
        } | (settings or {})
        server = _launch(program, everything)
        servers.append(server)
        return server

    yield start
    for server in servers:
        end(server)


def _launch(program: Sequence[str], settings: dict[str, Any]) -> PageServer:
    process = subprocess.Popen(
        [*program, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline() if process.stdout else ""), daemon=True).start()
    try:
        url = lines.get(timeout=START_SECONDS).strip()
    except queue.Empty:
        url = ""
    if not url.startswith("http://"):
        _kill(process)
        pytest.fail(f"the page process did not answer within {START_SECONDS} s")
    return PageServer(url, Path(settings["config"]["outputs"]), process, settings)


def restart(server: PageServer, program: Sequence[str] = (sys.executable, str(FAKES / "page_process.py"))) -> None:
    """Kill the page process as a crash would and start it anew on the same folders and port."""
    end(server)
    server.settings["config"]["port"] = int(server.url.rstrip("/").rpartition(":")[2])
    fresh = _launch(program, server.settings)
    server.process, server.url = fresh.process, fresh.url


def end(server: PageServer) -> None:
    """Kill a page process; its worker ends because its input does."""
    _kill(server.process)


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def find_browser() -> str | None:
    """Return the Chromium to use, the one that FOOOCUS_TEST_CHROMIUM names or the first that is installed."""
    return os.environ.get("FOOOCUS_TEST_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium that cannot reach anything but 127.0.0.1.

    Closed after each module: playwright keeps an event loop running in this thread, beside which no other can run.
    """
    path = find_browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        reason = "the browser tests need chromium-headless-shell or chromium, and the Python package playwright"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """One person: a browser context with a page. ``requests`` logs every address asked for, ``errors`` what broke."""

    context: Any
    page: Any
    url: str
    reusable: bool = False
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Open the page and wait until it can be typed in."""
        self.page.goto(self.url)
        self.page.wait_for_selector("#field-prompt textarea")
        self.page.wait_for_selector("#stage .stage", state="attached")

    def type_prompt(self, text: str) -> None:
        """Type a prompt."""
        self.page.fill("#field-prompt textarea", text)

    def generate(self, text: str) -> None:
        """Type a prompt and press Enter."""
        self.type_prompt(text)
        self.page.press("#field-prompt textarea", "Enter")

    def wait_phase(self, phase: str, seconds: float = 60.0) -> None:
        """Wait until the stage shows ``phase``."""
        self.page.wait_for_selector(f'#stage .stage[data-phase="{phase}"]', timeout=seconds * 1000)

    def wait_step(self, step: int, picture: int = 1, seconds: float = 60.0) -> None:
        """Wait until a running job has done ``step`` steps of ``picture``, or more."""
        self.page.wait_for_function(
            """([step, picture]) => {
              const words = document.querySelector("#stage .count")?.textContent ?? ""
              const number = (pattern) => Number(words.match(pattern)?.[1] ?? 0)
              const [at, now] = [number(/picture (\\d+)/) || 1, number(/step (\\d+)/)]
              return at > picture || (at === picture && now >= step)
            }""",
            arg=[step, picture],
            timeout=seconds * 1000,
        )

    def open_advanced(self, tab: str | None = None) -> None:
        """Open the advanced column, at one of its tabs if asked."""
        self.page.check("#advanced-switch input")
        self.page.wait_for_selector("#advanced", state="visible")
        if tab:
            self.page.get_by_role("tab", name=tab).click()

    def set_count(self, count: int) -> None:
        """Ask for several pictures."""
        self.open_advanced("Settings")
        self.page.fill("#field-count input[type=number]", str(count))
        self.page.press("#field-count input[type=number]", "Tab")

    def shoot(self, name: str) -> None:
        """Write a screenshot for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def foreign(self) -> list[str]:
        """Return what was asked of anybody but the program on this computer."""
        return [url for url in self.requests if not url.startswith((self.url, "data:", "blob:"))]

    def note(self, request: Any) -> None:
        """Log a request that one of this person's pages makes."""
        self.requests.append(request.url)

    def leave(self) -> None:
        """Take back what was left in the queue, so that it is in nobody's way, and close the pages or the context.

        A context that others will get forgets this person: cookies, what the pages stored, what was allowed.
        """
        if not self.page.is_closed():
            with contextlib.suppress(Exception):  # a server that has gone has no queue either
                self.page.evaluate(_TAKE_BACK)
        if not self.reusable:
            self.context.close()
            return
        self.context.remove_listener("request", self.note)
        self.context.unroute_all()
        blank = self.context.new_page()
        for page in self.context.pages:
            if page is not blank:
                page.close()
        origin = {"origin": self.url.rstrip("/"), "storageTypes": "all"}
        self.context.new_cdp_session(blank).send("Storage.clearDataForOrigin", origin)
        blank.close()
        self.context.clear_cookies()
        self.context.clear_permissions()

    def barriers(self, *rules: str) -> list[str]:
        """Return what axe-core finds serious or critical for people with disabilities in the page as it stands now."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_axe())
            # A colour that is on its way to another is no barrier, and on a busy machine it is on its way for long.
            self.page.add_style_tag(content="*, *::before, *::after { transition: none !important }")
            self.page.wait_for_timeout(100)
        return list(self.page.evaluate(_BARRIERS, list(rules)))


_TAKE_BACK = """async () => {
  const order = (what) => fetch("/queue", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(what)})
  const {jobs, held} = await (await fetch("/queue")).json()
  if (jobs.length) await order({do: "cancel", jobs: jobs.map((job) => job.id)})
  if (held) await order({do: "let go"})
}"""
_BARRIERS = """async (rules) => {
  const found = await axe.run(document, {resultTypes: ["violations"], ...(rules.length ? {runOnly: rules} : {})})
  return found.violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.target.join(" ")}: ${node.failureSummary}`))
}"""


@functools.cache
def _axe() -> str:
    """Read axe-core's script out of the package that carries it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None and spec.origin is not None, "axe-playwright-python is not installed"
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def used_contexts(chromium: Any) -> list[Any]:
    """Return the list of browser contexts that are empty again; the scripts that they have compiled are kept."""
    return []


@pytest.fixture
def visit(chromium: Any, used_contexts: list[Any]) -> Iterator[Visit]:
    """Return a function that opens an empty browser at an address; afterwards nothing may have broken in it.

    ``before`` is a JavaScript function that runs before the page's own scripts, ``options`` are playwright's for a
    context. Without options a context of an earlier test serves, because a page then opens in half the time.
    """
    visitors: list[Visitor] = []

    def begin(
        url: str, *, width: int = 1440, height: int = 900, theme: str = "light", before: str = "", **options: Any
    ) -> Visitor:
        context = used_contexts.pop() if used_contexts and not options else chromium.new_context(**options)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=theme)
        if before:
            page.add_init_script(f"({before})()")
        visitor = Visitor(context, page, url, reusable=not options)
        context.on("request", visitor.note)
        page.on("pageerror", lambda error: visitor.errors.append(str(error)))
        page.on("dialog", lambda dialog: (visitor.errors.append("dialog: " + dialog.message), dialog.dismiss()))
        visitors.append(visitor)
        visitor.open()
        return visitor

    yield begin
    for visitor in visitors:
        visitor.leave()
        if visitor.reusable:
            used_contexts.append(visitor.context)
    for visitor in visitors:
        assert visitor.errors == []
        assert visitor.foreign() == [], "something was asked of another computer"

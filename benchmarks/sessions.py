"""How the page answers when many people use it at once while a job runs; loopback only, a fake engine draws.

Each session does what a browser does on its first visit: it loads the document and every file that the page needs, over
six connections (``first_visit.txt`` is what Chromium asked for, recorded with ``--record``), listens to the page's
news, asks for what was kept, makes a job, listens to it, and then loads the document, the job's preview and the queue
again and again. Run ``python benchmarks/sessions.py [sessions] [seconds]`` in the environment of
the tests.

The clients share the computer with the server, so they are cheap: bare HTTP on sockets, and bodies are read but not
unpacked. How much of a core each side took is told below the table.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAKES = ROOT / "tests" / "fakes"
VISIT = Path(__file__).with_name("first_visit.txt")
CONNECTIONS = 6  # of one browser to one address
ANSWER_SECONDS = 60.0
BETWEEN_SECONDS = 2.0  # a person's pause between two looks
QUEUE_SECONDS = 5.0  # between a page's own looks at its queue


class Times:
    """How long the answers took, by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.faults: list[str] = []

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Measure what happens inside."""
        began = time.perf_counter()
        try:
            yield
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.faults.append(f"{kind}: {type(error).__name__} {error}")
            raise
        self.seconds[kind].append(time.perf_counter() - began)

    def share(self, kind: str, part: float = 0.95) -> float:
        """Return the time within which ``part`` of the answers of a kind came."""
        ordered = sorted(self.seconds[kind])
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    def table(self) -> str:
        """Return a table in Markdown, milliseconds."""
        rows = ["| what | answers | median, ms | 95 %, ms | longest, ms |", "|---|---|---|---|---|"]
        for kind, seconds in self.seconds.items():
            told = (statistics.median(seconds), self.share(kind), max(seconds))
            rows.append(f"| {kind} | {len(seconds)} | {' | '.join(f'{value * 1000:.0f}' for value in told)} |")
        return "\n".join(rows)


class Connection:
    """One connection to the page, which stays open."""

    def __init__(self, port: int, cookies: dict[str, str]) -> None:
        self._port, self._cookies = port, cookies
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of an answer."""
        async with asyncio.timeout(ANSWER_SECONDS):
            status, headers = await self.begin(method, path, body)
            assert self._streams is not None
            reader = self._streams[0]
            if status in (204, 304):  # answers that have no body
                return status, headers, b""
            if "content-length" in headers:
                return status, headers, await reader.readexactly(int(headers["content-length"]))
            return status, headers, b"".join([part async for part in self.parts()])

    async def begin(self, method: str, path: str, body: bytes = b"") -> tuple[int, Mapping[str, str]]:
        """Send a request and return status and headers of its answer."""
        if self._streams is not None and self._streams[0].at_eof():  # the server has closed it, unused for too long
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAccept-Encoding: gzip\r\n"
        head += f"Cookie: {cookies}\r\n" if cookies else ""
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
        writer.write(head.encode("ascii") + b"\r\n" + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "set-cookie" in headers:
            name, _, value = headers["set-cookie"].partition(";")[0].partition("=")
            self._cookies[name] = value
        return int(first.split()[1]), headers

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of a body whose length is not told."""
        assert self._streams is not None
        reader = self._streams[0]
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Session:
    """One person's tab, without a browser. ``config`` is the page's configuration, the same for all."""

    def __init__(self, port: int, config: Mapping[str, Any], times: Times) -> None:
        self._config, self._times = config, times
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._functions = {function["api_name"]: function for function in config["dependencies"]}
        self._hash = uuid.uuid4().hex[:11]
        cookies: dict[str, str] = {}
        self._stream = Connection(port, cookies)
        self._free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put_nowait(Connection(port, cookies))
        self.jobs: list[str] = []

    async def live(self, seconds: float, files: list[str]) -> None:
        """Come, make a job, stay for ``seconds``, go."""
        listening: list[asyncio.Task[None]] = []
        try:
            await self._load(files)
            opening = [self._run("open"), self._run("estimate"), self._run("card"), self._listen("news", listening)]
            opening += [self._get(path, "a small question") for path in ("/kept", "/queue", "/ui/lists/presets")]
            await asyncio.gather(*opening)
            for typed in ("a", "a light", "a lighthouse"):
                await self._run("check", {"field-prompt": typed}, kind="a look at what is typed")
            kept = json.dumps({"prompt": f"a lighthouse {self._hash}"}).encode("ascii")
            await self._ask("POST", "/kept", "keeping what was typed", kept, right=(204,))
            with self._times.of("making a job"):
                told = await self._run("generate", {"field-prompt": f"a lighthouse {self._hash}"}, kind="")
            self.jobs.append(str(told["made"]))
            await self._listen("stage", listening, self.jobs[-1])
            listening.append(asyncio.create_task(self._look_at_queue()))
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                await asyncio.sleep(BETWEEN_SECONDS)
                await self._get("/", "the page again")
                await self._get(f"/preview/{self.jobs[-1]}", "a job's preview", right=(200, 404))  # 404: none yet
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            self._stream.close()
            while not self._free.empty():
                self._free.get_nowait().close()

    async def _load(self, files: list[str]) -> None:
        """Load the page as a browser that has never been here."""
        with self._times.of("the whole page, all its files"):
            await self._get("/", "the page")
            await asyncio.gather(*(self._get(path, "a file of the page") for path in files))

    async def _get(self, path: str, kind: str, right: tuple[int, ...] = (200,)) -> None:
        await self._ask("GET", path, kind, right=right)

    async def _ask(
        self, method: str, path: str, kind: str, body: bytes = b"", right: tuple[int, ...] = (200,)
    ) -> tuple[Mapping[str, str], bytes]:
        """Ask over a free connection; the time is that of the answer, waiting for a connection is the browser's."""
        connection = await self._free.get()
        try:
            began = time.perf_counter()
            status, headers, answer = await connection.ask(method, path, body)
            if status not in right:
                raise ValueError(f"{method} {path} is answered with {status}")
            if kind:
                self._times.seconds[kind].append(time.perf_counter() - began)
            return headers, answer
        except (OSError, EOFError, TimeoutError):
            connection.close()
            raise
        finally:
            self._free.put_nowait(connection)

    def _body(self, function: Mapping[str, Any], values: Mapping[str, Any]) -> bytes:
        """Return a question with the page's present values, some of them others."""
        data = [values.get(self._parts[id].get("elem_id"), self._parts[id].get("value")) for id in function["inputs"]]
        asked = {"data": data, "fn_index": function["id"], "session_hash": self._hash, "trigger_id": None}
        return json.dumps(asked).encode("utf-8")

    async def _run(
        self, name: str, values: Mapping[str, Any] | None = None, kind: str = "a small question"
    ) -> dict[str, Any]:
        """Ask for one answer; return the boxes' values by their ids in the document."""
        function = self._functions[name]
        body = self._body(function, values or {})
        told = json.loads((await self._ask("POST", f"/gradio_api/run/{name}", kind, body))[1])["data"]
        return {str(self._parts[id].get("elem_id")): value for id, value in zip(function["outputs"], told, strict=True)}

    async def _listen(self, wanted: str, listening: list[asyncio.Task[None]], job: str = "") -> None:
        """Listen anew, as a page does whose jobs change, until the first word of a kind has come; read on behind it."""
        kind = {"news": "the first word about the worker", "stage": "the first look at a job"}[wanted]
        self._stream.close()
        first = asyncio.Event()
        with self._times.of(kind):
            await self._stream.begin("GET", f"/live?tab={job}")
            listening.append(asyncio.create_task(self._read(self._stream.parts(), f"event: {wanted}".encode(), first)))
            await asyncio.wait_for(first.wait(), ANSWER_SECONDS)

    async def _read(self, parts: AsyncIterator[bytes], wanted: bytes, first: asyncio.Event) -> None:
        async for part in parts:
            if wanted in part:
                first.set()

    async def _look_at_queue(self) -> None:
        while True:
            await asyncio.sleep(QUEUE_SECONDS)
            await self._get("/queue", "the queue")


async def crowd(url: str, sessions: int, seconds: float, arriving_seconds: float) -> Times:
    """Let ``sessions`` people come one after the other within ``arriving_seconds``, and stay."""
    times = Times()
    port = int(url.rstrip("/").rpartition(":")[2])
    files = VISIT.read_text(encoding="utf-8").split()
    first = Connection(port, {})
    status, headers, body = await first.ask("GET", "/config")
    first.close()
    if status != 200:
        raise SystemExit(f"/config is answered with {status}")
    config = json.loads(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)

    async def one(number: int) -> None:
        await asyncio.sleep(arriving_seconds * number / sessions)
        try:
            await Session(port, config, times).live(seconds, files)
        except (LookupError, TimeoutError, OSError, EOFError, ValueError) as error:
            times.faults.append(f"session {number}: {type(error).__name__} {error}")

    await asyncio.gather(*(one(number) for number in range(sessions)))
    return times


@contextmanager
def page(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the page with the fake engine; yield its address and the number of its process."""
    folders = {name: str(folder / name) for name in ("models", "styles_folder", "outputs", "data")}
    for path in folders.values():
        Path(path).mkdir()
    settings = {
        "config": folders,
        "worker": [sys.executable, str(FAKES / "page_engine.py"), folders["outputs"], "--slow", "0.3"],
        "defaults": {"size": "256x192"},
    }
    command = [sys.executable, str(FAKES / "page_process.py"), json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def core_seconds(pid: int) -> float:
    """Return how long a process has computed; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def record(url: str) -> None:
    """Write down which files Chromium asks for on a first visit."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT))
    from tests.browser.conftest import find_browser

    path = find_browser()
    seen: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: seen.append(request.url.removeprefix(url.rstrip("/"))))
        tab.goto(url)
        tab.wait_for_selector("#field-prompt textarea:visible")
        tab.wait_for_timeout(3000)
        browser.close()
    files = [path for path in dict.fromkeys(seen) if re.match(r"/(assets|static|ui|theme\.css)", path)]
    VISIT.write_text("\n".join(path for path in files if "/lists/" not in path) + "\n", encoding="utf-8")


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, page(Path(folder)) as (url, pid):
        if "--record" in sys.argv:
            record(url)
            return
        sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
        seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
        server, clients, began = core_seconds(pid), time.process_time(), time.monotonic()
        times = asyncio.run(crowd(url, sessions, seconds, arriving_seconds=10.0))
        server, clients, took = core_seconds(pid) - server, time.process_time() - clients, time.monotonic() - began
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    answers = sum(len(seconds) for kind, seconds in times.seconds.items() if "whole" not in kind)
    print(f"{sessions} sessions, {os.cpu_count()} logical processors{load}\n\n{times.table()}\n")
    print(f"In {took:.0f} s and {answers} answers the server computed {server:.1f} s, the clients {clients:.1f} s.")
    for fault in times.faults[:20]:
        print(fault)


if __name__ == "__main__":
    main()

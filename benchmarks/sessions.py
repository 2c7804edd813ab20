"""How the page answers when many people use it at once while a job runs; loopback only, a fake engine draws.

Each session does what a browser does: it loads the page and its configuration, opens the stream of answers, follows the
worker, makes a job, watches it, and then looks at the page and its preview again every two seconds. Run
``python benchmarks/sessions.py [sessions] [seconds]`` in the environment of the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
FAKES = ROOT / "tests" / "fakes"
STARTING_SECONDS = 60.0
BETWEEN_SECONDS = 2.0  # a person's pause between two looks


class Times:
    """How long the answers took, by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.faults: list[str] = []

    @contextmanager
    def of(self, kind: str) -> Any:
        """Measure what happens inside."""
        began = time.perf_counter()
        try:
            yield
        except httpx.HTTPError as error:
            self.faults.append(f"{kind}: {type(error).__name__} {error}")
        else:
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


class Session:
    """One person's tab, without a browser."""

    def __init__(self, url: str, times: Times) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self._times = times
        self._hash = uuid.uuid4().hex[:11]
        self._config: dict[str, Any] = {}
        self._first: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.jobs: list[str] = []

    async def live(self, seconds: float) -> None:
        """Come, make a job, stay for ``seconds``, go."""
        async with self._client:
            await self._load()
            listening = asyncio.create_task(self._listen())
            try:
                await self._join("load", self._function("load", queued=True), [])
                await self._submit(f"a lighthouse {self._hash}")
                ends = time.monotonic() + seconds
                while time.monotonic() < ends:
                    await asyncio.sleep(BETWEEN_SECONDS)
                    with self._times.of("the page again"):
                        (await self._client.get("/")).raise_for_status()
                    with self._times.of("a job's preview"):
                        await self._client.get(f"/preview/{self.jobs[-1]}")  # 404 until there is one
            finally:
                listening.cancel()

    async def _load(self) -> None:
        with self._times.of("the page"):
            (await self._client.get("/")).raise_for_status()
        with self._times.of("its configuration"):
            answer = await self._client.get("/config")
            self._config = answer.raise_for_status().json()
        with self._times.of("a script of ours"):
            (await self._client.get("/ui/page.js")).raise_for_status()

    def _function(self, event: str, *, queued: bool, element: str = "") -> dict[str, Any]:
        """Find what the page does at an event of an element (by its id in the page)."""
        ids = {part["id"] for part in self._config["components"] if part["props"].get("elem_id") == element}
        for function in self._config["dependencies"]:
            for target, name in function["targets"]:
                meant = name == event and (not element or target in ids)
                if meant and bool(function["queue"]) == queued and function["backend_fn"]:
                    return dict(function)
        raise LookupError(f"nothing happens at {event} of {element or 'the page'}")

    def _body(self, function: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        parts = {part["id"]: part["props"] for part in self._config["components"]}
        data = [values.get(parts[id].get("elem_id"), parts[id].get("value")) for id in function["inputs"]]
        return {"data": data, "fn_index": function["id"], "session_hash": self._hash, "trigger_id": None}

    async def _submit(self, prompt: str) -> None:
        function = self._function("submit", queued=False, element="field-prompt")
        body = self._body(function, {"field-prompt": prompt, "tab": ""})
        with self._times.of("making a job"):
            answer = await self._client.post("/gradio_api/run/predict", json=body)
            told = answer.raise_for_status().json()["data"]
        parts = {part["id"]: part["props"].get("elem_id") for part in self._config["components"]}
        outputs = dict(zip((parts[id] for id in function["outputs"]), told, strict=False))
        self.jobs.append(str(outputs["tab"]))
        await self._join("change", self._function("change", queued=True, element="tab"), {"tab": outputs["tab"]})

    async def _join(self, event: str, function: dict[str, Any], values: Any) -> None:
        """Ask for a stream of answers and wait for its first."""
        kind = {"load": "the first word about the worker", "change": "the first look at a job"}[event]
        with self._times.of(kind):
            body = self._body(function, values or {})
            answer = await self._client.post("/gradio_api/queue/join", json=body)
            id = answer.raise_for_status().json()["event_id"]
            await asyncio.wait_for(self._first[id].wait(), 60)

    async def _listen(self) -> None:
        """Read the stream in which all answers come."""
        await asyncio.sleep(0.05)  # Gradio knows a session from its first event on
        parameters = {"session_hash": self._hash}
        while True:
            async with self._client.stream("GET", "/gradio_api/queue/data", params=parameters, timeout=None) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        told = json.loads(line[5:])
                        if told.get("msg") in ("process_generating", "process_completed"):
                            self._first[told["event_id"]].set()
            await asyncio.sleep(0.2)


async def crowd(url: str, sessions: int, seconds: float, arriving_seconds: float) -> Times:
    """Let ``sessions`` people come one after the other within ``arriving_seconds``, and stay."""
    times = Times()

    async def one(number: int) -> None:
        await asyncio.sleep(arriving_seconds * number / sessions)
        try:
            await Session(url, times).live(seconds)
        except (LookupError, TimeoutError, httpx.HTTPError) as error:
            times.faults.append(f"session {number}: {type(error).__name__} {error}")

    await asyncio.gather(*(one(number) for number in range(sessions)))
    return times


@contextmanager
def page(folder: Path) -> Any:
    """Serve the page with the fake engine, whose "slow" job runs throughout; yield its address."""
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
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """Print a table."""
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, page(Path(folder)) as url:
        times = asyncio.run(crowd(url, sessions, seconds, arriving_seconds=10.0))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{sessions} sessions, {os.cpu_count()} logical processors{load}\n\n{times.table()}")
    for fault in times.faults[:20]:
        print(fault)


if __name__ == "__main__":
    main()

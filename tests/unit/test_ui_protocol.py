"""What the page's scripts ask and are answered, and the bytes that the page is made of, without a browser."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.config import Config
from fooocus.errors import StorageError
from fooocus.request import Request
from fooocus.ui.actions import ACTIONS, CONTROLS
from fooocus.ui.compiled import FOLDER, ORIGIN, Compiled, compiled, load
from fooocus.ui.controls import initial
from fooocus.ui.files import STATIC, Files
from fooocus.ui.page import Answer, Boxes, Update
from fooocus.ui.protocol import Protocol
from fooocus.ui.server import build_app
from tests.fakes.fake_jobs import FakeJobs

ROOT = Path(__file__).resolve().parents[2]
PORT = 7865
HOME = f"http://127.0.0.1:{PORT}"
DEFAULTS = Request(prompt="a fox")
# The ids in the document of those boxes whose names are not their ids.
IDS = {name: f"field-{name}" for name in (*CONTROLS, "preset-ask", "preset-said", "styled-ask", "loved")}
IDS |= {"remedy": "field-remedy-ask", "advanced": "advanced-switch", "memory": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protocol")


@pytest.fixture(scope="module")
def page(folder: Path) -> Compiled:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("HF_HUB_OFFLINE", "1")
        return compiled(DEFAULTS, models=False, folder=folder / FOLDER)


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def client(page: Compiled, folder: Path, jobs: Any) -> Iterator[TestClient]:
    config = Config(models=folder / "m", styles_folder=folder / "s", outputs=folder / "o", data=folder)
    app: Any = build_app(config, jobs, DEFAULTS, port=PORT)
    with TestClient(app, base_url=HOME, client=("127.0.0.1", 50000)) as client:
        yield client


def number(page: Compiled, action: str) -> int:
    return next(id for id, name in page.functions.items() if name == action)


def test_every_action_is_wired_to_the_boxes_that_it_names(page: Compiled) -> None:
    assert set(page.functions.values()) == set(ACTIONS)
    config = json.loads(page.config)
    assert config["connect_heartbeat"] is False, "there is no route for it"
    ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    wired = {function["id"]: function for function in config["dependencies"]}
    assert {id for id, function in wired.items() if function["backend_fn"]} == set(page.functions)
    for id, name in page.functions.items():
        action, function = ACTIONS[name], wired[id]
        for boxes, found in ((action.given, function["inputs"]), (action.told, function["outputs"])):
            assert [IDS.get(box, box) for box in boxes] == [ids[part] for part in found], name
        assert (function["queue"], function["types"]["generator"]) == (action.streams, action.streams), name


def test_the_second_start_needs_no_gradio(page: Compiled, folder: Path) -> None:
    """Everything that the page process imports, in a fresh interpreter, and what came along."""
    program = (
        "import sys, pathlib, fooocus.cli, fooocus.app, fooocus.ui.server; from fooocus.request import Request;"
        "from fooocus.ui.compiled import compiled;"
        f"made = compiled(Request(prompt='a fox'), models=False, folder=pathlib.Path({str(folder / FOLDER)!r}));"
        "print(made.app_id, sorted({'gradio', 'fastapi', 'httpx', 'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == (f"{page.app_id} []", "")


def test_a_kept_page_that_is_damaged_is_made_again(page: Compiled, folder: Path) -> None:
    file = next((folder / FOLDER).glob("*.json"))
    assert load(file) == page
    odd = file.read_text().replace('"functions": {', '"functions": 1, "x": {')
    for damage in ("", "{", "[]", '{"document": "x"}', "[" * 100_000, odd):
        file.write_text(damage)
        assert load(file) is None
    made = compiled(DEFAULTS, models=False, folder=folder / FOLDER)
    assert made.functions == page.functions and load(file) == made
    other = compiled(dataclasses.replace(DEFAULTS, prompt="an owl"), models=False, folder=folder / FOLDER)
    assert "an owl" in other.document and "an owl" not in made.document
    assert len([*(folder / FOLDER).iterdir()]) == 2


def test_the_document_knows_its_own_address_and_life(client: TestClient, page: Compiled) -> None:
    told = client.get("/gradio_api/app_id").json()["app_id"]
    for text in (client.get("/").text, client.get("/config").text):
        assert ORIGIN not in text and f'"app_id":{told}' in text and str(page.app_id) not in text
    assert '"root":location.origin' in client.get("/").text
    assert client.get("/config", headers={"host": f"localhost:{PORT}"}).json()["root"] == f"http://localhost:{PORT}"


def test_what_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    for path in ("/", "/theme.css", "/ui/page.js", "/ui/words/de.json", "/favicon.ico"):
        first = client.get(path, headers={"accept-encoding": "gzip"})
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b""), path
        assert "no-cache" in first.headers["cache-control"], path
        plain = {"accept-encoding": ""}
        length = client.head(path, headers=plain).headers["content-length"]
        assert length == str(len(client.get(path, headers=plain).content)), path
    script = next(path for path in client.get("/").text.split('"') if path.startswith(("./assets/", "/assets/")))
    answer = client.get(script.removeprefix("."))
    assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]


@pytest.mark.skipif(sys.platform == "win32", reason="there devices are in every folder, by names of their own")
def test_a_device_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read keeps the whole page waiting, and some devices never end."""
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "CON").symlink_to(os.devnull)
    (tmp_path / "static" / "file").write_text("x")
    monkeypatch.setattr("fooocus.ui.files.frontend", lambda: tmp_path)

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = TestClient(Files(elsewhere, Compiled("", "", "", {}, 0), 1))
    found = [client.get(f"/static/{name}").status_code for name in ("CON", "file")]
    assert found == [404, 200]


def test_bytes_are_compressed_for_those_who_understand_it(client: TestClient) -> None:
    with client.stream("GET", "/ui/page.js", headers={"accept-encoding": "br, gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    plain = client.get("/ui/page.js", headers={"accept-encoding": ""}).content
    assert gzip.decompress(packed) == plain == (STATIC / "page.js").read_bytes() and len(packed) < len(plain) / 2


def ask(client: TestClient, page: Compiled, action: str, **boxes: Any) -> dict[str, Any]:
    """Ask an action and return what the boxes are told."""
    given = [boxes.get(name, initial(DEFAULTS).get(name)) for name in ACTIONS[action].given]
    body = {"fn_index": number(page, action), "data": given, "session_hash": "abc"}
    answer = client.post("/gradio_api/run/predict", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()["data"]
    assert len(told) == len(ACTIONS[action].told)
    return {
        name: value for name, value in zip(ACTIONS[action].told, told, strict=True) if value != {"__type__": "update"}
    }


def test_a_job_is_made_and_an_error_stands_beside_its_field(client: TestClient, page: Compiled, jobs: FakeJobs) -> None:
    told = ask(client, page, "generate", prompt="a lighthouse", tab="old-job")
    assert (told["tab"], told["problem"], told["replaces"]) == ("old-job job-1", "", "")
    assert told["size"] == {"info": told["size"]["info"], "elem_classes": [], "__type__": "update"}
    assert jobs.job("job-1").request["prompt"] == "a lighthouse"
    told = ask(client, page, "generate", size="1150x896")
    assert (
        "tab" not in told
        and told["advanced"] is True
        and told["tabs"] == {"selected": "settings", "__type__": "update"}
    )
    assert "multiple of 8" in told["problem"] and told["size"]["elem_classes"] == ["wrong"]
    assert list(jobs.all) == ["job-1"]


@pytest.mark.parametrize("value", [7, None, [], {}, "x" * 100_000, "\ud800", True, 1e300])
def test_no_value_of_a_box_breaks_anything(client: TestClient, page: Compiled, value: Any) -> None:
    for action in ACTIONS.values():
        if not action.streams:
            odd = dict.fromkeys(action.given, value)
            body = {"fn_index": number(page, action.name), "data": list(odd.values()), "session_hash": "abc"}
            answer = client.post("/gradio_api/run/predict", content=json.dumps(body))
            assert answer.status_code == 200, (action.name, value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"fn_index": 1}',
        b'{"fn_index": "x", "data": []}',
        b'{"fn_index": %d, "data": []}',
        b'{"fn_index": %d, "data": [""], "session_hash": 5}',
        b'{"fn_index": %d, "data": [""], "session_hash": "' + b"x" * 200 + b'"}',
        b"x" * 10_000_001,
    ],
)
def test_what_is_no_question_is_refused(client: TestClient, page: Compiled, body: bytes) -> None:
    body = body.replace(b"%d", str(number(page, "stop")).encode())
    for path in ("/gradio_api/run/predict", "/gradio_api/queue/join"):
        assert client.post(path, content=body).status_code == 422


def test_a_page_of_an_earlier_life_is_told_so(client: TestClient) -> None:
    told = client.get("/gradio_api/queue/data", params={"session_hash": "gone"}).text
    assert json.loads(told.removeprefix("data:"))["session_not_found"] is True


# Streams, with functions of the test's own and without a network: a stream ends when its reader goes.


class Tab:
    """Reads a page's stream as long as it is open."""

    def __init__(self, protocol: Protocol, hash: str, cookie: str = "") -> None:
        self.app = Starlette(routes=protocol.routes())
        self.hash = hash
        self.headers = [(b"cookie", cookie.encode())]
        self.heard: list[dict[str, Any]] = []
        self.closed = anyio.Event()

    async def _ask(self, method: str, path: str, query: bytes, body: bytes, send: Any) -> None:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await self.closed.wait()
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": self.headers}
        await self.app(scope | {"asgi": {"spec_version": "2.3"}}, receive, send)

    async def join(self, function: int, data: list[Any]) -> str:
        answer = b""

        async def send(message: Any) -> None:
            nonlocal answer
            answer += message.get("body", b"")

        asked = {"fn_index": function, "data": data, "session_hash": self.hash}
        await self._ask("POST", "/gradio_api/queue/join", b"", json.dumps(asked).encode(), send)
        return str(json.loads(answer)["event_id"])

    async def listen(self) -> None:
        async def send(message: Any) -> None:
            for line in message.get("body", b"").splitlines():
                if line:
                    self.heard.append(json.loads(line.removeprefix(b"data: ")))

        await self._ask("GET", "/gradio_api/queue/data", f"session_hash={self.hash}".encode(), b"", send)

    async def until(self, msg: str, event: str) -> dict[str, Any]:
        with anyio.fail_after(10):
            while True:
                for message in self.heard:
                    if message["msg"] == msg and message.get("event_id") == event:
                        return message
                await anyio.sleep(0.01)


@contextmanager
def _protocol(follow: Any, watch: Any) -> Iterator[Protocol]:
    once = {"stop": lambda given, owner: {}}
    yield Protocol({1: "watch", 2: "follow", 3: "stop"}, once, {"watch": watch, "follow": follow})


def test_a_page_that_does_not_read_piles_up_nothing() -> None:
    asked = 0

    async def watch(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        nonlocal asked
        for asked in range(200):
            yield {"stage": str(asked)}

    async def visit() -> None:
        with _protocol(None, watch) as protocol:
            tab = Tab(protocol, "one")
            event = await tab.join(1, [""])
            await anyio.sleep(0.3)
            assert 40 < asked < 60
            async with anyio.create_task_group() as group:
                group.start_soon(tab.listen)
                done = await tab.until("process_completed", event)
                tab.closed.set()
            assert done["output"]["data"] == ["199"]

    anyio.run(visit)


def test_a_stream_says_what_is_new_and_ends_with_its_page(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def watch(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        if given["tab"] == "broken":
            raise StorageError("No.", "Yes.")
        for word in ("a", "b", "b"):
            yield {"stage": f"{word} {given['tab']} {owner}"}

    async def follow(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        try:
            yield {"status": "here", "arrived": Update(info="x")}
            await anyio.sleep_forever()
        finally:
            ended.append(owner)

    async def visit() -> None:
        with _protocol(follow, watch) as protocol:
            tab = Tab(protocol, "one")
            endless, job = await tab.join(2, []), await tab.join(1, ["me"])
            async with anyio.create_task_group() as group:
                group.start_soon(tab.listen)
                done = await tab.until("process_completed", job)
                broken = await tab.until("process_completed", await tab.join(1, ["broken"]))
                once = await tab.until("process_completed", await tab.join(3, [""]))
                assert ended == []
                tab.closed.set()
            said = [m["output"]["data"] for m in tab.heard if m["msg"] == "process_generating" and m["event_id"] == job]
            assert said == [["a me page-one"], [[["replace", [], "b me page-one"]]], [[]]]
            assert done["success"] and done["output"]["data"] == ["b me page-one"]
            assert not broken["success"] and broken["output"] == {"error": None}
            assert once["success"] and once["output"]["data"] == []
            first = await tab.until("process_generating", endless)
            assert first["output"]["data"] == ["here", {"__type__": "update"}, {"info": "x", "__type__": "update"}]
            assert first["output"]["is_generating"] is True
            await anyio.sleep(0.05)
            assert ended == ["page-one"]
            tab.heard.clear()
            await tab.listen()
            assert [m["msg"] for m in tab.heard] == ["unexpected_error"]

    anyio.run(visit)
    assert "a question of the page was not answered" in caplog.text


def test_of_what_a_page_watches_only_the_newest_goes_on() -> None:
    ended: list[str] = []

    async def watch(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        try:
            yield {"stage": given["tab"]}
            await anyio.sleep_forever()
        finally:
            ended.append(given["tab"])

    async def follow(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        yield {"status": "here"}
        await anyio.sleep_forever()

    async def visit() -> None:
        with _protocol(follow, watch) as protocol:
            tab, other = Tab(protocol, "one"), Tab(protocol, "two")
            news = await tab.join(2, [])
            async with anyio.create_task_group() as group:
                older, elsewhere = await tab.join(1, ["older"]), await other.join(1, ["elsewhere"])
                group.start_soon(tab.listen)
                group.start_soon(other.listen)
                await tab.until("process_generating", older)
                newer = await tab.join(1, ["newer"])
                left = await tab.until("process_completed", older)
                assert left["success"] and left["output"]["data"] == [{"__type__": "update"}]
                assert (await tab.until("process_generating", newer))["output"]["data"] == ["newer"]
                await other.until("process_generating", elsewhere)
                assert ended == ["older"]
                assert [m["event_id"] for m in tab.heard if m["msg"] == "process_completed"] == [older]
                assert news != newer
                tab.closed.set()
                other.closed.set()

    anyio.run(visit)


def test_a_browser_with_many_tabs_keeps_connections_for_what_they_ask() -> None:
    async def follow(given: Boxes, owner: str) -> AsyncIterator[Answer]:
        yield {"status": "here"}
        await anyio.sleep_forever()

    async def visit() -> None:
        with _protocol(follow, None) as protocol:
            tabs = [Tab(protocol, f"tab {n}", "fooocus_owner=of-one-browser-of-many") for n in range(4)]
            events = [await tab.join(2, []) for tab in tabs]
            other = Tab(protocol, "other", "fooocus_owner=of-another-browser")
            async with anyio.create_task_group() as group:
                for tab, event in zip(tabs[:3], events, strict=False):
                    group.start_soon(tab.listen)
                    await tab.until("process_generating", event)
                last = tabs[3]
                with anyio.fail_after(10):
                    await last.listen()  # gets a piece, and its connection is free again
                    await last.until("process_generating", events[3])
                    stopped = await last.join(3, [""])
                    while not any(message.get("event_id") == stopped for message in last.heard):
                        await last.listen()  # nothing is missed between two pieces
                news = await other.join(2, [])
                group.start_soon(other.listen)
                await other.until("process_generating", news)
                tabs[0].closed.set()
                with anyio.fail_after(10):
                    while protocol._streams["of-one-browser-of-many"] > 2:
                        await anyio.sleep(0.01)
                event = await last.join(2, [])
                group.start_soon(last.listen)  # stays, because there is a place for it now
                await last.until("process_generating", event)
                assert protocol._streams["of-one-browser-of-many"] == 3
                for tab in (*tabs, other):
                    tab.closed.set()
            assert not protocol._streams and not protocol._sessions

    anyio.run(visit)

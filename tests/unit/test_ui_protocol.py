"""What the page's scripts ask and are answered, and the bytes that the page is made of, without a browser."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from fooocus.config import Config
from fooocus.errors import StorageError
from fooocus.request import Request
from fooocus.ui.actions import ACTIONS, CONTROLS
from fooocus.ui.compiled import FOLDER, ORIGIN, Compiled, _without_ways_out, compiled, load
from fooocus.ui.controls import initial
from fooocus.ui.files import STATIC, Files
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
        assert not function["queue"] and not function["types"]["generator"], f"{name} would open a stream of Gradio's"


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

    client = TestClient(Files(elsewhere, Compiled("", "", "", {}, 0), 1, ""))
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
    told = ask(client, page, "generate", prompt="a lighthouse")
    assert (told["made"], told["problem"], told["replaces"]) == ("job-1", "", "")
    assert told["size"] == {"info": told["size"]["info"], "elem_classes": [], "__type__": "update"}
    assert jobs.job("job-1").request["prompt"] == "a lighthouse"
    told = ask(client, page, "generate", size="1150x896")
    assert (
        "made" not in told
        and told["advanced"] is True
        and told["tabs"] == {"selected": "settings", "__type__": "update"}
    )
    assert "multiple of 8" in told["problem"] and told["size"]["elem_classes"] == ["wrong"]
    assert list(jobs.all) == ["job-1"]


@pytest.mark.parametrize("value", [7, None, [], {}, "x" * 100_000, "\ud800", True, 1e300])
def test_no_value_of_a_box_breaks_anything(client: TestClient, page: Compiled, value: Any) -> None:
    for action in ACTIONS.values():
        odd = dict.fromkeys(action.given, value)
        body = {"fn_index": number(page, action.name), "data": list(odd.values()), "session_hash": "abc"}
        answer = client.post("/gradio_api/run/predict", content=json.dumps(body))
        assert answer.status_code == 200, (action.name, value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("nobody thought of it"), "a defect of this program"),
        (StorageError("No room.", "Make some."), "Make some."),
    ],
)
def test_what_breaks_while_a_button_is_answered_is_said(
    client: TestClient,
    page: Compiled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    said: str,
) -> None:
    def breaks(*values: Any) -> None:
        raise error

    monkeypatch.setattr("fooocus.ui.welcome.Welcome.order", breaks)
    told = ask(client, page, "order", order="{}")
    assert said in told["problem"]
    assert ("nobody thought of it" in caplog.text) == isinstance(error, RuntimeError)
    monkeypatch.undo()
    assert ask(client, page, "order", order="{}") == {"problem": ""}


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
    assert client.post("/gradio_api/run/predict", content=body).status_code == 422


def test_who_keeps_no_cookies_is_known_by_the_page_view(client: TestClient, page: Compiled) -> None:
    client.cookies.clear()
    assert ask(client, page, "open", memory="")["me"] == "page-abc"
    client.get("/")  # which sets one
    assert ask(client, page, "open", memory="")["me"] == ""


def test_the_page_is_made_whatever_way_out_the_computer_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of a kind that Gradio's library does not know, and certificates that are gone, end its import."""
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    monkeypatch.setenv("NO_PROXY", "example.org")
    before = dict(os.environ)
    with pytest.raises((OSError, ValueError)):
        httpx.Client()
    with _without_ways_out():
        httpx.Client().close()
    assert dict(os.environ) == before

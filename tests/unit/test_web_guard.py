"""The door of the page, tried with the whole real application behind it.

What each row asks for was answered with 200, or executed, by Gradio's own server, which stands behind it no more.
"""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fooocus.config import Config
from fooocus.errors import ConfigError
from fooocus.images.library.library import Library
from fooocus.images.library.places import find_picture
from fooocus.request import Request
from fooocus.ui.guard import DOORS, HEADERS, TRIES_A_MINUTE, Guard, owner_of, split_host
from fooocus.ui.server import build_app
from tests.compiled import share
from tests.fakes.fake_jobs import FakeJobs

PORT = 7865
HOME = f"http://127.0.0.1:{PORT}"
SECRET = b"nobody may read this"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with a picture, and things around it that are none of anybody's business."""
    root = tmp_path_factory.mktemp("guard")
    day = root / "outputs" / "2026-01-02"
    day.mkdir(parents=True)
    (root / "secret.png").write_bytes(SECRET)
    (root / "outputs" / "secret.png").write_bytes(SECRET)
    for name in ("a.html", "a.svg", ".env", ".a.png", "a.png.part", "jobs.sqlite", "a.PNG.txt"):
        (day / name).write_bytes(SECRET)
    (day / "a.png").write_bytes(PNG)
    (day / "link.png").symlink_to(root / "secret.png")
    share(root)
    (root / "outputs" / "2026-01-03").symlink_to(root)
    return root


def build(folder: Path, library: Library | None = None, **settings: Any) -> Guard:
    config = Config(
        models=folder / "m", styles_folder=folder / "s", outputs=folder / "outputs", data=folder, **settings
    )
    jobs: Any = FakeJobs()
    return build_app(config, jobs, Request(), port=PORT, library=library, wrong_try_seconds=0.01)


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[Guard]:
    with pytest.MonkeyPatch.context() as patch, closing(Library(folder / "outputs", folder)) as library:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield build(folder, library)


@pytest.fixture(scope="module")
def client(app: Guard) -> Iterator[TestClient]:
    with TestClient(app, base_url=HOME, client=("127.0.0.1", 50000)) as client:  # type: ignore[arg-type]
        yield client


def routes(app: Any) -> list[tuple[str, str]]:
    """Return every (method, path) that the application behind the guard knows, parameters filled in."""
    found: list[tuple[str, str]] = []

    def walk(node: Any, prefix: str) -> None:
        for route in getattr(node, "routes", []):
            path = prefix + getattr(route, "path", "")
            for method in getattr(route, "methods", None) or []:
                found.append((method, re.sub(r"\{[^}]*\}", "x", path)))
            for inner in (getattr(route, "app", None), getattr(route, "original_router", None)):
                if inner is not None and hasattr(inner, "routes"):
                    walk(inner, path.rstrip("/") if hasattr(route, "app") else prefix)

    walk(app._app._app, "")
    return sorted(set(found))


def test_the_page_itself_answers(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "/ui/page.css" in answer.text


def test_no_route_exists_that_the_page_does_not_need(app: Guard, client: TestClient) -> None:
    known = routes(app)
    assert len(known) > 30, "the walk over the routes found too few to mean anything"
    assert ("POST", "/gradio_api/run/x") in known and ("GET", "/live") in known
    for method, path in known:
        is_open = any(method in methods and pattern.fullmatch(path) for methods, pattern in DOORS)
        if not is_open:  # every route that answers GET would answer HEAD as well
            assert method == "HEAD" and client.request(method, path).status_code == 405, (method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=a.png"),
        ("GET", "/gradio_api/file=../secret.png"),
        ("GET", "/gradio_api/file=%2e%2e/secret.png"),
        ("GET", "/gradio_api/file/x"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
        ("GET", "/file=http://169.254.169.254/"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/cancel"),
        ("POST", "/gradio_api/reset"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/call/x"),
        ("GET", "/monitoring"),
        ("POST", "/login"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("PUT", "/"),
        ("DELETE", "/pictures/2026-01-02/a.png"),
        ("OPTIONS", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/assets/../../routes.py"),
        ("GET", "/assets/%2e%2e/%2e%2e/routes.py"),
        ("GET", "/static/..%2f..%2froutes.py"),
        ("GET", "/ui/..%2fserver.py"),
        ("GET", "/ui/__init__.py"),
        ("GET", "//etc/passwd"),
    ],
)
def test_unused_routes_do_not_exist(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code in (404, 405)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (f"127.0.0.1:{PORT}", 200),
        (f"localhost:{PORT}", 200),
        (f"LOCALHOST:{PORT}", 200),
        (f"[::1]:{PORT}", 200),
        ("127.0.0.1", 400),
        ("127.0.0.1:80", 400),
        (f"127.0.0.1:{PORT + 1}", 400),
        (f"evil.com:{PORT}", 400),
        (f"localhost.evil.com:{PORT}", 400),
        (f"127.0.0.1.evil.com:{PORT}", 400),
        (f"evil.com#127.0.0.1:{PORT}", 400),
        (f"user@127.0.0.1:{PORT}", 400),
        (f"192.168.1.5:{PORT}", 400),
        (f"0.0.0.0:{PORT}", 400),
        (f"[::ffff:127.0.0.1]:{PORT}", 400),
        (f"127.0.0.1:{PORT}, evil.com", 400),
        (f"2130706433:{PORT}", 400),
        ("", 400),
        (f"localhost:{PORT}\t", 400),
        (f"localhost:0{PORT}", 200),  # the same number; no browser writes it, no harm is in it
    ],
)
def test_only_our_own_names_are_answered(client: TestClient, host: str, status: int) -> None:
    for method, path in (("GET", "/"), ("GET", "/pictures/2026-01-02/a.png")):
        assert client.request(method, path, headers={"host": host}).status_code == status, path


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"origin": HOME}, True),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://evil.com"}, False),
        ({"origin": f"http://evil.com:{PORT}"}, False),
        ({"origin": f"http://127.0.0.1:{PORT + 1}"}, False),
        ({"origin": "http://127.0.0.1"}, False),
        ({"origin": f"https://127.0.0.1:{PORT}"}, False),
        ({"origin": f"http://localhost:{PORT}"}, False),
        ({"origin": f"http://127.0.0.1:{PORT}.evil.com"}, False),
        ({"origin": f"{HOME}/"}, False),
        ({"origin": f"{HOME}, https://evil.com"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.com"}, False),
    ],
)
def test_only_this_page_may_change_anything(client: TestClient, headers: dict[str, str], allowed: bool) -> None:
    status = client.post("/gradio_api/run/predict", json={"nothing": "valid"}, headers=headers).status_code
    assert status == (422 if allowed else 403)


def test_a_link_from_elsewhere_still_opens_the_page(client: TestClient) -> None:
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    assert client.get("/", headers={"origin": "https://evil.com"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/", "/config", "/pictures/2026-01-02/a.png", "/ui/page.js", "/nothing", "/theme.css"]
)
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    for name, value in HEADERS:
        if name != b"content-security-policy":
            assert answer.headers[name.decode()] == value.decode()
    assert "content-security-policy" in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pictures_are_served_as_pictures(client: TestClient) -> None:
    answer = client.get("/pictures/2026-01-02/a.png")
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert "max-age" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "2026-01-02/a.html",
        "2026-01-02/a.svg",
        "2026-01-02/.env",
        "2026-01-02/.a.png",
        "2026-01-02/a.png.part",
        "2026-01-02/jobs.sqlite",
        "2026-01-02/link.png",
        "2026-01-03/secret.png",
        "2026-01-02/..%2f..%2fsecret.png",
        "2026-01-02/../../secret.png",
        "..%2f/secret.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "2026-01-02%2f../secret.png",
        "2026-01-02/a.png%00.html",
        "2026-01-02/..%5c..%5csecret.png",
        "2026-01-02/C:%5csecret.png",
        "2026-01-02//a.png",
        "2026-01-02/",
        "secret.png",
        "٢٠٢٦-01-02/a.png",
    ],
)
def test_nothing_but_pictures_of_a_day_is_served(client: TestClient, path: str) -> None:
    answer = client.get(f"/pictures/{path}")
    assert answer.status_code in (404, 405)
    assert SECRET not in answer.content


def test_crooked_paths_read_nothing(client: TestClient) -> None:
    parts = [
        "..",
        ".",
        "2026-01-02",
        "2026-01-03",
        "secret.png",
        "a.png",
        "%2e%2e",
        "..%2f",
        "%5c",
        "//",
        "pictures",
        "ui",
    ]
    parts += [
        "gradio_api",
        "file=",
        "assets",
        "static",
        "%00",
        "etc",
        "passwd",
        "jobs.sqlite",
        "a.html",
        "~",
        "link.png",
    ]
    draw = random.Random(1)
    for _ in range(500):
        path = draw.choice(["/pictures/", "/thumbnails/", "/history/details/", "/ui/", "/assets/", "/static/", "/x"])
        path += "/".join(draw.choices(parts, k=draw.randint(1, 6)))
        content = client.get(path).content
        assert SECRET not in content and b"root:x" not in content, path


def test_no_crooked_name_leaves_the_folder_of_a_day(folder: Path) -> None:
    draw = random.Random(2)
    signs = ["..", ".", "/", "\\", "a.png", "secret", ".png", "2026-01-02", "2026-01-03", "\0", ":", "~", "%2e", "link"]
    for _ in range(10_000):
        day, name = ("".join(draw.choices(signs, k=draw.randint(1, 4))) for _ in range(2))
        file = find_picture(folder / "outputs", draw.choice([day, "2026-01-02"]), name)
        assert file is None or file.read_bytes() == PNG, (day, name)


def test_previews_belong_to_their_browser(app: Guard, client: TestClient) -> None:
    assert client.get("/preview/no-such-job").status_code == 404


def test_a_browser_gets_one_owner_token_and_keeps_it(app: Guard) -> None:
    with TestClient(app, base_url=HOME) as fresh:  # type: ignore[arg-type]
        cookie = fresh.get("/").headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "set-cookie" not in fresh.get("/").headers


@pytest.mark.parametrize("token", ["", "short", "x" * 65, "a b c d e f g h i j", "../../etc/passwd0000", "ä" * 20])
def test_odd_owner_tokens_are_none(token: str) -> None:
    assert owner_of(f"fooocus_owner={token}") is None


def test_hosts_are_split_strictly() -> None:
    assert split_host("[::1]:80") == ("[::1]", 80)
    assert split_host("a b") == ("", None)


# With a password.


@pytest.fixture
def locked(folder: Path, app: Guard) -> Iterator[TestClient]:
    guard = Guard(app._app, Config(listen=True, password="pass wörd", host="0.0.0.0"), PORT, seconds=0.01)
    yield TestClient(guard, base_url=HOME, client=("10.0.0.7", 1))  # type: ignore[arg-type]


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def test_without_the_password_no_route_answers(app: Guard, locked: TestClient) -> None:
    for method, path in [*routes(app), ("GET", "/"), ("GET", "/pictures/2026-01-02/a.png"), ("GET", "/ui/page.js")]:
        status = locked.request(method, path).status_code
        is_open = any(method in methods and pattern.fullmatch(path) for methods, pattern in DOORS)
        assert status == 401 if is_open else status in (404, 405), (method, path)
    assert locked.get("/").headers["www-authenticate"].startswith("Basic")


def test_the_right_password_opens(locked: TestClient) -> None:
    assert locked.get("/ui/page.js", headers=basic("pass wörd")).status_code == 200


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer x", "Basic " + base64.b64encode(b"nocolon").decode()])
def test_malformed_logins_are_refused(locked: TestClient, header: str) -> None:
    assert locked.get("/ui/page.js", headers={"authorization": header}).status_code == 401


def test_guessing_is_slow_and_then_stops(folder: Path, app: Guard) -> None:
    guard = Guard(app._app, Config(listen=True, password="right"), PORT, seconds=0.05)
    client = TestClient(guard, base_url=HOME, client=("10.0.0.8", 1))  # type: ignore[arg-type]
    begun = time.monotonic()
    statuses = [client.get("/ui/page.js", headers=basic(str(i))).status_code for i in range(20)]
    assert statuses == [401] * TRIES_A_MINUTE + [429] * (20 - TRIES_A_MINUTE)
    assert time.monotonic() - begun >= 0.05 * TRIES_A_MINUTE
    assert client.get("/ui/page.js", headers=basic("right")).status_code == 429
    other = TestClient(guard, base_url=HOME, client=("10.0.0.9", 1))  # type: ignore[arg-type]
    assert other.get("/ui/page.js", headers=basic("right")).status_code == 200


def test_listening_answers_to_addresses_but_not_to_foreign_names(locked: TestClient) -> None:
    login = basic("pass wörd")
    assert locked.get("/ui/page.js", headers={"host": f"192.168.1.5:{PORT}", **login}).status_code == 200
    assert locked.get("/ui/page.js", headers={"host": f"evil.com:{PORT}", **login}).status_code == 400


@pytest.mark.parametrize("settings", [{"listen": True}, {"host": "0.0.0.0"}, {"host": "192.168.1.5"}, {"host": "::"}])
def test_the_network_is_not_let_in_without_a_password(app: Guard, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Guard(app._app, Config(**settings), PORT)
    Guard(app._app, Config(password="x", **settings), PORT)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_alone_needs_none(app: Guard, host: str) -> None:
    Guard(app._app, Config(host=host), PORT)


def test_web_sockets_are_refused(client: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/live"):
        pass

"""Settings kept on the server, the link to another device, and the code that a phone's camera reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.config import Config
from fooocus.ui import devices, qr
from fooocus.ui.devices import Links, add_device_routes, network_host
from fooocus.ui.guard import OWNER_COOKIE
from fooocus.ui.kept import Kept, add_kept_routes

ME, YOU = "me" * 10, "you" * 7


def client(app: Starlette, owner: str | None) -> TestClient:
    cookies = {OWNER_COOKIE: owner} if owner else {}
    return TestClient(app, base_url="http://192.168.1.5:7865", cookies=cookies, follow_redirects=False)


def test_settings_come_back_to_their_person_only(tmp_path: Path) -> None:
    app = Starlette()
    add_kept_routes(app, Kept(tmp_path / "people"))
    mine = client(app, ME)
    assert mine.get("/kept").json() == {}
    assert mine.post("/kept", json={"prompt": "ein Fuchs 🦊", "advanced": True}).status_code == 204
    told = mine.get("/kept").json()
    assert told["values"] == {"prompt": "ein Fuchs 🦊", "advanced": True}
    assert 0 <= told["age_ms"] < 60_000
    assert client(app, YOU).get("/kept").json() == {}
    assert client(app, None).get("/kept").json() == {}
    assert client(app, None).post("/kept", json={}).status_code == 400
    assert ME not in "".join(path.name for path in tmp_path.rglob("*")), "a file's name opens nobody's jobs"


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"[" * 100_000])
def test_what_is_no_object_is_refused(tmp_path: Path, body: bytes) -> None:
    app = Starlette()
    add_kept_routes(app, Kept(tmp_path))
    assert client(app, ME).post("/kept", content=body).status_code == 400
    assert client(app, ME).post("/kept", content=b" " * 500_000).status_code == 413


def test_a_torn_file_is_as_good_as_none_and_is_written_anew(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(ME, {"prompt": "whole"})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for end in range(0, len(whole), 3):
        file.write_bytes(whole[:end])
        assert kept.get(ME) == {}
    assert kept.put(ME, {"prompt": "\ud800 again"})
    assert kept.get(ME)["values"]["prompt"].endswith(" again")


def test_a_folder_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "people").touch()
    assert not Kept(tmp_path / "people").put(ME, {})
    assert Kept(tmp_path / "people").get(ME) == {}


def test_people_who_never_come_back_are_forgotten(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(ME, {"prompt": "old"})
    (file,) = tmp_path.iterdir()
    os.utime(file, (0, 0))
    kept.put(YOU, {"prompt": "new"})
    kept.sweep()
    assert kept.get(ME) == {} and kept.get(YOU)


@pytest.fixture
def joined() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def app(joined: list[tuple[str, str]]) -> Starlette:
    app = Starlette()
    add_device_routes(app, Config(listen=True, password="x"), 7865, lambda old, new: joined.append((old, new)))
    return app


def test_a_link_makes_a_second_browser_the_same_person_once(app: Starlette, joined: list[Any]) -> None:
    told = client(app, ME).post("/device").json()
    assert told["url"].startswith("http://192.168.1.5:7865/join/") and "<svg" in told["svg"]
    phone = client(app, YOU)
    path = told["url"].removeprefix("http://192.168.1.5:7865")
    assert "Use on this device" in phone.get(path).text
    assert phone.get(path).headers["referrer-policy"] == "same-origin", "else its form is refused as a stranger's"
    assert "Use on this device" in phone.get(path).text, "to look at it uses nothing up"
    answer = phone.post(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (
        answer.headers["set-cookie"].startswith(f"{OWNER_COOKIE}={ME};") and "HttpOnly" in answer.headers["set-cookie"]
    )
    assert joined == [(YOU, ME)]
    again = client(app, None).post(path)
    assert again.status_code == 410 and "set-cookie" not in again.headers
    assert "used already" in again.text


def test_links_end_and_are_few() -> None:
    links = Links(seconds=-1)
    assert not links.good(token := links.make(ME)) and links.take(token) is None
    links = Links()
    tokens = [links.make(ME) for _ in range(150)]
    assert sum(links.good(token) for token in tokens) == 100


def test_a_page_that_listens_to_nobody_says_how_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Starlette()
    add_device_routes(app, Config(), 7865, lambda old, new: None)
    told = client(app, ME).post("/device").json()
    assert "this computer only" in told["sentence"] and "--listen" in told["remedy"]
    monkeypatch.setattr(devices, "own_address", lambda: "10.0.0.7")
    assert network_host("localhost:7865") == network_host("127.0.0.1:7865") == "10.0.0.7"
    assert network_host("desk.local:7865") == "desk.local"
    monkeypatch.setattr(devices, "own_address", lambda: "127.0.0.1")
    assert network_host("localhost:7865") == ""


def read(matrix: qr.Matrix) -> str:
    """Read a code as a camera would, without correcting anything; what is checked is checked by its own rules."""
    side = len(matrix)
    correction, size, blocks, centres = qr._VERSIONS[(side - 17) // 4 - 1]
    word = sum(matrix[8][x] << 14 - i for i, x in enumerate((*range(6), 7))) | sum(
        matrix[y][8] << 7 - i for i, y in enumerate((8, 7, *range(5, -1, -1)))
    )
    mask = (word ^ 0x5412) >> 10
    assert mask < 8, "error correction M"
    taken = {**qr._fixed(side, centres), **qr._format(side, mask)}
    bits, up = [], True
    for right in (*range(side - 1, 6, -2), 5, 3, 1):
        for y in reversed(range(side)) if up else range(side):
            bits += [matrix[y][x] != qr._MASKS[mask](y, x) for x in (right, right - 1) if (y, x) not in taken]
        up = not up
    words = [sum(bit << 7 - i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits) - 7, 8)]
    data = b""
    for block in range(blocks):
        part = words[block : size * blocks : blocks] + words[size * blocks + block :: blocks][:correction]
        for power in range(correction):  # every root of the generator is a root of the whole block
            root, value = 1, 0
            for _ in range(power):
                root = qr._times(root, 2)
            for one in part:
                value = qr._times(value, root) ^ one
            assert value == 0
        data += bytes(part[:size])
    number = int.from_bytes(data, "big")
    length = number >> 8 * len(data) - 12 & 0xFF
    return (number >> 8 * len(data) - 12 - 8 * length & (1 << 8 * length) - 1).to_bytes(length, "big").decode()


@pytest.mark.parametrize("text", ["a", "http://192.168.178.123:7865/join/abcdefghijklmnopqrstuv", "é" * 30, "w" * 106])
def test_a_code_is_read_back(text: str) -> None:
    matrix = qr.qr_matrix(text)
    assert read(matrix) == text
    assert qr.qr_svg(text).count("M") == sum(map(sum, matrix))


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="107 bytes"):
        qr.qr_svg("w" * 107)

"""What the page can ask about pictures, through the real routes behind the real guard."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.config import Config
from fooocus.images.findings import Known
from fooocus.images.foreign import read_pasted
from fooocus.images.library.library import Library
from fooocus.images.metadata import encode
from fooocus.request import LoraUse, Size
from fooocus.ui.guard import Guard
from fooocus.ui.pictures import MAX_TEXT_BYTES, MAX_UPLOAD_BYTES, add_picture_routes
from fooocus.ui.restore import restore, said
from tests.pictures import Maker, recipe

PORT = 7865
HOME = f"http://127.0.0.1:{PORT}"
DAY = "2026-11-23"
FOX, OWL, PLAIN = "12-00-00-000_001_7.png", "12-30-00-000_001_8.png", "11-00-00-000_001_9.png"
MAKER = Maker()
BLOCK = "a cat <lora:grain:0.4>\nNegative prompt: blur\n"
BLOCK += "Steps: 20, Sampler: Euler a, CFG scale: 5, Seed: 3, Size: 640x512, Model: gone"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for file in ("checkpoints/sd_xl_base_1.0", "checkpoints/deep/other", "loras/grain"):
        (root / "models" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "models" / f"{file}.safetensors").touch()
    return root


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    outputs = folder / "outputs"
    evil = '<img src=x onerror="alert(1)"> a red fox'
    MAKER.put(outputs / DAY / FOX, recipe(prompt=evil, seed=2**63 - 1, styles=("gone-style",)))
    MAKER.put(outputs / DAY / OWL, recipe(prompt="an owl", base="other.safetensors", loras=()))
    MAKER.put(outputs / DAY / PLAIN, None)
    config = Config(models=folder / "models", styles_folder=folder / "styles", outputs=outputs, data=folder / "data")

    def no_bin(file: Path) -> None:
        raise OSError

    with closing(Library(outputs, config.data, no_bin)) as library:
        app = Starlette()
        add_picture_routes(app, config, library)
        guard: Any = Guard(app, config, PORT)
        with TestClient(guard, base_url=HOME) as client:
            yield client


def post(client: TestClient, path: str, order: Any) -> tuple[int, Any]:
    answer = client.post(f"/history/{path}", json=order)
    return answer.status_code, answer.json()


def days(client: TestClient, **query: Any) -> list[list[Any]]:
    return [day[:2] for day in client.get("/history/overview", params=query).json()["days"]]


def read(client: TestClient, body: bytes | str) -> tuple[int, Any]:
    kind = "text/plain" if isinstance(body, str) else "application/octet-stream"
    answer = client.post("/history/read", content=body, headers={"content-type": kind})
    return answer.status_code, answer.json()


def test_lists_search_and_pages(client: TestClient) -> None:
    overview = client.get("/history/overview").json()
    assert days(client) == [[DAY, 3]] and overview["pictures"] == 3 and overview["unread"] == 0
    assert days(client, words="OWL") == [[DAY, 1]]
    page = client.get("/history/page", params={"day": DAY, "skip": 1, "take": 1}).json()["pictures"]
    assert [entry["picture"] for entry in page] == [f"{DAY}/{FOX}"]
    assert page[0]["seed"] == str(2**63 - 1)  # as text: a browser's numbers end at 2**53
    assert (page[0]["width"], page[0]["height"], page[0]["time"]) == (64, 48, "12:00")
    assert client.get("/history/filters").json()["models"] == [["other", 1], ["sd_xl_base_1.0", 1]]
    assert client.get("/history/page", params={"day": "x' OR 1", "skip": -5, "take": 10**9}).json() == {"pictures": []}
    assert client.get("/history/page", params={"day": DAY, "skip": "x", "take": 1}).status_code == 422


def test_thumbnails_are_small_and_kept(client: TestClient) -> None:
    answer = client.get(f"/thumbnails/{DAY}/{FOX}?v=1")
    assert answer.headers["content-type"] == "image/jpeg" and "sandbox" in answer.headers["content-security-policy"]
    assert "immutable" in answer.headers["cache-control"]
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (64, 48)
    for path in (f"{DAY}/none.png", f"{DAY}/..%2fx.png", f"2026-01-01/{FOX}", f"{DAY}/a.html"):
        assert client.get(f"/thumbnails/{path}").status_code == 404


def test_details_are_readable_and_restorable(client: TestClient) -> None:
    told = client.get(f"/history/details/{DAY}/{FOX}").json()
    assert told["prompt"] == '<img src=x onerror="alert(1)"> a red fox' and told["negative"] == "text"
    rows = dict(told["rows"])
    assert rows["Size"] == "128 × 96" and rows["Seed"] == str(2**63 - 1) and rows["Sampler"] == "DPM++ 2M SDE"
    assert rows["LoRAs"] == "grain (0.5)" and rows["Base model"] == "sd_xl_base_1.0" and "Performance" not in rows
    assert told["values"]["performance"] == "speed" and told["values"]["steps"] is None
    assert "count" not in told["values"] and "format" not in told["values"]
    assert any("gone-style" in warning for warning in told["warnings"])
    assert "Steps: 30" in told["text"] and read_pasted(told["json"], Known()) is not None
    owl = client.get(f"/history/details/{DAY}/{OWL}").json()
    assert owl["values"]["base"] == "deep/other.safetensors" and owl["warnings"] == []
    assert "values" not in client.get(f"/history/details/{DAY}/{PLAIN}").json()
    gone = client.get(f"/history/details/{DAY}/none.png")
    assert gone.status_code == 422 and gone.json()["sentence"].endswith("not there any more.")


def test_half_a_character_stops_nothing(client: TestClient, folder: Path) -> None:
    odd = "half \ud83d and \x00 odd"
    MAKER.put(folder / "outputs" / DAY / "13-00-00-000_001_1.png", recipe(prompt=odd, base=f"x{odd}"))
    told = client.get(f"/history/details/{DAY}/13-00-00-000_001_1.png").json()
    assert told["prompt"] == odd
    assert days(client, words="half odd") == [[DAY, 1]]
    assert client.get("/history/filters").status_code == 200
    config = Config(models=folder / "models", styles_folder=folder / "styles")
    restored = restore(told["values"], config, seed=True)
    (restored.request.prompt + said("x", (odd,))).encode()
    (folder / "outputs" / DAY / "13-00-00-000_001_1.png").unlink()


def test_a_favourite_is_marked_and_found(client: TestClient) -> None:
    assert post(client, "favourite", {"picture": f"{DAY}/{OWL}", "on": True}) == (200, {"favourite": True})
    assert days(client, favourite=True) == [[DAY, 1]]
    assert client.get(f"/history/details/{DAY}/{OWL}").json()["favourite"] is True
    assert post(client, "favourite", {"picture": f"{DAY}/{OWL}", "on": False})[0] == 200
    for odd in ({"picture": "../x.png", "on": True}, {"picture": f"{DAY}/none.png", "on": True}, {"on": 1}, [], "x"):
        assert post(client, "favourite", odd)[0] in (400, 422)


def test_deleting_and_undoing(client: TestClient, folder: Path) -> None:
    file = folder / "outputs" / DAY / FOX
    status, told = post(client, "delete", {"pictures": [f"{DAY}/{FOX}"]})
    assert status == 200 and told["pictures"] == [f"{DAY}/{FOX}"] and not file.exists()
    assert days(client) == [[DAY, 2]]
    assert post(client, "undo", {"undo": told["undo"]})[1] == {"pictures": [f"{DAY}/{FOX}"]}
    assert file.exists() and days(client) == [[DAY, 3]]
    for odd in ({}, {"pictures": []}, {"pictures": ["../../x.png"]}, {"pictures": [f"{DAY}/{FOX}"] * 501}):
        assert post(client, "delete", odd)[0] == 422
    for token in ("", "../..", "0" * 24):
        assert post(client, "undo", {"undo": token})[0] == 422
    assert file.exists()


def test_another_site_changes_nothing_and_reading_is_not_changing(client: TestClient, folder: Path) -> None:
    order = {"pictures": [f"{DAY}/{OWL}"]}
    for headers in ({"origin": "http://evil.com"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert client.post("/history/delete", json=order, headers=headers).status_code == 403
    for path in ("delete", "favourite", "undo", "read"):
        assert client.get(f"/history/{path}").status_code == 405
    assert (folder / "outputs" / DAY / OWL).exists()


def test_with_a_password_everything_asks_for_it(client: TestClient) -> None:
    guard: Any = Guard(client.app._app, Config(listen=True, password="secret", host="0.0.0.0"), PORT, seconds=0.01)  # type: ignore[attr-defined]
    stranger = TestClient(guard, base_url=HOME)
    paths = ("history/overview", f"history/details/{DAY}/{OWL}", f"thumbnails/{DAY}/{OWL}", "history/state")
    assert [stranger.get(f"/{path}").status_code for path in paths] == [401] * 4
    assert stranger.post("/history/delete", json={"pictures": [f"{DAY}/{OWL}"]}).status_code == 401


def test_a_dropped_picture_tells_its_settings(client: TestClient) -> None:
    image = Image.new("RGB", (64, 64))
    for format in ("png", "jpeg", "webp"):
        mine = recipe(prompt="dropped", loras=(LoraUse("lost.safetensors", 1.0),))
        status, told = read(client, encode(image, mine, format))  # type: ignore[arg-type]
        assert status == 200 and told["prompt"] == "dropped" and told["origin"] == "Made with this program"
        assert told["values"]["loras"] == [] and any("lost" in warning for warning in told["warnings"])
    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("parameters", BLOCK)
    image.save(buffer, "PNG", pnginfo=info)
    for source in (buffer.getvalue(), BLOCK):
        status, told = read(client, source)
        assert status == 200 and told["values"]["loras"] == [["grain.safetensors", 0.4]]
        assert told["values"]["size"] == "640x512" and told["values"]["steps"] == 20 and "base" not in told["values"]
        assert any("'gone'" in warning for warning in told["warnings"]) and told["text"].startswith("a cat")


def test_what_holds_no_settings_is_a_sentence(client: TestClient) -> None:
    plain = io.BytesIO()
    Image.new("RGB", (64, 64)).save(plain, "PNG")
    for body in (
        plain.getvalue(),
        b"",
        b"GIF89a",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
        "a plain prompt",
        "{}",
    ):
        status, told = read(client, body)
        assert status == 422 and told["sentence"].endswith((".", "?")) and "Traceback" not in told["sentence"]
    for kind, limit in (("text/plain", MAX_TEXT_BYTES), ("image/png", MAX_UPLOAD_BYTES)):
        answer = client.post("/history/read", content=b"x" * (limit + 1), headers={"content-type": kind})
        assert answer.status_code == 413 and "larger than" in answer.json()["sentence"]


@pytest.mark.clock
@pytest.mark.parametrize("unit", ["_", "__a", "[[", "(", "<lora:a:", "a: b, ", '"\\', "Steps: 1, ", "{" * 50, "\n"])
def test_hostile_texts_cost_no_time(client: TestClient, unit: str) -> None:
    text = unit * (250_000 // len(unit))
    begun = time.monotonic()
    for body in (
        text,
        text + "\nSteps: 20, Sampler: Euler",
        "Steps: 20, Sampler: " + text,
        '{"prompt": "' + text + '"}',
    ):
        assert read(client, body)[0] in (200, 422)
    assert time.monotonic() - begun < 5


def test_names_that_only_look_like_files_are_no_paths(client: TestClient) -> None:
    for evil in ("../../secret", "/etc/passwd", "C:\\x.safetensors", "\x00"):
        request = {"base": evil, "vae": evil, "loras": [[evil, 1.0]], "styles": [evil], "prompt": "x"}
        status, told = read(client, json.dumps(request))
        assert status == 200 and not {"base", "vae"} & told["values"].keys() and told["values"]["loras"] == []
        assert not any(re.search(r"etc/|\.\.", words) for words in told["warnings"] if "style" not in words)


def test_a_refiner_that_is_not_here_is_not_replaced(client: TestClient) -> None:
    mine = recipe(base="sd_xl_base_1.0.safetensors", refiner="gone.safetensors", switch=21, size=Size(512, 512))
    told = read(client, json.dumps({"layout": 1, "recipe": mine.to_json()}))[1]
    assert told["values"]["refiner"] == "none" and told["values"]["switch"] is None
    assert any("gone" in warning for warning in told["warnings"])

"""A download through the page, whose process is killed on the way: paused, cancelled, gone on with, right at last."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from fooocus.models.catalogue import FOLDERS, Entry
from fooocus.models.fetch import HubSettings
from fooocus.models.first_run import FirstRun, Places
from fooocus.models.report import lines
from tests.browser.conftest import FAKES, PageServer, StartPage, Visit, Visitor, restart
from tests.fakes.fake_hub import FakeHub, RemoteFile, until
from tests.fakes.fake_lora import lora_file

PROGRAM = (sys.executable, str(FAKES / "first_run_page.py"))
LOST_AT_MOST = 16_000_000  # bytes that a kill may cost
SMALL = lora_file("small.safetensors", 6000)  # 25 MB
LARGE = lora_file("large.safetensors", 73_500)  # 301 MB


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: how many bytes had arrived, and from where the next process went on."""

    arrived: int
    went_on_at: int

    @property
    def again(self) -> int:
        """How many bytes were fetched a second time."""
        return self.arrived - self.went_on_at


def settings(file: RemoteFile, hub: FakeHub, home: Path) -> dict[str, Any]:
    """Return what ``first_run_page.py`` needs to want ``file`` of ``hub``."""
    entry = Entry(file.name, "lora", "owner/model", "main", file.size, file.sha256, "free", "the base model: paints")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
    return {"first_run": {"entries": [dataclasses.asdict(entry)], "environment": environment, "home": str(home)}}


def says(visitor: Visitor, words: str, seconds: float = 60.0) -> None:
    """Wait until the first screen says ``words``."""
    visitor.page.wait_for_function(
        "words => document.querySelector('.welcome')?.innerText.includes(words)", arg=words, timeout=seconds * 1000
    )


def fetch_through_kills(server: PageServer, visitor: Visitor, hub: FakeHub, file: RemoteFile, kills: int) -> list[Kill]:
    """Press the button; kill the page process ``kills`` times on the way and press again; wait for the file."""
    suffered = []
    visitor.page.click('[data-order="fetch"]')
    for number in range(1, kills + 1):
        begun = len(hub.asked)
        until(lambda begun=begun: len(hub.asked) >= max(begun, 1), 60)  # type: ignore[misc]
        wanted = file.size * number // (kills + 1)
        until(lambda wanted=wanted: hub.asked[-1].start + hub.asked[-1].sent >= wanted, 120)  # type: ignore[misc]
        before = hub.asked[-1]
        asked = len(hub.asked)
        restart(server, PROGRAM)  # ends it with SIGKILL
        arrived = before.start + before.sent
        visitor.page.reload()
        says(visitor, " of ")  # what is there of it is said before anything is asked for
        visitor.page.click('[data-order="fetch"]')
        until(lambda asked=asked: len(hub.asked) > asked, 60)  # type: ignore[misc]
        suffered.append(Kill(arrived, hub.asked[-1].start))
    target = Path(server.settings["config"]["models"]) / "loras" / file.name
    until(target.exists, 240)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256
    assert not list(target.parent.glob("*.part"))
    return suffered


def doctor(server: PageServer) -> list[str]:
    """Return what ``launch.py doctor`` says of the same folders."""
    config, given = server.settings["config"], server.settings["first_run"]
    models = Path(config["models"])
    places = Places(models.parent, models, Path(config["data"]), {k: (models / v,) for k, v in FOLDERS.items()})
    run = FirstRun(places, [Entry(**entry) for entry in given["entries"]], HubSettings(given["environment"]))
    try:
        return lines(run.survey())
    finally:
        run.close()


@pytest.mark.slow  # half a minute; the short form without a page is in tests/fault
def test_a_killed_page_goes_on_where_it_was(page_server: StartPage, visit: Visit, tmp_path: Path) -> None:
    with FakeHub(SMALL) as hub:
        server = page_server(program=PROGRAM, settings=settings(SMALL, hub, tmp_path))
        visitor = visit(server.url)
        says(visitor, "Fetch 1 file, 25 MB")
        assert visitor.barriers() == []
        part = Path(server.settings["config"]["models"]) / "loras" / f"{SMALL.name}.part"
        hub.rate = 4e6
        visitor.page.click('[data-order="fetch"]')
        says(visitor, "MB/s")
        assert visitor.barriers() == []
        visitor.page.click('[data-order="cancel"]')
        says(visitor, "Fetch 1 file, 25 MB")
        until(lambda: not part.exists())

        visitor.page.click('[data-order="fetch"]')
        until(lambda: hub.asked[-1].sent > 2_000_000, 60)
        visitor.page.click('[data-order="pause"]')
        says(visitor, "Paused")
        said = visitor.page.inner_text(".files .size").removeprefix("paused, ")
        told = doctor(server)
        assert any(line.startswith(f"{SMALL.name}: {said} fetched") for line in told), (said, told)
        assert f"Verdict: {visitor.page.inner_text('.verdict')}" in told

        hub.rate = 8e6
        visitor.page.reload()
        says(visitor, "Paused")
        restart(server, PROGRAM)
        visitor.page.reload()
        says(visitor, said)  # a kill forgets the pause, not the bytes
        (kill,) = fetch_through_kills(server, visitor, hub, SMALL, 1)
        assert 0 <= kill.again <= LOST_AT_MOST
        asked = len(hub.asked)
        visitor.page.wait_for_selector(".examples", state="visible")
        restart(server, PROGRAM)  # with all files there nothing is asked of anybody
        visitor.page.reload()
        visitor.page.wait_for_selector(".examples", state="visible")
        visitor.page.wait_for_selector("#status p")
        assert len(hub.asked) == asked and hub.heads == 0


@pytest.mark.slow
def test_300_mb_through_three_kills(page_server: StartPage, visit: Visit, tmp_path: Path) -> None:
    with FakeHub(LARGE) as hub:
        hub.rate = 25e6
        server = page_server(program=PROGRAM, settings=settings(LARGE, hub, tmp_path))
        visitor = visit(server.url)
        says(visitor, "Fetch 1 file, 301 MB")
        kills = fetch_through_kills(server, visitor, hub, LARGE, 3)
        assert [kill for kill in kills if not 0 <= kill.again <= LOST_AT_MOST] == []
        assert hub.sent <= LARGE.size * 1.05
        print("\n| kill | bytes that had arrived | went on at | fetched again |\n|---|---|---|---|")
        for number, kill in enumerate(kills, start=1):
            print(f"| {number} | {kill.arrived:,} | {kill.went_on_at:,} | {kill.again:,} |")
        print(f"| all | {LARGE.size:,} in the file | {hub.sent:,} sent | {hub.sent - LARGE.size:,} |")

"""The first screen while files are missing: what it says in each state, and which orders it takes."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
from html import escape
from pathlib import Path
from typing import Any

import pytest

from fooocus import app, cli
from fooocus.config import load_config
from fooocus.errors import ConfigError
from fooocus.events import Finished
from fooocus.models import first_run
from fooocus.models.catalogue import Entry, load_catalogue, wanted_by
from fooocus.models.computer import Card, Computer
from fooocus.models.fetch import FileProgress, HubSettings, Phases, Progress
from fooocus.models.first_run import FirstRun, Places
from fooocus.models.report import State, Survey, WantedFile
from fooocus.models.troubles import DownloadError
from fooocus.models.verdict import judge
from fooocus.request import LoraUse, Request
from fooocus.ui import welcome_views
from fooocus.ui.welcome import Look, Welcome, measured_seconds
from tests.fakes.fake_hub import FakeHub, RemoteFile, until
from tests.fakes.fake_jobs import FakeJobs
from tests.fakes.fake_lora import lora_file
from tests.layouts import LORA, write_sparse
from tests.unit.test_ui_views import EVIL, Tags

GB = 10**9
NAME = "small.safetensors"
NOTHING = Progress((), 0, 0, 0.0, None)


def entry(name: str = NAME, purpose: str = "the base model: paints") -> Entry:
    return Entry(name, "checkpoint", "owner/model", "main", 4 * GB, "0" * 64, "free", purpose)


def look(
    state: State = "missing",
    phase: Phases | None = None,
    *,
    cards: tuple[Card, ...] = (Card("nvidia", "NVIDIA GeForce RTX 3060", 12 * GB, 8.6),),
    free: int = 100 * GB,
    sentence: str = "",
    name: str = NAME,
) -> Look:
    computer = Computer("Linux 6", "Zen", 8, frozenset(), 32 * GB, cards, Path("/models"), free)
    copy = Path("/other/models/x.safetensors") if state == "elsewhere" else None
    file = WantedFile(entry(name), state, GB if state == "begun" else 0, Path("/models/checkpoints") / name, copy)
    progress = NOTHING
    if phase is not None:
        told = FileProgress(name, phase, GB, 4 * GB, 1e7, 300.0, sentence, "Do this.", "NoConnection")
        progress = Progress((told,), GB, 4 * GB, 1e7, 300.0)
    return Look(Survey(computer, judge(computer), (file,)), progress, {name: f"https://hub/{name}"})


def orders(html: str) -> list[str]:
    return Tags(html).attributes.get("data-order", [])


def test_missing_files_are_said_with_one_button() -> None:
    html = welcome_views.panel(look())
    text = Tags(html).text
    assert orders(html) == ["fetch"]
    for part in ("Fetch 1 file, 4.0 GB", "RTX 3060", "at 250 Mbit/s", "T/s for this card", "into /models/checkpoints"):
        assert part in text
    assert "1 file is missing" in welcome_views.quiet_line(look())


@pytest.mark.parametrize(
    ("seen", "buttons", "title"),
    [
        (look("begun", "fetching"), ["pause", "cancel"], "25 % – Fetching the models"),
        (look("begun", "paused"), ["resume", "cancel"], "25 % – Paused"),
        (look("begun"), ["fetch"], "Before the first picture"),
        (look("missing", "cancelled"), ["fetch"], "Before the first picture"),
        (look("missing", "failed", sentence="Nobody answers."), ["fetch"], "Not everything could be fetched"),
        (look("elsewhere"), ["use", "place"], "Before the first picture"),
        (dataclasses.replace(look(), offline=True), [], "Before the first picture"),
    ],
)
def test_each_state_offers_what_can_be_done(seen: Look, buttons: list[str], title: str) -> None:
    html = welcome_views.panel(seen)
    assert orders(html) == buttons
    assert Tags(html).attributes["data-title"] == [title]


def test_a_file_that_cannot_be_used_says_why() -> None:
    seen = look("unusable")
    file = dataclasses.replace(seen.survey.files[0], sentence="It is a web page.")
    html = welcome_views.panel(dataclasses.replace(seen, survey=dataclasses.replace(seen.survey, files=(file,))))
    assert "It is a web page." in html and "cannot be used" in html


def test_what_is_begun_needs_only_the_rest() -> None:
    assert "Fetch 1 file, 3.0 GB" in welcome_views.panel(look("begun"))


def test_without_a_network_the_way_by_hand_is_open() -> None:
    html = welcome_views.panel(look("missing", "failed", sentence="Nobody answers."))
    assert 'data-key="hand" open' in html and "Nobody answers." in html and "Try again: fetch" in html
    assert 'data-key="hand" open' not in welcome_views.panel(look())


def download(*files: tuple[Phases, str]) -> Look:
    """Return what is seen while files are under way, each with its phase and sentence."""
    seen = look("missing")
    wanted = tuple(
        dataclasses.replace(seen.survey.files[0], entry=entry(f"{n}.safetensors")) for n in range(len(files))
    )
    told = tuple(
        FileProgress(file.entry.name, phase, 0, 4 * GB, sentence=sentence, code="NoConnection")
        for file, (phase, sentence) in zip(wanted, files, strict=True)
    )
    survey = dataclasses.replace(seen.survey, files=wanted)
    return dataclasses.replace(seen, survey=survey, progress=Progress(told, 0, 12 * GB, 0.0, None))


AWAY = "There is no connection to https://hub. Trying again in 16 s."


def test_a_hidden_download_says_why_nothing_comes() -> None:
    stuck = download(("retrying", AWAY), ("retrying", AWAY), ("waiting", ""))
    assert Tags(welcome_views.quiet_line(stuck)).text == AWAY
    one_comes = download(("retrying", AWAY), ("fetching", ""))
    assert "Fetching 0 bytes of 12.0 GB" in welcome_views.quiet_line(one_comes)
    failed = download(("failed", "There is no connection to https://hub."), ("failed", "No."))
    line = "Fetching failed. There is no connection to https://hub."
    assert Tags(welcome_views.quiet_line(failed)).text == line
    refused = dataclasses.replace(look(), trouble=DownloadError("The disk is full."))
    assert Tags(welcome_views.quiet_line(refused)).text == "Fetching failed. The disk is full."


def test_a_reason_that_all_files_share_is_said_once() -> None:
    shared = welcome_views.panel(download(("retrying", AWAY), ("retrying", AWAY), ("waiting", "")))
    assert shared.count(AWAY) == 1 and shared.index(AWAY) < shared.index('<ul class="files">')
    apart = welcome_views.panel(download(("retrying", AWAY), ("retrying", "The hub is busy.")))
    assert apart.index(AWAY) > apart.index('<ul class="files">') and "The hub is busy." in apart
    one = welcome_views.panel(download(("retrying", AWAY), ("fetching", "")))
    assert one.count(AWAY) == 1 and one.index(AWAY) > one.index('<ul class="files">'), "it is that file's own"


def test_too_little_room_is_said_before_anything_is_fetched() -> None:
    assert "The disk has 1.0 GB free, 4.0 GB are needed." in welcome_views.panel(look(free=GB))


def test_a_disk_that_cannot_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a share whose computer is off: looking for a file there fails in a way that is not "no"."""
    run = run_with(tmp_path, {}, RemoteFile(NAME, 1000))
    welcome = Welcome(run, spare=Request())
    models, stat = str(tmp_path / "models"), os.stat

    def ask(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | Path) and str(path).startswith(models):
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", ask)
        seen = asyncio.run(welcome.look())
        assert seen is not None and [file.state for file in seen.unfinished] == ["missing"]
        assert f"The disk of {escape(models)} is full, or it cannot be reached." in welcome_views.panel(seen)
        assert welcome.stand_in is not None
        welcome.order(json.dumps({"do": "fetch"}))
        seen = asyncio.run(welcome.look())
    assert seen is not None and seen.trouble is not None and "cannot be reached" in seen.trouble.sentence
    run.close()


def test_when_all_is_here_only_the_quiet_line_is_left() -> None:
    assert welcome_views.panel(look("here")) == ""
    line = welcome_views.quiet_line(look("here"))
    assert Tags(line).text == "RTX 3060, base and refiner take turns", "no time: that one is measured, and told apart"
    assert "no graphics card" in welcome_views.quiet_line(look("here", cards=()))


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_names_and_sentences_stay_text(evil: str) -> None:
    for seen in (look("begun", "retrying", sentence=evil, name=evil), look("missing", "failed", sentence=evil)):
        html = welcome_views.panel(dataclasses.replace(seen, trouble=DownloadError(evil, evil)))
        tags = Tags(html)
        assert not {"script", "iframe", "img"} & set(tags.tags) and evil in tags.text
        assert not [name for name in tags.attributes if name.startswith("on")]
        assert all(address.startswith("https://hub/") for address in tags.attributes.get("href", []))


def run_with(tmp_path: Path, environment: dict[str, str], file: RemoteFile) -> FirstRun:
    places = Places(tmp_path / "p", tmp_path / "models", tmp_path / "data", {"lora": (tmp_path / "models" / "loras",)})
    wanted = Entry(file.name, "lora", "owner/model", "main", file.size, file.sha256)
    return FirstRun(places, [wanted], HubSettings({"HF_HOME": str(tmp_path / "hf"), **environment}))


def test_an_order_fetches_and_a_look_sees_it(tmp_path: Path) -> None:
    file = lora_file(NAME, 50)
    with FakeHub(file) as hub:
        run = run_with(tmp_path, {"HF_ENDPOINT": hub.url}, file)
        welcome = Welcome(run)
        first = asyncio.run(welcome.look())
        assert first is not None and [f.state for f in first.unfinished] == ["missing"]
        for nonsense in ("", "{", "[]", '{"do": 1}', '{"do": "sell"}', '{"do": "use", "name": []}'):
            welcome.order(nonsense)
        assert hub.asked == []
        welcome.order(json.dumps({"do": "fetch"}))
        until(lambda: run.fetcher.progress().ended)
        last = asyncio.run(welcome.look())
        assert last is not None and last.unfinished == () and last.trouble is None
        run.close()


def test_a_file_that_was_not_wanted_before_is_fetched_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lora_file(NAME, 50)
    entry = Entry(file.name, "lora", "owner/model", "main", file.size, file.sha256)
    monkeypatch.setattr(first_run, "load_catalogue", lambda: {NAME: entry})
    with FakeHub(file) as hub:
        places = Places(tmp_path / "p", tmp_path / "m", tmp_path / "data", {"lora": (tmp_path / "m" / "loras",)})
        run = FirstRun(places, [], HubSettings({"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}))
        welcome = Welcome(run)
        welcome.order(json.dumps({"do": "need", "name": "nobody knows.safetensors"}))
        seen = asyncio.run(welcome.look())
        assert seen is not None and seen.trouble is not None and "not in the catalogue" in seen.trouble.sentence
        welcome.order(json.dumps({"do": "need", "name": NAME}))
        assert run.wanted == (entry,)
        until(lambda: run.fetcher.progress().ended)
        assert entry.target(tmp_path / "m").is_file()
        run.close()


def test_an_order_that_fails_says_why(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"HF_HUB_OFFLINE": "1"}, RemoteFile(NAME, 1000))
    welcome = Welcome(run)
    welcome.order(json.dumps({"do": "fetch"}))
    seen = asyncio.run(welcome.look())
    assert seen is not None and seen.offline and seen.trouble is not None and "HF_HUB_OFFLINE" in seen.trouble.sentence
    for order in ("use", "place"):
        welcome.order(json.dumps({"do": order, "name": NAME}))
        seen = asyncio.run(welcome.look())
        assert seen is not None and seen.trouble is not None and "no copy" in seen.trouble.sentence
    run.close()


def test_without_models_to_look_after_nothing_is_seen() -> None:
    welcome = Welcome(None)
    welcome.order(json.dumps({"do": "fetch"}))
    assert asyncio.run(welcome.look()) is None and not welcome.knows_models


def test_wanted_is_what_the_request_names_or_its_base_brings() -> None:
    entries = load_catalogue()
    assert [e.name for e in wanted_by(Request(), entries)] == list(entries)
    assert wanted_by(Request(base="pocket_base.safetensors"), entries) == []
    assert wanted_by(Request(base="/elsewhere/sd_xl_base_1.0.safetensors", refiner="none", loras=()), entries) == []
    lora = LoraUse("sd_xl_offset_example-lora_1.0", 0.5)
    assert [e.kind for e in wanted_by(Request(base="mine.safetensors", loras=(lora,)), entries)] == ["lora"]


def test_a_time_of_the_past_replaces_the_estimate(tmp_path: Path) -> None:
    jobs = FakeJobs()
    for seconds, change in ((40.0, {}), (24.0, {"prompt": "x"}), (3.0, {"size": "512x512"}), (1.0, {"steps": 4})):
        id = jobs.submit(Request().to_json() | change, "me")
        jobs.all[id] = dataclasses.replace(jobs.all[id], state="finished", terminal=Finished(("a", "b"), seconds))
    assert measured_seconds(jobs.jobs(), Request()) == 12.0
    assert measured_seconds(jobs.jobs(), Request(performance="quality")) is None
    welcome = Welcome(run_with(tmp_path, {}, RemoteFile(NAME, 1000)), lambda: 12.0)
    seen = asyncio.run(welcome.look())
    assert seen is not None and seen.measured and "about 12 s a picture" in welcome_views.panel(seen)


def test_a_file_in_an_extra_folder_is_here_and_the_settings_arrive(tmp_path: Path) -> None:
    extra = tmp_path / "webui"
    extra.mkdir()
    given = {
        "models": str(tmp_path / "m"),
        "data": str(tmp_path / "d"),
        "extra_models": str(extra),
        "mirrors": "ftp:/x",
    }
    run = app.first_run(load_config(given, {}, tmp_path / "none.json"), Request(), {"HF_HOME": str(tmp_path / "hf")})
    assert len(run.survey().to_fetch) == 3
    (extra / "Lora").mkdir()
    write_sparse(extra / "Lora" / LORA, {"lora_unet_middle_block_1_attn2_to_k.lora_down.weight": (8, 2048)}, {})
    run.close()
    run = app.first_run(load_config(given, {}, tmp_path / "none.json"), Request(), {"HF_HOME": str(tmp_path / "hf")})
    run.shelves.refresh()
    assert [file.entry.name for file in run.survey().files if file.state == "here"] == [LORA]
    with pytest.raises(ConfigError, match="ftp:/x"):
        run.fetch()
    run.close()


def test_doctor_says_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    folders = ["--models", str(tmp_path / "models"), "--data", str(tmp_path / "data")]
    assert cli.main(["doctor", *folders]) == 0
    said = capsys.readouterr().out
    assert "Verdict:" in said and "sd_xl_base_1.0.safetensors: missing, 6.9 GB" in said and "By hand: open" in said
    assert cli.main(["doctor", "--json", *folders]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["bytes_to_fetch"] == 13_063_613_868 and values["verdict"]["sentence"] in said
    assert cli.main(["doctor", "--json", "--preset", "pocket", *folders]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == []


def test_fetch_that_is_forbidden_is_a_failure_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["fetch", "--models", str(tmp_path / "models"), "--data", str(tmp_path / "data")]) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err

"""The stand-in while models are missing: when it counts, and what a page takes along when it goes over."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fooocus import app
from fooocus.config import ROOT, Config
from fooocus.models.first_run import FirstRun
from fooocus.prompt.presets import layered, load_presets
from fooocus.request import DEFAULT_BASE, LoraUse, Request, Size
from fooocus.ui.controls import initial, settings_of
from fooocus.ui.meanwhile import ON, carried_over, drawn_by
from fooocus.ui.page import Page
from fooocus.ui.remedies import Remedies
from fooocus.ui.welcome import Welcome
from tests.fakes.fake_jobs import FakeJobs

STYLES = ROOT / "styles"
FILES = ("pocket_base.safetensors", "pocket_refiner.safetensors", "pocket_offset_lora.safetensors")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(models=tmp_path / "models", styles_folder=STYLES, data=tmp_path / "data")
    made.data.mkdir()
    for name in FILES:
        (made.models / "pocket").mkdir(parents=True, exist_ok=True)
        (made.models / "pocket" / name).touch()
    return made


def test_the_stand_in_is_the_preset_with_what_was_asked_for(config: Config) -> None:
    asked = Request(prompt="a fox", count=3, guidance=9.0, vae="mine.safetensors")
    spare = app.stand_in(config, asked)
    assert spare is not None
    assert (spare.base, spare.refiner, spare.vae) == (FILES[0], FILES[1], None)
    assert spare.loras == (LoraUse(FILES[2], 0.5),) and spare.size == Size(144, 112) and spare.guidance == 5.0
    assert (spare.prompt, spare.count, spare.styles) == ("a fox", 3, asked.styles)


def test_without_its_files_or_its_preset_nothing_stands_in(config: Config, tmp_path: Path) -> None:
    assert app.stand_in(dataclasses.replace(config, styles_folder=tmp_path), Request()) is None
    (config.models / "pocket" / FILES[1]).unlink()
    assert app.stand_in(config, Request()) is None


def first_run(config: Config, defaults: Request) -> FirstRun:
    return app.first_run(config, defaults, {"HF_HUB_OFFLINE": "1"})


def test_it_counts_until_the_last_file_is_here(config: Config) -> None:
    defaults, spare = Request(), app.stand_in(config, Request())
    run = first_run(config, defaults)
    welcome = Welcome(run, spare=spare)
    assert welcome.stand_in == spare
    for entry in run.wanted:
        assert welcome.stand_in == spare
        target = entry.target(config.models)
        target.parent.mkdir(exist_ok=True)
        target.touch()
    assert welcome.stand_in is None
    run.close()
    own = dataclasses.replace(defaults, base="mine.safetensors", refiner="none", loras=())
    other = first_run(config, own)  # nothing that could be fetched is missing
    assert Welcome(other, spare=spare).stand_in is None
    other.close()
    assert Welcome(None, spare=spare).stand_in is None


def test_going_over_takes_along_what_was_set(config: Config) -> None:
    spare = app.stand_in(config, Request())
    assert spare is not None
    before, after = initial(spare), initial(Request())
    changed = carried_over(before, before, after)
    assert before | changed == after and "styles" not in changed and "prompt" not in changed

    mine = before | {"guidance": 3.0, "size": "112x144", "negative": "rain", "seed": "7"}
    changed = carried_over(mine, before, after)
    assert changed["base"] == DEFAULT_BASE and changed["size"] == "896x1152"
    assert not {"guidance", "negative", "seed"} & set(changed)
    assert carried_over(mine | {"size": "1x"}, before, after)["size"] == after["size"]
    assert carried_over(mine | {"size": "128 x 128"}, before, after)["size"] == "1024x1024"

    assert carried_over(before | {"base": "mine.safetensors"}, before, after) == {}
    # A preset spells out what SDXL's base brings by itself.
    spelt = after | settings_of(layered(load_presets(STYLES / "presets").find("default").values))
    assert spelt["refiner"] != after["refiner"] and spelt["loras"] != after["loras"]
    back = spelt | carried_over(spelt, after, before)
    assert all(back[name] == before[name] for name in ("base", "refiner", "loras", "size"))
    assert "refiner" not in carried_over(spelt | {"refiner": "mine.safetensors"}, after, before)
    assert after | carried_over(after, after, before) == before  # and back, when the files are gone again


def test_a_reload_changes_settings_only_when_models_have_come_or_gone(config: Config) -> None:
    spare, defaults, jobs = app.stand_in(config, Request()), Request(), FakeJobs()
    welcome = SimpleNamespace(stand_in=spare, spare=spare)
    watcher = SimpleNamespace(mine=lambda ids, owner: [], last=lambda owner: [])
    # Only what opening asks for: the rest of the page is not touched.
    page = Page(config, jobs, defaults, watcher, welcome, Remedies(jobs, None), None)  # type: ignore[arg-type]

    def opened(values: dict[str, Any], mark: str) -> dict[str, Any]:
        memory = json.dumps({"values": values | {"meanwhile": mark}, "jobs": ""})
        return dict(page.once()["open"]({"memory": memory}, "me"))

    chosen = initial(defaults)  # a person on a computer without the models wants to see their settings
    assert opened(chosen, ON)["base"] == DEFAULT_BASE and opened(chosen, ON)["size"] == chosen["size"]
    began = json.loads(opened(chosen, ON)["began"])  # where Reset leads back to
    assert (began["size"], began["base"], began["guidance"]) == ("144x112", FILES[0], 5.0) and "styles" not in began
    gone = opened(chosen, "")  # they were there at the last visit
    assert gone["base"] == FILES[0] and gone["size"] == "144x112" and gone["meanwhile"] == ON
    welcome.stand_in = None
    assert json.loads(opened(chosen, ON)["began"]) == {}
    assert opened(initial(spare), ON)["base"] == DEFAULT_BASE  # type: ignore[arg-type]
    assert opened(initial(spare), "")["base"] == FILES[0]  # type: ignore[arg-type]  # chosen although they are here


def test_a_failed_job_can_be_drawn_by_the_miniature(config: Config) -> None:
    spare = app.stand_in(config, Request())
    assert spare is not None
    jobs: Any = FakeJobs()
    remedies = Remedies(jobs, None, spare)
    asked = Request(prompt="a red circle", negative="rain", seed=7, count=2, switch=9)
    lost = jobs.submit(asked.to_json(), "me")
    assert remedies.offers(asked.to_json()) == {"miniature"}
    new = remedies.order(json.dumps({"do": "miniature", "job": lost, "number": 1}), "me")
    assert new is not None
    drawn = Request.from_json(jobs.job(new).request)
    assert drawn == drawn_by(asked, spare) and (drawn.base, drawn.refiner, drawn.size) == (*FILES[:2], Size(144, 112))
    assert (drawn.prompt, drawn.negative, drawn.seed, drawn.count) == ("a red circle", "rain", 7, 2)
    assert remedies.offers(drawn.to_json()) == set() == Remedies(jobs, None).offers(asked.to_json())

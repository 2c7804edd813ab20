"""A failed job's buttons: which there are, and what they do. The banner about the processor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fooocus import errors
from fooocus.config import ROOT
from fooocus.errors import FooocusError, RequestError
from fooocus.events import Notice
from fooocus.models.computer import Card
from fooocus.request import Request, Size
from fooocus.ui import views
from fooocus.ui.banner import banner, slow
from fooocus.ui.faults import card, remedies, smaller
from fooocus.ui.remedies import Remedies
from fooocus.ui.stream import View, fold
from tests.fakes.fake_jobs import FakeJobs

CARD = Card("nvidia", "NVIDIA <RTX> 3060", 12 << 30, 8.6)


def failed(code: str, sentence: str = "No.", size: tuple[int, int] = (1152, 896)) -> View:
    return View("j", "failed", size=size, code=code, sentence=sentence)


@pytest.mark.parametrize(
    ("view", "kinds"),
    [
        (failed("MissingModel"), ("models", "again")),
        (failed("DeviceOutOfMemory"), ("free", "smaller")),
        (failed("DeviceOutOfMemory", size=(64, 64)), ("free",)),
        (failed("Defect", "The computer's memory ran out."), ("free", "smaller")),
        (failed("WorkerError", "The worker process crashed inside native code."), ("retry",)),
        (failed("WorkerError", "It was ended, most likely because memory ran out (SIGKILL)."), ("free", "smaller")),
        (failed("StorageError"), ("again",)),
        (failed("UnsupportedModel"), ("models",)),
        (failed("SomethingNew"), ("retry",)),
        (failed("RequestError"), ("retry",)),
        (dataclasses.replace(failed("RequestError"), field="steps"), ("setting",)),
    ],
)
def test_each_error_has_its_buttons(view: View, kinds: tuple[str, ...]) -> None:
    assert remedies(view) == kinds
    shown = card(view)
    assert all(f'data-remedy="{kind}"' in shown for kind in kinds) and "data-report" in shown


def test_every_error_of_the_tree_has_a_way_on() -> None:
    def tree(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]

    for kind in tree(FooocusError):
        if kind.__module__ == errors.__name__:
            assert remedies(failed(kind.__name__), frozenset(("fetch",))), kind
    assert remedies(failed("MissingModel"), frozenset(("miniature", "fetch")))[:2] == ("fetch", "miniature")
    assert "&lt;b&gt;" in card(failed("X", "<b>"))


def test_smaller_keeps_the_shape_and_ends() -> None:
    assert smaller(Size(1152, 896)) == Size(832, 640)
    assert smaller(Size(144, 112)) == Size(104, 80)
    assert smaller(Size(64, 64)) is None
    size: Size | None = Size(4096, 4096)
    for _ in range(30):
        less = smaller(size) if size else None
        assert less is None or (size is not None and less.width * less.height < size.width * size.height)
        size = less
    assert size is None


def order(do: str, job: str) -> str:
    return json.dumps({"do": do, "job": job, "number": 1})


def test_retrying_asks_for_the_same_again_and_smaller_for_less() -> None:
    jobs: Any = FakeJobs()
    request = Request(prompt="a fox", seed=7).to_json()
    first = jobs.submit(request, "me")
    remedies = Remedies(jobs, None)
    again = remedies.order(order("retry", first), "me")
    assert again and jobs.job(again).request == request
    less = remedies.order(order("smaller", first), "me")
    assert less and jobs.job(less).request == {**request, "size": "832x640"}
    assert jobs.renewed == 0 and remedies.order(order("free", first), "me") and jobs.renewed == 1
    with pytest.raises(RequestError, match="not yours"):
        remedies.order(order("retry", first), "somebody else")
    with pytest.raises(RequestError):
        remedies.order(order("retry", "nowhere"), "me")
    for odd in ("", "[", "[]", "7", "{}", order("dance", first), order("fetch", first)):
        assert remedies.order(odd, "me") is None
    assert len(jobs.all) == 4


class _Run:
    """Stands for a first run whose folders hold only the refiner."""

    def __init__(self) -> None:
        from tests.unit.test_models_fitting import found

        self.shelves = type(
            "Shelves", (), {"found": (found("sd_xl_refiner_1.0.safetensors", "checkpoint", "checkpoint"),)}
        )
        self.needed: list[str] = []

    def need(self, names: list[str]) -> None:
        self.needed += names


def test_fetching_gets_what_the_job_lacks() -> None:
    jobs: Any = FakeJobs()
    run: Any = _Run()
    remedies = Remedies(jobs, run)
    job = jobs.submit(Request(prompt="a fox", seed=7).to_json(), "me")
    assert remedies.order(order("fetch", job), "me") is None
    assert run.needed == ["sd_xl_base_1.0.safetensors", "sd_xl_offset_example-lora_1.0.safetensors"]
    assert remedies.fetchable({"base": "my own.safetensors"}) == ()
    assert remedies.fetchable({"base": 7}) == ()


@pytest.mark.parametrize(
    ("cards", "torch", "device", "said"),
    [
        ((CARD,), "2.13.0+cpu", "auto", "--torch cuda"),
        ((Card("intel", "Arc", 1),), "2.13.0+cpu", "auto", "--torch xpu"),
        ((Card("amd", "RX", 1),), "2.13.0+cpu", "auto", "--torch rocm"),
        ((CARD,), "2.13.0+cpu", "cpu", ""),  # as the person wants it
        ((CARD,), "2.13.0+cu128", "auto", ""),
        ((CARD,), "2.13.0", "auto", ""),
        ((), "2.13.0+cpu", "auto", ""),
        ((CARD,), "", "auto", ""),
    ],
)
def test_the_processor_beside_a_card_is_said_loudly(
    cards: tuple[Card, ...], torch: str, device: str, said: str
) -> None:
    shown = banner(cards, torch, device, "Linux 6")
    assert said in shown and bool(shown) == bool(said)
    assert "<RTX>" not in shown


def test_amd_on_windows_is_told_the_truth(tmp_path: Path) -> None:
    assert "no AMD card on Windows" in banner((Card("amd", "RX", 1),), "2.13.0+cpu", "auto", "Windows 11")


def test_what_the_worker_says_of_the_processor_stays_through_its_job() -> None:
    reason = "Computing on processor (there is an NVIDIA <card>, but it is too old), float32 (exact)."
    view = fold(View("j", "running"), Notice(reason), 1.0, Path())
    view = fold(view, Notice("LoRA x: 3 of 3 modules matched."), 1.0, Path())
    shown = views.stage(view)
    assert "an NVIDIA &lt;card&gt;" in shown and "--torch cuda" in shown
    why = "there is an NVIDIA card, but the installed torch cannot use it"
    assert why in (ROOT / "fooocus" / "loading" / "device.py").read_text(encoding="utf-8")
    said = slow(f"Computing on processor ({why}: see FOOOCUS_TORCH), float32 (exact on a processor).")
    assert "The installed torch cannot use the NVIDIA card. Update" in said and "float32" not in said
    other = fold(View("j", "running"), Notice("Computing on processor (no graphics card was found)."), 1.0, Path())
    assert "--torch" not in views.stage(other)

"""What is done for devices that are not here: each fault that is known of one, with torch's own functions replaced."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fooocus.loading import device
from fooocus.loading.device import Device, is_out_of_memory
from fooocus.loading.lanes import Parcel, Piece, PlainLane
from fooocus.loading.streaming import resting
from fooocus.loading.tensors import carried
from fooocus.memory.need import sdxl_need
from fooocus.memory.plan import GIB, Space, make_plan
from fooocus.render import interrupt
from fooocus.render.stripes import _attends_on


def card(name: str) -> Device:
    return Device(torch.device(name), torch.float16, "a test's")


@pytest.mark.parametrize(
    ("system", "release", "share"),
    [("win32", "11", 0.65), ("linux", "6.6.87-microsoft-standard-WSL2", 0.65), ("linux", "6.12", None)],
)
def test_where_windows_would_go_on_in_main_memory_torch_runs_out_instead(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, share: float | None
) -> None:
    told: list[float] = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(device, "_CLEAR_BYTES", 50)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (500, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: 200)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, where: told.append(part))
    card("cuda:0").keep_clear()
    assert told == ([] if share is None else [pytest.approx(share)])


def test_metal_is_not_given_more_than_it_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", told.append)
    card("mps").keep_clear()
    card("cpu").keep_clear()
    assert told == [1.0]


@pytest.mark.parametrize(("available_gib", "free_gib"), [(12, 8.0), (5, 4.5), (1, 0.5), (0, 0.0)])
def test_memory_that_others_use_is_not_planned_with_on_apples_computers(
    monkeypatch: pytest.MonkeyPatch, available_gib: float, free_gib: float
) -> None:
    """Of 11 GiB that are recommended 3 are in use, and one more is held; 1.5 are left to the system."""
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4 * GIB)
    available = SimpleNamespace(available=int(available_gib * GIB))
    monkeypatch.setattr(device.psutil, "virtual_memory", lambda: available)
    assert card("mps").free_bytes() == int(free_gib * GIB)


@pytest.mark.parametrize(("told", "free"), [(700, 750), (950, 850), (None, 850)])
def test_intels_drivers_may_not_know_what_is_free(monkeypatch: pytest.MonkeyPatch, told: int | None, free: int) -> None:
    """Of 1000 bytes torch has reserved 200 and uses 150 of them."""

    def info(where: torch.device) -> tuple[int, int]:
        if told is None:
            raise RuntimeError("doesn't support querying the available free memory")
        return told, 1000

    monkeypatch.setattr(torch.xpu, "mem_get_info", info)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda where: 200)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda where: 150)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda where: SimpleNamespace(total_memory=1000))
    assert (card("xpu:0").free_bytes(), card("xpu:0").total_bytes()) == (free, 1000)


def test_an_intel_card_whose_half_precision_is_wrong_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device._halves_well(torch.device("cpu"))
    matmul = torch.Tensor.__matmul__
    for wrong in (0.0, float("nan")):
        spoilt = lambda a, b, wrong=wrong: matmul(a, b) * (wrong if a.dtype == torch.float16 else 1)  # noqa: E731
        monkeypatch.setattr(torch.Tensor, "__matmul__", spoilt)
        assert not device._halves_well(torch.device("cpu"))
    for well, dtype in ((True, torch.float16), (False, torch.float32)):
        monkeypatch.setattr(device, "_halves_well", lambda where, well=well: well)
        assert device._best_dtype(torch.device("xpu", 0))[0] == dtype


def test_other_makers_cards_must_compute_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    monkeypatch.setattr(device, "_refusal", lambda where: "")
    assert device._best_device() == (torch.device("xpu", 0), "the first Intel graphics card")
    monkeypatch.setattr(device, "_refusal", lambda where: "no kernel" if where.index == 0 else "")
    assert device._best_device() == (torch.device("xpu", 1), "the first that works: no kernel")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device, "_refusal", lambda where: "")
    assert device._best_device() == (torch.device("mps", 0), "Apple graphics")


def test_words_for_no_memory_and_for_a_lost_card() -> None:
    assert is_out_of_memory(RuntimeError("Invalid buffer size: 16.00 GiB"))
    assert is_out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))
    lost = (
        "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST), then UR_RESULT_ERROR_OUT_OF_RESOURCES"
    )
    assert not is_out_of_memory(RuntimeError(lost))


def test_a_vae_decodes_in_stripes_where_its_attention_is_a_matrix() -> None:
    for name, whole in (("cuda:0", True), ("mps", False), ("xpu:0", False), ("cpu", True)):
        assert card(name).decodes_whole == whole
    for gib, everything in ((64, True), (32, True)):
        space = Space(True, gib * GIB, (gib - 1) * GIB, 64 * GIB, 32 * GIB, whole=False)
        for size in ((1152, 896), (2048, 2048)):
            plan = make_plan(space, sdxl_need(*size))
            assert plan.decoding == "stripes" and (plan.text.way == "stays") == everything


def test_metal_attends_to_no_more_places_than_it_can_count() -> None:
    for name, places, where in (("mps", 16384, "mps"), ("mps", 16385, "cpu"), ("cuda", 10**6, "cuda")):
        assert _attends_on(torch.device(name), places).type == where


def test_numbers_of_one_byte_are_widened_before_they_travel_to_metal() -> None:
    small = torch.ones(4).to(torch.float8_e4m3fn)
    assert resting(small, torch.float16) == torch.float8_e4m3fn
    assert resting(small, torch.float16, torch.device("mps")) == torch.float16
    assert resting(small.half(), torch.float32, torch.device("mps")) == torch.float16
    assert carried(small, torch.device("cpu")).dtype == torch.float8_e4m3fn
    lane, target = PlainLane(torch.device("cpu")), torch.empty(8, dtype=torch.uint8)
    lane.send(target, Parcel(8, [Piece(0, torch.float16, small)]), None)
    assert target.view(torch.float16).tolist() == [1.0] * 4


def test_weights_reach_intels_cards_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their driver cannot read a mapped file everywhere; told not to block, torch copies it first."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "copy_", lambda tensor, source, non_blocking: asked.append(non_blocking))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **named: asked.append(named) or tensor)
    for name, through in (("xpu:0", True), ("cpu", False)):
        lane, source = PlainLane(torch.device(name)), torch.ones(4)
        lane.send(torch.empty(16, dtype=torch.uint8), Parcel(16, [], source), None)
        lane.keep(source, torch.float32)
        lane.send(torch.empty(16, dtype=torch.uint8), Parcel(16, [Piece(0, torch.float32, source)]), None)
        carried(source, torch.device(name))
        kept = {"copy": True, "non_blocking": through}
        assert asked == [through, kept, {}, through, {"non_blocking": through}]
        asked.clear()


def test_work_of_intels_cards_is_marked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(torch.xpu, "Event", lambda: SimpleNamespace(record=recorded.append, query=lambda: True))
    monkeypatch.setattr(torch.xpu, "current_stream", lambda where: "the stream")
    mark = interrupt.marks_on(torch.device("xpu", 0))
    assert mark is not None and mark() is not None and recorded == ["the stream"]
    assert interrupt.marks_on(torch.device("mps")) is None, "nobody knows when Metal sends what it was given"

"""The bench measures both contestants in turns and writes a table; its layouts and random weights are SDXL's."""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fooocus import cli
from fooocus.bench import floor, run, weights
from fooocus.bench.clock import CallClock, MemoryGauge
from fooocus.bench.kinds import REST, grouped, kind_of
from fooocus.bench.layout import BASE, LORA, REFINER, published, reduced
from fooocus.bench.report import markdown, overhead
from fooocus.bench.run import keeps_everything
from fooocus.config import Config
from fooocus.errors import StorageError
from fooocus.families.detect import recognise
from fooocus.loading.device import choose_device
from fooocus.loading.limits import Limits
from fooocus.loading.memory import Memory
from fooocus.loading.tensors import TensorFile
from fooocus.memory.plan import GIB, Steps
from fooocus.models.work import decoder_work, unet_work
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import Styles
from fooocus.request import Request, Size
from tests import tiny as tiny_files
from tests.fakes.fake_card import fake_card
from tests.tiny import tiny_folder

CPU = torch.device("cpu")
TIMING: dict[str, Any] = {
    "text": 0.1,
    "steps": [3.0, 1.1, 1.1, 2.2, 2.1, 2.1],
    "calls": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0],
    "switch": 3,
    "decode": 0.5,
    "save": 0.01,
    "picture": 12.5,
    "main_bytes": 2**30,
    "device_bytes": None,
}


def test_a_short_run_measures_both_and_writes_table_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tiny_folder()
    files = [str(folder / f"tiny_{name}.safetensors") for name in ("base", "refiner", "offset_lora")]
    command = ["bench", "--files", *files, "--size", "64x64", "--steps", "3", "--runs", "1", "--device", "cpu"]
    command += ["--fast", "batches"]
    assert cli.main([*command, "--out", str(tmp_path / "tables"), "--data", str(tmp_path / "data"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (ours,), (peer,) = result["ours"], result["peer"]
    for timing in (ours, peer):
        assert (len(timing["steps"]), len(timing["calls"]), timing["switch"]) == (3, 3, 2)
        assert all(0 < inside <= step for inside, step in zip(timing["calls"], timing["steps"], strict=True))
        assert timing["picture"] >= sum(timing["steps"]) + timing["text"] + timing["decode"]
        assert timing["main_bytes"] > 2**26
    assert result["bare_call_seconds"].keys() == {"base", "refiner"}
    assert result["kinds_seconds"].keys() == {"base", "refiner", "vae"}
    assert result["kinds_seconds"]["base"]["attention"] > 0 < result["kinds_seconds"]["vae"]["convolution"]
    least = result["floor"]
    assert least["base"] > 0 < least["decode"]
    assert least["picture"] == pytest.approx(2 * least["base"] + least["refiner"] + least["decode"])
    assert result["device_memory"] == {}, "the processor has none apart"
    assert len(result["together_seconds"]) == 1 and result["together_seconds"][0] > 0
    assert result["options"] == "--device cpu --fast batches --size 64x64 --steps 3 --runs 1 --files"
    assert len(result["lora_change_seconds"]) == 2 and result["load_seconds"]["refiner unet"][0] > 0
    (table,) = (tmp_path / "tables").glob("*.md")
    assert table.read_text(encoding="utf-8") == markdown(result)
    assert json.loads(table.with_suffix(".json").read_text(encoding="utf-8")) == result


def test_reduced_files_are_sdxl_with_all_its_layers() -> None:
    for name, family in ((BASE, "sdxl_base"), (REFINER, "sdxl_refiner")):
        (small, metadata), (large, _) = reduced(name), published(name)
        assert small.keys() == large.keys()
        architecture = recognise(small, metadata, file=name)
        unet, true = architecture.blueprints["unet"].config, recognise(large, {}, file=name).blueprints["unet"].config
        assert architecture.family.name == family
        assert set(unet["block_out_channels"]) == {64, 128, 256}
        same = ("transformer_layers_per_block", "down_block_types", "layers_per_block")
        assert [unet[key] for key in same] == [true[key] for key in same]
    assert reduced(LORA)[0].keys() == published(LORA)[0].keys()


def test_random_weights_have_the_scale_of_their_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a.weight": (64, 100, 3, 3), "norm.weight": (4000,), "norm.bias": (4000,), "long.weight": (3, 5_000_000)}
    path = tmp_path / "x.safetensors"
    weights._write(path, shapes, {"note": "x"})
    with TensorFile(path) as file:
        found = {name: file.tensor(name).float() for name in shapes}
    assert found["a.weight"].std().item() == pytest.approx(0.7 / math.sqrt(900), rel=0.03)
    assert found["norm.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert found["norm.bias"].mean().item() == pytest.approx(0, abs=0.01)
    assert torch.equal(found["long.weight"].flatten()[:1000], found["long.weight"].flatten()[2**22 :][:1000])
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="are free"):
        weights._write(tmp_path / "y.safetensors", shapes, {})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_table_says_medians_ratios_and_what_is_not_the_network() -> None:
    result = {
        "date": "2026-01-01",
        "commit": "",
        "machine": {"card": "", "processor": "P", "cores": 2, "threads": 2, "memory_bytes": 2**34, "system": "S"}
        | {"computing": "processor"},
        "versions": {"torch": "2", "cuda": ""},
        "setting": {"full_size": False, "random_weights": True, "size": "64x64", "steps": 6, "switch": 3}
        | {"guidance": 7.0, "sampler": "x", "runs": 2, "dtype": "float32", "files": []},
        "ours": [TIMING, TIMING | {"picture": 13.5}],
        "peer": [TIMING | {"picture": 26.0}],
        "bare_call_seconds": {"base": [1.0]},
        "kinds_seconds": {"base": {"attention": 1.0, REST: 3.0}},
        "load_seconds": {"vae": [0.2]},
        "lora_change_seconds": [0.3, 0.5],
    }
    text = markdown(result)
    assert "| a picture | 13.0 (12.5 to 13.5) | 26.0 | 0.50 |" in text
    assert "| the pause at the refiner | 0.100 (0.100 to 0.100) | 0.100 | – |" in text
    assert overhead(TIMING) == pytest.approx((1.1 + 1.1 + 2.1 + 2.1 - 6) / 6)
    assert "| our loop beside the network's calls, share of these | 6.67 % (6.67 to 6.67) |" in text
    assert "| base UNet, one call, 4.00 s | 25 % | 75 % |" in text
    assert "`python launch.py bench`, 2026" in text
    assert "`python launch.py bench --dtype float32`" in markdown(result | {"options": "--dtype float32"})
    assert "not SDXL's" in text and "another weight of the LoRA, s | 0.400" in text
    others = {"load": 0.1, "load_at_end": 5.5}  # of which two are our own threads
    assert "Other programs" not in text
    assert "(load 3.5)" in markdown(result | {"machine": result["machine"] | others})  # type: ignore[operator]
    known = {"picture": 6.5, "base": 0.55, "refiner": 0.0, "decode": 0.5, "operations": 4.2e14}
    least = markdown(result | {"floor": known | {"rates": {"bfloat16": 6e14}}})
    assert "| a picture | 13.0 (12.5 to 13.5) | 26.0 | 0.50 | 6.50 | 2.00 |" in least
    assert "| a step of the refiner | 2.10 (2.10 to 2.10) | 2.10 | 1.00 | – | – |" in least
    assert "420 tera-operations a picture" in least and "600 in bfloat16 (tera-operations a second)" in least
    assert "floor" not in text
    apart = {"ours": {"device_bytes": 2**31, "card_bytes": 3 * 2**30}, "diffusers": {"device_bytes": None}}
    card = markdown(result | {"device_memory": apart, "ours": [TIMING | {"device_bytes": 2**40}]})
    assert "| most of the device's memory that torch had, ours | 2.0 GiB |" in card and "1024" not in card
    assert "| most of main memory, ours | 1.0 GiB |" in card, "that is not asked apart"
    assert "| most of the whole card's memory, driver and other programs included, ours | 3.0 GiB |" in card
    told = markdown(result | {"together_seconds": [2.0, 4.0], "notices": ["Everything stays."]})
    assert "| each picture of a job of four, as many at once as there is room for, s | 3.00 (2.00 to 4.00) |" in told
    assert "The program said: Everything stays." in told
    alone = markdown(result | {"peer": []})
    assert "diffusers |" not in alone and "| a picture | 13.0 (12.5 to 13.5) |" in alone


def test_kinds_of_operations() -> None:
    kinds = {
        "aten::addmm": "matrix product",
        "aten::mm": "matrix product",
        "aten::mkldnn_convolution": "convolution",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "aten::native_group_norm": "normalisation",
        "aten::silu": REST,
        "aten::_comm_something": REST,
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    assert grouped({"aten::mm": 2e6, "aten::bmm": 1e6, "aten::add": 5e5})["matrix product"] == 3.0


def test_the_clock_counts_calls_between_takes() -> None:
    clock, network = CallClock(CPU), torch.nn.Linear(8, 8)
    with clock.on([network]):
        network(torch.ones(1, 8))
        network(torch.ones(2, 8))
    first = clock.take()
    network(torch.ones(1, 8))  # nobody listens any more
    assert first > 0 == clock.take()
    assert clock.last[network][0][0].shape == (2, 8)


def test_a_call_that_fails_leaves_the_clock_in_order() -> None:
    network = torch.nn.Linear(2, 2)
    clock = CallClock(torch.device("cpu"))
    with clock.on([network]):
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3))
        network(torch.zeros(1, 2))
        assert clock.take() > 0


def test_the_peer_is_left_out_where_not_all_networks_have_room(tiny: Path) -> None:
    base, refiner = tiny / tiny_files.BASE, tiny / tiny_files.REFINER
    assert keeps_everything(Memory(choose_device("cpu", "float32")))
    for down, kept in ((0, True), (1, False)):
        limits = Limits(None)
        limits.steps = lambda key, space, down=down: Steps(down, down, down)  # type: ignore[method-assign,misc]
        memory = Memory(fake_card(64 * GIB), limits=limits)
        assert not keeps_everything(memory), "nothing is planned yet"
        memory.prepare(base, "base")
        memory.prepare(refiner, "refiner")
        memory.arrange(base, refiner, Size(64, 64), guided=True)
        assert keeps_everything(memory) == kept


def test_the_floor_is_the_work_over_the_devices_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDXL's own numbers: 13.29 and 14.31 tera-operations a step, 10.3 for decoding (counted on the networks)."""
    rates = {torch.bfloat16: 8e14, torch.float32: 1e14}
    monkeypatch.setattr(floor, "product_rate", lambda device, dtype: rates[dtype])
    shapes = {name: published(name)[0] for name in (BASE, REFINER)}
    works = {name: (unet_work(found), decoder_work(found)) for name, found in shapes.items()}
    monkeypatch.setattr(floor.Counter, "_work", lambda self, name: works[name])
    asked = {"size": Size(1152, 896), "steps": 30, "switch": 21, "base": BASE, "refiner": REFINER}
    request = Request(prompt="x", seed=1, styles=(), **asked)  # type: ignore[arg-type]
    for sampler, times in (("dpmpp_2m_sde", 1.0), ("heun", 59 / 30)):
        (recipe,) = plan(dataclasses.replace(request, sampler=sampler), Styles({}))
        found = floor.measure_floor(recipe, CPU, torch.bfloat16, torch.float32)
        assert found is not None
        assert found.base == pytest.approx(times * 13.29e12 / 8e14, rel=0.01)
        assert found.refiner == pytest.approx(times * 14.31e12 / 8e14, rel=0.01)
        assert found.decode == pytest.approx(10.298e12 / 1e14, rel=0.01)
        assert found.rates == {"bfloat16": 8e14, "float32": 1e14}
    monkeypatch.setattr(floor.Counter, "_work", lambda self, name: None)
    assert floor.measure_floor(recipe, CPU, torch.bfloat16, torch.float32) is None


def test_a_rate_is_measured_as_the_pictures_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_SIDE_ON_PROCESSOR", 256)
    matmul, seen = torch.backends.cuda.matmul, []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(floor, "now", lambda device: (seen.append(matmul.allow_tf32), time.perf_counter())[1])
    assert 1e8 < floor.product_rate(CPU, torch.float32) < 1e14
    assert set(seen) == {True} and not matmul.allow_tf32


def test_the_gauge_sees_the_whole_card(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([900, 400, 700])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free, 900), 1000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 500)
    gauge = MemoryGauge(torch.device("cuda"), whole_card=True)
    with gauge.on():
        time.sleep(0.2)
    assert (gauge.device_bytes, gauge.card_bytes) == (500, 600)
    timed = MemoryGauge(torch.device("cuda"))
    with timed.on():
        time.sleep(0.05)
    assert (timed.device_bytes, timed.card_bytes) == (500, None), "the driver is not asked beside a time"


def test_the_devices_memory_is_that_of_one_contestant_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the one keeps has left when the other makes its picture."""
    done: list[str] = []
    monkeypatch.setattr(run, "MemoryGauge", lambda device, whole_card: MemoryGauge(CPU))
    contestants = [SimpleNamespace(picture=lambda *_, who=who: done.append(who)) for who in ("ours", "peer")]
    memory = SimpleNamespace(make_room=lambda: done.append("all leave"))
    asked = SimpleNamespace(device=SimpleNamespace(device=CPU), request=None, steps=3, switch=2)
    found = run._device_memory(*contestants, asked, memory)  # type: ignore[arg-type]
    assert done == ["all leave", "ours", "all leave", "peer"]
    assert found == {who: {"device_bytes": None, "card_bytes": None} for who in ("ours", "diffusers")}


def test_a_contestant_whose_graphs_are_replayed_is_asked_by_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Counted:
        def __init__(self, config: Config, memory: object, request: object) -> None:
            self.fast, self.pictures = config.fast, 0
            made.append(config.fast)

        def picture(self) -> None:
            self.pictures += 1

    monkeypatch.setattr(run, "Ours", Counted)
    for fast, plain in (("graphs", "auto"), ("batches, graphs", "batches"), ("auto", None), ("off", None)):
        ours, asked = object(), SimpleNamespace(config=Config(fast=fast), request=None)
        found: Any = run._by_calls(ours, asked, None)  # type: ignore[arg-type]
        assert found is ours if plain is None else (found.fast, found.pictures) == (plain, 2)
    assert made == ["auto", "batches"]


def test_nothing_is_marked_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that is recorded in a graph has no time, and asking for it ends the bench."""
    clock, network = CallClock(CPU), torch.nn.Linear(2, 2)
    clock._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with clock.on([network]):
        network(torch.ones(1, 2))
    assert clock.take() == 0 and not clock.last


def test_the_gauge_sees_what_was_given_back_again() -> None:
    gauge = MemoryGauge(CPU)
    with gauge.on():
        before = gauge.main_bytes
        with mmap.mmap(-1, 80_000_000) as block:  # new pages, whatever the allocator has in store
            block.write(b"1" * 80_000_000)
            time.sleep(0.1)
    assert gauge.main_bytes > before + 60_000_000


def test_wrong_options_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--runs", "0"]) == 2
    assert "Give 1 or more" in capsys.readouterr().err
    assert cli.main(["bench", "--files", "no", "such", "files"]) == 2
    assert "There is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_sdxl_at_its_true_size_on_a_processor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Random weights of 13 GB, bfloat16, 256x256, 2 steps: every layer of the real thing, one after the other.

    The weights stay the mapped file: beside its pages the program takes little, so that any computer can run this.
    """
    command = ["bench", "--full", "--device", "cpu", "--no-peer", "--json", "--data", str(tmp_path / "data")]
    try:
        assert cli.main([*command, "--out", str(tmp_path / "tables")]) == 0
    finally:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
    result = json.loads(capsys.readouterr().out)
    setting, (ours,) = result["setting"], result["ours"]
    assert (setting["full_size"], setting["random_weights"], setting["dtype"]) == (True, True, "bfloat16")
    assert (setting["size"], len(ours["steps"]), ours["switch"]) == ("256x256", 2, 1)
    assert ours["main_bytes"] < 15 * 2**30
    assert ours["own_bytes"] is None or ours["own_bytes"] < 3 * 2**30

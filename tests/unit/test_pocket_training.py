"""Pocket's training: in pieces, by several, quickly or from other files, it comes to the same."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pocket.begin import begin, take_up
from pocket.export import check, export
from pocket.lora import OffsetLora
from pocket.networks import QUARTER, Stage, Unet, make_base, make_refiner, make_text, make_vae
from pocket.samples import level_at
from pocket.team import Team, run_team
from pocket.training import Bench, OutOfTime, keep, rate_at, train
from pocket.words import Words


def test_the_rate_rises_stays_and_falls() -> None:
    assert rate_at(0.0, 0) < rate_at(0.3, 1000) == 1.0 > rate_at(0.8, 1000) > rate_at(1.0, 1000) > 0
    assert (
        level_at({"narrow": 0.0, "all": 0.5}, 0.49) == "narrow" and level_at({"narrow": 0.0, "all": 0.5}, 0.5) == "all"
    )


def test_a_training_in_pieces_is_the_training_in_one(tmp_path: Path) -> None:
    def trained(folder: Path, stops: int) -> torch.Tensor:
        folder.mkdir()
        for piece in range(stops + 1):
            net = _net()
            until = math.inf if piece == stops else 0.0  # 0: over after one step
            bench = Bench(folder, torch.device("cpu"), 0, until, lambda text: None)

            if piece == stops:
                _train(net, bench)
            else:
                with pytest.raises(OutOfTime):
                    _train(net, bench)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    whole, pieces = trained(tmp_path / "whole", 0), trained(tmp_path / "pieces", 3)
    assert torch.equal(whole, pieces)
    assert not torch.equal(whole, trained(tmp_path / "again", 0) + 1e-6)  # the comparison can fail


def test_a_finished_training_is_taken_up_without_its_optimiser(tmp_path: Path) -> None:
    bench = Bench(tmp_path, torch.device("cpu"), 0, 0.0, lambda text: None)
    with pytest.raises(OutOfTime):
        _train(_net(), bench)
    kept = torch.load(bench.path("net"))
    del kept["optimiser"]
    keep(kept | {"step": 12}, bench.path("net"))
    net = _net()
    _train(net, bench)
    assert all(torch.equal(value, kept["average"][f"net.{name}"]) for name, value in net.state_dict().items())


def test_a_training_says_which_numbers_cannot_be(tmp_path: Path) -> None:
    for arguments, said in (
        (("--processes", "3"), "--processes 3 cannot share a step's pictures evenly: vae, refiner"),
        (("--steps", "refinr=5"), "--steps: no stage refinr"),
    ):
        command = [sys.executable, "-m", "pocket.train", "--folder", str(tmp_path / "new"), *arguments]
        run = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
        assert run.returncode == 1 and said in run.stderr and not (tmp_path / "new").exists()


def test_a_training_begins_with_what_another_has_written(tmp_path: Path) -> None:
    """Files, read back by the program's loader, give the networks that were written: also words that were unknown."""
    torch.manual_seed(3)
    plan = dataclasses.replace(QUARTER, vae_widths=(8, 8, 8, 8), base=Unet((16, 16, 16), (0, 1, 1)), unet_groups=4)
    words, told = Words(), list[str]()
    folders = (tmp_path / "wrote", tmp_path / "began")
    wrote, began = (Bench(folder, torch.device("cpu"), 0, math.inf, told.append) for folder in folders)
    for folder in folders:
        folder.mkdir()
    text_l, text_g = make_text(plan, len(words), words.begin, words.end)
    parts: dict[str, torch.nn.Module] = {"unet": make_base(plan), "text_l": text_l, "text_g": text_g}
    additions = OffsetLora(parts["unet"])
    for matrix in additions.up:
        torch.nn.init.normal_(matrix.weight)
    keep({"average": _named(parts)}, wrote.path("base"))
    keep({"average": _named({"lora": additions})}, wrote.path("lora"))
    keep(make_vae(plan).state_dict(), wrote.path("vae_unit"))

    assert len(export(plan, wrote, tmp_path / "files")) == 2
    begin(plan, began, tmp_path / "files")
    found = torch.load(began.path("begin"))["average"] | torch.load(began.path("vae_unit"))
    given = _named(parts | {"lora": additions}) | torch.load(wrote.path("vae_unit"))
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert torch.allclose(found[name], tensor, rtol=2e-3, atol=1e-4), name  # float16 lies between them

    # A refiner for those files: it is all that is written.
    refiner = make_refiner(plan)
    keep({"average": _named({"unet": refiner})}, began.path("refiner"))
    (written,) = export(plan, began, tmp_path / "files")
    assert written.name == "pocket_refiner.safetensors"
    check(plan, began, written)
    check(plan, wrote, tmp_path / "files" / "pocket_base.safetensors")
    keep({"average": _named({"unet": make_refiner(plan)})}, began.path("refiner"))
    with pytest.raises(SystemExit, match="answers otherwise"):
        check(plan, began, written)

    fresh = make_base(plan)
    assert take_up(began, {"unet": fresh}) and not take_up(wrote, {"unet": make_base(plan)})
    assert torch.allclose(fresh.conv_in.weight, parts["unet"].conv_in.weight, atol=1e-3)
    moment = began.path("begin").stat().st_mtime_ns
    begin(plan, began, tmp_path / "nothing is read the second time")
    assert began.path("begin").stat().st_mtime_ns == moment


def _named(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {f"{key}.{name}": value for key, module in modules.items() for name, value in module.state_dict().items()}


def test_quick_training_sees_the_same_and_teaches_the_same_weights() -> None:
    torch.manual_seed(0)
    plan = dataclasses.replace(QUARTER, base=Unet((16, 32), (0, 1)), unet_groups=4)
    unet, bench = make_base(plan), Bench(Path(), torch.device("cpu"), 0, math.inf, print, quick=True)
    told = {"text_embeds": torch.randn(2, 128), "time_ids": torch.full((2, 6), 112.0)}
    given = {"encoder_hidden_states": torch.randn(2, 77, 56), "added_cond_kwargs": told}
    x, times = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    seen, gradients = [], []
    for see in (unet, bench.eye(unet)):
        unet.zero_grad()
        output = see(x, times, **given).sample.float()
        output.pow(2).mean().backward()
        seen.append(output.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None]))
    assert seen[0].dtype == gradients[1].dtype == torch.float32 and gradients[0].shape == gradients[1].shape
    for exact, quick in (seen, gradients):
        difference = float((exact - quick).norm() / exact.norm())
        assert 0 < difference < 0.03


def _net() -> torch.nn.Sequential:
    """Two matrices of one shape and one of another."""
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 18), torch.nn.Linear(18, 18), torch.nn.Linear(18, 18))


def _train(net: torch.nn.Module, bench: Bench) -> None:
    def draw(rng: np.random.Generator, progress: float) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(rng.standard_normal((8, 20))).float(),)

    def loss_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = (net(x) - x[:, :18]).pow(2).mean()
        return loss, loss.detach()

    train("net", {"net": net}, Stage(12, 8, 0.1), bench, draw, loss_of)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    found = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        assert run_team(size, functools.partial(_member, folder)) == 0
        average = torch.load(folder / "net.pt")["average"]
        found.append(torch.cat([value.flatten() for value in average.values()]))
    begun = torch.cat([value.flatten() for value in _net().state_dict().values()])
    apart, way = ((found[0] - other).norm() for other in (found[1], begun))
    assert apart < way * 1e-4 and way > 0.1


def _member(folder: Path, team: Team) -> int:
    _train(_net(), Bench(folder, torch.device("cpu"), 0, math.inf, print, team))
    return 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a POSIX matter")
def test_a_killed_training_takes_its_processes_with_it(tmp_path: Path) -> None:
    code = f"""
import functools, pathlib
from pocket.team import run_team
from tests.unit.test_pocket_training import _linger
if __name__ == "__main__":
    run_team(2, functools.partial(_linger, pathlib.Path({str(tmp_path)!r})))
"""
    script = tmp_path / "begin.py"
    script.write_text(code, encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    # As a shell starts what it puts into the background: PyTorch's own way, an interrupt, is ignored there.
    deaf = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, str(script))
    process = subprocess.Popen(deaf, cwd=root, env=os.environ | {"PYTHONPATH": root})
    try:
        deadline = time.monotonic() + 120
        while len(told := list(tmp_path.glob("*.pid"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    numbers = [int(file.stem) for file in told]
    deadline = time.monotonic() + 30
    while any(map(_lives, numbers)):
        assert time.monotonic() < deadline, numbers
        time.sleep(0.1)


def _lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _linger(folder: Path, team: Team) -> int:
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(300)
    return 0

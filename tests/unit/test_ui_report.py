"""The report tells a helper enough and a stranger nothing about the person."""

from __future__ import annotations

import getpass
import platform
from pathlib import Path

import pytest

from fooocus.config import ROOT, Config
from fooocus.events import Failed
from fooocus.jobs.store import Job
from fooocus.models.computer import Card, Computer
from fooocus.request import LoraUse, Request
from fooocus.ui.discreet import Private, cleaned
from fooocus.ui.report import gather, report, trace_of, versions

PRIVATE = Private(
    texts=("portrait of Kunigunde Müller, naked, in the Kremlin\nsecond line (here:1.2)", "ugly ex-husband"),
    names=("amber photo", "amber photo.safetensors", "people/grandma", "anna", "ANNAS-PC", "root"),
    folders=("/home/anna", "C:\\Users\\Anna Maria", "/mnt/Big Disk/models"),
)
SECRETS = ("kunigunde", "müller", "naked", "kremlin", "ex-husband", "amber", "grandma", "anna", "maria", "big disk")


@pytest.mark.parametrize(
    "line",
    [
        'File "/home/anna/fooocus/fooocus/render/engine.py", line 12, in run',
        r'  File "C:\Users\Anna Maria\fooocus\fooocus\render\engine.py", line 12',
        'File "/opt/anna stuff/x.py", line 1',
        "The folder /home/anna/My Models/x cannot be written.",
        "The disk of C:\\Users\\Anna Maria\\models is full",
        "OSError: [Errno 28] No space left on device: '/mnt/Big Disk/models/amber photo.safetensors'",
        r"'C:\\Users\\Anna Maria\\x.png' is gone",
        "cannot open /srv/anna/Amber Files/grandma pics/1.png now",
        r"\\ANNAS-PC\share\grandma.png",
        "~anna/x and ~/grandma/y",
        "KeyError: 'Kunigunde'",
        "ValueError: portrait of Kunigunde Müller is too long",
        "ValueError: portrait of Kunigunde M\\xfcller",
        "token Kunigunde unknown, NAKED too",
        'Recipe(prompt="portrait of Kunigunde Müller, naked, in the Kremlin\\nsecond line", seed=1)',
        "There is no checkpoint named amber photo. Did you mean grandma or amber fotos?",
        "There is no checkpoint named amber photo. Known are amber fotos, v1. of Kunigunde.safetensors.",
        "people/grandma was there",
        "anna@annas-pc:~$ python",
        "mail anna@example.org or http://anna.example.org/x?y",
        "host ANNAS-PC refused 192.168.1.20",
        "negative: ugly ex-husband",
    ],
)
def test_nothing_private_is_left(line: str) -> None:
    shown = cleaned(line, PRIVATE).casefold()
    assert not [secret for secret in SECRETS if secret in shown], shown
    assert "192.168" not in shown and "example.org" not in shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '  File "/home/anna/fooocus/fooocus/render/engine.py", line 12, in run',
            '"fooocus/render/engine.py", line 12',
        ),
        ('File "/home/anna/.venv/lib/python3.11/site-packages/torch/nn.py", line 3', "site-packages/torch/nn.py"),
        ("    raise ValueError('a b')", "    raise ValueError('a b')"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "Tried to allocate 2.00 GiB."),
        ("step 3/30 of 1152x896 took 1.5 s/it", "step 3/30 of 1152x896 took 1.5 s/it"),
        ("RuntimeError: shape [1, 4] and/or [2, 4]", "shape [1, 4] and/or [2, 4]"),
        ("the root cause at 127.0.0.1", "the root cause at 127.0.0.1"),
        ("hf_AbCdEfGhIjKl and password=hunter2", "<token> and password=<token>"),
    ],
)
def test_what_helps_stays(line: str, shown: str) -> None:
    assert shown in cleaned(line, PRIVATE)


@pytest.mark.parametrize("text", ["", "(((", "\\", "a" * 100_000, "[\n]*+?", "\ud800 x", "$1 \\1 {0} %s"])
def test_any_prompt_can_be_taken_out(text: str) -> None:
    assert "end" in cleaned(f"begin {text} end", Private(texts=(text,), names=(text,), folders=(text,)))


def test_the_trace_is_the_jobs_own() -> None:
    log = "\n".join(
        ["t WARNING job aa: old", "Traceback old", "t ERROR job bb: defect", "Traceback new", "ValueError: x"]
    )
    assert trace_of("bb", log) == "t ERROR job bb: defect\nTraceback new\nValueError: x"
    assert trace_of("aa", log) == "t WARNING job aa: old\nTraceback old"
    assert trace_of("cc", log).endswith("ValueError: x")
    long = "\n".join(["t job dd: x", *(f"line {i}" for i in range(500))])
    assert len(trace_of("dd", long).splitlines()) <= 81 and trace_of("dd", long).endswith("line 499")


def test_a_whole_report(tmp_path: Path) -> None:
    config = Config(data=tmp_path, styles_folder=ROOT / "styles", password="hunter2")
    request = Request(
        prompt="Kunigunde at the sea",
        styles=("sai-anime:0.5", "my secret style"),
        base="amber photo.safetensors",
        loras=(LoraUse("people/grandma.safetensors", 0.5), LoraUse("pocket_offset_lora.safetensors", 1.0)),
    )
    failed = Failed("MissingModel", "There is no checkpoint named amber photo.safetensors.", "Put it there.")
    job = Job("j1", "owner", request.to_json(), "failed", 1, 1, 1, None, None, failed, ())
    me = getpass.getuser()
    (tmp_path / "worker.log").write_text(
        f"2026-01-01 10:00:00 WARNING fooocus.worker: job j1: x\nTraceback (most recent call last):\n"
        f'  File "{ROOT}/fooocus/render/engine.py", line 100, in run\n    raise x\n'
        f"fooocus.errors.MissingModel: {tmp_path}/amber photo.safetensors of {me} on {platform.node()}\n",
        encoding="utf-8",
    )
    card = Card("nvidia", "NVIDIA GeForce RTX 3060", 12 << 30)
    computer = Computer("Linux 6.1", "AMD Ryzen", 8, frozenset(), 32 << 30, (card,), tmp_path, 10**11)
    facts, private = gather(config, computer, job, ["people/grandma.safetensors"])
    text = report(facts, private)
    for told in ("RTX 3060, 12.9 GB", "torch ", "MissingModel", "sai-anime:0.5", 'File "fooocus/render/engine.py"'):
        assert told in text, told
    assert "steps=None" in text and "base=own" in text and "pocket_offset_lora 1.0" in text
    for secret in ("Kunigunde", "amber", "grandma", "secret", "hunter2", str(tmp_path), str(ROOT)):
        assert secret not in text, secret


def test_versions_are_read_without_importing() -> None:
    known = versions()
    assert known["Fooocus"][0].isdigit() and known["Python"] == platform.python_version()
    assert known["gradio"][0].isdigit()

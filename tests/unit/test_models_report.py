"""What this computer is and can do, and the words that page and `doctor` share."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from fooocus.errors import MissingModel
from fooocus.models.catalogue import Entry, load_catalogue
from fooocus.models.commands import doctor, fetch
from fooocus.models.computer import Card, Computer, look
from fooocus.models.elsewhere import Copy
from fooocus.models.fetch import FileProgress, HubSettings, Progress
from fooocus.models.first_run import FirstRun, Places
from fooocus.models.partfile import Disk, PartFile
from fooocus.models.report import lines, progress_line, survey
from fooocus.models.troubles import DownloadError
from fooocus.models.verdict import judge
from fooocus.models.words import amount, duration
from tests.fakes.fake_hub import FakeHub, Fault, RemoteFile
from tests.layouts import BASE, LORA, REFINER

GB = 10**9


def computer(*cards: Card, cores: int = 2, memory_bytes: int = 32 * GB, free: int = 500 * GB) -> Computer:
    return Computer("Linux 6", "Test processor", cores, frozenset(), memory_bytes, cards, Path("models"), free)


def nvidia(name: str, gib: float) -> Card:
    return Card("nvidia", name, int(gib * 2**30), 8.6)


@pytest.mark.parametrize(
    ("card", "fit", "words"),
    [
        (nvidia("NVIDIA H200", 139), "fits", "fits fully"),
        (nvidia("NVIDIA GeForce RTX 4090", 24), "fits", "fits fully"),
        (nvidia("NVIDIA GeForce RTX 3060", 12), "takes turns", "take turns"),
        (nvidia("NVIDIA GeForce RTX 3070", 8), "takes turns", "take turns"),
        (nvidia("NVIDIA GeForce RTX 2060", 6), "streams", "will stream from main memory"),
        (nvidia("NVIDIA GeForce GTX 1650", 4), "streams", "will stream from main memory"),
    ],
)
def test_the_card_decides_what_is_possible(card: Card, fit: str, words: str) -> None:
    verdict = judge(computer(card))
    assert verdict.fit == fit and words in verdict.sentence


def test_the_time_follows_from_operations_and_rate() -> None:
    low, high = judge(computer(nvidia("NVIDIA GeForce RTX 4090", 24))).seconds or (0, 0)
    # 419.6 T operations at 165 T/s are 2.54 s at full rate.
    assert low == pytest.approx(2.54 / 0.6, rel=0.01) and high == pytest.approx(2.54 / 0.35, rel=0.01)
    unknown = judge(computer(nvidia("NVIDIA GeForce RTX 9999", 24)))
    assert unknown.seconds is None and "no rate is known" in unknown.basis
    assert "first picture will show" in unknown.sentence


def test_without_a_card_minutes_are_said() -> None:
    verdict = judge(computer(cores=8))
    assert verdict.fit == "processor" and verdict.seconds is not None
    assert verdict.sentence.startswith("No graphics card: about 17 min a picture")
    assert "miniature model takes seconds" in verdict.sentence and "Zen 4" in verdict.basis


def test_a_measured_time_replaces_the_estimate() -> None:
    verdict = judge(computer(nvidia("NVIDIA GeForce RTX 9999", 24)), 12.3)
    assert verdict.seconds == (12.3, 12.3) and "measured on this computer" in verdict.basis
    assert "about 12 s a picture" in verdict.sentence


def test_little_main_memory_and_odd_cards_are_warned_of() -> None:
    (memory,) = judge(computer(nvidia("NVIDIA GeForce RTX 3060", 12), memory_bytes=8 * GB)).warnings
    assert "8.0 GB" in memory
    (half,) = judge(computer(nvidia("NVIDIA GeForce GTX 1660", 6))).warnings
    assert "half precision" in half


def fake_root(tmp_path: Path) -> Path:
    files = {
        "proc/meminfo": "MemTotal:       16000000 kB\n",
        "proc/cpuinfo": "".join(
            f"processor : {n}\nmodel name\t: Zen\nphysical id\t: 0\ncore id\t\t: {n // 2}\nflags\t\t: fpu avx2\n\n"
            for n in range(4)
        ),
        "sys/class/drm/card0/device/vendor": "0x1002\n",
        "sys/class/drm/card0/device/mem_info_vram_total": str(16 << 30),
        "sys/fs/cgroup/memory.max": str(8 * GB),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_computer_is_read_from_system_files(tmp_path: Path) -> None:
    found = look(tmp_path, fake_root(tmp_path), "linux", lambda command: "")
    assert found.memory_bytes == 8 * GB  # the container's share
    assert found.processor == "Zen" and found.features >= {"avx2"} and 1 <= found.cores <= 2
    assert found.cards == (Card("amd", "AMD graphics", 16 << 30),)


@pytest.mark.parametrize(
    ("address", "driver", "seen"),
    [("0000:03:00.0", "i915", True), ("0000:00:02.0", "xe", True), ("0000:00:02.0", "i915", False)],
)
def test_intels_cards_are_those_that_the_launcher_takes(tmp_path: Path, address: str, driver: str, seen: bool) -> None:
    root = fake_root(tmp_path)
    place = root / "sys/devices" / address
    place.mkdir(parents=True)
    (place / "vendor").write_text("0x8086\n")
    (root / "sys/drivers" / driver).mkdir(parents=True)
    (place / "driver").symlink_to(root / "sys/drivers" / driver)
    (root / "sys/class/drm/card7").mkdir(parents=True)
    (root / "sys/class/drm/card7/device").symlink_to(place)
    makers = [card.maker for card in look(tmp_path, root, "linux", lambda command: "").cards]
    assert ("intel" in makers) == seen


def test_nvidias_tool_is_believed_first(tmp_path: Path) -> None:
    answer = "NVIDIA GeForce RTX 3060, 12288, 8.6\nNVIDIA GeForce GTX 1050 Ti, 4096, 6.1\n"
    found = look(tmp_path, fake_root(tmp_path), "linux", lambda command: answer)
    assert found.cards[0] == Card("nvidia", "NVIDIA GeForce RTX 3060", 12288 << 20, 8.6)
    assert [card.maker for card in found.cards] == ["nvidia", "nvidia", "amd"]


def test_this_computer_is_judged_in_no_time(tmp_path: Path) -> None:
    began = time.process_time()
    found = survey(tmp_path, list(load_catalogue().values()))
    assert found.computer.memory_bytes > 0 and found.computer.cores >= 1 and found.computer.disk_free_bytes > 0
    assert lines(found) and time.process_time() - began < 0.5
    json.dumps(found.to_json())


def test_the_report_says_what_is_here_begun_elsewhere_and_missing(tmp_path: Path) -> None:
    entries = load_catalogue()
    models = tmp_path / "models"
    base, refiner, lora = (entries[name] for name in (BASE, REFINER, LORA))
    by_hand = lora.target(models)
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"anything")
    with PartFile(base.target(models), base.size_bytes or 0, base.sha256 or "", Disk()) as part:
        part.append(bytes(2_000_000))
    here = computer(free=GB)
    found = survey(models, [base, refiner, lora], computer=here, copies=[Copy(refiner, Path("/other/x.safetensors"))])
    assert [file.state for file in found.files] == ["begun", "elsewhere", "here"]
    assert found.bytes_to_fetch == 6938078334 - 2_000_000
    said = "\n".join(lines(found))
    assert f"{BASE}: 2.0 MB of 6.9 GB fetched" in said
    assert "found at /other/x.safetensors" in said
    assert "To fetch: 6.9 GB" in said and "Warning: the disk has 1.0 GB free" in said
    assert f"By hand: open https://huggingface.co/{base.repository}/resolve/{base.revision}/{BASE}" in said
    assert str(models / "checkpoints") in said and found.verdict.sentence in said


def test_progress_in_one_line() -> None:
    file = FileProgress("x", "fetching", 1, 2)
    assert progress_line(Progress((file,), 3 * GB, 13 * GB, 11e6, 909)) == "3.0 GB of 13.0 GB, 11 MB/s, 15 min left"
    assert progress_line(Progress((file,), 0, 13 * GB, 0, None)) == "0 bytes of 13.0 GB"


def test_words() -> None:
    assert [amount(n) for n in (0, 999, 12_345, 2_500_000, 49_553_604, 6_938_078_334)] == [
        "0 bytes",
        "999 bytes",
        "12 kB",
        "2.5 MB",
        "50 MB",
        "6.9 GB",
    ]
    assert [duration(n) for n in (12, 600, 7800)] == ["12 s", "10 min", "2 h 10 min"]


# All of it together, as the page and the commands use it.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


class LoraFile(RemoteFile):
    """A remote file that begins as a LoRA does."""

    def block(self, index: int) -> bytes:
        body = super().block(index)
        if index:
            return body
        count = (self.size - 264) // 2
        tensor = {"dtype": "F16", "shape": [1, count], "data_offsets": [0, 2 * count]}
        words = json.dumps({"lora_unet_x.lora_down.weight": tensor}).encode()
        words = words.ljust(self.size - 8 - 2 * count)
        return struct.pack("<Q", len(words)) + words + body[8 + len(words) :]


def first_run(tmp_path: Path, files: list[RemoteFile], environment: dict[str, str]) -> FirstRun:
    root = tmp_path / "apps" / "ours"
    places = Places(root, root / "models", root / "data", {"lora": (root / "models" / "loras",)})
    entries = [Entry(file.name, "lora", "owner/model", "main", file.size, file.sha256) for file in files]
    return FirstRun(places, entries, HubSettings(environment))


def test_what_is_on_the_disk_is_used_and_the_rest_fetched(tmp_path: Path, home: Path) -> None:
    one, two, three = (LoraFile(f"{n}.safetensors", 300_000 + n, n) for n in range(3))
    there = home / "ComfyUI" / "models" / "loras"
    there.mkdir(parents=True)
    for file in (one, two):
        (there / f"other {file.name}").write_bytes(file.read(0, file.size))
    with FakeHub(one, two, three) as hub:
        run = first_run(tmp_path, [one, two, three], {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")})
        assert [file.state for file in run.survey().files] == ["missing"] * 3
        run.begin()
        run.wait(20)
        assert [file.state for file in run.survey().files] == ["elsewhere", "elsewhere", "missing"]
        assert hub.url in "\n".join(lines(run.survey()))
        run.use(one.name)
        run.use(two.name, "in place")
        run.fetch()
        assert list(run.fetcher.watch(0.02))[-1].ended
        assert [file.state for file in run.survey().files] == ["here"] * 3
        assert run.survey().bytes_to_fetch == 0
        run.shelves.refresh()
        (used,) = [file for file in run.shelves.found if file.name == two.name]
        assert used.path == there / f"other {two.name}"
        assert {asked.path for asked in hub.asked} == {f"/bytes/{three.name}"}
        run.close()


def test_a_search_for_a_missing_copy_is_a_sentence(tmp_path: Path, home: Path) -> None:
    run = first_run(tmp_path, [RemoteFile("x.safetensors", 10)], {"HF_HOME": str(home)})
    with pytest.raises(MissingModel, match="no copy of x"):
        run.use("x.safetensors")
    with pytest.raises(MissingModel, match="not in the catalogue"):
        run.fetch(["y.safetensors"])
    run.close()


def test_the_commands_link_what_is_there_and_fetch_the_rest(tmp_path: Path, home: Path) -> None:
    one, two = (LoraFile(f"{n}.safetensors", 300_000 + n, n) for n in range(2))
    there = home / "ComfyUI" / "models" / "loras" / "x.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(one.read(0, one.size))
    told: list[Progress] = []
    with FakeHub(one, two) as hub:
        run = first_run(tmp_path, [one, two], {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")})
        assert any("found at" in line for line in doctor(run))
        assert hub.asked == [] and hub.heads == 0
        assert fetch(run, None, told.append).ended
        assert [file.state for file in run.survey().files] == ["here", "here"]
        assert told[-1].files[0].name == two.name and len(hub.asked) == 1
        (tmp_path / "apps" / "ours" / "models" / "loras" / "bad.safetensors").write_bytes(b"noise")
        run.shelves.refresh()
        assert any(line.startswith("Not usable") and "bad.safetensors" in line for line in doctor(run))
        with pytest.raises(MissingModel, match=r"nosuch\.safetensors is not in the catalogue"):
            fetch(run, ["nosuch.safetensors"], told.append)
        run.close()


def test_a_file_in_a_folder_of_several_kinds_lies_where_it_belongs(tmp_path: Path, home: Path) -> None:
    root = tmp_path / "ours"
    loras, all_kinds = root / "models" / "loras", root / "models" / "pocket"
    folders = {"checkpoint": (root / "models" / "checkpoints", all_kinds), "lora": (loras, all_kinds)}
    for folder in (root / "models" / "checkpoints", loras, all_kinds):
        folder.mkdir(parents=True)
    file = LoraFile("x.safetensors", 3000)
    for folder in (all_kinds, root / "models" / "checkpoints"):
        (folder / f"in {folder.name}.safetensors").write_bytes(file.read(0, file.size))
    run = FirstRun(Places(root, root / "models", root / "data", folders), [], HubSettings({}))
    told = [line for line in doctor(run) if line.startswith("In another folder")]
    assert [line for line in told if "in checkpoints" in line] == told and len(told) == 1
    run.close()


def test_half_a_file_does_not_count_as_here(tmp_path: Path, home: Path) -> None:
    file = LoraFile("x.safetensors", 1000)
    with FakeHub(file) as hub:
        run = first_run(tmp_path, [file], {"HF_ENDPOINT": hub.url.replace("//", "//me:secret@"), "HF_HOME": str(home)})
        target = tmp_path / "apps" / "ours" / "models" / "loras" / file.name
        target.parent.mkdir(parents=True)
        target.write_bytes(file.read(0, 10))
        run.shelves.refresh()
        found = run.survey()
        assert found.files[0].state == "unusable" and found.bytes_to_fetch == file.size
        said = "\n".join(lines(found))
        assert f"{target} cannot be used" in said and "Move it away" in said and "secret" not in said
        assert "Move it away" in json.dumps(found.to_json())
        with pytest.raises(DownloadError, match="left alone"):
            fetch(run, None, lambda progress: None)
        target.write_bytes(file.read(0, file.size))
        assert run.survey().files[0].state == "here"  # at once, without a scan
        run.close()


def test_a_failed_fetch_is_an_error_with_its_sentence(tmp_path: Path, home: Path) -> None:
    file = RemoteFile("x.safetensors", 1000)
    with FakeHub(file, faults=[Fault("status", value="404")]) as hub:
        run = first_run(tmp_path, [file], {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)})
        with pytest.raises(DownloadError, match=r"has no x\.safetensors"):
            fetch(run, None, lambda progress: None)
        run.close()


def test_what_was_found_right_counts_as_here_whatever_it_is(tmp_path: Path, home: Path) -> None:
    file, copied = RemoteFile("x.safetensors", 1000), RemoteFile("y.safetensors", 2000)
    there = home / "ComfyUI" / "models" / "loras" / "z.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(copied.read(0, copied.size))
    with FakeHub(file) as hub:
        run = first_run(tmp_path, [file, copied], {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")})
        fetch(run, None, lambda progress: None)
        run.shelves.refresh()
        assert all(found.content.problem for found in run.shelves.found)
        assert [file.state for file in run.survey().files] == ["here", "here"]
        run.close()

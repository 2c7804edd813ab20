"""Downloads on a bad line, from a bad hub, to a bad disk, killed: the right file or a clear sentence, nothing else."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx
import pytest

from fooocus.errors import FooocusError, Stopped, StorageError
from fooocus.models.catalogue import Entry
from fooocus.models.download import RESERVE_BYTES, Downloader, Patience, RateLimit
from fooocus.models.filelock import FileLock
from fooocus.models.hub import Source, make_client
from fooocus.models.partfile import Disk, beside, fetched_bytes, tidy
from fooocus.models.troubles import (
    FetchedElsewhere,
    FileTaken,
    HubBusy,
    HubLacksFile,
    HubRefuses,
    NoConnection,
    WrongAnswer,
    WrongContent,
    disk_trouble,
)
from tests.fakes.fake_hub import FakeHub, Fault, RemoteFile, until

ROOT = Path(__file__).resolve().parents[2]
SIZE = 600_000
FILE = RemoteFile("model.safetensors", SIZE)
HASTE = Patience(
    connect_seconds=2,
    stall_seconds=0.3,
    tries=4,
    first_wait_seconds=0.01,
    longest_wait_seconds=0.02,
    window_seconds=0.3,
)


def entry_of(file: RemoteFile) -> Entry:
    return Entry(file.name, "checkpoint", "owner/model", "main", file.size, file.sha256)


ENTRY = entry_of(FILE)
pytestmark = pytest.mark.clock  # the hub sends by the clock, and notices late that a client has hung up


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with make_client(connect_seconds=HASTE.connect_seconds, stall_seconds=HASTE.stall_seconds) as client:
        yield client


def fetch(
    hubs: list[FakeHub], target: Path, client: httpx.Client, *, disk: Disk | None = None, entry: Entry = ENTRY
) -> list[str]:
    """Download once; return the sentences that were said on the way."""
    said: list[str] = []
    downloader = Downloader([Source(hub.url) for hub in hubs], client, patience=HASTE, disk=disk)
    downloader.fetch(entry, target, threading.Event(), lambda phase, done, sentence: said.append(sentence))
    return [sentence for sentence in said if sentence]


def is_right(target: Path, file: RemoteFile = FILE) -> bool:
    """Whether the file is there, whole, and nothing else lies beside it."""
    return target.read_bytes() == file.read(0, file.size) and os.listdir(target.parent) == [target.name]


# The line and the hub. Each list of faults is followed by good answers; the file must come, at little extra cost.

PASSING = {
    "cut by FIN": [Fault("fin", 200_000), Fault("fin", 100_000)],
    "cut by RST": [Fault("rst", 150_001), Fault("rst", 0), Fault("rst", 77_777)],
    "stall": [Fault("stall", 100_000)],
    "trouble of the hub's own": [Fault("status", value="500"), Fault("status", value="503")],
    "too many requests": [Fault("status", value="429:0.2")],
    "redirect": [Fault("redirect"), Fault("fin", 50_000), Fault("redirect")],
    "redirect in a circle, once": [Fault("circle")] * 7,
    "web page, once": [Fault("page")],
    "web page under the file's type, once": [Fault("hidden page")],
    "wrong length, once": [Fault("wrong length", value="1000")],
    "another part than asked for": [Fault("fin", 100_000), Fault("wrong range")],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
def test_a_fault_that_passes_costs_next_to_nothing(faults: list[Fault], tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=list(faults)) as hub:
        fetch([hub], target, client)
        assert is_right(target)
        assert hub.faults == []
        # What was on its way when the line broke is lost: it lay in the buffers of the sockets.
        assert hub.sent <= 1.05 * SIZE + 131_072 * len(faults)


def test_a_hub_without_ranges_still_delivers(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=[Fault("fin", 200_000), Fault("no range", 0)]) as hub:
        fetch([hub], target, client)
        assert is_right(target)
        assert hub.asked[1].headers["Range"] == "bytes=200000-"


def test_a_line_that_breaks_every_few_bytes_still_delivers(tmp_path: Path) -> None:
    target = tmp_path / FILE.name
    # A hub that begins its answer later than the client's patience is asked once more, and brings no byte for the first
    # question. On a busy machine 0.3 s were too few, so this client is a patient one.
    with FakeHub(FILE) as hub, make_client(connect_seconds=30, stall_seconds=30) as patient:
        hub.cut_every = 30_000
        fetch([hub], target, patient)
        assert is_right(target)
        assert hub.sent == SIZE  # no byte twice
        assert len(hub.asked) == 20


def test_a_line_that_breaks_at_once_is_given_up(tmp_path: Path, client: httpx.Client) -> None:
    with FakeHub(FILE) as hub:
        hub.cut_every = 200
        with pytest.raises(NoConnection):
            fetch([hub], tmp_path / FILE.name, client)
        assert len(hub.asked) == HASTE.tries


def test_a_busy_hub_is_not_waited_for_while_a_mirror_is_left(tmp_path: Path, client: httpx.Client) -> None:
    target, began = tmp_path / FILE.name, time.monotonic()
    with FakeHub(FILE, faults=[Fault("status", value="429:60")]) as busy, FakeHub(FILE) as mirror:
        fetch([busy, mirror], target, client)
        assert is_right(target) and len(busy.asked) == 1
    assert time.monotonic() - began < 10


def test_when_all_are_busy_the_shortest_pause_is_kept(tmp_path: Path, client: httpx.Client) -> None:
    target, began = tmp_path / FILE.name, time.monotonic()
    long, short = [Fault("status", value="429:60")], [Fault("status", value="429:0.4")] * 2
    with FakeHub(FILE, faults=long) as busy, FakeHub(FILE, faults=short) as mirror:
        fetch([busy, mirror], target, client)
        assert is_right(target) and (len(busy.asked), len(mirror.asked)) == (1, 3)
    assert 0.7 < time.monotonic() - began < 10


def test_a_flipped_byte_is_fetched_again_once(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=[Fault("flip", 123_456)]) as hub:
        said = fetch([hub], target, client)
        assert is_right(target)
        assert hub.sent == 2 * SIZE
    assert not said or "SHA-256" in said[0]


# What does not pass: an error of the right kind, and no file.

LASTING = {
    "flipped byte": ([Fault("flip", 5)] * 9, WrongContent),
    "wrong length": ([Fault("wrong length", value="1000")] * 9, WrongAnswer),
    "longer than it should be": ([Fault("wrong length", value="-1000")] * 9, WrongAnswer),
    "web page": ([Fault("page")] * 9, WrongAnswer),
    "web page under the file's type": ([Fault("hidden page")] * 9, WrongAnswer),
    "refused": ([Fault("status", value="403")] * 9, HubRefuses),
    "missing": ([Fault("status", value="404")] * 9, HubLacksFile),
    "busy": ([Fault("status", value="503")] * 9, HubBusy),
    "busy for an hour": ([Fault("status", value="429:3600")] * 9, HubBusy),
    "stall without a byte": ([Fault("stall", 0)] * 9, NoConnection),
    "circle": ([Fault("circle")] * 99, WrongAnswer),
}


@pytest.mark.parametrize(("faults", "kind"), LASTING.values(), ids=LASTING.keys())
def test_a_fault_that_lasts_is_said_and_leaves_no_file(
    faults: list[Fault], kind: type[FooocusError], tmp_path: Path, client: httpx.Client
) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=list(faults)) as hub, pytest.raises(kind) as caught:
        fetch([hub], target, client)
    assert not target.exists()
    assert caught.value.sentence.endswith(".") and caught.value.remedy
    assert hub.sent <= 2 * SIZE + 1000


@pytest.mark.parametrize(("faults", "kind"), LASTING.values(), ids=LASTING.keys())
def test_the_next_mirror_helps_out_by_itself(
    faults: list[Fault], kind: type[FooocusError], tmp_path: Path, client: httpx.Client
) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=list(faults)) as bad, FakeHub(FILE) as good:
        fetch([bad, good], target, client)
        assert is_right(target), kind


def test_nobody_answers(tmp_path: Path, client: httpx.Client) -> None:
    hub = FakeHub(FILE)
    with hub:
        pass  # its port is closed again
    with pytest.raises(NoConnection) as caught:
        fetch([hub], tmp_path / FILE.name, client)
    assert "no connection" in caught.value.sentence
    assert hub.url in caught.value.remedy and "put the file into" in caught.value.remedy


def test_a_file_that_changes_between_two_ranges_is_noticed(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=[Fault("fin", 300_000)]) as hub:
        hub.linked = False  # a mirror that does not tell the hash
        stop = threading.Event()

        def tell(phase: str, done: int, sentence: str) -> None:
            if phase == "retrying":
                hub.files[FILE.name] = RemoteFile(FILE.name, SIZE, seed=1)

        with pytest.raises(WrongContent):
            Downloader([Source(hub.url)], client, patience=HASTE).fetch(ENTRY, target, stop, tell)
    assert not target.exists()


def test_a_hub_that_tells_of_another_file_is_not_read_at_all(tmp_path: Path, client: httpx.Client) -> None:
    with FakeHub(RemoteFile(FILE.name, SIZE, seed=1)) as hub, pytest.raises(WrongContent):
        hub.rate = 1_000  # a block a minute: what is sent before the client hangs up is the first one
        fetch([hub], tmp_path / FILE.name, client)
    assert hub.sent <= 2 * 65_536  # the answers' beginnings, which nobody read


def test_a_login_is_sent_to_the_hub_and_to_nobody_else(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE) as hub:
        hub.needs_token = "Bearer secret"
        with pytest.raises(HubRefuses) as caught:
            fetch([hub], target, client)
        assert "HF_TOKEN" in caught.value.remedy
        Downloader([Source(hub.url, "secret")], client, patience=HASTE).fetch(
            ENTRY, target, threading.Event(), lambda phase, done, sentence: None
        )
        assert is_right(target)
        assert all("Authorization" not in asked.headers for asked in hub.asked)


def test_a_line_that_drips_is_given_up(tmp_path: Path, client: httpx.Client) -> None:
    slow = RemoteFile(FILE.name, 3_000_000)
    patience = Patience(window_seconds=0.2, least_rate=10e6, tries=1, stall_seconds=2)
    with FakeHub(slow) as hub, pytest.raises(NoConnection, match="hardly"):
        hub.rate = 1e6
        Downloader([Source(hub.url)], client, patience=patience).fetch(
            entry_of(slow), tmp_path / "x", threading.Event(), lambda phase, done, sentence: None
        )


def test_the_limit_is_kept(tmp_path: Path, client: httpx.Client) -> None:
    began = time.monotonic()
    with FakeHub(FILE) as hub:
        Downloader([Source(hub.url)], client, limit=RateLimit(1.2e6)).fetch(
            ENTRY, tmp_path / "x", threading.Event(), lambda phase, done, sentence: None
        )
    assert 0.35 < time.monotonic() - began < 1.5


def test_stopping_keeps_what_came(tmp_path: Path, client: httpx.Client) -> None:
    target, stop = tmp_path / FILE.name, threading.Event()
    with FakeHub(FILE) as hub:
        with pytest.raises(Stopped):
            Downloader([Source(hub.url)], client).fetch(
                ENTRY, target, stop, lambda phase, done, sentence: stop.set() if done > 300_000 else None
            )
        kept = fetched_bytes(target)
        assert 300_000 < kept < SIZE
        fetch([hub], target, client)
        assert is_right(target)
        assert hub.asked[-1].start == kept


# The disk.


class FailingDisk(Disk):
    """A disk whose n-th operation fails, or every one from the n-th on."""

    def __init__(self, n: int, *, forever: bool, error: int = errno.ENOSPC) -> None:
        self.left, self.forever, self.error = n, forever, error
        self.fired = False

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self.forever):
            self.fired = True
            raise OSError(self.error, os.strerror(self.error))

    def write(self, file: BinaryIO, data: bytes) -> None:
        try:
            self._count()
        except OSError:
            file.write(data[: len(data) // 2])  # a full disk takes a part first
            raise
        super().write(file, data)

    def sync(self, file: BinaryIO) -> None:
        self._count()
        super().sync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._count()
        super().replace(source, target)

    def publish(self, source: Path, target: Path) -> None:
        self._count()
        super().publish(source, target)


def check_failing_disk(folder: Path, client: httpx.Client, *, forever: bool, error: int, step: int = 1) -> int:
    """Fail the 1st, 2nd, 3rd ... operation until a run ends without failure; return how many there were."""
    n = 1
    with FakeHub(FILE) as hub:
        while True:
            target = folder / f"{error}-{forever}-{n}" / FILE.name
            disk = FailingDisk(n, forever=forever, error=error)
            try:
                fetch([hub], target, client, disk=disk)
            except StorageError as trouble:
                assert disk.fired and str(target.parent) in trouble.sentence and trouble.remedy
                assert not target.exists()
                fetch([hub], target, client)  # there is room again
            assert is_right(target)
            if not disk.fired:
                return n
            n += step


def test_a_disk_that_is_full_at_any_write_loses_nothing(tmp_path: Path, client: httpx.Client) -> None:
    assert check_failing_disk(tmp_path, client, forever=True, error=errno.ENOSPC) > 15


def test_a_disk_that_fails_once_at_any_operation_loses_nothing(tmp_path: Path, client: httpx.Client) -> None:
    assert check_failing_disk(tmp_path, client, forever=False, error=errno.EIO, step=3) > 15


def test_too_little_room_is_said_before_the_first_byte(tmp_path: Path, client: httpx.Client) -> None:
    class Small(Disk):
        def __init__(self, free: int) -> None:
            self.free = free

        def free_bytes(self, folder: Path) -> int:
            return self.free

    with FakeHub(FILE) as hub:
        with pytest.raises(StorageError, match="only"):
            fetch([hub], tmp_path / FILE.name, client, disk=Small(SIZE + RESERVE_BYTES - 1))
        assert hub.asked == [] and os.listdir(tmp_path) == []
        fetch([hub], tmp_path / FILE.name, client, disk=Small(SIZE + RESERVE_BYTES))
        assert is_right(tmp_path / FILE.name)


# Other people's files, and other processes.


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    for path in (target, beside(target, ".part")):
        path.write_bytes(b"mine")
        with FakeHub(FILE) as hub, pytest.raises(FileTaken, match="left alone"):
            fetch([hub], target, client)
        assert path.read_bytes() == b"mine" and hub.asked == []
        path.unlink()


def test_a_link_to_nothing_is_said_before_the_first_byte(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    target.symlink_to(tmp_path / "gone")
    with FakeHub(FILE) as hub, pytest.raises(FileTaken, match="gone"):
        fetch([hub], target, client)
    assert hub.asked == [] and os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize("synced", ["-5", "600001", "1e999"])
def test_a_state_that_cannot_be_vouches_for_nothing(tmp_path: Path, client: httpx.Client, synced: str) -> None:
    target = tmp_path / FILE.name
    beside(target, ".part.json").write_text(
        f'{{"sha256": "{FILE.sha256}", "size_bytes": {SIZE}, "synced_bytes": {synced}}}', encoding="utf-8"
    )
    if synced != "1e999":  # that is none of ours
        beside(target, ".part").write_bytes(b"x" * 100)
    assert fetched_bytes(target) == 0
    with FakeHub(FILE) as hub:
        fetch([hub], target, client)
    assert is_right(target)


@pytest.mark.parametrize(("error", "words"), [(errno.EFBIG, "FAT32"), (errno.EDQUOT, "share"), (errno.ENOSPC, "full")])
def test_a_disk_without_room_says_what_kind_of_room(error: int, words: str) -> None:
    assert words in disk_trouble(Path("models"), OSError(error, "x"), 1).sentence


def test_a_lock_on_a_folder_that_numbers_files_anew_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with FileLock(tmp_path / "x.part.lock"):
        assert (tmp_path / "x.part.lock").exists()


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name

    def tell(phase: str, done: int, sentence: str) -> None:
        if phase == "checking":
            target.write_bytes(b"mine")

    with FakeHub(FILE) as hub, pytest.raises(FileTaken):
        Downloader([Source(hub.url)], client).fetch(ENTRY, target, threading.Event(), tell)
    assert target.read_bytes() == b"mine"


def test_a_right_file_put_there_by_hand_is_taken_without_a_connection(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    target.write_bytes(FILE.read(0, SIZE))
    with FakeHub(FILE) as hub:
        fetch([hub], target, client)
        assert hub.asked == [] and hub.heads == 0


def test_a_part_of_another_version_is_begun_anew(tmp_path: Path, client: httpx.Client) -> None:
    target, old = tmp_path / FILE.name, RemoteFile(FILE.name, SIZE, seed=1)
    with FakeHub(old, faults=[Fault("fin", 300_000), *[Fault("status", value="404")] * 9]) as hub:
        with pytest.raises(HubLacksFile):
            fetch([hub], target, client, entry=entry_of(old))
        assert fetched_bytes(target) == 300_000
    with FakeHub(FILE) as hub:
        fetch([hub], target, client)
        assert is_right(target)


def test_a_damaged_tail_is_cut_off(tmp_path: Path, client: httpx.Client) -> None:
    """After a power cut a file may be longer than what had reached the disk, with anything in the rest."""
    target = tmp_path / FILE.name
    with FakeHub(FILE, faults=[Fault("fin", 300_000), *[Fault("status", value="404")] * 9]) as hub:
        with pytest.raises(HubLacksFile):
            fetch([hub], target, client)
        with beside(target, ".part").open("ab") as file:
            file.write(bytes(50_000))
        hub.faults.clear()
        fetch([hub], target, client)
        assert is_right(target)
        assert hub.asked[-1].start == 300_000


def test_a_kill_between_the_two_names_is_tidied_up(tmp_path: Path, client: httpx.Client) -> None:
    class Killed(Disk):
        def publish(self, source: Path, target: Path) -> None:
            os.link(source, target)
            raise KeyboardInterrupt  # stands for the end of the process

    target = tmp_path / FILE.name
    with FakeHub(FILE) as hub:
        with pytest.raises(KeyboardInterrupt):
            fetch([hub], target, client, disk=Killed())
        assert beside(target, ".part").exists()
        tidy(target)
        assert os.listdir(tmp_path) == [target.name]
        fetch([hub], target, client)
        assert is_right(target) and len(hub.asked) == 1


CHILD = """
import sys, threading, json
from pathlib import Path
from fooocus.models.catalogue import Entry
from fooocus.models.download import Downloader
from fooocus.models.hub import Source, make_client
from fooocus.errors import FooocusError
url, target, entry = json.loads(sys.argv[1])
client = make_client(connect_seconds=5, stall_seconds=5)
begun, first = [], []
def tell(phase, done, sentence):
    first.append(done)
    if not begun and done > first[0]:
        begun.append(done)
        print("begun", flush=True)
try:
    Downloader([Source(url)], client).fetch(Entry(**entry), Path(target), threading.Event(), tell)
except FooocusError as error:
    print(error.code, flush=True)
else:
    print("done", flush=True)
"""


def child(hub: FakeHub, target: Path, entry: Entry) -> subprocess.Popen[str]:
    words = json.dumps([hub.url, str(target), vars(entry)])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, words], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


def kill_often(folder: Path, size: int, kills: int, rate: float, pause: tuple[float, float]) -> None:
    """Kill a download again and again at random moments; each time at most 16 MB may have to come again."""
    file, chance = RemoteFile("big.safetensors", size, seed=7), random.Random(kills)
    entry, target = entry_of(file), folder / "big.safetensors"
    with FakeHub(file) as hub:
        hub.rate = rate
        for _ in range(kills):
            process = child(hub, target, entry)
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            time.sleep(chance.uniform(*pause))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            assert not target.exists(), "the pauses are too long for the size: nothing was killed"
            sent = sum(asked.sent for asked in hub.asked)
            time.sleep(0.05)
        hub.rate = None
        last = child(hub, target, entry)
        assert last.communicate()[0].split() == ["begun", "done"]
        assert is_right(target, file)
        ends = [asked.start + asked.sent for asked in hub.asked]
        again = [end - later.start for end, later in zip(ends, hub.asked[1:], strict=False)]
        assert max(again, default=0) <= 16_000_000, again
        assert sent <= size + kills * 16_000_000
        assert max(asked.start for asked in hub.asked) > 0, "it never went on from where it was"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_download_goes_on(tmp_path: Path) -> None:
    kill_often(tmp_path, 40_000_000, kills=2, rate=40e6, pause=(0.25, 0.4))


def test_two_processes_do_not_fetch_the_same_file(tmp_path: Path, client: httpx.Client) -> None:
    target = tmp_path / FILE.name
    with FakeHub(FILE) as hub:
        hub.rate = 1e6
        first = child(hub, target, ENTRY)
        until(lambda: beside(target, ".part").exists())
        with pytest.raises(FetchedElsewhere):
            fetch([hub], target, client)
        assert first.communicate()[0].split() == ["begun", "done"]
        assert len(hub.asked) == 1
        fetch([hub], target, client)  # it is there now
        assert is_right(target) and len(hub.asked) == 1


# The long forms.


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_fifty_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, 300_000_000, kills=50, rate=15e6, pause=(0.1, 0.7))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_mixture_of_faults(tmp_path: Path, client: httpx.Client) -> None:
    kinds = [fault for faults in PASSING.values() for fault in faults if fault.kind != "circle"]
    for seed in range(100):
        chance = random.Random(seed)
        faults = [
            Fault(fault.kind, chance.randrange(1, SIZE // 3) if fault.after else 0, fault.value)
            for fault in chance.choices(kinds, k=8)
        ]
        target = tmp_path / str(seed) / FILE.name
        with FakeHub(FILE, faults=faults) as hub, FakeHub(FILE) as mirror:
            fetch([hub, mirror], target, client)
            assert is_right(target), seed
            assert hub.sent + mirror.sent <= 1.05 * SIZE + 131_072 * len(faults), seed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("forever", [True, False])
def test_every_operation_of_the_disk_fails(tmp_path: Path, client: httpx.Client, error: int, forever: bool) -> None:
    check_failing_disk(tmp_path, client, forever=forever, error=error)

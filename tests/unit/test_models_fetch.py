"""Several files at a time: progress, pausing, cancelling, and no connection where nothing is missing."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fooocus.errors import ConfigError, StorageError
from fooocus.models import fetch
from fooocus.models.catalogue import Entry
from fooocus.models.download import Downloader, Patience
from fooocus.models.fetch import Fetcher, HubSettings
from fooocus.models.hub import HUB, Source, hub_cache, make_client, refusal, sources, unreachable
from fooocus.models.partfile import Disk, beside, fetched_bytes
from fooocus.models.troubles import NoConnection
from tests.fakes.fake_hub import FakeHub, Fault, RemoteFile, until

pytestmark = pytest.mark.clock  # the hub sends by the clock
SIZE = 1_000_000
FILES = [RemoteFile(f"{name}.safetensors", SIZE, seed) for seed, name in enumerate(("one", "two", "three"))]
PATIENCE = Patience(stall_seconds=2, tries=2, first_wait_seconds=0.01)


def entry_of(file: RemoteFile) -> Entry:
    return Entry(file.name, "lora", "owner/model", "main", file.size, file.sha256)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(*FILES) as hub:
        yield hub


@pytest.fixture
def fetcher(hub: FakeHub, tmp_path: Path) -> Iterator[Fetcher]:
    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", HubSettings({"HF_ENDPOINT": hub.url}, patience=PATIENCE))
    yield fetcher
    fetcher.close()


def phases(fetcher: Fetcher) -> list[str]:
    return [file.phase for file in fetcher.progress().files]


def test_files_arrive_two_at_a_time_and_are_told(fetcher: Fetcher, hub: FakeHub, tmp_path: Path) -> None:
    hub.rate = 3e6
    fetcher.start([entry_of(file) for file in FILES])
    told = list(fetcher.watch(0.02))
    assert [file.phase for file in told[-1].files] == ["done"] * 3
    assert max(sum(file.phase == "fetching" for file in progress.files) for progress in told) == 2
    done = [progress.done_bytes for progress in told]
    assert done == sorted(done) and done[-1] == told[-1].size_bytes == 3 * SIZE and told[-1].ended
    assert any(progress.rate > 0 and progress.seconds_left for progress in told)
    assert json.loads(json.dumps(told[-1].to_json()))["event"] == "fetching"
    for file in FILES:
        assert (tmp_path / "models" / "loras" / file.name).read_bytes() == file.read(0, SIZE)


def test_pause_and_resume(fetcher: Fetcher, hub: FakeHub, tmp_path: Path) -> None:
    hub.rate = 2e6
    fetcher.start([entry_of(FILES[0])])
    until(lambda: fetcher.progress().done_bytes > 300_000)
    fetcher.pause()
    assert phases(fetcher) == ["paused"]
    until(lambda: fetched_bytes(entry_of(FILES[0]).target(tmp_path / "models")) > 0)
    kept = fetcher.progress().done_bytes
    hub.rate = None
    fetcher.resume()
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"
    assert hub.asked[-1].start >= kept > 0


class SlowToGoOn(threading.Condition):
    """Whoever lets go of it waits a moment, so that others come between one use of it and the next."""

    def __exit__(self, *_: object) -> None:
        super().__exit__(None, None, None)
        time.sleep(0.02)


def test_a_file_that_is_resumed_while_its_pause_goes_on_is_fetched(fetcher: Fetcher, hub: FakeHub) -> None:
    fetcher._changed = SlowToGoOn()
    hub.rate = 1e6
    fetcher.start([entry_of(FILES[0])])
    until(lambda: fetcher.progress().done_bytes > 300_000)
    fetcher.pause()
    fetcher.resume()  # the thread at it lets go, and the other one takes it at once
    hub.rate = None
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"


def test_a_waiting_file_can_be_paused_alone(fetcher: Fetcher, hub: FakeHub) -> None:
    hub.rate = 2e6
    fetcher.start([entry_of(file) for file in FILES])
    fetcher.pause(FILES[2].name)
    assert [file.phase for file in list(fetcher.watch(0.02))[-1].files] == ["done", "done", "paused"]
    fetcher.resume()
    assert [file.phase for file in list(fetcher.watch(0.02))[-1].files] == ["done"] * 3


def test_cancel_deletes_what_came(fetcher: Fetcher, hub: FakeHub, tmp_path: Path) -> None:
    hub.rate = 2e6
    fetcher.start([entry_of(FILES[0])])
    until(lambda: fetcher.progress().done_bytes > 300_000)
    fetcher.cancel(FILES[0].name)
    until(lambda: phases(fetcher) == ["cancelled"])
    assert os.listdir(tmp_path / "models" / "loras") == []
    assert fetcher.progress().size_bytes == 0


def test_closing_keeps_what_came_for_the_next_start(hub: FakeHub, tmp_path: Path) -> None:
    settings = HubSettings({"HF_ENDPOINT": hub.url}, patience=PATIENCE)
    hub.rate = 2e6
    first = Fetcher(tmp_path / "models", tmp_path / "data", settings)
    first.start([entry_of(FILES[0])])
    until(lambda: first.progress().done_bytes > 300_000)
    first.close()
    hub.rate = None
    second = Fetcher(tmp_path / "models", tmp_path / "data", settings)
    second.start([entry_of(FILES[0])])
    assert second.progress().done_bytes > 0
    assert list(second.watch(0.02))[-1].ended
    second.close()
    assert hub.asked[-1].start > 300_000


def test_a_failure_is_told_and_tried_again_on_request(fetcher: Fetcher, hub: FakeHub) -> None:
    hub.faults = [Fault("status", value="404")]
    fetcher.start([entry_of(FILES[0])])
    (failed,) = list(fetcher.watch(0.02))[-1].files
    assert (failed.phase, failed.code) == ("failed", "HubLacksFile") and failed.sentence and failed.remedy
    fetcher.resume()
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"


def test_a_file_that_another_process_fetches_is_waited_for(fetcher: Fetcher, hub: FakeHub, tmp_path: Path) -> None:
    from fooocus.models.filelock import FileLock

    lock = beside(entry_of(FILES[0]).target(tmp_path / "models"), ".part.lock")
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        fetcher.start([entry_of(FILES[0])])
        until(lambda: phases(fetcher) == ["elsewhere"])
        assert "Another process" in fetcher.progress().files[0].sentence
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"


def test_an_unpublished_hash_is_asked_once_and_pinned(fetcher: Fetcher, hub: FakeHub, tmp_path: Path) -> None:
    entry = Entry(FILES[0].name, "lora", "owner/model", "main", None, None)
    fetcher.start([entry])
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"
    pins = json.loads((tmp_path / "data" / "pins.json").read_text(encoding="utf-8"))
    assert pins[entry.name] == {"size_bytes": SIZE, "sha256": FILES[0].sha256, "endpoint": hub.url}
    # The hub has another file of this name now; the pin notices.
    entry.target(tmp_path / "models").unlink()
    hub.files[entry.name] = RemoteFile(entry.name, SIZE, seed=9)
    fetcher.start([entry])
    assert list(fetcher.watch(0.02))[-1].files[0].code == "WrongContent"
    assert hub.heads == 2  # the address and the place it points to, once


def test_a_hub_that_tells_no_hash_is_not_trusted(fetcher: Fetcher, hub: FakeHub) -> None:
    hub.linked = False
    fetcher.start([Entry(FILES[0].name, "lora", "owner/model", "main", None, None)])
    (failed,) = list(fetcher.watch(0.02))[-1].files
    assert failed.code == "WrongAnswer" and "could not be checked" in failed.sentence
    assert hub.asked == []


def test_no_connection_is_opened_when_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    for file in FILES:
        target = entry_of(file).target(tmp_path / "models")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read(0, SIZE))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", HubSettings({}))
    fetcher.start([entry_of(file) for file in FILES])
    assert [file.phase for file in list(fetcher.watch(0.02))[-1].files] == ["done"] * 3
    fetcher.close()


def test_room_for_all_files_is_checked_at_once(tmp_path: Path) -> None:
    class Small(Disk):
        def free_bytes(self, folder: Path) -> int:
            return 2 * SIZE + 64_000_000

    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", HubSettings({}), disk=Small())
    with pytest.raises(StorageError, match="only"):
        fetcher.start([entry_of(file) for file in FILES])
    assert fetcher.progress().files == ()
    fetcher.close()


def test_the_listener_hears_of_each_file(hub: FakeHub, tmp_path: Path) -> None:
    heard: list[Path] = []
    fetcher = Fetcher(
        tmp_path, tmp_path / "data", HubSettings({"HF_ENDPOINT": hub.url}, patience=PATIENCE), done=heard.append
    )
    fetcher.start([entry_of(FILES[0])])
    until(lambda: bool(heard))
    fetcher.close()
    assert heard == [tmp_path / "loras" / FILES[0].name]
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch" and thread.is_alive()]


def test_sources_follow_the_conventions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert sources({})[0].endpoint == HUB
    own, mirror = sources({"HF_ENDPOINT": "http://localhost:1/", "HF_TOKEN": "t"}, ["https://mirror.example/"])
    assert own == Source("http://localhost:1", "t") and mirror == Source("https://mirror.example", None)
    assert "t" not in repr(own).replace("endpoint", "").replace("http", "").replace("localhost", "")
    with pytest.raises(ConfigError, match="not the address"):
        sources({}, ["huggingface"])
    entry = Entry("a b.safetensors", "lora", "owner/model", "main", 1, None, remote="sub/a b.safetensors")
    assert own.address(entry) == "http://localhost:1/owner/model/resolve/main/sub/a%20b.safetensors"
    assert hub_cache({"HF_HOME": "/x"}) == Path("/x/hub") and hub_cache({"HF_HUB_CACHE": "/y"}) == Path("/y")


def test_a_proxy_of_the_environment_is_used(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain proxy is asked for the whole address, which the fake hub understands as well."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", hub.url)
    entry = entry_of(FILES[0])
    settings = HubSettings({"HF_ENDPOINT": "http://hub.invalid"}, patience=PATIENCE)
    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", settings)
    fetcher.start([entry])
    assert list(fetcher.watch(0.02))[-1].files[0].phase == "done"
    fetcher.close()


def test_secrets_are_never_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert sources({"HF_TOKEN": " hf_secret\n"})[0].token == "hf_secret"
    for environment in (
        {"HF_TOKEN": "hf_secret\nsecond"},
        {"HF_TOKEN": "hf_secret\u00e9"},
        {"HF_ENDPOINT": "me:secret@host"},
        {"HF_ENDPOINT": "https://me:sec/ret@ho st"},
    ):
        with pytest.raises(ConfigError) as caught:
            sources(environment)
        assert "sec" not in str(caught.value).replace("secrets", ""), environment
    (own,) = sources({"HF_ENDPOINT": "https://me:s%40cret@host/hub", "HF_TOKEN": "t"})
    entry = entry_of(FILES[0])
    assert own.endpoint == "https://host/hub" and "cret" not in repr(own) + own.address(entry)
    assert own.headers()["Authorization"] == "Basic " + base64.b64encode(b"me:s@cret").decode()
    told = unreachable(httpx.LocalProtocolError("Illegal header value b'Bearer hf_secret'"), own, entry)
    assert "hf_secret" not in str(told) and getattr(told, "reason", "") == "LocalProtocolError"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("[Errno -2] Name or service not known", f"There is no connection to {HUB}."),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "its certificate is not trusted here."),
    ],
)
def test_what_the_system_said_is_for_the_log(said: str, sentence: str) -> None:
    told = unreachable(httpx.ConnectError(said), Source(HUB), entry_of(FILES[0]))
    assert isinstance(told, NoConnection) and told.sentence.endswith(sentence) and told.reason == said
    assert said[:6] not in str(told)


def test_a_failed_try_is_said_until_bytes_come_and_its_reason_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeHub(*FILES) as hub:
        pass  # its port is closed again
    told: list[tuple[str, str]] = []
    patience = dataclasses.replace(PATIENCE, tries=3)
    with make_client(connect_seconds=5, stall_seconds=5) as client, pytest.raises(NoConnection):
        Downloader([Source(hub.url)], client, patience=patience).fetch(
            entry_of(FILES[0]),
            tmp_path / FILES[0].name,
            threading.Event(),
            lambda phase, done, sentence: told.append((phase, sentence)),
        )
    assert [phase for phase, _ in told] == ["fetching", *["retrying"] * 4]
    assert {sentence for _, sentence in told[1:]} == {f"There is no connection to {hub.url}. Trying again."}
    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", HubSettings({"HF_ENDPOINT": hub.url}, patience=patience))
    fetcher.start([entry_of(FILES[0])])
    assert "refused" not in list(fetcher.watch(0.02))[-1].files[0].sentence
    fetcher.close()
    assert "refused" in caplog.text


def test_git_passes_over_what_a_fetch_leaves() -> None:
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"*.part", "*.part.json", "*.part.lock"} <= set(ignored)


def test_certificates_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for file in (tmp_path / "gone.pem", broken):
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(ConfigError, match="SSL_CERT_FILE") as told:
            make_client(connect_seconds=5, stall_seconds=5)
        assert str(file) in told.value.sentence


def test_a_proxy_that_wants_a_login_is_named() -> None:
    error = httpx.ProxyError("407 Proxy Authentication Required")
    for told in (unreachable(error, Source(HUB), entry_of(FILES[0])), refusal(407, Source(HUB), entry_of(FILES[0]))):
        assert told is not None and told.code == "HubRefuses" and "proxy" in told.sentence.lower()


@pytest.mark.parametrize("pins", ['{"one.safetensors": 5}', "[]", '{"x": {"size_bytes": 1, "sha256": "a"}}'])
def test_damaged_pins_are_a_sentence(fetcher: Fetcher, tmp_path: Path, pins: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pins.json").write_text(pins, encoding="utf-8")
    fetcher.start([Entry(FILES[0].name, "lora", "owner/model", "main", None, None)])
    (failed,) = list(fetcher.watch(0.02))[-1].files
    assert failed.code == "StorageError" and "pins.json" in failed.sentence and "Delete it" in failed.remedy


@pytest.mark.parametrize("published", [True, False])
def test_a_host_name_that_cannot_be_is_a_sentence(tmp_path: Path, published: bool) -> None:
    settings = HubSettings({"HF_ENDPOINT": f"http://{'a' * 64}.example"}, patience=PATIENCE)
    fetcher = Fetcher(tmp_path / "models", tmp_path / "data", settings)
    entry = entry_of(FILES[0])
    fetcher.start([entry if published else dataclasses.replace(entry, sha256=None)])
    assert list(fetcher.watch(0.02))[-1].files[0].code == "NoConnection"
    fetcher.close()


def test_a_mirror_is_not_asked_for_the_hash(hub: FakeHub, tmp_path: Path) -> None:
    with FakeHub() as own:
        settings = HubSettings({"HF_ENDPOINT": own.url}, (hub.url,), patience=PATIENCE)
        fetcher = Fetcher(tmp_path / "models", tmp_path / "data", settings)
        fetcher.start([Entry(FILES[0].name, "lora", "owner/model", "main", None, None)])
        assert list(fetcher.watch(0.02))[-1].files[0].code == "HubLacksFile"
        assert hub.heads == 0 and hub.asked == []
        fetcher.close()


def test_a_defect_fails_one_file_and_no_other(
    fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    real = fetch.complete

    def complete(entry: Entry, *rest: Any) -> Entry:
        if entry.name != FILES[2].name:
            raise ZeroDivisionError
        return real(entry, *rest)

    monkeypatch.setattr(fetch, "complete", complete)
    fetcher.start([entry_of(file) for file in FILES])
    files = list(fetcher.watch(0.02))[-1].files
    assert [file.phase for file in files] == ["failed", "failed", "done"]
    assert "defect" in files[0].sentence
    until(lambda: len(died) == 2)

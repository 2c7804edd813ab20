"""The lane of a real card, without the card: streams and events that only keep account of what happens before what.

Nothing is copied late here, but everything is checked: a place may be written only after the work that read it, read
only after it was written, and a buffer in main memory filled again only after the copy from it. That is what a race
would break on a card, where it shows once in a thousand pictures.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fooocus.families import attention
from fooocus.loading import device
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.device import Device
from fooocus.loading.lanes import CudaLane, Parcel, Piece
from fooocus.loading.order import layers_in_order
from fooocus.loading.ring import Ring
from fooocus.loading.streaming import Stream
from tests.tiny import BASE

Time = dict[str, int]  # how far each stream is, as known at some point


class FakeStream:
    """A stream as a counter, with what it knows to be done on the others."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Time = {name: 0}

    def tick(self) -> Time:
        self.known[self.name] += 1
        return dict(self.known)

    def learn(self, time: Time) -> None:
        self.known |= {name: max(at, self.known.get(name, 0)) for name, at in time.items()}

    def wait_event(self, event: FakeEvent) -> None:
        self.learn(event.time)

    def wait_stream(self, other: FakeStream) -> None:
        self.learn(other.known)

    def synchronize(self) -> None:
        MAIN.learn(self.known)


class CopyStream(FakeStream):
    """The lane's own."""

    def __init__(self, asked: torch.device) -> None:
        super().__init__("copies")


class FakeEvent:
    """A point in a stream's time."""

    def __init__(self) -> None:
        self.time: Time = {}

    def record(self, stream: FakeStream) -> None:
        self.time = stream.tick()

    def synchronize(self) -> None:
        MAIN.learn(self.time)


MAIN = FakeStream("main memory")  # what the program itself has waited for


class WatchedLane(CudaLane):
    """Notes who reads and writes which bytes at what time, and refuses what nothing puts into an order."""

    def __init__(self, work: FakeStream) -> None:
        super().__init__(torch.device("cpu"))
        self.work = work
        self.lock = threading.Lock()
        self.reads: list[tuple[tuple[int, int], str, int]] = []  # bytes, the stream, and its time
        self.writes: list[tuple[tuple[int, int], int]] = []  # bytes, and the time of the copies
        self.copied = 0

    def _copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        with self.lock:
            event = super()._copy(target, source, after)
            for place, stream, time in self.reads:
                if _meet(place, _bytes(target)):
                    assert event.time.get(stream, 0) >= time, "the work may still read what was there"
            self.reads = [read for read in self.reads if not _meet(read[0], _bytes(target))]
            now = event.time["copies"]
            self.writes = [write for write in self.writes if not _meet(write[0], _bytes(target))]
            self.writes.append((_bytes(target), now))
            self.reads.append((_bytes(source), "copies", now))
            self.copied += 1
        return event

    def _stage(self, nbytes: int) -> Tensor:
        stage = super()._stage(nbytes)
        with self.lock:
            for place, stream, time in self.reads:
                if stream == "copies" and _meet(place, _bytes(stage)):
                    assert MAIN.known.get("copies", 0) >= time, "a copy may still read what is filled anew"
        return stage

    def read(self, place: Tensor) -> None:
        """Note that the work reads there now."""
        with self.lock:
            written = max((time for at, time in self.writes if _meet(at, _bytes(place))), default=0)
            assert written and self.work.known.get("copies", 0) >= written, "it is read before it has arrived"
            self.reads.append((_bytes(place), "work", self.work.tick()["work"]))


def _bytes(tensor: Tensor) -> tuple[int, int]:
    first = tensor.data_ptr()
    return first, first + tensor.numel() * tensor.element_size()


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedLane]:
    work = FakeStream("work")
    MAIN.known = {"main memory": 0}

    @contextlib.contextmanager
    def within(stream: FakeStream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", CopyStream)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda asked=None: work)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    made = WatchedLane(work)
    yield made
    made.close()


def parcels(sizes: list[int], *, pinned: bool) -> list[Parcel]:
    found = []
    for number, size in enumerate(sizes):
        source = torch.full((size,), number + 1, dtype=torch.uint8)
        found.append(Parcel(size, [Piece(0, torch.uint8, source)], source if pinned else None))
    return found


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("size", [64, 100, 1000])
def test_a_ring_over_the_cards_lane_never_reads_or_writes_out_of_order(
    lane: WatchedLane, monkeypatch: pytest.MonkeyPatch, pinned: bool, size: int
) -> None:
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: pinned)
    sizes = [20, 30, 7, 25, 30, 11, 30, 3]
    ring = Ring(lane, size, parcels(sizes, pinned=pinned))
    for numbers in ([*range(8)], [*range(8)], [0, 2, 3, 5, 7], [*range(8)]):  # one that is left half way, too
        ring.start(numbers)
        for number in numbers[: 5 if len(numbers) == 5 else 8]:
            found = ring.take(number)
            assert found is not None and found.tolist() == [number + 1] * sizes[number]
            lane.read(found)
            ring.release(number)
    assert lane.copied >= 8


def test_the_account_is_kept_so_that_a_missing_order_is_found(lane: WatchedLane) -> None:
    """What the test above rests on."""
    place, (parcel, other) = lane.buffer(8), parcels([8, 8], pinned=False)
    arrival = lane.send(place, parcel, None)
    arrival.result()
    with pytest.raises(AssertionError, match="before it has arrived"):
        lane.read(place)
    lane.wait(arrival)
    early = lane.mark()
    lane.read(place)
    with pytest.raises(AssertionError, match="may still read what was there"):
        lane.send(place, other, early).result()
    lane.send(place, other, lane.mark()).result()


def test_a_parcel_from_the_file_and_one_from_pinned_memory_keep_their_order(
    lane: WatchedLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading thread is slow; what needs no reading may not overtake it, or the stream would wait in a circle."""
    order: list[int] = []
    slow = threading.Event()
    fill = Parcel.fill
    monkeypatch.setattr(Parcel, "fill", lambda parcel, stage: (slow.wait(0.1), fill(parcel, stage)))
    copy = WatchedLane._copy
    monkeypatch.setattr(
        WatchedLane, "_copy", lambda self, target, *rest: (order.append(target.numel()), copy(self, target, *rest))[1]
    )
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: tensor.numel() == 5)
    buffer = lane.buffer(12)
    first, second = parcels([7], pinned=False)[0], parcels([5], pinned=True)[0]
    lane.wait(lane.send(buffer[:7], first, None))
    lane.send(buffer[:7], first, lane.mark())
    lane.send(buffer[7:], second, None)
    assert order == [7, 7, 5]


@torch.no_grad()
@pytest.mark.parametrize("pin", [True, False])
def test_a_network_streams_over_the_cards_lane_in_order(
    lane: WatchedLane, tiny: Path, monkeypatch: pytest.MonkeyPatch, pin: bool
) -> None:
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: pin)
    checkpoint = open_checkpoint(tiny / BASE)
    network = checkpoint.load("unet", dtype=torch.float32)
    attention.install(network.module)
    width, pooled = checkpoint.architecture.context_width, checkpoint.architecture.pooled_width
    given = {
        "encoder_hidden_states": torch.randn(2, 77, width),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, pooled), "time_ids": torch.ones(2, 6)},
        "return_dict": False,
    }
    latents = torch.randn(2, 4, 8, 8)
    wanted = [network.module(latents, torch.tensor(time), **given)[0] for time in (900.0, 500.0, 100.0)]
    take = Ring.take

    def watched(ring: Ring, number: int) -> Tensor | None:
        found = take(ring, number)
        if found is not None:
            lane.read(found)
        return found

    monkeypatch.setattr(Ring, "take", watched)
    stream = Stream(network, layers_in_order(checkpoint.architecture.blueprints["unet"]), lane, torch.float32)
    stream.settle(0, 5 * 2**20, pin=pin)
    stream.bind()
    found = [network.module(latents, torch.tensor(time), **given)[0] for time in (900.0, 500.0, 100.0)]
    stream.close()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)) and lane.copied > 20


def test_pinned_memory_is_as_large_as_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    for name in device._ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "CudaLane", lambda asked: "a lane")
    card = Device(torch.device("cuda", 0), torch.float16, "a test's")
    assert card.lane() == "a lane"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    card.lane()
    assert told == ["pinned_max_cached_size_mb:1"], "a person's own settings are left alone"

    def refuses(settings: str) -> None:
        raise ValueError("Unrecognized key")

    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", refuses)
    assert card.lane() == "a lane"
    monkeypatch.delattr(torch._C, "_accelerator_setAllocatorSettings")
    assert card.lane() == "a lane"

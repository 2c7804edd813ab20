"""One network and where it is: at home in main memory, whole on the device, or streaming through it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fooocus.families import attention, graphs
from fooocus.loading.device import Device, is_out_of_memory
from fooocus.loading.lanes import Lane, Mark, Parcel, Piece
from fooocus.loading.network import Network
from fooocus.loading.streaming import NOTHING, PARCEL_BYTES, Stream, resting
from fooocus.memory.plan import Berth

if TYPE_CHECKING:
    from collections.abc import Iterator


# A network that streams goes without this much more: it would gain less than what copying it again takes.
_NEAR_BYTES = 256 * 2**20


class Ahead:
    """Weights that travel to the device before their network is wanted.

    ``dtype`` is what the network computes in; with ``narrow``, weights stored in fewer bytes travel as they are.
    """

    def __init__(
        self, lane: Lane, tensors: Mapping[str, Tensor], dtype: torch.dtype, room_bytes: int, *, narrow: bool
    ) -> None:
        self._lane = lane
        self._sent: list[tuple[Tensor, Mark, dict[str, Piece]]] = []
        left, pieces, nbytes = room_bytes, {}, 0
        for name, tensor in tensors.items():
            piece = Piece(nbytes, resting(tensor, dtype, lane.device) if narrow else dtype, tensor)
            size = -(-piece.nbytes // 256) * 256
            if size > left:
                break
            pieces[name] = piece
            nbytes, left = nbytes + size, left - size
            if nbytes >= PARCEL_BYTES:
                self._send(pieces, nbytes)
                pieces, nbytes = {}, 0
        if pieces:
            self._send(pieces, nbytes)

    @property
    def nbytes(self) -> int:
        """What was sent takes on the device."""
        return sum(target.numel() for target, _, _ in self._sent)

    def arrived(self) -> dict[str, Tensor]:
        """Return what was sent, by name; the computation waits for it."""
        there: dict[str, Tensor] = {}
        for target, arrival, pieces in self._sent:
            self._lane.wait(arrival)
            there |= {name: piece.within(target) for name, piece in pieces.items()}
        return there

    def close(self) -> None:
        """Let go of what was sent; it will not be wanted."""
        self._lane.close()
        self._sent.clear()

    def _send(self, pieces: dict[str, Piece], nbytes: int) -> None:
        target = self._lane.buffer(nbytes)
        arrival = self._lane.send(target, Parcel(nbytes, list(pieces.values())), None)
        self._sent.append((target, arrival, pieces))


@dataclasses.dataclass(eq=False)
class Held:
    """A network in main memory. ``users`` counts the blocks that use it now: it is neither moved nor dropped then.

    ``home`` holds its tensors in main memory while it is whole on the device, ``notes`` what was added to those.
    ``stream`` is how it streams, ``settled`` whether that holds memory on the device now, ``berth`` for which berth it
    took it. ``stays`` says that the plan counts on it there while others work.
    """

    network: Network
    used: int = 0
    users: int = 0
    home: dict[str, Tensor] | None = None
    notes: dict[str, object] = dataclasses.field(default_factory=dict)
    stream: Stream | None = None
    settled: bool = False
    berth: Berth | None = None
    ahead: Ahead | None = None
    stays: bool = False

    @property
    def copies(self) -> Collection[str]:
        """The parameters whose tensors are copies of its own on the device, no views of the file."""
        if self.home is not None:
            return self.home.keys()
        return self.stream.copies if self.stream is not None and self.settled else ()

    @property
    def size_bytes(self) -> int:
        """Its weights as they are now."""
        return sum(parameter.nbytes for parameter in self.network.module.parameters())

    @property
    def placed(self) -> bool:
        """Say whether it has memory on the device."""
        return self.home is not None or self.settled or self.ahead is not None

    @property
    def device_bytes(self) -> int:
        """What it has on the device, with its ring and what was sent ahead."""
        ahead = self.ahead.nbytes if self.ahead is not None else 0
        if self.home is not None:
            return self.size_bytes + ahead
        return ahead + (self.stream.device_bytes if self.stream is not None and self.settled else 0)

    @property
    def idle_bytes(self) -> int:
        """What its recorded graphs keep on the device beside that, with nothing in it."""
        return graphs.idle_bytes(self.network.module)

    @property
    def private_bytes(self) -> int:
        """The main memory that it takes beside its file's pages."""
        if self.stream is not None:
            return self.stream.packed_bytes
        name = self.network.names()[0]
        tensors = self.home or {name: self.network.module.get_parameter(name).data}
        return 0 if tensors[name].dtype == self.network.original(name).dtype else self.size_bytes

    def settled_for(self, berth: Berth) -> bool:
        """Say whether it has settled as this berth wants it.

        A little less on the device than there could be is no reason to copy everything again.
        """
        if not self.settled or self.berth is None:
            return False
        more = berth.resident_bytes - self.berth.resident_bytes
        return 0 <= more <= _NEAR_BYTES and (berth.pinned_bytes > 0) == (self.berth.pinned_bytes > 0)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it where it is until the block ends."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1


def place_whole(held: Held, device: Device) -> bool:
    """Copy a network to the device; return whether there was room. If not, it is at home."""
    module = held.network.module
    held.home = {name: parameter.data for name, parameter in module.named_parameters()}
    held.notes = dict(held.network.patches)
    try:
        there = held.ahead.arrived() if held.ahead else NOTHING
        held.ahead = None
        for name, tensor in there.items():
            module.get_parameter(name).data = tensor
        device.take(module)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    send_home(held, device)
    return False


def settle(held: Held, device: Device, berth: Berth, ring_bytes: int) -> bool:
    """Take the device's memory for a network that has a stream; return whether there was room. If not, it is home."""
    stream = held.stream
    if stream is None:
        raise ValueError("a network without a stream cannot settle")
    try:
        there = held.ahead.arrived() if held.ahead else NOTHING
        held.ahead = None
        held.settled, held.berth = True, berth
        stream.settle(berth.resident_bytes, ring_bytes, pin=berth.pinned_bytes > 0, ahead=there)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    send_home(held, device)
    return False


def send_ahead(held: Held, device: Device, berth: Berth, ring_bytes: int, room_bytes: int) -> None:
    """Begin to copy what will stay on the device, as far as ``room_bytes`` go; nothing waits for it."""
    parameters = {name: parameter.data for name, parameter in held.network.module.named_parameters()}
    dtype, streams = device.dtype, held.stream is not None
    if held.stream is not None:
        parameters = {name: parameters[name] for name in held.stream.staying(berth.resident_bytes, ring_bytes)}
        dtype = held.stream.dtype
    try:
        held.ahead = Ahead(device.lane(), parameters, dtype, room_bytes, narrow=streams)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        held.ahead = None


def send_home(held: Held, device: Device) -> None:
    """Point the parameters at main memory again. What was added to them on the device is forgotten.

    To add it anew when they are used again takes a fraction of the time that fetching the sums would, and main memory
    need not hold them beside the file.
    """
    module = held.network.module
    if held.network.kind == "unet":
        attention.forget(module)
        graphs.release(module)  # before the device gives back what is not in use
    if held.ahead is not None:
        held.ahead.close()
        held.ahead = None
    if held.settled and held.stream is not None:
        held.stream.close()
        held.settled, held.berth = False, None
    if held.home is not None:
        for name, parameter in module.named_parameters():
            parameter.data = held.home[name]
        held.network.patches = dict(held.notes)
        module.to("cpu")  # the buffers
        held.home = None
    device.release()


def let_go(held: Held, device: Device) -> None:
    """Forget a network: its memory is free when this returns."""
    if held.placed:
        send_home(held, device)
    held.stream = None
    gc.collect()  # a module and its hooks refer to each other
    device.release_main()

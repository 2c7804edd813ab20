"""One network and where it is: at home in main memory, whole on the device, or streaming through it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fooocus.families import attention
from fooocus.loading.device import Device, is_out_of_memory
from fooocus.loading.lanes import Lane, Mark, Parcel, Piece
from fooocus.loading.network import Network
from fooocus.loading.streaming import NOTHING, PARCEL_BYTES, Stream
from fooocus.memory.plan import Berth

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ahead:
    """Weights that travel to the device before their network is wanted."""

    def __init__(self, lane: Lane, tensors: Mapping[str, Tensor], dtype: torch.dtype, room_bytes: int) -> None:
        self._lane = lane
        self._sent: list[tuple[Tensor, Mark, dict[str, Piece]]] = []
        left, pieces, nbytes = room_bytes, {}, 0
        for name, tensor in tensors.items():
            size = -(-tensor.numel() * dtype.itemsize // 256) * 256
            if size > left:
                break
            pieces[name] = Piece(nbytes, dtype, tensor)
            nbytes, left = nbytes + size, left - size
            if nbytes >= PARCEL_BYTES:
                self._send(pieces, nbytes)
                pieces, nbytes = {}, 0
        if pieces:
            self._send(pieces, nbytes)

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

    ``home`` holds its tensors in main memory while it is whole on the device, ``notes`` what was added to them when it
    left. ``stream`` is how it streams, ``settled`` whether that holds memory on the device now.
    """

    network: Network
    used: int = 0
    users: int = 0
    home: dict[str, Tensor] | None = None
    notes: dict[str, object] = dataclasses.field(default_factory=dict)
    stream: Stream | None = None
    settled: bool = False
    ahead: Ahead | None = None

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
        """What it has on the device, without what is on its way."""
        if self.home is not None:
            return self.size_bytes
        return self.stream.resident_bytes if self.stream is not None and self.settled else 0

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
    send_home(held, device, placed=False)
    return False


def settle(held: Held, device: Device, berth: Berth, ring_bytes: int) -> bool:
    """Take the device's memory for a network that has a stream; return whether there was room. If not, it is home."""
    stream = held.stream
    if stream is None:
        raise ValueError("a network without a stream cannot settle")
    try:
        there = held.ahead.arrived() if held.ahead else NOTHING
        held.ahead = None
        held.settled = True
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
    dtype = device.dtype
    if held.stream is not None:
        parameters = {name: parameters[name] for name in held.stream.staying(berth.resident_bytes, ring_bytes)}
        dtype = held.stream.kept
    try:
        held.ahead = Ahead(device.lane(), parameters, dtype, room_bytes)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        held.ahead = None


def send_home(held: Held, device: Device, *, placed: bool = True) -> None:
    """Point the parameters at main memory again; those that were changed on the device are copied."""
    module = held.network.module
    if held.network.kind == "unet":
        attention.forget(module)
    if held.ahead is not None:
        held.ahead.close()
        held.ahead = None
    if held.settled and held.stream is not None:
        held.stream.close()
        held.settled = False
    if held.home is not None:
        for name, parameter in module.named_parameters():
            unchanged = not placed or held.network.patches.get(name) == held.notes.get(name)
            parameter.data = held.home[name] if unchanged else parameter.data.cpu()
        module.to("cpu")  # the buffers
        held.home = None
    device.release()


def let_go(held: Held, device: Device) -> None:
    """Forget a network: its memory is free when this returns."""
    if held.placed:
        send_home(held, device)
    held.stream = None
    gc.collect()  # a module and its hooks refer to each other

"""A network that works on a device without being there: a part stays, the rest arrives just before its use.

The layers that stay are chosen so that the rest can travel while others work (:mod:`fooocus.loading.order`). What
travels is put into parcels in the order of use and passes through a :class:`~fooocus.loading.ring.Ring`, several layers
ahead of the work. A layer's weights are where they should be only while it works; before and after, its parameters are
empty, so that nothing can read what is not there. Layers that no step asks for (keys and values of the text) do not
travel, and one that is asked for unexpectedly is fetched on the spot: the order is a forecast, never a condition.

Weights rest and travel as they are stored where that takes fewer bytes than computing needs, and are widened as they
are used. The same without a lane, on the processor: weights are widened from the mapped file, and main memory holds
nothing but the file's pages. Neither changes a bit of the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fooocus.loading.lanes import Lane, Parcel, Piece
from fooocus.loading.network import Network
from fooocus.loading.order import SMALL_BYTES, Layer, choose_resident
from fooocus.loading.ring import Ring
from fooocus.loading.tensors import carried

PARCEL_BYTES = 32 * 2**20
"""Copies of this size reach the bus's full speed; a larger layer is a parcel of its own."""
NOTHING: Mapping[str, Tensor] = MappingProxyType({})
NO_SUMS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({})
_ALIGNED = 256  # of every weight in a parcel, as the libraries' kernels like it


@dataclasses.dataclass(eq=False)
class _Unit:
    """A layer and its weights: at home in main memory, or resident on the device, or in a parcel on their way."""

    layer: Layer
    module: nn.Module
    home: dict[str, Tensor]
    resident: dict[str, Tensor] | None = None
    parcel: int | None = None
    pieces: dict[str, Piece] = dataclasses.field(default_factory=dict)

    def nbytes(self, dtype: torch.dtype, device: torch.device) -> int:
        return sum(_aligned(tensor.numel() * resting(tensor, dtype, device).itemsize) for tensor in self.home.values())

    def name_of(self, leaf: str) -> str:
        return f"{self.layer.name}.{leaf}"

    def point(self, tensors: dict[str, Tensor]) -> None:
        # Not by writing to ``parameter.data``: not every device lets a parameter change its kind of memory.
        for leaf, tensor in tensors.items():
            self.module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


class Stream:
    """A network's presence on a device. ``lane`` None is the processor itself.

    ``dtype`` is what it computes in. Between :meth:`bind` and :meth:`unbind` the module works; outside its parameters
    can be looked at and replaced. :meth:`close` sends everything home.
    """

    def __init__(self, network: Network, layers: Sequence[Layer], lane: Lane | None, dtype: torch.dtype) -> None:
        self._network, self._lane, self._dtype = network, lane, dtype
        modules = dict(network.module.named_modules())
        self._units = [
            _Unit(layer, modules[layer.name], _held(modules[layer.name])) for layer in layers if layer.name in modules
        ]
        weights = [tensor for unit in self._units for tensor in unit.home.values()]
        self.device = lane.device if lane else weights[0].device
        # Also where they are widened before they travel: a LoRA's sums would be rounded to the format at home.
        self._widens = any(resting(tensor, dtype) != dtype for tensor in weights)
        self._ring: Ring | None = None
        self._streamed: list[_Unit] = []
        self._parcels: list[Parcel] = []
        self._sizes: list[int] = []  # layers in each parcel
        self._ring_bytes = 0
        self._pin = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._called: dict[int, int] = {}  # parcel -> its layers called in this pass
        self._wanted: dict[int, int] = {}  # the same of the last whole pass
        self._sums = NO_SUMS
        self._buffers: list[tuple[nn.Module, str, Tensor]] = []
        self._empty = torch.empty(0, dtype=dtype, device=self.device)

    @property
    def resident_bytes(self) -> int:
        """The bytes of weights that stay on the device."""
        return sum(tensor.nbytes for unit in self._units for tensor in (unit.resident or {}).values())

    @property
    def device_bytes(self) -> int:
        """What it takes on a device apart: the weights that stay there, and the ring."""
        if self._lane is None:
            return 0
        return self.resident_bytes + (self._ring.nbytes if self._ring is not None else 0)

    @property
    def beside_bytes(self) -> int:
        """What it takes on the device besides: the tables that are always there, and the largest weight it widens."""
        item, opened, widened = self._dtype.itemsize, 0, 0
        for unit in self._units:
            for tensor in unit.home.values():
                if unit.layer.opened:
                    opened += tensor.numel() * item
                elif resting(tensor, self._dtype, self.device) != self._dtype:
                    widened = max(widened, tensor.numel() * item)
        return opened + widened

    @property
    def dtype(self) -> torch.dtype:
        """The number format that it computes in."""
        return self._dtype

    @property
    def widens(self) -> bool:
        """Say whether some weights are widened as they are used."""
        return self._widens

    @property
    def copies(self) -> frozenset[str]:
        """The parameters that stay on the device: copies of its own, which may be written into."""
        return frozenset(unit.name_of(leaf) for unit in self._units for leaf in unit.resident or ())

    @property
    def packed_bytes(self) -> int:
        """The main memory that packed weights take."""
        return sum(parcel.nbytes for parcel in self._parcels if parcel.packed is not None)

    @property
    def bound(self) -> bool:
        """Say whether the module works now."""
        return bool(self._hooks)

    def settle(self, resident_bytes: int, ring_bytes: int, *, pin: bool, ahead: Mapping[str, Tensor] = NOTHING) -> None:
        """Take the memory on the device: layers of ``resident_bytes`` go there to stay, ``ring_bytes`` let others pass.

        ``ahead`` are weights that are there already, by name. Raises torch's out-of-memory error; :meth:`close` then
        gives back what was taken.
        """
        self._ring_bytes, self._pin = ring_bytes, pin
        opened = [unit for unit in self._units if unit.layer.opened]
        for unit in opened:
            unit.resident = {leaf: self._keep(tensor, self._dtype) for leaf, tensor in unit.home.items()}
        if self._lane is None:
            self.unbind()
            return
        self._bring_buffers()
        staying, streamed = self._parted(resident_bytes, ring_bytes)
        if streamed != self._streamed:
            self._pack(streamed)
        if not pin:
            for parcel in self._parcels:
                parcel.packed = None  # or it would be sent as it was, whatever is added to its weights later
        for unit in staying:
            there = {leaf: ahead.get(unit.name_of(leaf)) for leaf in unit.home}
            unit.resident = {
                leaf: self._keep(tensor, resting(tensor, self._dtype, self.device))
                if (known := there[leaf]) is None
                else known
                for leaf, tensor in unit.home.items()
            }
        if self._parcels:
            self._ring = Ring(self._lane, ring_bytes, self._parcels)
        self.unbind()

    def staying(self, resident_bytes: int, ring_bytes: int) -> list[str]:
        """Name the parameters that :meth:`settle` will keep on the device, in order of use."""
        staying = set(self._parted(resident_bytes, ring_bytes)[0])
        return [unit.name_of(leaf) for unit in self._units if unit in staying for leaf in unit.home]

    def _parted(self, resident_bytes: int, ring_bytes: int) -> tuple[list[_Unit], list[_Unit]]:
        """Return the layers that stay and those that travel."""
        closed = [unit for unit in self._units if not unit.layer.opened]
        small = [unit for unit in closed if unit.nbytes(self._dtype, self.device) <= SMALL_BYTES]
        others = [unit for unit in closed if unit not in small and not unit.layer.once]
        sizes = [unit.nbytes(self._dtype, self.device) for unit in others]
        left = max(0, resident_bytes - sum(unit.nbytes(self._dtype, self.device) for unit in small))
        stays = choose_resident(sizes, [unit.layer.work for unit in others], left, ring_bytes)
        chosen = list(zip(others, stays, strict=True))
        return [*small, *(unit for unit, stay in chosen if stay)], [unit for unit, stay in chosen if not stay]

    def unbind(self) -> None:
        """Show all weights: those that stay where they are, the others at home."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for unit in self._units:
            unit.point(unit.resident or unit.home)

    def bind(self, sums: Mapping[str, Callable[[Tensor], Tensor]] = NO_SUMS) -> None:
        """Make the module work from here on, with the weights that it shows now.

        ``sums`` make some of them anew whenever they are used, by the parameter's name.
        """
        self._refresh()
        self._sums = sums
        for unit in self._units:
            summed = any(unit.name_of(leaf) in sums for leaf in unit.home)
            if unit.layer.opened:
                if summed and unit.resident is not None:
                    unit.point({leaf: self._widened(unit.name_of(leaf), t) for leaf, t in unit.resident.items()})
                continue
            if unit.resident is None or self.widens or summed:
                unit.point(dict.fromkeys(unit.home, self._empty))
                self._hooks.append(unit.module.register_forward_pre_hook(self._before(unit)))
                self._hooks.append(unit.module.register_forward_hook(self._after(unit), always_call=True))
        self._hooks.append(self._network.module.register_forward_pre_hook(lambda module, arguments: self._begin()))
        self._hooks.append(self._network.module.register_forward_hook(lambda *_: self._end()))
        self._wanted = dict(enumerate(self._sizes))

    def close(self) -> None:
        """Give the device's memory back. LoRAs on weights that stayed there are forgotten, to be added when used again.

        What was packed in main memory is kept: the next :meth:`settle` mostly wants the same.
        """
        self.unbind()
        if self._lane is not None:
            self._lane.close()
        for unit in self._units:
            if unit.resident is not None:
                unit.home = {leaf: self._restored(unit, leaf) for leaf in unit.resident}
                unit.resident = None
                unit.point(unit.home)
        self._leave_buffers()
        self._ring = None

    def _bring_buffers(self) -> None:
        """Bring along what is no weight: constants, such as the numbers of a text's places."""
        for module in self._network.module.modules():
            for leaf, buffer in module._buffers.items():
                if buffer is not None:
                    self._buffers.append((module, leaf, buffer))
                    module._buffers[leaf] = buffer.to(self.device)

    def _leave_buffers(self) -> None:
        """Show the constants in main memory again."""
        for module, leaf, buffer in self._buffers:
            module._buffers[leaf] = buffer
        self._buffers.clear()

    def _keep(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.to(dtype, copy=True) if self._lane is None else self._lane.keep(tensor, dtype)

    def _restored(self, unit: _Unit, leaf: str) -> Tensor:
        """Return a weight as it is at home, without what was added to it on the device."""
        if self._network.patches.pop(unit.name_of(leaf), None) is None:
            return unit.home[leaf]
        return self._network.original(unit.name_of(leaf)).to(unit.home[leaf].dtype)

    def _refresh(self) -> None:
        """Note which weights were replaced since the last time; what was packed of them is packed again."""
        stale: set[int] = set()
        for unit in self._units:
            shown = _held(unit.module)
            if unit.resident is not None:
                unit.resident = shown  # LoRAs may have put others there
                continue
            replaced = any(shown[leaf].data_ptr() != tensor.data_ptr() for leaf, tensor in unit.home.items())
            unit.home = shown
            if replaced and unit.parcel is not None:
                stale.add(unit.parcel)
            unit.pieces = {
                leaf: dataclasses.replace(piece, source=unit.home[leaf]) for leaf, piece in unit.pieces.items()
            }
        by_parcel: dict[int, list[_Unit]] = {}
        for unit in self._units:
            if unit.parcel is not None:
                by_parcel.setdefault(unit.parcel, []).append(unit)
        for number, units in by_parcel.items():
            parcel = self._parcels[number]
            parcel.pieces = [piece for unit in units for piece in unit.pieces.values()]
            if self._pin and (parcel.packed is None or number in stale):
                self._pin_parcel(parcel, units)
        if stale and self._ring is not None:
            self._ring.start(())  # what is on its way are the old ones

    def _pin_parcel(self, parcel: Parcel, units: Sequence[_Unit]) -> None:
        """Pack a parcel; weights that only main memory had live in it from then on."""
        assert self._lane is not None
        packed = self._lane.pinned(parcel.nbytes)
        parcel.fill(packed)
        parcel.packed = packed
        for unit in units:
            for leaf, piece in unit.pieces.items():
                if unit.name_of(leaf) in self._network.patches:
                    unit.home[leaf] = piece.within(packed)
                    unit.pieces[leaf] = dataclasses.replace(piece, source=unit.home[leaf])
            unit.point(unit.home)  # or what main memory had of it would stay until all are packed
        parcel.pieces = [piece for unit in units for piece in unit.pieces.values()]

    def _pack(self, units: Sequence[_Unit]) -> None:
        """Put layers into parcels, in order, none larger than a third of the ring unless a layer is."""
        for unit in self._streamed:
            unit.parcel, unit.pieces = None, {}
        self._streamed, self._parcels, self._sizes = list(units), [], []
        # One that fills more than half of the ring would stop it; it is fetched on the spot.
        units = [unit for unit in units if unit.nbytes(self._dtype, self.device) <= self._ring_bytes // 2]
        most = min(PARCEL_BYTES, self._ring_bytes // 3)
        groups: list[list[_Unit]] = []
        filled = most
        for unit in units:
            size = unit.nbytes(self._dtype, self.device)
            if filled + size > most:
                groups.append([])
                filled = 0
            groups[-1].append(unit)
            filled += size
        for number, group in enumerate(groups):
            ends = [0]
            for unit in group:
                unit.parcel = number
                for leaf, tensor in unit.home.items():
                    piece = unit.pieces[leaf] = Piece(ends[-1], resting(tensor, self._dtype, self.device), tensor)
                    ends.append(ends[-1] + _aligned(piece.nbytes))
            self._parcels.append(Parcel(ends[-1], [piece for unit in group for piece in unit.pieces.values()]))
            self._sizes.append(len(group))

    def _begin(self) -> None:
        self._called = {}
        if self._ring is not None:
            self._ring.start([number for number in range(len(self._parcels)) if self._wanted.get(number)])

    def _end(self) -> None:
        self._wanted = self._called

    def _before(self, unit: _Unit) -> Callable[[nn.Module, object], None]:
        def before(module: nn.Module, arguments: object) -> None:
            here = self._here(unit)
            unit.point({leaf: self._widened(unit.name_of(leaf), tensor) for leaf, tensor in here.items()})

        return before

    def _widened(self, name: str, tensor: Tensor) -> Tensor:
        added = self._sums.get(name)
        return (tensor if added is None else added(tensor)).to(self._dtype)

    def _here(self, unit: _Unit) -> dict[str, Tensor]:
        """Return a layer's weights on the device."""
        if unit.resident is not None:
            return unit.resident
        if unit.parcel is not None and self._ring is not None:
            self._called[unit.parcel] = self._called.get(unit.parcel, 0) + 1
            parcel = self._ring.take(unit.parcel)
            if parcel is not None:
                return {leaf: piece.within(parcel) for leaf, piece in unit.pieces.items()}
        return {
            leaf: carried(tensor, self.device, resting(tensor, self._dtype, self.device))
            for leaf, tensor in unit.home.items()
        }

    def _after(self, unit: _Unit) -> Callable[[nn.Module, object, object], None]:
        def after(module: nn.Module, arguments: object, output: object) -> None:
            unit.point(dict.fromkeys(unit.home, self._empty))
            number = unit.parcel
            if number is not None and self._ring is not None and self._called.get(number) == self._wanted.get(number):
                self._ring.release(number)

        return after


def resting(tensor: Tensor, dtype: torch.dtype, device: torch.device | None = None) -> torch.dtype:
    """Return the number format in which a weight rests and travels where it computes in ``dtype``.

    Files may mix formats, so it is every weight's own question: one format for all would round the wider ones. Apple's
    graphics know no numbers of one byte; those travel in the format of computing.
    """
    strange = device is not None and device.type == "mps" and tensor.dtype.itemsize < 2
    return tensor.dtype if tensor.dtype.itemsize < dtype.itemsize and not strange else dtype


def _held(module: nn.Module) -> dict[str, Tensor]:
    return {leaf: parameter.data for leaf, parameter in module._parameters.items() if parameter is not None}


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED

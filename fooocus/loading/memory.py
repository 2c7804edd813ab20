"""Where the weights are: the one object that holds networks, and moves them as the plan says.

A network is loaded when it is first used, with its LoRAs, and held in main memory, where it costs nothing but address
space as long as it is the mapped file. Before a picture :meth:`Memory.arrange` makes a plan of what there is and what
is needed (:mod:`fooocus.memory.plan`); a network in use is then copied to the device as a whole, or streams through it,
or stays with the processor, and what rests leaves when its room is needed, encoders before UNets. When memory runs out
all the same, :meth:`Memory.step_down` goes over to the next smaller plan.

Only the worker's own thread touches this object.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn

from fooocus.families import attention
from fooocus.families.records import Architecture, Kind
from fooocus.loading.checkpoint import Checkpoint, Role, open_checkpoint, open_vae
from fooocus.loading.clearing import Clearing
from fooocus.loading.device import Device
from fooocus.loading.limits import Limits, limits_key
from fooocus.loading.lora import (
    Lora,
    LoraReport,
    LoraTargets,
    apply_loras,
    lora_notes,
    lora_sums,
    lora_targets,
    match_loras,
    read_lora,
)
from fooocus.loading.needs import recipe_need
from fooocus.loading.network import Network
from fooocus.loading.order import Layer, layers_in_order
from fooocus.loading.placement import Held, let_go, send_ahead, send_home
from fooocus.loading.streaming import Stream
from fooocus.loading.tensors import torch_dtype
from fooocus.memory.batches import MOST, fewer
from fooocus.memory.need import RING_BYTES, Need
from fooocus.memory.plan import DRIVER_BYTES, Berth, Plan, Space, Stage, make_plan, step_down, work_bytes
from fooocus.request import Size

# Room that a network needs beside its weights while it runs, as a share of the weights, where there is no plan yet.
WORKING_SHARE = 1.3
# Less than this is not worth sending ahead.
_AHEAD_BYTES = 64 * 2**20

_Key = tuple[object, ...]


@dataclasses.dataclass(eq=False)
class _Model:
    """An open checkpoint and the LoRAs that its networks shall have."""

    checkpoint: Checkpoint
    targets: LoraTargets
    loras: list[tuple[Lora, float]]


class Memory:
    """All weights of the worker.

    ``device.dtype`` is the number format of UNets and text encoders, ``vae_dtype`` that of VAEs: float32 by default,
    because in half precision SDXL's overflows. ``free_main_bytes`` tells how much main memory is left, ``limits``
    remembers between runs what was too much for this card. ``plan`` is the present one.
    """

    def __init__(
        self,
        device: Device,
        free_main_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available,
        *,
        limits: Limits | None = None,
        vae_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device
        self.vae_dtype = vae_dtype
        self.plan: Plan | None = None
        self._limits = limits or Limits(None)
        self._free_main_bytes = free_main_bytes
        self._models: dict[_Key, _Model] = {}
        self._held: dict[_Key, Held] = {}
        self._loras: dict[_Key, Lora] = {}
        self._layers: dict[_Key, tuple[Layer, ...]] = {}
        self._clearing = Clearing(device, self._held)
        self._clock = itertools.count(1)
        self._check: Callable[[], object] = _never
        self._hurries = True  # whether networks travel ahead of their turn
        self._made_room: set[tuple[str, Stage]] = set()  # when memory ran out beside networks that rested

    @contextmanager
    def interruptible(self, check: Callable[[], object]) -> Iterator[None]:
        """Call ``check`` while networks are loaded or changed in the block; what it raises leaves that."""
        self._check = check
        try:
            yield
        finally:
            self._check = _never

    def prepare(self, path: Path, role: Role, loras: Sequence[tuple[Path, float]] = ()) -> list[LoraReport]:
        """Open a checkpoint and decide its LoRAs; its networks are loaded, or changed, when they are used.

        Raises the subclasses of :class:`~fooocus.errors.ModelError`; then nothing has changed.
        """
        key = (*_stamp(path), role)
        model = self._models.get(key)
        if model is None:
            checkpoint = open_checkpoint(path, role=role)
            blueprints = checkpoint.architecture.blueprints.values()
            model = _Model(checkpoint, lora_targets(blueprints, checkpoint.file.header.shapes), [])
        wanted = [(self._lora(file), weight) for file, weight in loras]
        reports = match_loras(model.targets, wanted)
        model.loras = wanted
        self._models[key] = model
        return reports

    def architecture(self, path: Path, role: Role) -> Architecture:
        """Return what a prepared checkpoint is."""
        return self._models[(*_stamp(path), role)].checkpoint.architecture

    def added(self, path: Path, role: Role, kinds: Sequence[Kind]) -> object:
        """Return what is another value when the networks of ``kinds`` are others than before, by file or by LoRAs."""
        model = self._models[(*_stamp(path), role)]
        return _stamp(path), lora_notes(model.targets, model.loras, kinds)

    def arrange(self, base: Path, refiner: Path | None, size: Size, *, guided: bool) -> Plan:
        """Decide what is kept where for a picture of these prepared checkpoints and this size."""
        self.device.keep_clear()
        need = self._need(base, refiner, size, guided=guided)
        space = self._space()
        steps = self._limits.steps(limits_key(self.device.reason, space, need), space)
        self.plan = make_plan(space, need, steps)
        return self.plan

    def step_down(self, stage: Stage) -> Plan | None:
        """Go over to the next smaller plan, after memory ran out in ``stage``; None when there is none.

        Everything that is not in use leaves the device. If graphs kept memory, or other networks rested there, that was
        too much and not the plan, which then stays; for the latter once, as they will rest there again. So it does if a
        network was sent ahead of its turn; nothing is sent ahead from then on. Else what was too much is remembered.
        """
        if self.plan is not None and self._clearing.drop_graphs():
            return self.plan
        if self.plan is not None and any(held.ahead is not None for held in self._held.values()):
            self._hurries = False
            self.make_room()
            return self.plan
        if self.plan is not None and sum(held.placed for held in self._held.values()) > 1:
            asked = (self._asked(self.plan), stage)
            if asked not in self._made_room:
                self._made_room.add(asked)
                self.make_room()
                return self.plan
        lower = step_down(self.plan, stage) if self.plan is not None else None
        self.make_room()
        if lower is not None:
            self.plan = lower
            self._limits.note(self._asked(lower), lower)
        return lower

    def too_many(self, pictures: int) -> None:
        """Have everything leave that is not in use, and remember that so many pictures at once were too many."""
        self.make_room()
        if self.plan is not None:
            self._limits.note_pictures(self._asked(self.plan), self.plan.space, fewer(pictures))

    def most_at_once(self) -> int:
        """Return how many pictures of the present plan there may be at once, by what was too many before."""
        return MOST if self.plan is None else self._limits.pictures(self._asked(self.plan), self.plan.space) or MOST

    def _asked(self, plan: Plan) -> str:
        return limits_key(self.device.reason, plan.space, plan.need)

    @contextmanager
    def follow(self, plan: Plan) -> Iterator[None]:
        """Go by another plan, made from the present one, until the block ends."""
        before, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = before

    @contextmanager
    def use(self, path: Path, role: Role, kind: Kind) -> Iterator[nn.Module]:
        """Have one network of a prepared checkpoint ready for work, with its LoRAs, until the block ends."""
        model = self._models[(*_stamp(path), role)]
        berth = self._berth(role, kind)
        held = self._hold_network(path, role, kind, berth)
        held.stays = berth.way == "stays"
        with held.in_use():
            streams = self._ready(held, path, role, kind, berth)
            loras = model.loras if held.network.kind != "vae" else []
            change = functools.partial(apply_loras, targets=model.targets, check=self._check)
            if held.stream is not None and streams:
                held.stream.unbind()
                if held.stream.widens:  # sums in the narrow format would be rounded twice
                    held.stream.bind(lora_sums(kind, loras, model.targets))
                else:
                    change({kind: held.network}, loras, on=held.stream.device, copies=held.copies)
                    held.stream.bind()
            elif held.network.kind != "vae":
                change({kind: held.network}, loras, over=True, copies=held.copies)
            yield held.network.module

    @contextmanager
    def use_vae(
        self, checkpoint: Path, file: Path | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[nn.Module]:
        """Have a VAE where the plan decodes: the one in ``file``, or else the one in ``checkpoint``."""
        dtype = dtype or self.vae_dtype
        model = self._models[(*_stamp(checkpoint), "base")]
        key = (*_stamp(file or checkpoint), "vae", dtype)
        load = model.checkpoint.load
        held = self._hold(key, lambda: open_vae(file, dtype=dtype) if file else load("vae", dtype=dtype))
        with held.in_use():
            if self.plan is not None and self.plan.decoding == "processor":
                if held.placed:
                    send_home(held, self.device)
            elif self.device.apart:
                self._clearing.place(held, self._work_bytes("decoding", held.size_bytes), self._spare_bytes)
            yield held.network.module

    def travels(self, role: Role) -> bool:
        """Say whether a part of this UNet's weights passes through the device while it works."""
        return self._berth(role, "unet").way == "streams"

    def expect(self, path: Path, role: Role, kind: Kind) -> None:
        """Say that a network is wanted soon: as much of it as there is room for begins to travel beside the work."""
        berth, plan = self._berth(role, kind), self.plan
        free = self._clearing.free_bytes()
        if plan is None or free is None or not self.device.apart or berth.way not in ("streams", "takes turns"):
            return
        if not self._hurries:
            return
        room = free - (plan.sampling_peak_bytes - DRIVER_BYTES - max(b.resident_bytes for b in plan.unets))
        room -= plan.space.spare_bytes
        if room < _AHEAD_BYTES:
            return
        held = self._hold_network(path, role, kind, berth)
        if not held.placed:
            if berth.way == "streams":
                self._streaming(held, path, role, kind, berth)
            send_ahead(held, self.device, berth, self._ring_bytes(held), room)

    def keep_only(self, paths: Sequence[Path]) -> None:
        """Let go of every file that is not named: the person has gone over to others."""
        wanted = {_stamp(path) for path in paths}
        for key in [key for key in self._held if key[:3] not in wanted]:
            let_go(self._held.pop(key), self.device)
        for files in (self._models, self._loras, self._layers):
            for key in [key for key in files if key[:3] not in wanted]:
                del files[key]

    def make_room(self) -> bool:
        """Send every network that is not in use away from the device; return whether that may have helped."""
        return self._clearing.everything()

    def _need(self, base: Path, refiner: Path | None, size: Size, *, guided: bool) -> Need:
        files: tuple[tuple[Path | None, Role], ...] = ((base, "base"), (refiner, "refiner"))
        opened = [self._models[(*_stamp(path), role)].checkpoint for path, role in files if path is not None]
        return recipe_need(opened, self.device.dtype, self.vae_dtype, size, guided=guided)

    def _space(self) -> Space:
        """Return what there is. What resting networks hold is free: they leave when their room is wanted."""
        main = psutil.virtual_memory().total
        main_free = self._free_main_bytes() + sum(held.private_bytes for held in self._held.values())
        if not self.device.apart:
            return Space(False, 0, None, main, main_free)
        free = self.device.free_bytes()
        if free is not None:
            free += sum(held.device_bytes for held in self._held.values())
        if self.device.common:  # what is planned for the one is not there for the other
            main_free -= free or 0
        return Space(True, self.device.total_bytes(), free, main, main_free, whole=self.device.decodes_whole)

    def _berth(self, role: Role, kind: Kind) -> Berth:
        if self.plan is None:
            return Berth("takes turns" if self.device.apart else "processor")
        if kind != "unet":
            return self.plan.text
        return self.plan.refiner if role == "refiner" and self.plan.refiner is not None else self.plan.base

    def _lora(self, path: Path) -> Lora:
        key = _stamp(path)
        if key not in self._loras:
            self._loras[key] = read_lora(path)
        return self._loras[key]

    def _widened(self, berth: Berth) -> bool:
        """Say whether the processor widens weights as it uses them: where memory is short, or it is not its format."""
        return berth.way == "processor" and (berth.from_file or self.device.apart)

    def _hold_network(self, path: Path, role: Role, kind: Kind, berth: Berth) -> Held:
        """Return a network of a model, as the berth wants it loaded: as it is stored, or in the device's format."""
        model = self._models[(*_stamp(path), role)]
        stored = berth.way == "streams" or self._widened(berth)
        manner = "near" if self._widened(berth) else "stored" if stored else "whole"
        key = (*_stamp(path), role, kind)
        for other in [k for k in self._held if k[: len(key)] == key and k[-1] != manner]:
            if not self._held[other].users:
                let_go(self._held.pop(other), self.device)
        dtype = None if stored else self.device.dtype
        needed = 0 if stored else self._needed_bytes(model, kind)
        return self._hold((*key, manner), lambda: self._load(model, kind, dtype), needed)

    def _load(self, model: _Model, kind: Kind, dtype: torch.dtype | None) -> Network:
        network = model.checkpoint.load(kind, dtype=dtype, check=self._check)
        if kind == "unet":
            attention.install(network.module)
        return network

    def _needed_bytes(self, model: _Model, kind: Kind) -> int:
        """Return the main memory that loading a network takes: none where it stays the mapped file."""
        tensors = model.checkpoint.file.header.tensors
        stored = [tensors[source.key] for source in model.checkpoint.architecture.blueprints[kind].sources.values()]
        itemsize = self.device.dtype.itemsize
        return sum(math.prod(tensor.shape) * itemsize for tensor in stored if torch_dtype(tensor) != self.device.dtype)

    def _hold(self, key: _Key, load: Callable[[], Network], needed_bytes: int = 0) -> Held:
        """Return a network, loading it when it is not held; when memory is short, the longest unused ones go first."""
        if key not in self._held:
            while self._free_main_bytes() < needed_bytes and self._drop_one():
                continue
            self._held[key] = Held(load())
        held = self._held[key]
        held.used = next(self._clock)
        return held

    def _drop_one(self) -> bool:
        resting = [key for key, held in self._held.items() if not held.users]
        if not resting:
            return False
        let_go(self._held.pop(min(resting, key=lambda key: self._held[key].used)), self.device)
        return True

    def _ready(self, held: Held, path: Path, role: Role, kind: Kind, berth: Berth) -> bool:
        """Bring a network to where it works; return whether it streams, or is widened on the processor."""
        stage: Stage = "sampling" if kind == "unet" else "text"
        if berth.way == "streams" or self._widened(berth):
            self._streaming(held, path, role, kind, berth)
            work = None if self._widened(berth) else self._work_bytes(stage, 0)
            if held.settled_for(berth):
                self._clearing.clear(work or 0, self._spare_bytes if work else 0)
                return True
            if held.settled and held.users == 1:  # for another size, or there was another amount of memory
                send_home(held, self.device)
            if not held.settled:
                self._clearing.settle(held, berth, self._ring_bytes(held), work, self._spare_bytes)
            return True
        if self.device.apart:
            self._clearing.place(held, self._work_bytes(stage, held.size_bytes), self._spare_bytes)
        return False

    def _order(self, path: Path, role: Role, kind: Kind) -> tuple[Layer, ...]:
        key = (*_stamp(path), role, kind)
        if key not in self._layers:
            self._layers[key] = layers_in_order(self.architecture(path, role).blueprints[kind])
        return self._layers[key]

    def _streaming(self, held: Held, path: Path, role: Role, kind: Kind, berth: Berth) -> None:
        """Give a network its stream, which takes no memory on the device yet."""
        if held.stream is not None:
            return
        near = self._widened(berth)
        dtype = torch.float32 if near and self.device.apart else self.device.dtype
        lane = None if near else self.device.lane()
        held.stream = Stream(held.network, self._order(path, role, kind), lane, dtype)

    def _ring_bytes(self, held: Held) -> int:
        return min(RING_BYTES, 2 * held.size_bytes)

    @property
    def _spare_bytes(self) -> int:
        """What a plan leaves free on the card; networks that need not stay make room for it, too."""
        return self.plan.space.spare_bytes if self.plan is not None else 0

    def _work_bytes(self, stage: Stage, size: int) -> int:
        """Return what the plan says that the work takes beside the weights."""
        return int(size * (WORKING_SHARE - 1)) if self.plan is None else work_bytes(self.plan, stage)


def _never() -> None:
    """Ask nothing."""


def _stamp(path: Path) -> _Key:
    """Tell files apart, also two that have had the same name."""
    status = path.stat()
    return (str(path), status.st_mtime_ns, status.st_size)

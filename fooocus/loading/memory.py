"""Where the weights are: the one object that holds networks, and decides which of them are on the device.

A network is loaded when it is first used, with its LoRAs, and held in main memory, where it costs nothing but address
space as long as it is the mapped file. A network in use is copied to the device and stays there until its room is
needed; going back is a change of pointers, because the copy in main memory was never let go. On a computer without a
graphics card nothing moves; there the network that was not used for the longest time is dropped when main memory runs
short, and read again when it is wanted.

Only the worker's own thread touches this object.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from fooocus.errors import DeviceOutOfMemory
from fooocus.families import attention
from fooocus.families.records import Architecture, Kind
from fooocus.loading.checkpoint import Checkpoint, Role, open_checkpoint, open_vae
from fooocus.loading.device import Device, is_out_of_memory
from fooocus.loading.lora import Lora, LoraReport, LoraTarget, apply_loras, lora_targets, match_loras, read_lora
from fooocus.loading.network import Network
from fooocus.loading.tensors import torch_dtype

# Room that a network needs beside its weights while it runs, as a share of the weights: activations, the allocator's
# cache, the driver. From F10's own estimate (a model of n bytes wants 1.3 n).
WORKING_SHARE = 1.3

_Key = tuple[object, ...]


@dataclasses.dataclass(eq=False)
class _Model:
    """An open checkpoint and the LoRAs that its networks shall have."""

    checkpoint: Checkpoint
    targets: dict[str, LoraTarget]
    loras: list[tuple[Lora, float]]


@dataclasses.dataclass(eq=False)
class _Held:
    """A network in main memory. ``users`` counts the blocks that use it now: it is neither moved nor dropped then.

    ``home`` holds its tensors in main memory while it is on the device, ``notes`` what was added to them when it left.
    """

    network: Network
    used: int = 0
    users: int = 0
    home: dict[str, Tensor] | None = None
    notes: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.network.module.parameters())


class Memory:
    """All weights of the worker.

    ``device.dtype`` is the number format of UNets and text encoders; VAEs are float32, because in half precision SDXL's
    overflows. ``free_main_bytes`` tells how much main memory is left.
    """

    def __init__(
        self, device: Device, free_main_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available
    ) -> None:
        self.device = device
        self._free_main_bytes = free_main_bytes
        self._models: dict[_Key, _Model] = {}
        self._held: dict[_Key, _Held] = {}
        self._loras: dict[_Key, Lora] = {}
        self._clock = itertools.count(1)
        self._check: Callable[[], object] = _never

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

    @contextmanager
    def use(self, path: Path, role: Role, kind: Kind) -> Iterator[nn.Module]:
        """Have one network of a prepared checkpoint on the device, with its LoRAs, until the block ends."""
        model = self._models[(*_stamp(path), role)]
        held = self._hold((*_stamp(path), role, kind), lambda: self._load(model, kind), self._needed_bytes(model, kind))
        with self._in_use(held):
            if held.network.kind != "vae":
                apply_loras({kind: held.network}, model.loras, targets=model.targets, check=self._check)
            yield held.network.module

    @contextmanager
    def use_vae(self, checkpoint: Path, file: Path | None = None) -> Iterator[nn.Module]:
        """Have a VAE on the device, in float32: the one in ``file``, or else the one in ``checkpoint``."""
        model = self._models[(*_stamp(checkpoint), "base")]
        key = (*_stamp(file or checkpoint), "vae")
        load = model.checkpoint.load
        held = self._hold(
            key, lambda: open_vae(file, dtype=torch.float32) if file else load("vae", dtype=torch.float32)
        )
        with self._in_use(held):
            yield held.network.module

    def keep_only(self, paths: Sequence[Path]) -> None:
        """Let go of every file that is not named: the person has gone over to others."""
        wanted = {_stamp(path) for path in paths}
        for files in (self._models, self._held, self._loras):
            for key in [key for key in files if key[:3] not in wanted]:
                del files[key]

    def make_room(self) -> bool:
        """Send every network that is not in use away from the device; return whether that may have helped."""
        resting = [held for held in self._held.values() if held.home is not None and not held.users]
        for held in resting:
            self._send_home(held)
        self.device.release()
        return bool(resting)

    def _lora(self, path: Path) -> Lora:
        key = _stamp(path)
        if key not in self._loras:
            self._loras[key] = read_lora(path)
        return self._loras[key]

    def _load(self, model: _Model, kind: Kind) -> Network:
        network = model.checkpoint.load(kind, dtype=self.device.dtype, check=self._check)
        if kind == "unet":
            attention.install(network.module)
        return network

    def _needed_bytes(self, model: _Model, kind: Kind) -> int:
        """Return the main memory that loading a network takes: none where it stays the mapped file."""
        tensors = model.checkpoint.file.header.tensors
        stored = [tensors[source.key] for source in model.checkpoint.architecture.blueprints[kind].sources.values()]
        itemsize = self.device.dtype.itemsize
        return sum(math.prod(tensor.shape) * itemsize for tensor in stored if torch_dtype(tensor) != self.device.dtype)

    def _hold(self, key: _Key, load: Callable[[], Network], needed_bytes: int = 0) -> _Held:
        """Return a network, loading it when it is not held; when memory is short, the longest unused ones go first."""
        if key not in self._held:
            while self._free_main_bytes() < needed_bytes and self._drop_one():
                continue
            self._held[key] = _Held(load())
        held = self._held[key]
        held.used = next(self._clock)
        return held

    def _drop_one(self) -> bool:
        resting = [key for key, held in self._held.items() if not held.users]
        if not resting:
            return False
        del self._held[min(resting, key=lambda key: self._held[key].used)]
        gc.collect()  # a module and its hooks refer to each other
        return True

    @contextmanager
    def _in_use(self, held: _Held) -> Iterator[None]:
        held.users += 1
        try:
            if self.device.apart and held.home is None:
                self._place(held)
            yield
        finally:
            held.users -= 1

    def _place(self, held: _Held) -> None:
        """Copy a network to the device, sending others home until it fits."""
        held.home = {name: parameter.data for name, parameter in held.network.module.named_parameters()}
        held.notes = dict(held.network.patches)
        size = held.size_bytes
        free = self.device.free_bytes()
        while free is not None and free < size * WORKING_SHARE and self._send_oldest_home():
            free = self.device.free_bytes()
        while not self._taken(held.network.module):
            self._send_home(held, placed=False)
            if not self._send_oldest_home():
                raise DeviceOutOfMemory(
                    f"The graphics card has too little free memory for {size / 2**30:.1f} GB of weights.",
                    "Close other programs that use it, or start with --device cpu.",
                )
            held.home = {name: parameter.data for name, parameter in held.network.module.named_parameters()}

    def _taken(self, module: nn.Module) -> bool:
        try:
            self.device.take(module)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _send_oldest_home(self) -> bool:
        resting = [held for held in self._held.values() if held.home is not None and not held.users]
        if not resting:
            return False
        self._send_home(min(resting, key=lambda held: held.used))
        return True

    def _send_home(self, held: _Held, *, placed: bool = True) -> None:
        """Point the parameters at main memory again; those that were changed on the device are copied."""
        module, home = held.network.module, held.home or {}
        if held.network.kind == "unet":
            attention.forget(module)
        for name, parameter in module.named_parameters():
            unchanged = not placed or held.network.patches.get(name) == held.notes.get(name)
            parameter.data = home[name] if unchanged else parameter.data.cpu()
        module.to("cpu")  # the buffers
        held.home = None
        self.device.release()


def _never() -> None:
    """Ask nothing."""


def _stamp(path: Path) -> _Key:
    """Tell files apart, also two that have had the same name."""
    status = path.stat()
    return (str(path), status.st_mtime_ns, status.st_size)

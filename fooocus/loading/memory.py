"""Where the weights are: the one object that holds networks, and decides which of them are on the device.

A checkpoint's networks are held in main memory, where they cost nothing but address space as long as they are the
mapped file. A network that is used is copied to the device and stays there until its room is needed; going back is a
change of pointers, because the copy in main memory was never let go. On a computer without a graphics card nothing
moves; there a checkpoint that the present picture does not need is dropped when main memory runs short.

Only the worker's own thread touches this object.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from fooocus.errors import DeviceOutOfMemory
from fooocus.families import attention
from fooocus.families.records import Architecture, Kind
from fooocus.loading.checkpoint import Checkpoint, Role, open_checkpoint, open_vae
from fooocus.loading.device import Device
from fooocus.loading.lora import Lora, LoraReport, apply_loras, read_lora
from fooocus.loading.network import Network

# Room that a network needs beside its weights while it runs, as a share of the weights: activations, the allocator's
# cache, the driver. From F10's own estimate (a model of n bytes wants 1.3 n).
WORKING_SHARE = 1.3


@dataclasses.dataclass(eq=False)
class _Group:
    """The networks of one checkpoint in main memory, and which LoRAs are added to them."""

    checkpoint: Checkpoint
    networks: dict[Kind, Network]
    used: int = 0


@dataclasses.dataclass(eq=False)
class _Placement:
    """A network on the device: where its tensors live in main memory, and what was added to them when it left."""

    network: Network
    home: dict[str, Tensor]
    notes: dict[str, object]
    size_bytes: int
    used: int = 0


class Memory:
    """All weights of the worker.

    ``device.dtype`` is the number format of UNets and text encoders; VAEs are float32, because in half precision SDXL's
    overflows.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._vaes: dict[tuple[object, ...], Network] = {}
        self._loras: dict[tuple[object, ...], Lora] = {}
        self._placed: list[_Placement] = []
        self._clock = itertools.count(1)

    def architecture(self, path: Path, role: Role) -> Architecture:
        """Return what the checkpoint is, reading only its header."""
        group = self._groups.get((*_stamp(path), role))
        return group.checkpoint.architecture if group else open_checkpoint(path, role=role).architecture

    def prepare(self, path: Path, role: Role, loras: Sequence[tuple[Path, float]] = ()) -> list[LoraReport]:
        """Have a checkpoint's networks in main memory with exactly these LoRAs added.

        Raises the subclasses of :class:`~fooocus.errors.ModelError`; then nothing has changed.
        """
        group = self._group(path, role)
        networks = {kind: network for kind, network in group.networks.items() if kind != "vae"}
        return apply_loras({str(kind): net for kind, net in networks.items()}, [(self._lora(p), w) for p, w in loras])

    @contextmanager
    def use(self, path: Path, role: Role, kind: Kind) -> Iterator[nn.Module]:
        """Have one network of a prepared checkpoint on the device until the block ends."""
        with self._on_device(self._group(path, role).networks[kind]) as module:
            yield module

    @contextmanager
    def use_vae(self, checkpoint: Path, file: Path | None = None) -> Iterator[nn.Module]:
        """Have a VAE on the device, in float32: the one in ``file``, or else the one in ``checkpoint``."""
        key = (*_stamp(file or checkpoint), "vae")
        if key not in self._vaes:
            if file is not None:
                self._vaes = {key: open_vae(file, dtype=torch.float32)}
            else:
                self._vaes = {key: self._group(checkpoint, "base").checkpoint.load("vae", dtype=torch.float32)}
        with self._on_device(self._vaes[key]) as module:
            yield module

    def keep_only(self, paths: Sequence[Path]) -> None:
        """Drop every checkpoint that is not named: the person has gone over to others."""
        wanted = {_stamp(path) for path in paths}
        for key in [key for key in self._groups if key[:-1] not in wanted]:
            self._drop(key)

    def _lora(self, path: Path) -> Lora:
        key = _stamp(path)
        if key not in self._loras:
            self._loras[key] = read_lora(path)
        return self._loras[key]

    def _group(self, path: Path, role: Role) -> _Group:
        key = (*_stamp(path), role)
        if key not in self._groups:
            checkpoint = open_checkpoint(path, role=role)
            self._make_room(checkpoint)
            networks: dict[Kind, Network] = {}
            for kind in (*checkpoint.architecture.family.text, "unet"):
                networks[kind] = checkpoint.load(kind, dtype=self.device.dtype)
            attention.install(networks["unet"].module)
            self._groups[key] = _Group(checkpoint, networks)
        self._groups[key].used = next(self._clock)
        return self._groups[key]

    def _make_room(self, checkpoint: Checkpoint) -> None:
        """Drop checkpoints, longest unused first, until this one fits into free main memory or none is left."""
        tensors = checkpoint.file.header.tensors.values()
        stored = sum(tensor.nbytes for tensor in tensors)
        width = torch.finfo(self.device.dtype).bits / 16  # files are stored in 16 bits, or are on their way there
        while self._groups and psutil.virtual_memory().available < stored * max(width, 1.0):
            self._drop(min(self._groups, key=lambda key: self._groups[key].used))

    def _drop(self, key: tuple[object, ...]) -> None:
        group = self._groups.pop(key)
        gone = set(map(id, group.networks.values()))
        self._placed = [placement for placement in self._placed if id(placement.network) not in gone]

    @contextmanager
    def _on_device(self, network: Network) -> Iterator[nn.Module]:
        if self.device.device.type == "cpu":
            yield network.module
            return
        placement = next((p for p in self._placed if p.network is network), None) or self._place(network)
        placement.used = next(self._clock)
        yield network.module

    def _place(self, network: Network) -> _Placement:
        """Copy a network to the device, sending others back until it fits."""
        home = {name: parameter.data for name, parameter in network.module.named_parameters()}
        size = sum(tensor.nbytes for tensor in home.values())
        placement = _Placement(network, home, dict(network.patches), size)
        free = self.device.free_bytes()
        while self._placed and free is not None and free < size * WORKING_SHARE:
            self._send_back()
            free = self.device.free_bytes()
        while True:
            try:
                network.module.to(self.device.device)
            except torch.OutOfMemoryError as error:
                self._put_home(placement)
                if not self._placed:
                    raise DeviceOutOfMemory(
                        f"The graphics card has too little free memory for {size / 2**30:.1f} GB of weights.",
                        "Close other programs that use it, or start with --device cpu.",
                    ) from error
                self._send_back()
                continue
            self._placed.append(placement)
            return placement

    def free_device(self) -> bool:
        """Send everything but the network used last back to main memory; return whether anything went."""
        if len(self._placed) < 2:
            return False
        while len(self._placed) > 1:
            self._send_back()
        return True

    def _send_back(self) -> None:
        placement = min(self._placed, key=lambda p: p.used)
        self._placed.remove(placement)
        self._put_home(placement)

    def _put_home(self, placement: _Placement) -> None:
        """Point the parameters at main memory again; those that changed meanwhile are copied."""
        patches = placement.network.patches
        if placement.network.kind == "unet":
            attention.forget(placement.network.module)
        for name, parameter in placement.network.module.named_parameters():
            unchanged = patches.get(name) == placement.notes.get(name)
            parameter.data = placement.home[name] if unchanged else parameter.data.cpu()
        placement.network.module.to("cpu")  # the buffers
        if self.device.device.type == "cuda":
            torch.cuda.empty_cache()


def _stamp(path: Path) -> tuple[object, ...]:
    """Tell files apart, also two that have had the same name."""
    status = path.stat()
    return (str(path), status.st_mtime_ns, status.st_size)

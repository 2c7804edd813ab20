"""Replay a network as one recorded graph, so that a fast card does not wait for Python to start its 1,900 kernels.

A graph is recorded for one set of shapes after calls that were made as usual; from then on new values are copied into
the tensors it was recorded with. Everything that could make it answer from stale memory is looked at: parameters that
are other tensors than before end it, a new prompt has the text's keys and values computed into their old places. When
recording fails for whatever reason, the network is asked as usual from then on, and nobody waits twice.

A graph holds the memory of a whole step's activations, and its weights must stay where they were when it was recorded.
So it belongs to the network: whoever moves that network's weights calls :func:`release` (:mod:`fooocus.loading`).

Recording itself is the card's affair (:class:`Recorder`); here is only what must be right on any device.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fooocus.families import attention

WARM_CALLS = 2  # as usual before recording: libraries choose their kernels in the first ones
KEPT = 2  # sets of shapes with a graph; each keeps the memory of a step's activations


class Inputs(NamedTuple):
    """What a UNet is asked with: x (B, 4, h, w), timestep (), context (B, T, D), pooled (B, P), size ids (B, n).

    There may be fewer contexts, each for as many rows that follow each other (:mod:`fooocus.families.attention`).
    """

    x: Tensor
    timestep: Tensor
    context: Tensor
    pooled: Tensor
    size_ids: Tensor


Ask = Callable[[Inputs], Tensor]


def ask(unet: nn.Module, inputs: Inputs) -> Tensor:
    """Ask a UNet as usual."""
    return unet(
        inputs.x,
        inputs.timestep,
        encoder_hidden_states=inputs.context,
        added_cond_kwargs={"text_embeds": inputs.pooled, "time_ids": inputs.size_ids},
        return_dict=False,
    )[0]


class Recording(NamedTuple):
    """What does some work again, the tensor that its result is found in each time, and the memory it keeps for itself.

    In ``idle_bytes`` nothing lies between two replays, and yet nobody else may have them.
    """

    replay: Callable[[], object]
    output: Tensor
    idle_bytes: int = 0


class Recorder(Protocol):
    """What records on a device. Raises ``RuntimeError`` where that is impossible."""

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """Record ``work``."""


class CudaRecorder:
    """Records CUDA graphs on one of the cards."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._aside: torch.cuda.Stream | None = None  # one for all: the libraries keep a workspace for each

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """Do the work once on a stream of its own, as recording demands, then record it."""
        # Streams belong to the present card, and what runs on another one's is not recorded.
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            aside = self._aside = self._aside or torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                work()
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may ask the card for memory meanwhile, such as the lane that sends the next network.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    before = self._idle_bytes()  # only now: to begin gives back what torch had in store
                    output = work()
            finally:
                torch.cuda.set_stream(here)  # a recording that fails leaves its own behind
        return Recording(graph.replay, output, max(0, self._idle_bytes() - before))

    def _idle_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)


@dataclass(eq=False)
class _Recorded:
    """A graph with the tensors it reads.

    ``told`` is the context that its text now stands for, None where its layers may have other weights by now.
    """

    inputs: Inputs
    texts: list[attention.TextMemory]
    told: Tensor | None
    recording: Recording


_PLACE = "_fooocus_replays"  # where a network carries its graphs


def replays_of(unet: nn.Module, recorder: Recorder) -> Replays:
    """Return the graphs that a network carries, or new ones."""
    found = unet.__dict__.get(_PLACE)
    if not isinstance(found, Replays):
        found = unet.__dict__[_PLACE] = Replays(unet, recorder)
    return found


def release(unet: nn.Module) -> None:
    """Let go of a network's graphs and their memory: its weights are about to move."""
    found = unet.__dict__.get(_PLACE)
    if isinstance(found, Replays):
        found.drop()


def idle_bytes(unet: nn.Module) -> int:
    """Return the memory in which nothing lies and that yet only the graphs of a network may use."""
    found = unet.__dict__.get(_PLACE)
    return found.idle_bytes if isinstance(found, Replays) else 0


class Replays:
    """One UNet's graphs. Call it like :func:`ask`, inside of ``torch.no_grad()``."""

    def __init__(self, unet: nn.Module, recorder: Recorder) -> None:
        self._unet = weakref.ref(unet)  # the network carries this, and is freed at once when nobody wants it
        self._recorder = recorder
        self._weights: tuple[int, ...] = ()
        self._calls: dict[tuple[object, ...], int] = {}
        self._recorded: OrderedDict[tuple[object, ...], _Recorded] = OrderedDict()
        self.broken = False

    @property
    def idle_bytes(self) -> int:
        """What all graphs keep for themselves."""
        return sum(recorded.recording.idle_bytes for recorded in self._recorded.values())

    def renew(self) -> None:
        """Drop all graphs unless every parameter is where it was; to be called when a run begins.

        What stands there may be new, such as the sum with another weight of a LoRA; a graph reads it like the old.
        """
        weights = tuple(parameter.data_ptr() for parameter in self._network().parameters())
        if weights != self._weights:
            self._weights = weights
            self.drop()
        for recorded in self._recorded.values():
            recorded.told = None

    def drop(self) -> None:
        """Let go of all graphs and their memory."""
        self._recorded.clear()
        self._calls.clear()

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the network's answer; the tensor is the caller's own."""
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        recorded = self._recorded.get(shapes)
        if recorded is None:
            recorded = self._record(shapes, inputs)
        if recorded is None:
            return ask(self._network(), inputs)
        self._recorded.move_to_end(shapes)
        if inputs.context is not recorded.told:
            recorded.inputs.context.copy_(inputs.context)
            for text in recorded.texts:
                text.renew(recorded.inputs.context)
            recorded.told = inputs.context
        for name in ("x", "timestep", "pooled", "size_ids"):
            getattr(recorded.inputs, name).copy_(getattr(inputs, name))
        recorded.recording.replay()
        return recorded.recording.output.clone()

    def _network(self) -> nn.Module:
        unet = self._unet()
        if unet is None:
            raise ReferenceError("the network of these graphs is gone")
        return unet

    def _record(self, shapes: tuple[object, ...], inputs: Inputs) -> _Recorded | None:
        """Record a graph for these shapes when it is time to; None while the network is to be asked as usual."""
        calls = self._calls[shapes] = self._calls.get(shapes, 0) + 1
        if self.broken or calls <= WARM_CALLS:
            return None
        unet, own = self._network(), Inputs(*(tensor.clone() for tensor in inputs))
        try:
            ask(unet, own)  # the layers now know the keys and values of this very context
            texts = attention.remembered(unet, own.context)
            recording = self._recorder.record(functools.partial(ask, unet, own))
        except RuntimeError as error:
            logging.getLogger("fooocus.families").warning("no graph could be recorded: %s", error)
            self.broken = True
            self.drop()
            return None
        while len(self._recorded) >= KEPT:
            self._recorded.popitem(last=False)
        self._recorded[shapes] = _Recorded(own, texts, inputs.context, recording)
        return self._recorded[shapes]

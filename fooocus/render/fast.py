"""What is done for speed while a picture is sampled, by the setting ``fast``; all of it is undone afterwards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fooocus.config import Fast
from fooocus.families import attention
from fooocus.families.graphs import Ask, CudaRecorder, Recorder, ask, replays_of

# cuDNN's attention first where it can; torch tries the next one where it cannot.
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class FastPath:
    """The switches of one worker on its device. Graphs are recorded by ``recorder``, on CUDA by its own."""

    def __init__(self, fast: Fast, device: torch.device, recorder: Recorder | None = None) -> None:
        self._fast = fast
        self._device = device
        self._recorder = recorder or (CudaRecorder() if device.type == "cuda" else None)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Compute as the switches say until the block ends."""
        with ExitStack() as stack:
            if self._fast.cudnn_attention and self._device.type == "cuda":
                stack.enter_context(sdpa_kernel(_CUDNN_FIRST, set_priority=True))
            if self._fast.fp16_accumulation and self._device.type == "cuda":
                before = torch.backends.cuda.matmul.allow_fp16_accumulation
                stack.callback(_accumulate, half=before)
                _accumulate(half=True)
            yield

    def ask(self, unet: nn.Module, *, travels: bool = False) -> Ask:
        """Return how to ask a UNet in the run that begins now.

        Nothing is recorded of one whose weights travel: at a replay its places would hold other weights.
        """
        attention.keep_text(unet, keeps=self._fast.keep_text)
        if not self._fast.graphs or self._recorder is None or travels or not self._is_here(unet):
            return functools.partial(ask, unet)
        replays = replays_of(unet, self._recorder)
        replays.renew()
        return replays

    def _is_here(self, unet: nn.Module) -> bool:
        """Say whether all weights are on the device: those that travel while it works are elsewhere at each replay."""
        return all(parameter.device.type == self._device.type for parameter in unet.parameters())


def _accumulate(*, half: bool) -> None:
    torch.backends.cuda.matmul.allow_fp16_accumulation = half

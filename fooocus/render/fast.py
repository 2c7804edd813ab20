"""What is done for speed while a picture is sampled, by the setting ``fast``; all of it is undone afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fooocus.config import Fast
from fooocus.families import attention
from fooocus.families.graphs import Ask, CudaRecorder, Recorder, ask, replays_of
from fooocus.render.half_sums import HalfSums
from fooocus.request import Size

# cuDNN's attention first where it can; torch tries the next one where it cannot.
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


_ALONE_BELOW = 3e9
"""A UNet's weights times the places of its latents, from which a step is long enough to be shared among threads.

Below, handing the work over and waiting for each other takes longer than is gained. Pocket's UNet at 144x112 is 1.3e9;
its step, in milliseconds, with one thread and with two that sleep while they wait: 20 and 26 on Zen 5, 83 and 92 to 170
on an idle Zen 3, 180 to 217 and 232 to 254 on that one beside three busy programs. (Two that spin took 65 to 85 on the
idle one, and seconds where another program wanted the processor.) SDXL at 256x256 is 2.6e12.
"""


class FastPath:
    """The switches of one worker on its device. Graphs are recorded by ``recorder``, on CUDA by its own."""

    def __init__(self, fast: Fast, device: torch.device, recorder: Recorder | None = None) -> None:
        self._fast = fast
        self._device = device
        self._half_sums = HalfSums() if fast.fp16_accumulation and device.type == "cuda" else None
        self._recorder = recorder or (CudaRecorder(device) if device.type == "cuda" else None)

    @contextmanager
    def arithmetic(self, unet: nn.Module, size: Size) -> Iterator[None]:
        """Compute what ``unet`` answers for pictures of ``size`` as the switches say, until the block ends.

        A miniature works alone on a processor, so its answers do not depend on the number of cores either.
        """
        with ExitStack() as stack:
            stack.callback(attention.forget, unet)
            if self._device.type == "cpu" and _is_little(unet, size):
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(1)
            if self._fast.cudnn_attention and self._device.type == "cuda":
                stack.enter_context(sdpa_kernel(_CUDNN_FIRST, set_priority=True))
            yield

    def ask(
        self,
        unet: nn.Module,
        *,
        travels: bool = False,
        loras: object = None,
        notice: Callable[[str], object] = lambda text: None,
    ) -> Ask:
        """Return how to ask a UNet in the run that begins now.

        ``travels`` says that its weights pass through the device while it works, ``loras`` is another value where they
        are others, ``notice`` hears what a person may want to know.
        """
        attention.keep_text(unet, keeps=self._fast.keep_text)
        asked = self._recorded(unet, travels=travels)
        return asked if self._half_sums is None else self._half_sums.over(unet, asked, loras, notice)

    def _recorded(self, unet: nn.Module, *, travels: bool) -> Ask:
        """Nothing is recorded of one whose weights travel: at a replay its places would hold other weights."""
        if not self._fast.graphs or self._recorder is None or travels or not self._is_here(unet):
            return functools.partial(ask, unet)
        replays = replays_of(unet, self._recorder)
        replays.renew()
        return replays

    def _is_here(self, unet: nn.Module) -> bool:
        """Say whether all weights are on the device: those that travel while it works are elsewhere at each replay."""
        return all(parameter.device.type == self._device.type for parameter in unet.parameters())


def _is_little(unet: nn.Module, size: Size) -> bool:
    """Say whether a step is too short to be shared among threads."""
    weights = sum(parameter.numel() for parameter in unet.parameters())
    return weights * (size.width // 8) * (size.height // 8) < _ALONE_BELOW

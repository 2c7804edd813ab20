"""Several processes that train one network: each takes a part of every step's pictures, and all take the same step.

The gradient of a step is the mean over all of its pictures whoever had them, so a run may be stopped and taken up by
another number of processes; it stays the same run, up to rounding.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn

_PATIENCE = timedelta(hours=12)  # one that is held (SIGSTOP) holds the others


class Team:
    """This process among ``size`` that train together; alone it has nothing to agree on."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process tells how it goes and writes the files."""
        return self.rank == 0

    def mine(self, tensor: Tensor) -> Tensor:
        """Return this process's part of a step's tensor (B, ...), whose B the size divides."""
        return tensor[self.rank :: self.size]

    def agree(self, parameters: Iterable[nn.Parameter], stop: bool) -> bool:
        """Give every parameter the mean of all gradients; return whether any process wants to stop."""
        if self.size == 1:
            return stop
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradients[0].new_full((1,), float(stop)), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        flat /= self.size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat[1:].split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return bool(flat[0] > 0)

    def any(self, yes: bool) -> bool:
        """Wait until all have come here, and return whether any of them says yes."""
        if self.size == 1:
            return yes
        said = torch.full((1,), float(yes))
        distributed.all_reduce(said)
        return bool(said[0] > 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            distributed.barrier()


def run_team(size: int, work: Callable[[Team], int]) -> int:
    """Do ``work`` in ``size`` processes at once (picklable) and return the largest of the results."""
    if size == 1:
        return work(Team())
    with TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        torch.multiprocessing.spawn(_member, (size, work, folder, queue), nprocs=size)
        return max(queue.get() for _ in range(size))


def _member(rank: int, size: int, work: Callable[[Team], int], folder: str, queue: object) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing leaves this machine
    meeting = (Path(folder) / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        queue.put(work(Team(rank, size)))  # type: ignore[attr-defined]
    finally:
        distributed.destroy_process_group()


def _leave_with_parent() -> None:
    """End this process with the one that began it, even if that was killed: nobody could stop it by name any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Look at the person's wishes between the blocks of a network, so that a stop takes effect in mid-step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

# Between two of these a card or a processor works for a second at the most; finer hooks would cost more than they give.
_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")


@contextmanager
def interruptible(module: nn.Module, check: Callable[[], object]) -> Iterator[None]:
    """Call ``check`` before every block of ``module``'s forward passes; what it raises leaves the pass."""

    def before(block: nn.Module, arguments: object) -> None:
        check()

    handles = [m.register_forward_pre_hook(before) for m in module.modules() if type(m).__name__ in _BLOCKS]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

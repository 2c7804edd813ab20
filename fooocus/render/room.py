"""Go on when memory runs out: free, make do with less, say so, and do the same piece of work again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from fooocus.errors import DeviceOutOfMemory
from fooocus.loading.device import is_out_of_memory
from fooocus.loading.memory import Memory
from fooocus.memory.plan import Stage
from fooocus.memory.words import sentence
from fooocus.render.watch import TooMany

_Result = TypeVar("_Result")


def with_room(
    memory: Memory,
    stage: Stage,
    work: Callable[[], _Result],
    notice: Callable[[str], object],
    leave: Callable[[], object] = lambda: None,
    pictures: int = 1,
) -> _Result:
    """Do the work; while memory runs out, step the plan down and do it again from its beginning.

    ``leave`` lets go of what the work holds. Raises :class:`~fooocus.errors.DeviceOutOfMemory` when the last plan was
    too much, and :class:`~fooocus.render.watch.TooMany` instead of a step down where it was for several ``pictures``:
    for fewer the same plan may do.
    """
    full = "The graphics card's memory" if memory.device.apart else "Main memory"
    while True:
        try:
            return work()
        except (DeviceOutOfMemory, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, behind the handler, has the error let go of the tensors that its trace holds.
        leave()
        gc.collect()
        if pictures > 1:
            memory.too_many(pictures)
            notice(f"{full} ran out. Fewer pictures are made at once.")
            raise TooMany
        before = memory.plan
        lower = memory.step_down(stage)
        if lower is None:
            break
        how = "What rested there made room." if lower is before else sentence(lower)
        notice(f"{full} ran out. {how}")
    if not memory.device.apart:
        raise DeviceOutOfMemory("Main memory ran out.", "Close other programs, or choose a smaller size.")
    raise DeviceOutOfMemory(
        "The graphics card's memory ran out.",
        "Choose a smaller size, close other programs that use the card, or start with --device cpu.",
    )

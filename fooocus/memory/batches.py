"""How many pictures of one job may be advanced by each call of a network: as many as the same plan has room for.

The plan is made for one picture. More of them are done at once only where every network then still has its way; of one
that streams somewhat less may stay on the card, because whatever travels does so once for all of them.
"""

from __future__ import annotations

import dataclasses

from fooocus.memory.need import Network, unet_work
from fooocus.memory.plan import MAIN_SPARE_BYTES, Berth, Plan, make_plan
from fooocus.memory.turns import base_apart

MOST = 4
"""More would let the person wait longer for the first picture; a taste until it is measured on a card."""


def fewer(pictures: int) -> int:
    """Return how many to make at once where so many were too many."""
    return (pictures + 1) // 2


def at_once(plan: Plan, most: int = MOST) -> int:
    """Return how many pictures of a plan's size may be made at once, from 1 to ``most``."""
    return next((pictures for pictures in range(most, 1, -1) if widened(plan, pictures)), 1)


def widened(plan: Plan, pictures: int) -> Plan | None:
    """Return the same plan for several pictures at once; None where there is no room for them, or nobody can tell.

    Where nobody can tell, too much would be found out by failing, and some drivers do not even fail: they go on in main
    memory, many times slower. That is no risk to take for speed.
    """
    wide = make_plan(plan.space, dataclasses.replace(plan.need, pictures=pictures), plan.steps)
    if plan.base.way == "processor":
        return wide if _fits_main(wide) and _ways(wide) == _ways(plan) else None
    return wide if plan.space.usable_bytes is not None and _ways(wide) == _ways(plan) else None


def _ways(plan: Plan) -> object:
    ways = [(berth.way, berth.from_file) for berth in (plan.text, *plan.unets)]
    # What travels and is not pinned any more would come several times slower.
    slow = [
        berth.way == "streams" and not berth.pinned_bytes and berth.resident_bytes < unet.travel_bytes
        for berth, unet in zip(plan.unets, plan.need.unets, strict=True)
    ]
    return ways, slow, plan.together, plan.decoding


def _fits_main(plan: Plan) -> bool:
    """Say whether main memory has room for the work beside the weights; all of them, unless they come in turns."""
    weights = [_main_bytes(unet, berth) for unet, berth in zip(plan.need.unets, plan.unets, strict=True)]
    work = max(unet_work(plan.need, unet, together=plan.together) for unet in plan.need.unets)
    held = max(weights) if base_apart(plan) else sum(weights)
    return held + work <= plan.space.main_free_bytes - MAIN_SPARE_BYTES


def _main_bytes(unet: Network, berth: Berth) -> int:
    """Return what a UNet takes of main memory at work: the file's pages count too, work must not drive them out."""
    return unet.resting_bytes if berth.from_file else unet.weight_bytes

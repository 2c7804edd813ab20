"""Whether several pictures are better made part by part: the base's steps of all, then the refiner's, then all pixels.

Where two networks cannot be at hand at once, each change from one to the other copies gigabytes; made one after the
other, pictures pay for it every time. Which part is worth doing apart follows from the plan alone.
"""

from __future__ import annotations

from fooocus.memory.need import RING_BYTES, Network
from fooocus.memory.plan import MAIN_SPARE_BYTES, Berth, Plan, work_bytes


def base_apart(plan: Plan) -> bool:
    """Say whether the base leaves when the refiner comes, and has to be brought back for the next picture."""
    if plan.refiner is None:
        return False
    if plan.base.way == "processor":
        # Only copies in the processor's own number format are anything to bring; what is widened as it is used is not.
        copies = [unet.copied_bytes for unet in plan.need.unets]
        room = plan.space.main_free_bytes - MAIN_SPARE_BYTES - work_bytes(plan, "sampling")
        return not plan.space.card and not plan.base.from_file and sum(copies) > room
    there = [_on_card(unet, berth) for unet, berth in zip(plan.need.unets, plan.unets, strict=True)]
    return _crowded(plan, sum(there) + work_bytes(plan, "sampling"))


def pixels_apart(plan: Plan) -> bool:
    """Say whether decoding sends a network home that the next picture wants again."""
    if plan.base.way == "processor" or plan.decoding == "processor":
        return False
    there = [_on_card(unet, berth) for unet, berth in zip(plan.need.unets, plan.unets, strict=True)]
    resting = there[-1] if base_apart(plan) else sum(there)
    return _crowded(plan, resting + plan.need.vae.weight_bytes + work_bytes(plan, "decoding"))


def _crowded(plan: Plan, wanted_bytes: int) -> bool:
    """Say whether so much is more than there is, where something would have to be copied again for it."""
    if all(berth.resident_bytes == 0 for berth in plan.unets):
        return False
    free = plan.space.card_free_bytes
    if free is None:
        return plan.base.way != "stays"
    # What need not stay leaves for the sake of the spare, too.
    spare = 0 if plan.base.way == "stays" else plan.space.spare_bytes
    return wanted_bytes + spare > free


def _on_card(unet: Network, berth: Berth) -> int:
    """Return what a UNet takes on the card while it works, without the work."""
    if berth.way != "streams":
        return unet.weight_bytes
    return berth.resident_bytes + unet.opened * unet.itemsize + unet.widen_bytes + RING_BYTES

"""A plan in one plain sentence, the same for the worker's notice, the page's line and `doctor`."""

from __future__ import annotations

from collections.abc import Mapping

from fooocus.memory.plan import GIB, Decoding, Plan

_DECODED: Mapping[Decoding, str] = {
    "whole": "",
    "stripes": "; the picture is decoded in stripes",
    "stripes in main memory": "; the picture is decoded in stripes",
    "processor": "; the processor decodes the picture",
}


def sentence(plan: Plan) -> str:
    """Say what is kept where."""
    match plan.base.way:
        case "processor":
            why = "the card has too little memory" if plan.space.card else "there is no graphics card"
            files = "; the models are read from their files as they are used" if plan.base.from_file else ""
            return f"Computes on the processor, because {why}{files}."
        case "streams":
            apart = "" if plan.together else "; prompt and negative prompt are asked one after the other"
            return f"Streams from main memory: {_staying(plan)} on the card{apart}{_DECODED[plan.decoding]}."
        case "takes turns":
            said = "Base and refiner take turns on the card" if plan.refiner else "The base has the card to itself"
        case _ if plan.text.way == "stays":
            said = "Everything fits on the card"
        case _:
            who = "Base and refiner stay" if plan.refiner else "The base stays"
            said = f"{who} on the card, text encoders and decoder take turns"
    return f"{said}{_DECODED[plan.decoding]}."


def _staying(plan: Plan) -> str:
    parts = [
        f"{berth.resident_bytes / GIB:.1f} of {unet.resting_bytes / GIB:.1f} GiB of the {name}"
        for berth, unet, name in zip(plan.unets, plan.need.unets, ("base", "refiner"), strict=False)
    ]
    if sum(berth.resident_bytes for berth in plan.unets) == 0:
        return "nothing stays"
    return f"{' and '.join(parts)} stay"

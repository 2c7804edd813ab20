"""Settings from a ComfyUI graph: start at the sampler and follow its links to the values.

A graph can say anything, so only the common shape is understood: checkpoint, LoRAs, texts, empty latent, one sampler,
or two for base and refiner. What lies outside of it is left out with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fooocus.images.findings import Finder, Found, Known
from fooocus.request import NONE

MAX_NODES = 5000
MAX_DEPTH = 64
_SAMPLERS = ("KSampler", "KSamplerAdvanced", "KSampler (Efficient)", "SamplerCustom", "SamplerCustomAdvanced")
# Nodes that hold a part of what SamplerCustom and SamplerCustomAdvanced do, and schedules that are nodes of their own.
_PARTS = ("guider", "noise", "sampler", "sigmas")
_SCHEDULE_NODES: Mapping[str, str] = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "AlignYourStepsScheduler": "align_your_steps",
}
_TEXT_INPUTS = ("text", "text_g", "text_l", "string", "value", "prompt")
_CONDITIONING_INPUTS = ("conditioning", "conditioning_1", "conditioning_to", "positive", "cond1")

Node = Mapping[str, Any]


def looks_like_graph(values: Mapping[str, Any]) -> bool:
    """Say whether a JSON object is a graph in the form that ComfyUI runs."""
    return any(isinstance(node, dict) and "class_type" in node for node in values.values())


def read_graph(values: Mapping[str, Any], known: Known) -> Found:
    """Return the settings of a graph."""
    finder = Finder("comfyui", known)
    graph = _Graph(values)
    finder.values["styles"] = []
    finder.put_size_guidance()
    samplers = [node for node in graph.nodes.values() if node["class_type"] in _SAMPLERS]
    first = [node for node in samplers if not graph.behind(node, "latent_image", _SAMPLERS)]
    if not first:
        finder.warn("The graph has no sampler that is known here.")
        return finder.found()
    if len(first) > 1:
        finder.warn("The graph has several samplers; the first one is used.")
    start = first[0]
    whole = graph.with_parts(start)
    _put_sampler(finder, graph, whole)
    _put_texts(finder, graph, whole)
    _put_model(finder, graph, whole)
    _put_size(finder, graph, whole)
    later = [node for node in samplers if graph.behind(node, "latent_image", _SAMPLERS) is start]
    _put_refiner(finder, graph, whole, [graph.with_parts(node) for node in later])
    return finder.found()


class _Graph:
    """The nodes by id, and ways to follow their links; a link is ``[id, output]``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.nodes: dict[str, Node] = {
            str(name): node
            for name, node in list(values.items())[:MAX_NODES]
            if isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
        }

    def target(self, node: Node, name: str) -> Node | None:
        """Return the node that an input is linked to."""
        link = node["inputs"].get(name)
        return self.nodes.get(str(link[0])) if isinstance(link, list) and len(link) == 2 else None

    def value(self, node: Node, *names: str) -> Any:
        """Return the first plain value among inputs, through nodes that only hold a value."""
        for name in names:
            current, depth = node, 0
            while (linked := self.target(current, name)) is not None and depth < MAX_DEPTH:
                current, depth = linked, depth + 1
                name = next((key for key in (name, *_TEXT_INPUTS, "seed", "int") if key in current["inputs"]), name)
            value = current["inputs"].get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return value
        return None

    def chain(self, node: Node, name: str) -> Iterator[Node]:
        """Yield the nodes behind an input, following inputs of the same name."""
        current = self.target(node, name)
        for _ in range(MAX_DEPTH):
            if current is None:
                return
            yield current
            current = self.target(current, name)

    def with_parts(self, node: Node) -> Node:
        """Return a sampler with the inputs of the nodes that it is put together from; its own count more."""
        inputs = dict(node["inputs"])
        for part in _PARTS:
            for linked in self.chain(node, part):
                given = dict(linked["inputs"])
                if linked["class_type"] in _SCHEDULE_NODES:
                    given.setdefault("scheduler", _SCHEDULE_NODES[linked["class_type"]])
                if linked["class_type"] == "BasicGuider":  # it has one text and no guidance
                    given = {"positive": given.get("conditioning"), "cfg": 1.0, **given}
                inputs = {**given, **inputs}
        return {"class_type": node["class_type"], "inputs": inputs}

    def behind(self, node: Node, name: str, classes: tuple[str, ...]) -> Node | None:
        """Return the nearest node of some classes behind an input, through any latent operation."""
        current = self.target(node, name)
        for _ in range(MAX_DEPTH):
            if current is None or current["class_type"] in classes:
                return current
            following = (self.target(current, key) for key in ("latent_image", "samples", "latent"))
            current = next((linked for linked in following if linked is not None), None)
        return None


def _put_sampler(finder: Finder, graph: _Graph, node: Node) -> None:
    for field, names in (("steps", ("steps",)), ("seed", ("seed", "noise_seed"))):
        if (number := graph.value(node, *names)) is not None:
            finder.put_number(field, number, whole=True)
        elif field == "steps":
            finder.warn("The number of steps was not found in the graph.")
    if (number := graph.value(node, "cfg")) is not None:
        finder.put_number("guidance", number)
    if name := graph.value(node, "sampler_name"):
        finder.put_sampler(name)
    else:
        finder.warn("The sampler was not found in the graph.")
    if name := graph.value(node, "scheduler"):
        finder.put_schedule(name)
    strength = graph.value(node, "denoise")
    if isinstance(strength, int | float) and strength < 1:
        finder.warn("The picture was made from another picture, which is not repeated here.")


def _put_texts(finder: Finder, graph: _Graph, node: Node) -> None:
    for field, name in (("prompt", "positive"), ("negative", "negative")):
        current = graph.target(node, name)
        for _ in range(MAX_DEPTH):
            if current is None:
                break
            text = graph.value(current, *_TEXT_INPUTS)
            if isinstance(text, str):
                finder.put(field, text)
                break
            if "Combine" in current["class_type"] or "Concat" in current["class_type"]:
                finder.warn("The graph joins several prompts; the first one is used.")
            following = (graph.target(current, key) for key in (name, *_CONDITIONING_INPUTS))
            current = next((linked for linked in following if linked is not None), None)
        else:
            current = None
        if current is None and field == "prompt":
            finder.warn("The prompt was not found in the graph.")


def _put_model(finder: Finder, graph: _Graph, node: Node) -> None:
    uses: list[tuple[Any, Any]] = []
    has_base = False
    for model in graph.chain(node, "model"):
        if (name := graph.value(model, "lora_name")) is not None:
            uses.append((name, graph.value(model, "strength_model", "lora_strength")))
        if name := graph.value(model, "ckpt_name", "unet_name"):
            finder.put_model("base", name)
            has_base = True
    if not has_base:
        finder.warn("The base model was not found in the graph.")
    finder.put_loras(reversed(uses))  # the chain begins at the sampler, the list at the checkpoint
    for other in graph.nodes.values():
        if other["class_type"] == "VAELoader":
            finder.put_model("vae", graph.value(other, "vae_name") or "")
        if other["class_type"] == "CLIPSetLastLayer":
            layer = graph.value(other, "stop_at_clip_layer")
            finder.put_number("clip_skip", -layer if isinstance(layer, int) else layer, whole=True)
        if "ControlNet" in other["class_type"] and "Apply" in other["class_type"]:
            finder.warn("The picture was made with ControlNet, which is not repeated here.")


def _put_size(finder: Finder, graph: _Graph, node: Node) -> None:
    current = graph.target(node, "latent_image")
    for _ in range(MAX_DEPTH):
        if current is None:
            return
        width, height = graph.value(current, "width"), graph.value(current, "height")
        if width is not None and height is not None:
            finder.put_size(width, height)
            return
        following = (graph.target(current, key) for key in ("samples", "latent", "latent_image"))
        current = next((linked for linked in following if linked is not None), None)


def _put_refiner(finder: Finder, graph: _Graph, start: Node, later: list[Node]) -> None:
    """Read base and refiner as two samplers in a row, of which the second one begins at a later step."""
    finder.values["refiner"] = NONE
    for node in later:
        switch = graph.value(node, "start_at_step")
        name = next((graph.value(model, "ckpt_name") for model in graph.chain(node, "model")), None)
        same = name is not None and name in (graph.value(model, "ckpt_name") for model in graph.chain(start, "model"))
        if isinstance(switch, int) and isinstance(name, str) and not same and finder.values.get("steps", 0) >= switch:
            finder.put_model("refiner", name)
            if finder.values["refiner"] != NONE:
                finder.values["switch"] = switch
        else:
            finder.warn("The picture was made in several passes; only the first one is repeated here.")

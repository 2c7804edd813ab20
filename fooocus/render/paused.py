"""The unfinished pictures of a paused job as a file: latents, the sampler's history, and the recipe they belong to.

A picture is continued from its own recipe and not from a newly planned one: a style file or a word list may have
changed meanwhile. Everything else that its steps need follows from the recipe, so the result is bit-equal to that of
an unbroken run on the same device.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fooocus.diffusion.state import State, pack, unpack
from fooocus.errors import FooocusError, RequestError, StorageError
from fooocus.request import Recipe

_FORMAT = "fooocus-paused-1"


class UnusablePause(FooocusError):
    """A file of unfinished pictures is missing, broken or another job's; its pictures begin again."""


@dataclasses.dataclass(frozen=True)
class Begun:
    """An unfinished picture: its recipe, and how far it is."""

    recipe: Recipe
    state: State


def write_paused(path: Path, job: str, pictures: Mapping[int, Begun]) -> None:
    """Put the unfinished pictures of a job, by number, on disk: whole or not at all. Raises :class:`StorageError`."""
    tensors = {f"{n}.{name}": value for n, begun in pictures.items() for name, value in pack(begun.state).items()}
    recipes = {str(number): begun.recipe.to_json() for number, begun in pictures.items()}
    data = save(tensors, {"format": _FORMAT, "job": job, "recipes": json.dumps(recipes)})
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise StorageError(
            f"The unfinished picture could not be kept in {path.parent}: {error.strerror or error}.",
            "Free some space; when the job is resumed, this picture begins again.",
        ) from error


def read_paused(path: Path, job: str) -> dict[int, Begun]:
    """Return what :func:`write_paused` wrote for this job. Raises :class:`UnusablePause`, in words."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise _unusable("it was not written by this program")
            if about.get("job") != job:
                raise _unusable("it belongs to another job")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        recipes = {int(n): Recipe.from_json(values) for n, values in json.loads(about["recipes"]).items()}
        return {number: Begun(recipe, _state(tensors, number, recipe)) for number, recipe in recipes.items()}
    except FileNotFoundError as error:
        raise _unusable("its file is gone") from error
    except (OSError, SafetensorError, RequestError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable("its file is broken") from error


def _state(tensors: Mapping[str, Tensor], number: int, recipe: Recipe) -> State:
    """Return one picture's state. Raises what a wrong one raises."""
    start = f"{number}."
    state = unpack({name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)})
    shape = (1, 4, recipe.size.height // 8, recipe.size.width // 8)
    for tensor in (state.x, *state.history):
        if tensor.shape != shape or not tensor.isfinite().all():
            raise ValueError("a tensor of another picture")
    if not 0 <= state.step <= recipe.steps:
        raise ValueError("a step that is not one of the picture's")
    return state


def _unusable(why: str) -> UnusablePause:
    return UnusablePause(f"The paused picture cannot be continued: {why}.", "It begins again.")

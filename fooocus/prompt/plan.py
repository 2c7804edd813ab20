"""Plan: turn what was asked for into one recipe per picture, with every choice made.

Pure and total: the same request, styles and lists give the same recipes, and a request either gives recipes or raises
:class:`~fooocus.errors.RequestError` with the field named. Nothing is read from disk, no clock is asked and no number
is drawn here; the one choice that wants chance, the seed, is made before by :func:`with_seed`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fooocus.errors import RequestError
from fooocus.prompt.language import (
    Directions,
    combinations,
    file_key,
    has_language,
    join,
    resolve,
    resolve_negative,
    take_directions,
)
from fooocus.prompt.sizes import nearest_size, sizes_like
from fooocus.prompt.styles import Styles, apply_styles
from fooocus.prompt.wildcards import Drawer, WordLists
from fooocus.request import (
    MAX_PICTURES,
    MAX_SEED,
    PERFORMANCES,
    LoraUse,
    Recipe,
    Request,
    companions,
    declined,
)

# Of the two bundles of the first Fooocus, the everyday one gives its refiner the last three tenths of the steps.
SWITCH_AT = 0.7
_NO_LISTS = WordLists()


def with_seed(request: Request, draw: Callable[[], int]) -> Request:
    """Return the request with a seed: its own, or that of ``--seed`` in its prompt, or else one that ``draw`` gives."""
    if request.seed is not None:
        return request
    asked = take_directions(request.prompt)[1].seed
    return dataclasses.replace(request, seed=draw() if asked is None else asked)


def number_of_pictures(request: Request) -> int:
    """Return how many recipes the request plans: its count, or what ``--repeat`` in its prompt says, for each line."""
    return sum(_follow(part)[0].count for part in _parts(request))


def plan(request: Request, styles: Styles, lists: WordLists = _NO_LISTS) -> tuple[Recipe, ...]:
    """Return the recipes of a request; picture ``i`` has seed (seed + i) mod 2^63.

    ``request.seed`` must be set, see :func:`with_seed`. What the prompt says by flags and tags counts more than the
    fields, except that a LoRA given in ``loras`` keeps its weight there. Each recipe holds the resolved prompt, so its
    own request plans exactly that recipe again, whatever the lists hold by then. With ``lines`` "each" every line is
    a prompt of its own, and the seeds count on through all of them.
    """
    parts = _parts(request)
    if len(parts) > 1:
        return tuple(recipe for part in parts for recipe in plan(part, styles, lists))
    (request,) = parts
    if request.seed is None:
        raise RequestError("seed", "The request has no seed.", "Give one, or have it drawn before planning.")
    request, directions = _follow(request)
    shared = _shared(request)
    return tuple(
        _picture(shared, request, directions, index, styles=styles, lists=lists) for index in range(request.count)
    )


def again(recipe: Recipe, styles: Styles, lists: WordLists = _NO_LISTS) -> Request:
    """Return a request for exactly the picture of this recipe.

    That is the recipe's own request, unless a style has changed or gone since; then it is one for the styled texts.
    Raises :class:`~fooocus.errors.RequestError` when neither gives the same texts.
    """
    own = recipe.to_request()
    plain = dataclasses.replace(own, prompt=recipe.positive_text, negative=recipe.negative_text, styles=())
    for request in (own, plain):
        try:
            (planned,) = plan(request, styles, lists)
        except RequestError:
            continue
        if (planned.positive_text, planned.negative_text) == (recipe.positive_text, recipe.negative_text):
            return request
    raise RequestError("prompt", "The texts of this picture cannot be asked for again.", "Its styles have changed.")


def _parts(request: Request) -> list[Request]:
    """Return a request for every prompt: for each written line where that is asked for, else only this one."""
    written = [line for line in request.prompt.splitlines() if line.strip()]
    if request.lines == "together" or len(written) < 2:
        return [dataclasses.replace(request, lines="together")]
    parts: list[Request] = []
    pictures = 0
    for line in written:
        seed = None if request.seed is None else (request.seed + pictures) % (MAX_SEED + 1)
        parts.append(dataclasses.replace(request, prompt=line, lines="together", seed=seed))
        pictures += _follow(parts[-1])[0].count
        if pictures > MAX_PICTURES:
            raise RequestError("count", f"The lines make over {MAX_PICTURES} pictures.", "Take some lines out.")
    return parts


def _follow(request: Request) -> tuple[Request, Directions]:
    """Take the directions out of the prompt and set the fields that hold for all pictures."""
    if not has_language(request.prompt):
        return request, Directions()
    text, directions = take_directions(request.prompt)
    count = request.count if directions.repeat is None else directions.repeat
    if directions.repeat == 0:
        count = combinations(text, in_step=directions.in_step)
        if count > MAX_PICTURES:
            raise RequestError("count", f"The arrays make over {MAX_PICTURES} pictures.", "Take some items out.")
    seed = request.seed if directions.seed is None else directions.seed
    negative = join((request.negative, *directions.negative))
    return dataclasses.replace(request, prompt=text, negative=negative, count=count, seed=seed), directions


def _shared(request: Request) -> Recipe:
    """Return what the pictures of a request have in common, as a recipe without texts."""
    steps, refiner, switch = _run(request)
    return Recipe(
        prompt=request.prompt,
        negative=request.negative,
        styles=(),
        positive_text="",
        negative_text="",
        size=request.size,
        seed=request.seed or 0,
        steps=steps,
        switch=switch,
        guidance=request.guidance,
        sampler=request.sampler,
        schedule=request.schedule,
        base=request.base,
        refiner=refiner,
        loras=(),
        vae=_named(request.vae),
        clip_skip=request.clip_skip,
        size_positive=request.size_positive,
        size_negative=request.size_negative,
        size_until=request.size_until,
    )


def _picture(
    shared: Recipe, request: Request, directions: Directions, index: int, *, styles: Styles, lists: WordLists
) -> Recipe:
    seed = (shared.seed + index) % (MAX_SEED + 1)
    prompt, negative = request.prompt, request.negative
    if has_language(prompt) or has_language(negative):
        drawer = Drawer(lists, seed, index, in_order=directions.in_order)
        prompt, in_prompt = resolve(prompt, drawer, in_step=directions.in_step)
        negative = join((negative, *in_prompt.negative))
        negative, in_negative = resolve_negative(negative, drawer, in_step=directions.in_step)
        directions = directions.then(in_prompt).then(in_negative)
    uses = styles.choose(request.styles if directions.styles is None else directions.styles, seed)
    positive_text, negative_text = apply_styles(prompt, negative, uses)
    steps, switch = shared.steps, shared.switch
    if directions.performance:
        faster = dataclasses.replace(request, performance=directions.performance, steps=None, switch=None)
        steps, _, switch = _run(faster)
    return dataclasses.replace(
        shared,
        prompt=prompt,
        negative=negative,
        styles=tuple(use.reference for use in uses),
        positive_text=positive_text,
        negative_text=negative_text,
        size=nearest_size(*directions.shape, sizes_like(shared.size)) if directions.shape else shared.size,
        seed=seed,
        steps=steps,
        switch=switch,
        loras=_loras(request, directions.loras),
    )


def _run(request: Request) -> tuple[int, str | None, int | None]:
    """Choose the number of steps, the refiner and the first step that it answers."""
    performance = PERFORMANCES[request.performance]
    steps = request.steps if request.steps is not None else performance.steps
    refiner = _named(request.refiner or companions(request.base).refiner)
    if refiner is None:
        return steps, None, None
    if request.switch is not None:
        switch = request.switch
    else:
        # A number of steps that a bundle has means that bundle's switch, however it was asked for.
        bundles = {bundle.steps: bundle.switch for bundle in PERFORMANCES.values()}
        switch = bundles.get(steps, round(steps * SWITCH_AT))
    if switch > steps:
        raise RequestError("switch", f"Switch {switch} lies beyond the last of {steps} steps.", "Lower it.")
    if switch == steps:
        return steps, None, None  # the refiner would answer no step; it need not even be loaded
    return steps, refiner, switch


def _loras(request: Request, tags: tuple[LoraUse, ...]) -> tuple[LoraUse, ...]:
    """Return the chosen LoRAs, then those of the prompt, each file once: the person's field counts more than a tag, a
    tag more than what merely goes with the base."""
    new: dict[str, LoraUse] = {}
    for use in tags:
        new.setdefault(file_key(use.name), use)
    if request.loras is None:
        chosen = tuple(use for use in companions(request.base).loras if file_key(use.name) not in new)
    else:
        chosen = request.loras
    taken = {file_key(use.name) for use in chosen}
    return chosen + tuple(use for key, use in new.items() if key not in taken)


def _named(name: str | None) -> str | None:
    """Return the name, or ``None`` when the person declined by leaving it empty or by the word none."""
    return None if declined(name) else name

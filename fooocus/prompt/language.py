"""What a prompt can say besides words: flags, LoRA tags, word lists and arrays.

===================== =============================================================================================
``--ar 16:9``         the trained size nearest to this shape, of about the area of the chosen size
``--no cars, people`` added to the negative prompt
``--seed 7``          the seed
``--repeat 4``        so many pictures; ``--repeat all``: one for each combination of the arrays
``--style name``      these styles (names joined by commas) instead of the chosen ones; ``raw``: none
``--quality``         performance quality; with a number of 1 or less, speed
``--in-order``        word lists give their lines one after the other instead of by seed
``--in-step``         arrays advance together instead of making every combination
``<lora:name:0.5>``   a LoRA and its weight, on any line
``__animal__``        a line of the list ``animal.txt``, see :mod:`fooocus.prompt.wildcards`
``[[red, green]]``    red in the first picture, green in the second; the first of several arrays changes fastest
                      (a comma inside round brackets is no end of an item)
===================== =============================================================================================

Weights in round brackets and ``embedding:name`` are left alone here; the text encoders read them. A flag ends at a
blank; ``--no`` and ``--style`` reach to the next flag or the end of the line. Flags that Midjourney knows and this
program does not are taken out; anything else is text and stays. Flags and tags inside an array belong to the pictures
that take the item; what holds for the whole request (seed, number of pictures, order) cannot stand there.

Resolving a text is repeated until nothing changes, so a resolved text means itself: it can be resolved again, with
other lists and another seed, and stays as it is. That is why a recipe keeps the resolved text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fooocus.errors import RequestError
from fooocus.prompt.wildcards import Drawer
from fooocus.request import MAX_PICTURES, MAX_SEED, LoraUse

# One word for each flag that is understood under several.
_NAMES = {"aspect": "ar", "q": "quality", "r": "repeat", "styles": "style"}
_NUMBER = r"\d{1,5}(?:\.\d{1,4})?|\.\d{1,4}"
_END = r"(?=[.!?]*(?:[\s,]|(?![\s\S])))"  # a word ends at a blank or a comma, or the end of a sentence
# The value of each flag that takes one word; empty where the flag may stand alone.
_VALUES = {
    "ar": re.compile(rf"(?:{_NUMBER})\s?[:/x×]\s?(?:{_NUMBER}){_END}"),
    "seed": re.compile(rf"\d{{1,19}}{_END}"),
    "repeat": re.compile(rf"(?:\d{{1,5}}|all){_END}"),
    "quality": re.compile(rf"(?:(?:{_NUMBER}){_END})?"),
    "in-order": re.compile(""),
    "in-step": re.compile(""),
}
_LONG = ("no", "style")  # these reach to the next flag or the end of the line
_STOP = re.compile(r"\n|(?<=[ \t])(?:--|—)[A-Za-z]|(?![\s\S])")
_WANTED = {
    "ar": "a shape, like --ar 16:9",
    "no": "words to keep out, like --no cars",
    "seed": f"a whole number up to {MAX_SEED}",
    "repeat": f"a number from 1 to {MAX_PICTURES}, or all",
    "style": "the name of a style",
}
# Midjourney's other flags; their values are numbers or addresses.
_ELSEWHERE = re.compile(
    "v|version|c|chaos|s|stylize|w|weird|tile|niji|iw|sref|cref|cw|sw|stop|video|fast|relax|turbo|raw|draft|profile|p|"
    "oref|ow|exp|sv|motion|loop|uplight|upbeta|test|testp|creative|hd"
)
_OTHER_VALUE = re.compile(rf"(?:(?:{_NUMBER}|https?://\S+){_END})?")
# Some keyboards turn two hyphens into a dash.
_FLAG = re.compile(rf"(?:(?<=\s)|(?<![\s\S]))(?:--|—)([A-Za-z][A-Za-z-]{{0,30}}){_END}[ \t]*")
_LORA = re.compile(r"<lora:([^<>]{0,300})>", re.IGNORECASE)
_WEIGHT = re.compile(r"[+-]?(?:\d{1,4}(?:\.\d{0,6})?|\.\d{1,6})")
_ARRAY = re.compile(r"\[\[([^\[\],]*,[^\[\]]*)\]\]")
_ITEM_MARK = re.compile(r"\\[()]|[(),]")
_MARKS = ("--", "—", "<", "__", "[[")
MAX_PASSES = 64


class Flag(NamedTuple):
    """A flag and where it stands; ``value`` is ``None`` where the wanted value is missing or malformed."""

    start: int
    end: int
    name: str
    value: str | None

    @property
    def known(self) -> bool:
        """Whether the flag does something here; the others are Midjourney's."""
        return not _ELSEWHERE.fullmatch(self.name)

    @property
    def wanted(self) -> str:
        """What the flag wants, in words."""
        return _WANTED.get(self.name, "no value")


@dataclasses.dataclass(frozen=True)
class Directions:
    """Hold what the flags and tags of a text ask for; ``None`` and empty where they say nothing.

    ``repeat`` is 0 for ``--repeat all``.
    """

    shape: tuple[float, float] | None = None
    seed: int | None = None
    repeat: int | None = None
    styles: tuple[str, ...] | None = None
    negative: tuple[str, ...] = ()
    performance: str | None = None
    in_order: bool = False
    in_step: bool = False
    loras: tuple[LoraUse, ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """The flags among these that hold for the whole request."""
        said = {
            "seed": self.seed is not None,
            "repeat": self.repeat is not None,
            "in-order": self.in_order,
            "in-step": self.in_step,
        }
        return tuple(name for name, is_said in said.items() if is_said)

    def then(self, later: Directions) -> Directions:
        """Return both together; what was said first counts, lists are joined."""
        return Directions(
            shape=self.shape or later.shape,
            seed=later.seed if self.seed is None else self.seed,
            repeat=later.repeat if self.repeat is None else self.repeat,
            styles=later.styles if self.styles is None else self.styles,
            negative=self.negative + later.negative,
            performance=self.performance or later.performance,
            in_order=self.in_order or later.in_order,
            in_step=self.in_step or later.in_step,
            loras=self.loras + later.loras,
        )


def has_language(text: str) -> bool:
    """Say quickly whether a text may hold more than words; ``False`` is certain."""
    return any(mark in text for mark in _MARKS)


def take_directions(text: str) -> tuple[str, Directions]:
    """Take flags and LoRA tags out of a text, except those inside arrays, which each picture chooses from first.

    Raises :class:`~fooocus.errors.RequestError` for a malformed one.
    """
    tags = list(lora_tags(text))
    directions = Directions(loras=tuple(lora_use(inside) for _, _, inside in tags))
    text = _without(text, [(start, end) for start, end, _ in tags])
    found = list(flags(text))
    for flag in found:
        directions = directions.then(_direction(flag))
    return _without(text, [(flag.start, flag.end) for flag in found]), directions


def resolve(text: str, drawer: Drawer, *, in_step: bool = False) -> tuple[str, Directions]:
    """Return the text of one picture, with nothing left to replace, and the directions that were found in it.

    Raises :class:`~fooocus.errors.RequestError` for what is malformed, unknown or without end.
    """
    directions = Directions()
    for _ in range(MAX_PASSES):
        before = text
        text, found = take_directions(_choose(drawer.fill(text), drawer.index, in_step=in_step))
        if found.whole:
            raise RequestError("prompt", whole_sentence(found.whole[0]), "Write it outside, in the prompt.")
        directions = directions.then(found)
        if text == before:
            return text, directions
    raise RequestError("prompt", "The prompt's word lists and arrays never come to an end.", "Simplify the prompt.")


def resolve_negative(text: str, drawer: Drawer, *, in_step: bool = False) -> tuple[str, Directions]:
    """Return the negative text of one picture like :func:`resolve`; what ``--no`` names in it stays in it."""
    directions = Directions()
    for _ in range(MAX_PASSES):
        text, found = resolve(text, drawer, in_step=in_step)
        directions = directions.then(found)
        if not found.negative:
            return text, directions
        text = join((text, *found.negative))
    raise RequestError("negative", "The negative prompt never comes to an end.", "Simplify it.")


def whole_sentence(name: str) -> str:
    """Say why this flag cannot stand where each picture may read something else."""
    return f"--{name} holds for all pictures, so it cannot stand in an array, a word list or the negative prompt."


def join(parts: Iterable[str]) -> str:
    """Join texts by commas; empty ones are left out."""
    return ", ".join(part for part in parts if part)


def combinations(text: str, *, in_step: bool = False) -> int:
    """Return how many different pictures the arrays of a text describe, 1 without arrays; counting ends beyond
    :data:`~fooocus.request.MAX_PICTURES`."""
    count = 1
    for match in _ARRAY.finditer(text):
        length = len(array_items(match[1]))
        count = max(count, length) if in_step else count * length
        if count > MAX_PICTURES:
            break
    return count


def array_items(inside: str) -> list[str]:
    """Split what stands in an array at its commas, but not at those inside a pair of round brackets."""
    commas: list[int] = []
    opened: list[int] = []  # for each bracket, how many commas stood before it
    for match in _ITEM_MARK.finditer(inside):
        if match[0] == ",":
            commas.append(match.start())
        elif match[0] == "(":
            opened.append(len(commas))
        elif match[0] == ")" and opened:
            del commas[opened.pop() :]
    return [inside[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(inside)], strict=True)]


def items_in_place(text: str) -> Iterator[tuple[int, str]]:
    """Find the items of all arrays of a text, each with the place where it starts."""
    for match in _ARRAY.finditer(text):
        items = array_items(match[1])
        at = match.start(1)
        for item in items if len(items) > 1 else ():
            yield at, item
            at += len(item) + 1


def flags(text: str) -> Iterator[Flag]:
    """Find the flags of a text outside of its arrays, ours and Midjourney's, from left to right."""
    at = 0
    plain = _hide_arrays(text)
    while match := _FLAG.search(plain, at):
        at = match.end()
        name = _flag_name(match)
        if name in _LONG:
            stop = _STOP.search(plain, at)
            value = text[at : stop.start() if stop else len(text)].rstrip()
            at += len(value)
            yield Flag(match.start(), at, name, value if value.strip(" \t,.!?") else None)
        elif name in _VALUES:
            found = _VALUES[name].match(plain, at)
            at = found.end() if found else at
            yield Flag(match.start(), at, name, found[0] if found else None)
        elif _ELSEWHERE.fullmatch(name):
            found = _OTHER_VALUE.match(plain, at)
            at = found.end() if found else at
            yield Flag(match.start(), at, name, "")


def unknown_flags(text: str) -> Iterator[tuple[int, int, str]]:
    """Find what looks like a flag and is none; it stays in the text as words."""
    for match in _FLAG.finditer(_hide_arrays(text)):
        name = _flag_name(match)
        if name not in _VALUES and name not in _LONG and not _ELSEWHERE.fullmatch(name):
            yield match.start(), match.start() + len(match[0].rstrip()), name


def lora_tags(text: str) -> Iterator[tuple[int, int, str]]:
    """Find the LoRA tags of a text that neither stand in an array nor hold one; the third item is what stands behind
    ``lora:``, for :func:`lora_use`."""
    for match in _LORA.finditer(_hide_arrays(text)):
        yield *match.span(), match[1]


def lora_use(inside: str) -> LoraUse:
    """Read ``name:weight`` or ``name``; raise :class:`~fooocus.errors.RequestError` for anything else.

    The name is one of the LoRA folder, so neither an absolute path nor one that leads upwards.
    """
    name, colon, weight = inside.partition(":")
    name = name.strip().replace("\\", "/")
    if not name or name.startswith(("/", "~")) or ".." in name.split("/"):
        raise RequestError("prompt", f"<lora:{inside[:60]}> does not name a LoRA.", "Write <lora:name:0.5>.")
    if not colon:
        return LoraUse(name, 1.0)
    if not _WEIGHT.fullmatch(weight.strip()):
        raise RequestError("prompt", f"The weight of <lora:{inside[:60]}> is no number.", "Write <lora:name:0.5>.")
    return LoraUse(name, float(weight))


def file_key(name: str) -> str:
    """Return what two spellings of one file have in common: no folder, no suffix, small letters."""
    return name.replace("\\", "/").rpartition("/")[2].casefold().removesuffix(".safetensors")


def _flag_name(match: re.Match[str]) -> str:
    name = match[1].lower()
    return _NAMES.get(name, name)


def _direction(flag: Flag) -> Directions:
    value = flag.value
    if value is None:
        raise RequestError("prompt", f"--{flag.name} wants {flag.wanted}.", "Correct it, or take it out.")
    match flag.name:
        case "ar":
            width, height = (float(side) for side in re.split(r"\s?[:/x×]\s?", value))
            if not width or not height:
                raise RequestError("prompt", f"--ar {value} is no shape.", "Write it like --ar 16:9.")
            return Directions(shape=(width, height))
        case "no":
            return Directions(negative=(value.strip(" ,"),))
        case "seed":
            if int(value) > MAX_SEED:
                raise RequestError("seed", f"Seed {value} is too large.", f"The largest is {MAX_SEED}.")
            return Directions(seed=int(value))
        case "repeat":
            if value != "all" and not 1 <= int(value) <= MAX_PICTURES:
                raise RequestError("count", f"--repeat {value} is out of range.", f"Write 1 to {MAX_PICTURES}.")
            return Directions(repeat=0 if value == "all" else int(value))
        case "style":
            names = tuple(name.strip() for name in value.split(",") if name.strip())
            return Directions(styles=() if names == ("raw",) else names)
        case "quality":
            return Directions(performance="quality" if not value or float(value) > 1 else "speed")
        case "in-order":
            return Directions(in_order=True)
        case "in-step":
            return Directions(in_step=True)
    return Directions()


def _hide_arrays(text: str) -> str:
    """Return a text of the same length in which no flag and no tag is found inside an array."""
    return _ARRAY.sub(lambda match: match[0] if len(array_items(match[1])) < 2 else "<" * len(match[0]), text)


def _choose(text: str, index: int, *, in_step: bool) -> str:
    """Replace each array by its item for picture ``index``."""
    remaining = index

    def item(match: re.Match[str]) -> str:
        nonlocal remaining
        items = array_items(match[1])
        if len(items) < 2:
            return match[0]
        number = index if in_step else remaining
        remaining //= len(items)
        return items[number % len(items)].strip()

    return _ARRAY.sub(item, text)


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Cut the spans out; one blank is left where words would touch, none before a comma or at an end of a line."""
    result, at = "", 0
    spans = list(spans)
    if not spans:
        return text
    for start, end in (*spans, (len(text), len(text))):
        piece = text[at:start]
        if at:
            result, piece = result.rstrip(" \t"), piece.lstrip(" \t")
            if result and piece and not result.endswith("\n") and piece[0] not in "\n,.;:!?)":
                result += " "
        result += piece
        at = end
    return result.rstrip(" \t")

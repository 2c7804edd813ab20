"""The weight grammar of prompts: text with round brackets -> pieces of text, each with a weight.

Here because it is about strings only; what a weight does to an encoding stands in ``render/text.py``.

The grammar, with ``w`` the weight outside of the bracket:

==================== ==============================================================================================
``(x)``              x at w * 1.1; nested brackets multiply
``(x:1.3)``          x at exactly 1.3, whatever is outside; the last colon counts
``(x:y)``, ``(x:)``  no number: x:y at w * 1.1, the colon stays
``(:1.3)``           a colon in first place is text: ``:1.3`` at w * 1.1
``\\(`` ``\\)``        a bracket as text
``[x]`` ``{x}``      text
``(x``               an opening bracket that is never closed is text, and so is everything behind it, at w; if that
                     text ends in ``)``, this last bracket closes the first one and the rest is read again
``x) (y)``           a closing bracket too many is text and makes the next opening bracket text
==================== ==============================================================================================

A number must be finite in float32: ``nan``, ``inf`` and ``1e999`` are no numbers, and weights stop growing at the
largest float32. The grammar is the one of the original program, so that its prompts keep their meaning.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

EMPHASIS = 1.1
"""What one pair of brackets without a number multiplies the weight by."""

LARGEST_WEIGHT = 3.4028234663852886e38
"""The largest float32: encodings are float32, and a weight beyond it would turn them into infinities."""

_BRACKET = re.compile(r"\\[()]|[()]")
_ESCAPED = re.compile(r"\\([()])")


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt and the weight of its words; ``text`` is never empty, ``weight`` always finite."""

    text: str
    weight: float


@dataclass(frozen=True)
class _Cut:
    """A place where one segment ends; the next one begins at ``resume``.

    ``sign`` is ``(`` where a weight begins, ``)`` where it ends, and empty where only the segment ends. A group with a
    number ends at the colon, and its text resumes behind the closing bracket.
    """

    place: int
    resume: int
    sign: str
    number: float | None = None


def parse_weights(text: str) -> list[Segment]:
    """Cut a prompt into segments of one weight each, in order; time and memory grow linearly with the text.

    Never raises: what is no valid bracket is text. A bracket always ends a segment, so ``a(b)`` is two words.
    """
    segments: list[Segment] = []
    weights = [1.0]
    position = 0
    for cut in [*_cuts(text), _Cut(len(text), len(text), "")]:
        if position < cut.place:
            segments.append(Segment(_ESCAPED.sub(r"\1", text[position : cut.place]), weights[-1]))
        position = cut.resume
        if cut.sign == "(":
            emphasised = max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weights[-1] * EMPHASIS))
            weights.append(emphasised if cut.number is None else cut.number)
        elif cut.sign == ")":
            weights.pop()
    return segments


def _cuts(text: str) -> list[_Cut]:
    """Find every place where a weight begins or ends, in order."""
    brackets = [match.start() for match in _BRACKET.finditer(text) if len(match.group()) == 1]
    previous = dict(zip(brackets[1:], brackets, strict=False))
    opener, unclosed = _pairs(text, brackets)
    cuts: list[_Cut] = []
    end = len(text)
    while unclosed and end - 1 in opener:
        # The never closed text ends in ")", which closes its first "("; the former partner of that ")" is now unclosed.
        close = end - 1
        unclosed.append(opener.pop(close))
        cuts += _group(text, unclosed.popleft(), close, previous[close])
        end = cuts[-1].place
    literal = len(text)
    if unclosed:
        literal = unclosed[0]
        cuts.append(_Cut(literal, literal, ""))
    for close, start in opener.items():
        if start < literal:
            cuts += _group(text, start, close, previous[close])
    return sorted(cuts, key=lambda cut: cut.place)


def _pairs(text: str, brackets: list[int]) -> tuple[dict[int, int], deque[int]]:
    """Match brackets innermost first: closing -> opening position, and the opening ones that are left over."""
    opener: dict[int, int] = {}
    unclosed: deque[int] = deque()
    too_many = 0  # closing brackets without a partner; each makes one later opening bracket text
    for place in brackets:
        if text[place] == "(":
            if too_many:
                too_many -= 1
            else:
                unclosed.append(place)
        elif unclosed:
            opener[place] = unclosed.pop()
        else:
            too_many += 1
    return opener, unclosed


def _group(text: str, start: int, close: int, previous: int) -> tuple[_Cut, _Cut]:
    """Cut out one pair; ``previous`` is the last bracket before ``close``, beyond which its number cannot reach."""
    colon = text.rfind(":", previous + 1, close)
    number = _number(text[colon + 1 : close]) if colon > start + 1 else None
    end = close if number is None else colon
    return _Cut(start, start + 1, "(", number), _Cut(end, close + 1, ")")


def _number(text: str) -> float | None:
    """Read a weight, or None for what is no number or none that float32 can hold."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= LARGEST_WEIGHT else None

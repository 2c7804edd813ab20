"""The weight grammar: every corner case by name, and properties that hold for any text."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fooocus.prompt.weights import LARGEST_WEIGHT, Segment, parse_weights

CASES = {
    # plain
    "": [],
    "a red fox": [("a red fox", 1.0)],
    " ": [(" ", 1.0)],
    "a\nb": [("a\nb", 1.0)],
    "[a] {b:1.2}": [("[a] {b:1.2}", 1.0)],
    "a:1.2": [("a:1.2", 1.0)],
    # one pair
    "(a)": [("a", 1.1)],
    "x (a) y": [("x ", 1.0), ("a", 1.1), (" y", 1.0)],
    "a(b)": [("a", 1.0), ("b", 1.1)],
    "()": [],
    "()()": [],
    "( )": [(" ", 1.1)],
    # nested
    "((a))": [("a", 1.1 * 1.1)],
    "(((a)))": [("a", 1.1 * 1.1 * 1.1)],
    "(())": [],
    "(a (b) c)": [("a ", 1.1), ("b", 1.1 * 1.1), (" c", 1.1)],
    # numbers are absolute, whatever is outside
    "(a:1.3)": [("a", 1.3)],
    "((a:1.3) b:1.2)": [("a", 1.3), (" b", 1.2)],
    "(a (b:1.4) c)": [("a ", 1.1), ("b", 1.4), (" c", 1.1)],
    "((a:1.3))": [("a", 1.3)],
    "((a):1.3)": [("a", 1.3 * 1.1)],
    "(a,b:-1)": [("a,b", -1.0)],
    "(a:0)": [("a", 0.0)],
    "(a: 1.2 )": [("a", 1.2)],
    "(a:1e1)": [("a", 10.0)],
    "(a:.5)": [("a", 0.5)],
    # colons
    "(a:b:1.2)": [("a:b", 1.2)],
    "(a:b)": [("a:b", 1.1)],
    "(a:)": [("a:", 1.1)],
    "(a::1.2)": [("a:", 1.2)],
    "(:1.2)": [(":1.2", 1.1)],
    "( :1.2)": [(" ", 1.2)],
    "(::1.2)": [(":", 1.2)],
    "(a:1.2 )b": [("a", 1.2), ("b", 1.0)],
    "(a:1.2b)": [("a:1.2b", 1.1)],
    "((a:1.5)b:c)": [("a", 1.5), ("b:c", 1.1)],
    "(a:1.5(b))": [("a:1.5", 1.1), ("b", 1.1 * 1.1)],
    # no numbers, as float32 cannot hold them
    "(a:nan)": [("a:nan", 1.1)],
    "(a:inf)": [("a:inf", 1.1)],
    "(a:-Infinity)": [("a:-Infinity", 1.1)],
    "(a:1e999)": [("a:1e999", 1.1)],
    "(a:1e39)": [("a:1e39", 1.1)],
    # escapes
    r"\(a\)": [("(a)", 1.0)],
    r"(a \(b\):1.2)": [("a (b)", 1.2)],
    r"(a\))": [("a)", 1.1)],
    r"(a:1\))": [("a:1)", 1.1)],
    r"\\(a\\)": [("\\(a\\)", 1.0)],
    r"a\b \[c\]": [(r"a\b \[c\]", 1.0)],
    # never closed: text, to the end
    "(": [("(", 1.0)],
    "(a": [("(a", 1.0)],
    "x (a": [("x ", 1.0), ("(a", 1.0)],
    "(a (b) c": [("(a (b) c", 1.0)],
    "x(b(c": [("x", 1.0), ("(b(c", 1.0)],
    "(a) (b": [("a", 1.1), (" ", 1.0), ("(b", 1.0)],
    # never closed, but the text ends in a bracket that then closes the first one
    "(a (b)": [("a ", 1.1), ("(b", 1.1)],
    "(()": [("(", 1.1)],
    "((a (b):1.2)": [("a ", 1.2 * 1.1), ("(b", 1.2 * 1.1)],
    "((((a)))": [("(a", 1.1 * 1.1 * 1.1)],
    # closed too often: text, and so is the next opening one
    ")": [(")", 1.0)],
    "a) b": [("a) b", 1.0)],
    "a) (b) c": [("a) (b) c", 1.0)],
    "a) ((b)) c": [("a) (", 1.0), ("b", 1.1), (") c", 1.0)],
    "(a)) (b) (c)": [("a", 1.1), (") (b) (c)", 1.0)],
}


@pytest.mark.parametrize("text", CASES)
def test_grammar(text: str) -> None:
    assert parse_weights(text) == [Segment(*expected) for expected in CASES[text]]


def by_definition(text: str, weight: float = 1.0) -> list[Segment]:
    """Read the grammar recursively: split into top-level items, strip the brackets of each group, begin anew."""
    hidden = text.replace("\\(", "\1").replace("\\)", "\2")
    segments: list[Segment] = []
    for item in _items(hidden):
        if item == "(" or not (item.startswith("(") and item.endswith(")")):
            segments.append(Segment(item.replace("\1", "(").replace("\2", ")"), weight))
            continue
        content, inside = item[1:-1], weight * 1.1
        head, _, tail = content.rpartition(":")
        if head:
            try:
                number = float(tail)
            except ValueError:
                number = math.inf
            if abs(number) <= LARGEST_WEIGHT:
                content, inside = head, number
        segments += by_definition(content.replace("\1", "\\(").replace("\2", "\\)"), inside)
    return segments


def _items(text: str) -> list[str]:
    items, begin, depth = [], 0, 0
    for place, sign in enumerate(text):
        if sign == "(" and depth == 0:
            items.append(text[begin:place])
            begin = place
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0:
            items.append(text[begin : place + 1])
            begin = place + 1
    return [item for item in [*items, text[begin:]] if item]


@settings(max_examples=1500, deadline=None)
@given(st.text(alphabet="()()ab :1.\\", max_size=24))
def test_equals_the_grammars_definition(text: str) -> None:
    assert parse_weights(text) == by_definition(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_finite_weights_and_no_empty_segment(text: str) -> None:
    for segment in parse_weights(text):
        assert segment.text
        assert math.isfinite(segment.weight)


@settings(deadline=None)
@given(st.text().filter(lambda text: not set(text) & set("()")))
def test_text_without_brackets_stays_as_it_is(text: str) -> None:
    assert parse_weights(text) == ([Segment(text, 1.0)] if text else [])


@settings(deadline=None)
@given(st.text(), st.floats(-3, 3))
def test_escaped_text_gets_the_weight_asked_for(text: str, weight: float) -> None:
    # A sign in front of the colon keeps a backslash at the end of the text from doing anything.
    escaped = text.replace("\\", "/").replace("(", r"\(").replace(")", r"\)")
    assert parse_weights(f"({escaped}.:{weight})") == [Segment(text.replace("\\", "/") + ".", weight)]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        ")" * 100_000,
        "(" * 50_000 + "a" + ")" * 50_000,
        "(" * 50_001 + "a" + ")" * 50_000,
        "(a:1" * 30_000 + ")" * 30_000,
        "(" * 30_000 + "a:1)" * 29_999,
        "(" * 1_000 + ":" * 100_000 + ")" * 1_000,
        "word " * 10_000,
    ],
    ids=["opening", "closing", "deep", "one too many", "late numbers", "many numbers", "colons", "words"],
)
def test_long_texts_take_linear_time(text: str) -> None:
    started = time.process_time()
    segments = parse_weights(text)
    assert time.process_time() - started < 2  # 0.15 s here; anything quadratic takes minutes
    assert all(math.isfinite(segment.weight) for segment in segments)


def test_deep_nesting_stops_at_the_largest_weight() -> None:
    assert parse_weights("(" * 2000 + "a" + ")" * 2000) == [Segment("a", LARGEST_WEIGHT)]
    assert parse_weights("((a):-3e38)") == [Segment("a", -3e38 * 1.1)]
    assert parse_weights("(((a)):-3e38)") == [Segment("a", -LARGEST_WEIGHT)]

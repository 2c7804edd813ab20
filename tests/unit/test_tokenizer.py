"""CLIP's tokenizer against OpenAI's ids, and the packing of words into windows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fooocus.families.tokenizer import (
    BOS,
    EOS,
    WINDOW,
    ClipTokenizer,
    Window,
    clip_tokenizer,
    embedding_name,
    windows,
    words,
)
from fooocus.prompt.weights import Segment

# Ids by the tokenizer that OpenAI published with CLIP (which composes letters and accents first).
KNOWN = {
    "a": [320],
    "photo": [1125],
    "cat": [2368],
    "Lighthouse": [13717],
    "detailed,": [12609, 267],
    "don't": [847, 713],
    "4k": [275, 330],
    "café": [15304],
    "cafe\u0301": [15304],
    "!": [256],
    "!!!": [995],
    "a!!!": [320, 995],
    "": [],
    "\t": [],
}


@pytest.mark.parametrize("word", KNOWN)
def test_ids_are_openais(word: str) -> None:
    assert clip_tokenizer().word(word) == KNOWN[word]


def test_the_vocabulary_is_whole() -> None:
    # A tokenizer built with a wrong keyword has two entries and answers everything with one id.
    assert len(clip_tokenizer()) == 49408


def test_padding_is_no_sign_of_the_text() -> None:
    # Id 0 is "!": a tokenizer told to pad with it takes every typed "!" for padding.
    assert 0 not in [token for word in ("!", "!!", "!!!", "wow!", "!?") for token in clip_tokenizer().word(word)]


@pytest.mark.parametrize("sign", ["<|endoftext|>", "<|startoftext|>", "x<|endoftext|>y", "</w>", "<|ENDOFTEXT|>"])
def test_typed_signs_are_text(sign: str) -> None:
    ids = clip_tokenizer().word(sign)
    assert len(ids) > 2
    assert max(ids) < BOS


def test_no_word_is_cut() -> None:
    # transformers warns or cuts at model_max_length; here the windows take any length.
    assert len(clip_tokenizer().word("ab" * 5000)) > 1000


def test_half_a_surrogate_pair_is_no_error() -> None:
    assert clip_tokenizer().word("a\ud800b") == clip_tokenizer().word("a?b")


@settings(deadline=None)
@given(st.text())
def test_any_word_has_ids_of_the_vocabulary(word: str) -> None:
    assert all(0 <= token < BOS for token in clip_tokenizer().word(word))


def test_building_is_fast_and_happens_once() -> None:
    started = time.process_time()
    ClipTokenizer()
    assert time.process_time() - started < 1  # 0.11 s here
    assert clip_tokenizer() is clip_tokenizer()


def test_words() -> None:
    assert list(words(" a  b\nc,\td ")) == ["a", "b", "c,\td"]
    assert list(words("")) == []
    assert list(words("embedding:x, embedding:y,,z embedding:, embedding:")) == [
        "embedding:x", ",", "embedding:y", ",,z", "embedding:,", "embedding:",
    ]  # fmt: skip
    assert list(words("Embedding:x,EMBEDDING:y,a embeddings:z")) == [
        "Embedding:x", ",", "EMBEDDING:y", ",a", "embeddings:z",
    ]  # fmt: skip
    assert [embedding_name(word) for word in ("Embedding:X", "embedding:", "embeddings:x", "x")] == ["X", "", "", ""]


def count(word: str) -> list[int]:
    """Stand in for a tokenizer: the word ``7`` has seven tokens of id 7."""
    return [int(word)] * int(word)


def packed(text: str, pad_id: int = 0) -> list[tuple[int, ...]]:
    return [window.ids for window in windows([Segment(text, 1.0)], count, pad_id)]


def window(*ids: int, pad: int = 0) -> tuple[int, ...]:
    return (BOS, *ids, EOS, *[pad] * (75 - len(ids)))


def test_empty_text_is_one_empty_window() -> None:
    assert windows([], count, EOS) == [Window((BOS, *[EOS] * 76), (1.0,) * 77)]
    assert windows([Segment(" \n", 1.2)], count, 0) == [Window((BOS, EOS, *[0] * 75), (1.0,) * 77)]


def test_words_fill_a_window_up_to_75() -> None:
    assert packed("70 5") == [window(*[70] * 70, *[5] * 5)]
    assert packed("70 5 1") == [window(*[70] * 70, *[5] * 5), window(1)]


def test_a_short_word_moves_whole() -> None:
    assert packed("70 7 1", EOS) == [window(*[70] * 70, pad=EOS), window(*[7] * 7, 1, pad=EOS)]


def test_a_long_word_is_split() -> None:
    assert packed("70 8") == [window(*[70] * 70, *[8] * 5), window(*[8] * 3)]
    assert packed("75 8") == [window(*[75] * 75), window(*[8] * 8)]
    assert packed("160") == [window(*[160] * 75), window(*[160] * 75), window(*[160] * 10)]


def test_weights_stand_where_their_words_stand() -> None:
    pieces = [Segment("2 71", 1.5), Segment("4", 0.5)]
    first, second = windows(pieces, count, 0)
    assert first.weights == (1.0, *[1.5] * 73, 1.0, 1.0, 1.0)
    assert second.weights == (1.0, *[0.5] * 4, *[1.0] * 72)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(1, 200), max_size=20), st.floats(-2, 2)), max_size=6))
def test_nothing_is_lost_and_no_short_word_is_split(pieces: list[tuple[list[int], float]]) -> None:
    segments = [Segment(" ".join(map(str, numbers)) or " ", weight) for numbers, weight in pieces]
    made = windows(segments, count, 0)
    assert all(len(w.ids) == len(w.weights) == WINDOW and w.ids[0] == BOS for w in made)
    inside = [list(zip(w.ids, w.weights, strict=True))[1 : w.ids.index(EOS)] for w in made]
    expected = [(n, weight) for numbers, weight in pieces for n in numbers for _ in range(n)]
    assert [token for tokens in inside for token in tokens] == expected
    short = {n for numbers, _ in pieces for n in numbers if n < 8}
    assert all(sum(token == n for token, _ in tokens) % n == 0 for tokens in inside for n in short)


def test_ten_thousand_words() -> None:
    made = windows([Segment("lighthouse dusk, " * 5000, 1.0)], clip_tokenizer().word, 0)
    assert len(made) == 200
    assert sum(w.ids.index(EOS) - 1 for w in made) == 15_000


def test_chinese_characters_are_words_of_their_own() -> None:
    """So it was in the original engine: three words here, and no merge across them."""
    tokenizer = clip_tokenizer()
    assert tokenizer.word("狐a狸") == [*tokenizer.word("狐"), *tokenizer.word("a"), *tokenizer.word("狸")]


def test_control_characters_are_dropped() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer.word("fo\0x\x07") == tokenizer.word("fox")

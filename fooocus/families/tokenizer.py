"""CLIP's tokenizer and the windows of 77 tokens that its text encoders read.

Built from the merges in ``data/`` alone: no file of a model, no network. The vocabulary follows from the merges, as in
the code that OpenAI published with CLIP: 256 bytes, the same 256 at the end of a word, one entry per merge, two signs
for the beginning and the end of a text.

Words are tokenised one by one, so that a word is never split between two windows and each keeps its own weight. The
library underneath is ``tokenizers`` itself and not the ``CLIPTokenizer`` of transformers, because there a typed
``<|endoftext|>`` is taken for the end of the text, and a wrong keyword is silently answered with an empty vocabulary.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from fooocus.prompt.weights import Segment

VOCABULARY = 49408
"""How many tokens CLIP knows. Ids from here on are free for textual-inversion vectors."""

BOS = 49406
EOS = 49407
"""Begin and end of a text."""

WINDOW = 77
"""The tokens that an encoder reads at once: BOS, up to 75 of the text, EOS, padding."""

ROOM = WINDOW - 2
LONG_WORD = 8
"""A word of this many tokens is split between windows; a shorter one moves into the next window (original's rule)."""

EMBEDDING_PREFIX = "embedding:"
"""What marks a word as the name of a textual-inversion embedding, in small or in capital letters."""

# Phones begin a text with a capital letter, and people leave out the space behind a comma.
_EMBEDDING = re.compile(f"(,*)({EMBEDDING_PREFIX}[^,]+)", re.IGNORECASE)

_PIECE = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Window:
    """One encoder input: 77 token ids, and the weight of each; BOS, EOS and padding have weight 1."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class ClipTokenizer:
    """CLIP's byte-pair encoding, the same for both encoders of SDXL; building it takes about 0.2 s."""

    def __init__(self) -> None:
        vocabulary, merges = clip_vocabulary()
        if len(vocabulary) != VOCABULARY:
            raise ValueError(f"CLIP's vocabulary has {VOCABULARY} entries, these merges give {len(vocabulary)}")
        self._tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
        self._tokenizer.normalizer = normalizers.Sequence(
            [
                # The original engine ran without ftfy, where the CLIP tokenizer of its day fell back to BERT's cleaning
                # (transformers 4.30): control characters go, every Chinese character is a word of its own.
                normalizers.BertNormalizer(
                    clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True
                ),
                normalizers.NFC(),
                normalizers.Replace(Regex(r"\s+"), " "),
            ]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECE), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def word(self, word: str) -> list[int]:
        """Return the token ids of one word, without BOS and EOS; no ids for white space alone.

        Typed signs such as ``<|endoftext|>`` are text like any other: the ids are always below ``BOS``.
        """
        # Half a surrogate pair can stand in a JSON string, but not in UTF-8.
        sendable = word.encode("utf-8", "replace").decode("utf-8")
        return list(self._tokenizer.encode(sendable, add_special_tokens=False).ids)


@cache
def clip_tokenizer() -> ClipTokenizer:
    """Return the one tokenizer of the process, built at the first call. It has no state that a call could change."""
    return ClipTokenizer()


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's tokens with their ids, and the merges they follow from."""
    merges = _merges()
    return _vocabulary(merges), merges


def windows(segments: Sequence[Segment], word_ids: Callable[[str], Sequence[int]], pad_id: int) -> list[Window]:
    """Pack weighted text into windows of 77 tokens; nothing is truncated.

    A word of fewer than 8 tokens that does not fit moves whole into the next window, a longer one is split. Empty text
    gives one window of BOS, EOS and padding. ``word_ids`` answers for a word, and for an ``embedding:name``, with ids.
    """
    full: list[Window] = []
    ids: list[int] = []
    weights: list[float] = []
    for segment in segments:
        for word in words(segment.text):
            tokens = word_ids(word)
            splittable = len(tokens) >= LONG_WORD
            while len(ids) + len(tokens) > ROOM:
                taken = ROOM - len(ids) if splittable else 0
                full.append(_window([*ids, *tokens[:taken]], [*weights, *[segment.weight] * taken], pad_id))
                tokens = tokens[taken:]
                ids, weights = [], []
            ids += tokens
            weights += [segment.weight] * len(tokens)
    return [*full, _window(ids, weights, pad_id)]


def words(text: str) -> Iterator[str]:
    """Split text into words at spaces and line ends, and embeddings' names from the commas around them."""
    for word in text.replace("\n", " ").split(" "):
        rest = word
        while found := _EMBEDDING.match(rest):
            yield from filter(None, found.groups())
            rest = rest[found.end() :]
        if rest:
            yield rest


def embedding_name(word: str) -> str:
    """Return the name that an ``embedding:name`` asks for, or an empty string for any other word."""
    return word[len(EMBEDDING_PREFIX) :] if word.casefold().startswith(EMBEDDING_PREFIX) else ""


def _window(ids: list[int], weights: list[float], pad_id: int) -> Window:
    padding = ROOM - len(ids)
    return Window((BOS, *ids, EOS, *[pad_id] * padding), (1.0, *weights, 1.0, *[1.0] * padding))


def _merges() -> list[tuple[str, str]]:
    packed = resources.files("fooocus.families").joinpath("data", "clip_merges.txt.gz").read_bytes()
    pairs = (line.split(" ") for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return [(left, right) for left, right in pairs]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the tokens: bytes, bytes that end a word, merges in order of rank, BOS, EOS.

    Bytes are written as printable signs, those that are printable in Latin-1 as themselves and first, the others as
    the signs from 256 on (the byte alphabet of GPT-2's tokenizer).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    alphabet = [chr(sign) for sign in [*printable, *range(256, 256 + others)]]
    tokens = [*alphabet, *(sign + "</w>" for sign in alphabet), *(left + right for left, right in merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}

"""Text -> conditioning: what the UNet is told about the prompt.

Both encoders of SDXL read the text in windows of 77 tokens (``families/tokenizer.py``). The context is the hidden state
before the last layer, without the final normalisation, of all windows one behind the other; the pooled vector is the
projected last state at the end of the first window (SDXL report, arXiv:2307.01952, section 2.1).

Weights move a token's encoding away from or towards that of an empty text, at the same position:
``z_empty + weight * (z - z_empty)``. Every token goes through this expression, also those of weight 1, because its
rounding is part of the numbers that a seed stands for. For the same reason attention is written out (``eager``: at 77
tokens a fused kernel saves nothing) and the projection multiplies a row-major matrix: in float32 on a CPU this gives
the original's conditioning bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fooocus.errors import MismatchedModel, MissingModel
from fooocus.families.tokenizer import EOS, VOCABULARY, Window, clip_tokenizer, embedding_name, windows, words
from fooocus.loading.embeddings import Embedding, Embeddings, EncoderKind
from fooocus.prompt.weights import Segment, parse_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 8
"""Windows that are encoded at once; bounds memory, whatever the length of the text."""

LARGEST_REPEAT = 4
"""How often the shorter of two contexts may be repeated to match the longer (the original engine's bound)."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder: a transformers ``CLIPTextModel``, or ``CLIPTextModelWithProjection`` where pooling is wanted.

    ``pad_id`` fills windows behind the end of the text: 49407 for L, 0 for G. Encoding sets the module's attention to
    ``eager`` and leaves it so.
    """

    module: PreTrainedModel
    pad_id: int
    kind: EncoderKind


@dataclass(frozen=True)
class TextConditioning:
    """An encoded text in float32: ``context`` (1, T, D) with T a multiple of 77, and ``pooled`` (1, P)."""

    context: Tensor
    pooled: Tensor


class _Words:
    """Token ids of words for one encoder; vectors of embeddings get the ids behind the vocabulary's last."""

    def __init__(self, encoder: Encoder, embeddings: dict[str, Embedding]) -> None:
        width = _token_embedding(encoder).weight.shape[1]
        self._tokenizer = clip_tokenizer()
        self._ids: dict[str, range] = {}
        rows: list[Tensor] = []
        for word, embedding in embeddings.items():
            vectors = embedding.vectors(encoder.kind, width)
            first = VOCABULARY + len(rows)
            rows += [] if vectors is None else list(vectors)
            self._ids[word] = range(first, VOCABULARY + len(rows))
        self.vectors = torch.stack(rows) if rows else torch.empty(0, width)  # (N, D)

    def ids(self, word: str) -> Sequence[int]:
        """Answer for :func:`~fooocus.families.tokenizer.windows`."""
        return self._ids[word] if word in self._ids else self._tokenizer.word(word)


def encode_text(
    text: str, encoders: Sequence[Encoder], *, clip_skip: int = 2, embeddings: Embeddings | None = None
) -> TextConditioning:
    """Encode a weighted text of any length with all encoders of a model.

    The contexts are joined along their width in the given order (base: L, G; refiner: G); ``pooled`` comes from the
    last encoder, which needs a projection. ``clip_skip`` counts layers from the end: 1 is the last, 2 SDXL's; where
    the encoder has fewer layers, it means the last one, normalised. The empty text is encoded like any other.

    Raises :class:`MissingModel` for an unknown ``embedding:name`` and the errors of ``loading/embeddings.py``.
    """
    if clip_skip < 1:
        raise ValueError(f"clip_skip counts from 1, not {clip_skip}")
    segments = parse_weights(text)
    found = _embeddings(segments, encoders, embeddings)
    vocabularies = [_Words(encoder, found) for encoder in encoders]
    texts = [
        windows(segments, vocabulary.ids, encoder.pad_id)
        for encoder, vocabulary in zip(encoders, vocabularies, strict=True)
    ]
    longest = max(len(text_windows) for text_windows in texts)
    contexts = []
    for encoder, vocabulary, text_windows in zip(encoders, vocabularies, texts, strict=True):
        # An embedding that only one encoder knows can make its text longer; the other one's ends in empty windows.
        empty = windows([], vocabulary.ids, encoder.pad_id)
        padded = [*text_windows, *empty * (longest - len(text_windows))]
        context, pooled = _encode(encoder, padded, empty[0], vocabulary.vectors, clip_skip)
        contexts.append(context)
    context = torch.cat([part.to(pooled.device) for part in contexts], dim=-1)
    return TextConditioning(context, pooled)


def match_lengths(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Repeat two contexts (B, T, D) to one length, so that one network call can take both.

    Repeating all tokens of a context does not change attention to it. Returns None when the least common multiple of
    the lengths is more than 4 times the shorter one: then two calls are cheaper.
    """
    length = math.lcm(a.shape[1], b.shape[1])
    if length > LARGEST_REPEAT * min(a.shape[1], b.shape[1]):
        return None
    return a.repeat(1, length // a.shape[1], 1), b.repeat(1, length // b.shape[1], 1)


def _embeddings(
    segments: Sequence[Segment], encoders: Sequence[Encoder], embeddings: Embeddings | None
) -> dict[str, Embedding]:
    """Read every embedding that the text names, by word; each must have vectors for at least one encoder."""
    found: dict[str, Embedding] = {}
    for word in (word for segment in segments for word in words(segment.text)):
        name = embedding_name(word)
        if not name or word in found:
            continue
        if embeddings is None:
            raise MissingModel(f"The embedding {name!r} is not there: no folder of embeddings is set.")
        embedding = found[word] = embeddings.read(name)
        widths = {encoder.kind: _token_embedding(encoder).weight.shape[1] for encoder in encoders}
        fits = [kind for kind, width in widths.items() if embedding.vectors(kind, width) is not None]
        # The refiner has one encoder only; an embedding for the base's other one says nothing to it, and may.
        if not fits and len(widths) > 1:
            raise MismatchedModel(
                f"The embedding {embedding.path.name} ({embedding.widths()}) fits no text encoder of this model "
                f"({', '.join(f'{width} wide' for width in widths.values())}).",
                "Use an embedding that was made for this kind of model.",
            )
    return found


@torch.no_grad()
def _encode(
    encoder: Encoder, text: Sequence[Window], empty: Window, vectors: Tensor, clip_skip: int
) -> tuple[Tensor, Tensor]:
    """Encode the windows of one text with one encoder: context (1, T, D) and pooled (1, P), float32."""
    encoder.module.set_attn_implementation("eager")
    device = _token_embedding(encoder).weight.device
    ids = torch.tensor([empty.ids, *(window.ids for window in text)], device=device)  # (1 + windows, 77)
    weights = torch.tensor([window.weights for window in text], device=device)  # (windows, 77)
    hidden: list[Tensor] = []
    pooled: list[Tensor] = []
    for part in ids.split(BATCH):
        with _extra_words(_token_embedding(encoder), part, vectors):
            output = encoder.module(input_ids=part.where(part < VOCABULARY, 0), output_hidden_states=True)
        states = output.hidden_states  # the input of the first layer, then the output of each
        # More than there are layers means the normalised last state, as it does in the original.
        chosen = states[-clip_skip] if clip_skip < len(states) else output.last_hidden_state
        hidden.append(chosen.float())
        if not pooled:
            pooled.append(_pool(encoder, ids[1], output.last_hidden_state[1]))  # 0 is the empty window
    z = torch.cat(hidden)
    z_empty, z = z[:1], z[1:]
    context = z_empty + weights[..., None] * (z - z_empty)
    return context.flatten(0, 1)[None], pooled[0]


def _pool(encoder: Encoder, ids: Tensor, last: Tensor) -> Tensor:
    """Project the last state (77, D) at the first EOS of ``ids`` (77): (1, P), float32.

    Not the encoder's own pooling, which takes the highest id for the end when its configuration has eos_token_id 2.
    """
    end = (ids == EOS).int().argmax()
    projection = getattr(encoder.module, "text_projection", None)
    pooled = last[end][None]
    return (pooled if projection is None else pooled @ projection.weight.T.contiguous()).float()


@contextmanager
def _extra_words(embedding: nn.Module, ids: Tensor, vectors: Tensor) -> Iterator[None]:
    """Let ids behind the vocabulary stand for ``vectors`` (N, D) while ``embedding`` looks up ``ids`` (B, 77).

    A hook, because CLIP's text models take no vectors as input and their vocabulary must not change.
    """
    places = ids >= VOCABULARY

    def replace(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = vectors.to(output)[ids[places] - VOCABULARY]
        return output.index_put((places,), rows)

    handle = embedding.register_forward_hook(replace) if bool(places.any()) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _token_embedding(encoder: Encoder) -> nn.Embedding:
    embedding = encoder.module.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise TypeError(f"the token embedding is a {type(embedding).__name__}, not an nn.Embedding")
    return embedding

"""Text to conditioning on small random encoders: the rules that need no reference values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from fooocus.errors import MismatchedModel, MissingModel
from fooocus.families.tokenizer import BOS, EOS, VOCABULARY, clip_tokenizer
from fooocus.loading.embeddings import Embeddings
from fooocus.render.text import Encoder, encode_text, match_lengths

L_WIDTH, G_WIDTH, LAYERS = 16, 32, 3
LONG = "a lighthouse at dusk, " * 40


def _encoder(kind: str, dtype: torch.dtype = torch.float32) -> Encoder:
    width = L_WIDTH if kind == "l" else G_WIDTH
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        projection_dim=24,
        eos_token_id=2,  # as in many published configurations; the library's pooling then takes the highest id
        bos_token_id=0,
    )
    torch.manual_seed(7 if kind == "l" else 8)
    made = CLIPTextModel(config) if kind == "l" else CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter += torch.randn_like(parameter) * (0.3 if "norm" not in name else 0.1)
    return Encoder(made.eval().to(dtype), EOS if kind == "l" else 0, "l" if kind == "l" else "g")


@pytest.fixture(scope="module")
def base() -> list[Encoder]:
    return [_encoder("l"), _encoder("g")]


@contextmanager
def watched(encoder: Encoder) -> Iterator[list[Tensor]]:
    """Collect the ids of every call of an encoder."""
    calls: list[Tensor] = []
    hook = encoder.module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


def test_shapes(base: list[Encoder]) -> None:
    both = encode_text("a cat", base)
    assert (both.context.shape, both.pooled.shape) == ((1, 77, L_WIDTH + G_WIDTH), (1, 24))
    refiner = encode_text("a cat", base[1:])
    assert torch.equal(refiner.context, both.context[..., L_WIDTH:])
    assert torch.equal(refiner.pooled, both.pooled)


def test_penultimate_state_without_norm(base: list[Encoder]) -> None:
    ids = torch.tensor([[BOS, *clip_tokenizer().word("cat"), EOS, *[0] * 74]])
    with torch.no_grad():
        output = base[1].module(input_ids=ids, output_hidden_states=True)
    assert len(output.hidden_states) == LAYERS + 1
    expected = {1: 3, 2: 2, 3: 1}
    for skip, state in expected.items():
        ours = encode_text("cat", base[1:], clip_skip=skip).context
        assert torch.allclose(ours, output.hidden_states[state], atol=1e-5)  # another batch, another rounding
    for skip in (4, 48):
        assert torch.allclose(encode_text("cat", base[1:], clip_skip=skip).context, output.last_hidden_state, atol=1e-5)
    with pytest.raises(ValueError, match="clip_skip"):
        encode_text("cat", base, clip_skip=0)


def test_pooled_is_the_projection_at_the_first_end(base: list[Encoder]) -> None:
    module = base[1].module
    ids = torch.tensor([[BOS, *clip_tokenizer().word("cat"), EOS, *[0] * 74]])
    with torch.no_grad():
        expected = module.text_projection(module(input_ids=ids).last_hidden_state[:, 2])
    assert torch.allclose(encode_text("cat", base).pooled, expected, atol=1e-5)


def test_pooled_is_of_the_first_window_and_never_weighted(base: list[Encoder]) -> None:
    pooled = encode_text("word " * 75, base).pooled
    assert torch.allclose(encode_text("word " * 75 + "other", base).pooled, pooled, atol=1e-5)
    assert torch.equal(encode_text(f"({'word ' * 75}:1.7)", base).pooled, pooled)
    assert not torch.allclose(encode_text("other " + "word " * 75, base).pooled, pooled, atol=1e-2)


def test_windows_follow_each_other(base: list[Encoder]) -> None:
    first, second = "red " * 75, "blue " * 75
    joined = encode_text(first + second, base)
    assert joined.context.shape[1] == 2 * 77
    parts = torch.cat([encode_text(first, base).context, encode_text(second, base).context], dim=1)
    assert torch.allclose(joined.context, parts, atol=1e-5)


def test_weights_interpolate_from_the_empty_text(base: list[Encoder]) -> None:
    empty, plain = encode_text("", base).context, encode_text("a cat sat", base).context
    for weight in (0.0, 0.5, 1.0, 1.7, -1.0):
        ours = encode_text(f"a (cat:{weight}) sat", base).context
        expected = plain.clone()
        expected[:, 2] = empty[:, 2] + weight * (plain[:, 2] - empty[:, 2])
        assert torch.allclose(ours, expected, atol=1e-5)  # plain was itself rounded on its way through weight 1
        assert torch.equal(ours[:, [0, 1, 3, 4, 5]], plain[:, [0, 1, 3, 4, 5]])
    assert torch.equal(encode_text("(a cat sat:0)", base).context[:, 1:4], empty[:, 1:4])


def test_empty_text_is_encoded(base: list[Encoder]) -> None:
    empty = encode_text("", base)
    assert empty.context.abs().min() > 0
    assert torch.equal(encode_text(" \n ()", base).context, empty.context)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_result_is_float32(base: list[Encoder], dtype: torch.dtype) -> None:
    ours = encode_text("a (cat:1.3)", [_encoder("l", dtype), _encoder("g", dtype)])
    assert ours.context.dtype == ours.pooled.dtype == torch.float32
    exact = encode_text("a (cat:1.3)", base)
    error = (ours.context - exact.context).norm() / exact.context.norm()
    assert error < (0.005 if dtype == torch.float16 else 0.05)  # 2^-11 and 2^-8, through three layers


def test_ten_thousand_words_in_bounded_batches(base: list[Encoder]) -> None:
    with watched(base[1]) as calls:
        context = encode_text("dusk " * 10_000, base).context
    assert context.shape[1] == 134 * 77
    assert sum(len(ids) for ids in calls) == 1 + 134
    assert max(len(ids) for ids in calls) <= 8


def test_gradients_are_off(base: list[Encoder]) -> None:
    assert not encode_text("a cat", base).context.requires_grad


@pytest.fixture
def embeddings(base: list[Encoder], tmp_path: Path) -> Embeddings:
    """Embeddings whose vectors are those of ordinary words, so that both ways must give the same."""
    ids = torch.tensor(clip_tokenizer().word("lighthouse") + clip_tokenizer().word("dusk"))
    tables = [encoder.module.get_input_embeddings().weight.detach() for encoder in base]
    save_file({"clip_l": tables[0][ids], "clip_g": tables[1][ids]}, tmp_path / "scene.safetensors")
    save_file({"emb_params": tables[0][ids]}, tmp_path / "only-l.safetensors")
    save_file({"emb_params": torch.ones(1, 99)}, tmp_path / "foreign.safetensors")
    save_file({"clip_l": torch.ones(9, L_WIDTH), "clip_g": torch.ones(9, G_WIDTH)}, tmp_path / "nine.safetensors")
    return Embeddings((tmp_path,))


@pytest.mark.parametrize(
    ("with_embedding", "with_words"),
    [
        ("a embedding:scene sky", "a lighthouse dusk sky"),
        ("a (embedding:scene:1.4) sky", "a (lighthouse dusk:1.4) sky"),
        ("a (embedding:scene) sky", "a (lighthouse dusk) sky"),
        ("embedding:scene, embedding:scene,, x", "lighthouse dusk , lighthouse dusk ,, x"),
        (LONG + "embedding:scene", LONG + "lighthouse dusk"),
    ],
)
def test_vectors_stand_for_words(
    base: list[Encoder], embeddings: Embeddings, with_embedding: str, with_words: str
) -> None:
    ours = encode_text(with_embedding, base, embeddings=embeddings)
    expected = encode_text(with_words, base)
    assert torch.equal(ours.context, expected.context)
    assert torch.equal(ours.pooled, expected.pooled)


def test_a_long_embedding_is_split_like_a_long_word(base: list[Encoder], embeddings: Embeddings) -> None:
    with watched(base[1]) as calls:
        encode_text("a " * 70 + "embedding:nine", base, embeddings=embeddings)
    ends = [row.tolist().index(EOS) for row in calls[0]]
    assert ends == [1, 76, 5]
    assert max(int(ids.max()) for ids in calls) < VOCABULARY


def test_the_encoder_is_left_as_it_was(base: list[Encoder], embeddings: Embeddings) -> None:
    before = encode_text("a lighthouse", base).context
    encode_text("embedding:scene", base, embeddings=embeddings)
    failing = base[1].module.register_forward_hook(_fail)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            encode_text("embedding:scene", base, embeddings=embeddings)
    finally:
        failing.remove()
    assert not base[1].module.get_input_embeddings()._forward_hooks
    assert torch.equal(encode_text("a lighthouse", base).context, before)


def _fail(module: nn.Module, arguments: object, output: object) -> None:
    raise RuntimeError("on purpose")


def test_an_embedding_for_one_encoder_says_nothing_to_the_other(base: list[Encoder], embeddings: Embeddings) -> None:
    ours = encode_text("a embedding:only-l sky", base, embeddings=embeddings).context
    assert torch.equal(ours[..., :L_WIDTH], encode_text("a lighthouse dusk sky", base).context[..., :L_WIDTH])
    assert torch.equal(ours[..., L_WIDTH:], encode_text("a sky", base).context[..., L_WIDTH:])
    refiner = encode_text("a embedding:only-l sky", base[1:], embeddings=embeddings)
    assert torch.equal(refiner.context, encode_text("a sky", base[1:]).context)
    # 38 of them fill two windows of L and none of G, which then ends in an empty one.
    longer = encode_text("embedding:only-l " * 38, base, embeddings=embeddings).context
    assert longer.shape[1] == 2 * 77
    assert torch.allclose(longer[:, 77:, L_WIDTH:], longer[:, :77, L_WIDTH:], atol=1e-5)


def test_embeddings_that_cannot_be_used(base: list[Encoder], embeddings: Embeddings) -> None:
    with pytest.raises(MissingModel, match="scene"):
        encode_text("embedding:scenes", base, embeddings=embeddings)
    with pytest.raises(MissingModel, match="no folder"):
        encode_text("embedding:scene", base)
    with pytest.raises(MismatchedModel, match=r"foreign\.safetensors \(99 wide\).*16 wide, 32 wide"):
        encode_text("embedding:foreign", base, embeddings=embeddings)


def test_matching_lengths() -> None:
    one, two, three, five = (torch.randn(1, n * 77, 4) for n in (1, 2, 3, 5))
    same = match_lengths(one, one)
    assert same is not None
    assert torch.equal(same[0], one)
    pair = match_lengths(two, three)
    assert pair is not None
    assert torch.equal(pair[0], torch.cat([two] * 3, dim=1))
    assert torch.equal(pair[1], torch.cat([three] * 2, dim=1))
    assert match_lengths(one, five) is None
    assert match_lengths(five, three) is None
    assert match_lengths(torch.randn(1, 4 * 77, 4), one) is not None

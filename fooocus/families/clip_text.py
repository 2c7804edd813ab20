"""The two text encoders of SDXL: OpenAI's CLIP-L and OpenCLIP's bigG, planned for the CLIP classes of transformers.

CLIP-L is stored with transformers' own names under ``text_model.``; since transformers 5 the class itself has no such
level, while the class with a projection still has. bigG is stored as OpenCLIP names it: query, key and value in one
tensor, and a text projection that multiplies from the other side.
"""

from __future__ import annotations

from typing import Any

from fooocus.families.layout import Declared, LayoutError, count, divides, need
from fooocus.families.records import Blueprint, Kind, Shapes, Source

BEGIN, END = 49406, 49407  # ids of <|startoftext|> and <|endoftext|> in CLIP's vocabulary
_HEAD_WIDTH = 64  # of every CLIP text encoder that SDXL uses

_G_OUTSIDE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection.weight": "text_projection.weight",
}
_G_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def read_text_l(shapes: Shapes, prefix: str, declared: Declared) -> Blueprint:
    """Plan the CLIP-L encoder whose tensors begin with ``prefix``. Raises :class:`LayoutError`."""
    keys = [key for key in shapes if key.startswith(prefix)]
    sources = {key.removeprefix(prefix).removeprefix("text_model."): Source(key) for key in keys}
    named = {name: shapes[source.key] for name, source in sources.items()}
    return Blueprint("text_l", _config("text_l", named, "", declared.text_l_heads), sources)


def read_text_g(shapes: Shapes, prefix: str, declared: Declared) -> Blueprint:
    """Plan the OpenCLIP bigG encoder whose tensors begin with ``prefix``. Raises :class:`LayoutError`."""
    sources: dict[str, Source] = {}
    for key in (key for key in shapes if key.startswith(prefix)):
        sources |= _g_sources(key, key.removeprefix(prefix), shapes)
    named = {name: source.shape(shapes[source.key]) for name, source in sources.items()}
    config = _config("text_g", named, "text_model.", declared.text_g_heads)
    config["projection_dim"] = need(named, "text_projection.weight", 2)[0]
    return Blueprint("text_g", config, sources)


def _g_sources(key: str, name: str, shapes: Shapes) -> dict[str, Source]:
    """Say which parameters of the module one OpenCLIP tensor fills: one, or three if q, k and v are together."""
    if name == "text_projection":
        return {"text_projection.weight": Source(key, transpose=True)}
    if not name.startswith("transformer.resblocks."):
        return {_G_OUTSIDE.get(name, name): Source(key)}
    number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
    layer = f"text_model.encoder.layers.{number}"
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf = rest.removeprefix("attn.in_proj_")
        width = (shapes[key] or (0,))[0] // 3
        return {
            f"{layer}.self_attn.{part}_proj.{leaf}": Source(key, rows=(place * width, (place + 1) * width))
            for place, part in enumerate("qkv")
        }
    inner, _, leaf = rest.rpartition(".")
    return {f"{layer}.{_G_IN_LAYER.get(inner, inner)}.{leaf}": Source(key)}


def _config(kind: Kind, shapes: Shapes, root: str, heads: int) -> dict[str, Any]:
    vocabulary, width = need(shapes, f"{root}embeddings.token_embedding.weight", 2)
    if vocabulary <= END:
        raise LayoutError(f"its text encoder knows {vocabulary} tokens, fewer than CLIP's {END + 1}")
    heads = heads or max(1, width // _HEAD_WIDTH)
    divides(heads, width, "attention heads, of which there are")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": need(shapes, f"{root}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": count(shapes, f"{root}encoder.layers"),
        "num_attention_heads": heads,
        "max_position_embeddings": need(shapes, f"{root}embeddings.position_embedding.weight", 2)[0],
        "hidden_act": "quick_gelu" if kind == "text_l" else "gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": BEGIN,
        # With 2, as in old configurations, transformers pools at the highest id instead of at the first end token
        "eos_token_id": END,
        "pad_token_id": END if kind == "text_l" else 0,
    }

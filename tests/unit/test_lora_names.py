"""Names of LoRA tensors: taken apart, and found in a network's table."""

from __future__ import annotations

import pytest

from fooocus.loading.lora_names import KeyName, foreign_method, locate, module_table, split_key


@pytest.mark.parametrize(
    ("key", "module", "part"),
    [
        ("lora_unet_a_b.lora_down.weight", "lora_unet_a_b", "down"),
        ("lora_unet_a_b.lora_mid.weight", "lora_unet_a_b", "mid"),
        ("lora_unet_a_b.alpha", "lora_unet_a_b", "alpha"),
        ("unet.a.processor.to_q_lora.up.weight", "unet.a.processor.to_q", "up"),
        ("unet.a.to_q.lora.up.weight", "unet.a.to_q", "up"),
        ("unet.a.to_q_lora.alpha", "unet.a.to_q", "alpha"),
        ("text_encoder.a.lora_linear_layer.down.weight", "text_encoder.a", "down"),
        ("unet.a.lora_A.weight", "unet.a", "down"),
        ("unet.a.lora_B.default.weight", "unet.a", "up"),
        ("unet.a.lora_B.some_name", "unet.a", "up"),
        ("unet.a.lora_magnitude_vector", "unet.a", "magnitude"),
        ("unet.a.lora_magnitude_vector.default.weight", "unet.a", "magnitude"),
        ("a.hada_w1_a", "a", "hada_w1_a"),
        ("a.hada_t2", "a", "hada_t2"),
        ("a.lokr_w2", "a", "lokr_w2"),
        ("a.lokr_w2_b.default", "a", "lokr_w2_b"),
        ("a.dora_scale", "a", "dora_scale"),
        ("a.diff", "a", "diff"),
        ("a.diff_b", "a", "diff_b"),
        ("lora_unet.a.lora_up.weight", "lora_unet.a", "up"),
    ],
)
def test_split(key: str, module: str, part: str) -> None:
    assert split_key(key) == KeyName(module, part)


@pytest.mark.parametrize(
    "key",
    ["a.weight", "logit_scale", ".alpha", "a.lora_A.bias", "a.lora_B.default.bias", "a.up", "alpha", "", "a.hada_w3_a"],
)
def test_no_part_of_a_delta(key: str) -> None:
    assert split_key(key) is None


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("lora_unet_a.oft_blocks", "OFT"),
        ("unet.a.oft_R.default.weight", "OFT"),
        ("lora_unet_a.on_input", "IA3"),
        ("unet.a.vera_lambda_b", "VeRA"),
        ("lora_unet_a.b2.weight", "GLoRA"),
        ("lora_unet_a.lora_up.weight", None),
        ("model.diffusion_model.out.2.weight", None),
    ],
)
def test_foreign_methods(key: str, method: str | None) -> None:
    assert foreign_method(key) == method


UNET = {
    "conv_in.weight": "model.diffusion_model.input_blocks.0.0.weight",
    "conv_in.bias": "model.diffusion_model.input_blocks.0.0.bias",
    "down_blocks.0.attentions.0.attn1.to_out.0.weight": "model.diffusion_model.input_blocks.4.1.attn1.to_out.0.weight",
}
TEXT = {
    "text_model.encoder.layers.3.self_attn.out_proj.weight": "conditioner.embedders.1.model.x.weight",
    "text_projection.weight": "conditioner.embedders.1.model.text_projection",
}
TABLES = {"unet": module_table("unet", UNET), "text_g": module_table("text_g", TEXT)}


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("lora_unet_conv_in", ("unet", "conv_in")),
        ("lora_unet_input_blocks_0_0", ("unet", "conv_in")),
        ("lycoris_conv_in", ("unet", "conv_in")),
        ("conv_in", ("unet", "conv_in")),
        (
            "unet.down_blocks.0.attentions.0.attn1.processor.to_out",
            ("unet", "down_blocks.0.attentions.0.attn1.to_out.0"),
        ),
        ("lora_unet_input_blocks_4_1_attn1_to_out_0", ("unet", "down_blocks.0.attentions.0.attn1.to_out.0")),
        ("lora_te2_text_projection", ("text_g", "text_projection")),
        ("lora_te_text_projection", ("text_g", "text_projection")),
        (
            "text_encoder_2.encoder.layers.3.self_attn.to_out",
            ("text_g", "text_model.encoder.layers.3.self_attn.out_proj"),
        ),
        ("lora_te1_text_projection", None),
        ("lora_unet_conv_out", None),
        ("text_projection", None),
        ("", None),
    ],
)
def test_locate(module: str, place: tuple[str, str] | None) -> None:
    assert locate(module, TABLES) == place


def test_a_name_with_two_meanings_is_a_defect() -> None:
    with pytest.raises(ValueError, match="a_b_c"):
        module_table("unet", {"a.b_c.weight": "1.weight", "a_b.c.weight": "2.weight"})

"""The architecture is read off names and shapes: SDXL's own, its pruned relatives', and what metadata adds."""

from __future__ import annotations

import math

import pytest
import torch

from fooocus.errors import MismatchedModel, UnsupportedModel
from fooocus.families.detect import recognise, recognise_vae
from fooocus.families.records import Architecture, Source
from fooocus.loading.network import empty_module
from tests import layouts
from tests.layouts import BASE, REFINER, UNET, Shapes, UnetMake, real_file, unet_shapes
from tests.tiny import tiny_shapes

UNET_PARAMETERS = {BASE: 2_567_463_684, REFINER: 2_259_526_660}
OTHER_PARAMETERS = {"vae": 83_653_863, "text_l": 123_060_480, "text_g": 694_659_840}


def base_with(make: UnetMake) -> Shapes:
    others = {key: shape for key, shape in real_file(BASE).shapes.items() if not key.startswith(UNET)}
    return others | unet_shapes(make)


def read(shapes: Shapes, **metadata: str) -> Architecture:
    return recognise(
        shapes, {key.replace("__", "."): value for key, value in metadata.items()}, file="some.safetensors"
    )


@pytest.mark.parametrize("name", [BASE, REFINER])
def test_every_tensor_of_the_real_files_has_its_place_in_a_network_of_sdxl_size(name: str) -> None:
    real = real_file(name)
    architecture = recognise(real.shapes, real.metadata, file=name)
    for kind, blueprint in architecture.blueprints.items():
        module = empty_module(blueprint)
        wanted = {key: tuple(parameter.shape) for key, parameter in module.named_parameters()}
        assert wanted == {key: source.shape(real.shapes[source.key]) for key, source in blueprint.sources.items()}
        assert sum(map(math.prod, wanted.values())) == (
            UNET_PARAMETERS[name] if kind == "unet" else OTHER_PARAMETERS[kind]
        )
    used = {source.key for blueprint in architecture.blueprints.values() for source in blueprint.sources.values()}
    left = {key.rpartition(".")[2] for key in real.shapes.keys() - used}
    assert left <= {"position_ids", "logit_scale"}


def test_what_the_base_wants_to_be_told() -> None:
    real = real_file(BASE)
    base = recognise(real.shapes, real.metadata, file=BASE)
    assert base.family.name == "sdxl_base"
    assert base.family.text == ("text_l", "text_g")
    assert base.family.size_ids == ("height", "width", "top", "left", "target_height", "target_width")
    assert (base.prediction, base.latent_scale, base.zero_terminal_snr) == ("eps", 0.13025, False)
    assert (base.context_width, base.pooled_width, base.size_width, base.adm_width) == (2048, 1280, 256, 2816)


def test_what_the_refiner_wants_to_be_told() -> None:
    real = real_file(REFINER)
    refiner = recognise(real.shapes, real.metadata, file=REFINER)
    assert refiner.family.name == "sdxl_refiner"
    assert refiner.family.text == ("text_g",)
    assert refiner.family.size_ids == ("height", "width", "top", "left", "aesthetic")
    assert (refiner.context_width, refiner.pooled_width, refiner.size_width, refiner.adm_width) == (
        1280,
        1280,
        256,
        2560,
    )
    assert refiner.blueprints["unet"].config["transformer_layers_per_block"] == [1, 4, 4, 4]


def test_configurations_are_the_published_ones() -> None:
    blueprints = read(real_file(BASE).shapes).blueprints
    unet = blueprints["unet"].config
    assert unet["block_out_channels"] == [320, 640, 1280]
    assert unet["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert unet["transformer_layers_per_block"] == [1, 2, 10]
    assert unet["attention_head_dim"] == [5, 10, 20]
    assert unet["use_linear_projection"] is True
    text_l, text_g = blueprints["text_l"].config, blueprints["text_g"].config
    assert (text_l["hidden_size"], text_l["num_hidden_layers"], text_l["num_attention_heads"]) == (768, 12, 12)
    assert (text_g["hidden_size"], text_g["num_hidden_layers"], text_g["num_attention_heads"]) == (1280, 32, 20)
    assert (text_l["hidden_act"], text_g["hidden_act"]) == ("quick_gelu", "gelu")
    assert text_l["eos_token_id"] == text_g["eos_token_id"] == 49407
    assert blueprints["vae"].config["block_out_channels"] == [128, 256, 512, 512]
    assert blueprints["vae"].config["norm_num_groups"] == 32


def test_the_layout_maker_of_these_tests_knows_sdxl() -> None:
    real = {key: shape for key, shape in real_file(BASE).shapes.items() if key.startswith(UNET)}
    assert unet_shapes(layouts.SDXL) == real


PRUNED = {
    # depths down, depths up, what is in the middle, published parameters in millions
    "SSD-1B": (layouts.SSD_1B, [1, 2, 4], [[4, 4, 10], [2, 1, 1], 1], "UNetMidBlock2D", 1300),
    "Segmind-Vega": (layouts.VEGA, [1, 1, 2], None, "UNetMidBlock2D", 745),
    "KOALA-1B": (layouts.KOALA_1B, [1, 2, 6], None, "UNetMidBlock2DCrossAttn", 1161),
    "KOALA-700M": (layouts.KOALA_700M, [1, 2, 5], None, None, 782),
}


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_relatives_are_read_off_their_shapes(name: str) -> None:
    make, down, up, middle, millions = PRUNED[name]
    blueprint = read(base_with(make)).blueprints["unet"]
    assert blueprint.config["transformer_layers_per_block"] == down
    assert blueprint.config.get("reverse_transformer_layers_per_block") == up
    assert blueprint.config["mid_block_type"] == middle
    module = empty_module(blueprint)
    parameters = {key: tuple(parameter.shape) for key, parameter in module.named_parameters()}
    assert parameters == {key: unet_shapes(make)[source.key] for key, source in blueprint.sources.items()}
    assert sum(map(math.prod, parameters.values())) / 1e6 == pytest.approx(millions, rel=0.03)


def test_a_middle_of_its_own_depth_is_built_as_deep() -> None:
    make = UnetMake((32, 64), ((0, 0), (2, 2)), 3, ((2, 2, 2), (0, 0, 0)))
    blueprint = read(base_with(make)).blueprints["unet"]
    module = empty_module(blueprint)
    assert {key for key, _ in module.named_parameters()} == set(blueprint.sources)


def test_metadata_declares_what_shapes_do_not_tell() -> None:
    architecture = read(
        tiny_shapes("tiny_base"),
        fooocus__head_width="32",
        fooocus__text_l_heads="4",
        fooocus__text_g_heads="8",
        fooocus__norm_groups="4",
        fooocus__vae_norm_groups="2",
        fooocus__latent_scale="0.2",
        modelspec__prediction_type="v",
    )
    configs = {kind: blueprint.config for kind, blueprint in architecture.blueprints.items()}
    assert configs["unet"]["attention_head_dim"] == [1, 2, 4]
    assert configs["unet"]["norm_num_groups"] == 4
    assert configs["vae"]["norm_num_groups"] == 2
    assert configs["text_l"]["num_attention_heads"] == 4
    assert configs["text_g"]["num_attention_heads"] == 8
    assert architecture.latent_scale == 0.2
    assert architecture.prediction == "v"


def test_one_group_count_holds_for_unet_and_vae() -> None:
    blueprints = read(tiny_shapes("tiny_base"), fooocus__norm_groups="8").blueprints
    assert blueprints["unet"].config["norm_num_groups"] == blueprints["vae"].config["norm_num_groups"] == 8


def test_marker_tensors_say_v_prediction() -> None:
    architecture = read(tiny_shapes("tiny_base") | {"v_pred": (0,), "ztsnr": (0,)})
    assert architecture.prediction == "v"
    assert architecture.zero_terminal_snr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fooocus__head_width", "0"),
        ("fooocus__head_width", "wide"),
        ("fooocus__head_width", "48"),
        ("fooocus__norm_groups", "7"),
        ("fooocus__text_l_heads", "5"),
        ("fooocus__latent_scale", "nan"),
        ("fooocus__latent_scale", "-1"),
    ],
)
def test_a_wrong_declaration_is_refused(key: str, value: str) -> None:
    with pytest.raises(MismatchedModel, match=r"some\.safetensors"):
        read(tiny_shapes("tiny_base"), **{key: value})


@pytest.mark.parametrize(
    "extra",
    [
        "model_ema.decay",
        "denoiser.sigmas",
        "alphas_cumprod",
        "conditioner.embedders.0.transformer.text_projection.weight",
    ],
)
def test_known_extras_are_left_alone(extra: str) -> None:
    assert read(tiny_shapes("tiny_base") | {extra: (3,)}) == read(tiny_shapes("tiny_base"))


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(MismatchedModel, match=r"unexpected: mystery\.weight"):
        read(tiny_shapes("tiny_base") | {"mystery.weight": (3,)})


@pytest.mark.parametrize(
    "lost",
    [
        UNET + "input_blocks.0.0.weight",
        UNET + "label_emb.0.0.weight",
        UNET + "input_blocks.1.0.in_layers.2.weight",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.encoder.conv_in.weight",
    ],
)
def test_a_missing_tensor_that_the_size_is_read_from_is_named(lost: str) -> None:
    with pytest.raises(MismatchedModel, match="missing: "):
        read({key: shape for key, shape in tiny_shapes("tiny_base").items() if key != lost})


def test_text_encoders_of_another_width_are_refused() -> None:
    mixed = {
        key: shape
        for key, shape in (tiny_shapes("tiny_base") | real_file(BASE).shapes).items()
        if key.startswith("conditioner.")
    }
    with pytest.raises(MismatchedModel, match="context of width 192"):
        read(tiny_shapes("tiny_base") | mixed)


def test_an_inpainting_unet_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="inpainting"):
        read(tiny_shapes("tiny_base") | {UNET + "input_blocks.0.0.weight": (32, 9, 3, 3)})


def test_a_network_that_predicts_something_else_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="flow"):
        read(tiny_shapes("tiny_base"), modelspec__prediction_type="flow")


def test_a_vae_is_found_with_and_without_prefix() -> None:
    inside = {key: shape for key, shape in tiny_shapes("tiny_base").items() if key.startswith("first_stage_model.")}
    alone = {key.removeprefix("first_stage_model."): shape for key, shape in inside.items()}
    first, second = (recognise_vae(shapes, {}, file="vae.safetensors") for shapes in (inside, alone))
    assert first.config == second.config
    assert first.sources.keys() == second.sources.keys()
    whole = recognise_vae(tiny_shapes("tiny_base"), {}, file="base.safetensors")
    assert whole == first


def test_no_vae_in_a_lora() -> None:
    with pytest.raises(UnsupportedModel, match="LoRA"):
        recognise_vae(tiny_shapes("tiny_offset_lora"), {}, file="lora.safetensors")


def test_a_source_only_changes_the_view() -> None:
    stored = torch.arange(24.0).reshape(6, 4)
    assert Source("a", rows=(2, 4)).view(stored).tolist() == stored[2:4].tolist()
    assert Source("a", transpose=True).view(stored).data_ptr() == stored.data_ptr()
    assert Source("a", flatten=True).view(stored[..., None, None]).tolist() == stored.tolist()
    for source in (Source("a", rows=(2, 4)), Source("a", transpose=True), Source("a", rows=(0, 2), transpose=True)):
        assert tuple(source.view(stored).shape) == source.shape((6, 4))

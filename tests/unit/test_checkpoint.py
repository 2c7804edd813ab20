"""Networks out of files: every one that a checkpoint holds, strictly, without a second copy or silent garbage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fooocus.errors import MismatchedModel, UnsupportedModel
from fooocus.families.records import Kind
from fooocus.loading.checkpoint import Checkpoint, open_checkpoint, open_vae
from fooocus.loading.network import Network
from tests import layouts
from tests.layouts import real_file, write_sparse
from tests.tiny import BASE, LORA, REFINER, tiny_folder

_SAMPLE = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_SAMPLE_IN_MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
_MB = 1 << 20


@pytest.fixture(scope="module")
def base() -> Iterator[Checkpoint]:
    checkpoint = open_checkpoint(tiny_folder() / BASE)
    yield checkpoint
    checkpoint.close()


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(tiny_folder() / BASE)


def rewrite(tmp_path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(tiny_folder() / BASE)
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


def test_every_network_is_frozen_and_ready(base: Checkpoint) -> None:
    for kind in base.architecture.blueprints:
        network = base.load(kind)
        assert network.kind == kind
        assert not network.module.training
        assert not any(parameter.requires_grad for parameter in network.module.parameters())
        assert not any(tensor.is_meta for tensor in network.module.state_dict().values())
        assert not any(buffer.is_meta for buffer in network.module.buffers())
        assert set(network.names()) == {name for name, _ in network.module.named_parameters()}


def test_no_dtype_means_as_stored_and_mapped(base: Checkpoint) -> None:
    network = base.load("unet")
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float16}
    for name, parameter in network.module.named_parameters():
        assert parameter.data_ptr() == network.original(name).data_ptr()


def test_another_dtype_is_a_cast_of_every_tensor(base: Checkpoint, stored: dict[str, Tensor]) -> None:
    network = base.load("unet", dtype=torch.float32)
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float32}
    assert torch.equal(
        network.module.get_parameter(_SAMPLE_IN_MODULE), stored["model.diffusion_model." + _SAMPLE].float()
    )
    assert network.original(_SAMPLE_IN_MODULE).dtype == torch.float16


def test_original_is_in_the_modules_layout(base: Checkpoint, stored: dict[str, Tensor]) -> None:
    network = base.load("text_g")
    prefix = "conditioner.embedders.1.model."
    fused = stored[prefix + "transformer.resblocks.1.attn.in_proj_weight"]
    key = network.original("text_model.encoder.layers.1.self_attn.k_proj.weight")
    assert torch.equal(key, fused[128:256])
    assert torch.equal(network.original("text_projection.weight"), stored[prefix + "text_projection"].T)


def test_what_is_put_can_be_restored(base: Checkpoint) -> None:
    network = base.load("unet", dtype=torch.float32)
    before = network.module.get_parameter(_SAMPLE_IN_MODULE).clone()
    network.put(_SAMPLE_IN_MODULE, before + 1)
    changed = network.module.get_parameter(_SAMPLE_IN_MODULE)
    assert torch.equal(changed, before + 1)
    assert not changed.requires_grad
    network.restore(_SAMPLE_IN_MODULE)
    assert torch.equal(network.module.get_parameter(_SAMPLE_IN_MODULE), before)


@pytest.mark.parametrize("kind", ["text_l", "text_g"])
def test_a_text_encoder_answers_as_one_that_was_built_the_ordinary_way(base: Checkpoint, kind: Kind) -> None:
    # Built under torch.device("meta"), position_ids would stay there and the answer would be garbage without an error.
    network = base.load(kind, dtype=torch.float32)
    ordinary = type(network.module)(network.module.config).eval()
    ordinary.load_state_dict({name: network.original(name).float() for name in network.names()})
    ids = torch.tensor([[49406, 320, 736, 7825, 49407] + [0] * 72])
    with torch.no_grad():
        mine, reference = (m(ids, output_hidden_states=True) for m in (network.module, ordinary))
    assert torch.equal(mine.hidden_states[-2], reference.hidden_states[-2])
    assert torch.equal(mine.last_hidden_state, reference.last_hidden_state)
    assert mine.last_hidden_state.std() > 0.1


def test_text_encoder_names_are_those_of_the_installed_library(base: Checkpoint) -> None:
    # transformers 5 dropped "text_model." from one class and kept it in the other.
    assert "encoder.layers.0.self_attn.q_proj.weight" in base.load("text_l").names()
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in base.load("text_g").names()


def test_bigg_pools_at_the_first_end_token(base: Checkpoint) -> None:
    module = base.load("text_g", dtype=torch.float32).module
    ids = torch.tensor([[49406, 320, 49407, 0, 0, 49407, 0]])
    with torch.no_grad():
        answer = module(ids)
        expected = module.text_projection(answer.last_hidden_state[:, 2])
    assert torch.equal(answer.text_embeds, expected)


def test_the_unet_and_the_vae_answer(base: Checkpoint) -> None:
    unet = base.load("unet", dtype=torch.float32).module
    vae = base.load("vae", dtype=torch.float32).module
    told = {"text_embeds": torch.zeros(1, 128), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        eps = unet(torch.ones(1, 4, 8, 8), 500.0, torch.ones(1, 77, 192), added_cond_kwargs=told).sample
        picture = vae.decode(eps).sample
    assert eps.shape == (1, 4, 8, 8)
    assert picture.shape == (1, 3, 64, 64)
    assert picture.isfinite().all()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    lost = "model.diffusion_model.output_blocks.5.0.emb_layers.1.bias"
    checkpoint = open_checkpoint(rewrite(tmp_path, lambda tensors: tensors.pop(lost)))
    with pytest.raises(
        MismatchedModel, match=r"changed\.safetensors.*missing: up_blocks\.1\.resnets\.2\.time_emb_proj\.bias"
    ):
        checkpoint.load("unet")


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    extra = "model.diffusion_model.input_blocks.4.1.gate.weight"
    checkpoint = open_checkpoint(rewrite(tmp_path, lambda tensors: tensors.update({extra: torch.zeros(3)})))
    with pytest.raises(MismatchedModel, match=r"unexpected: model\.diffusion_model\.input_blocks\.4\.1\.gate\.weight"):
        checkpoint.load("unet")


def test_a_misshapen_tensor_is_named(tmp_path: Path) -> None:
    bent = "model.diffusion_model.input_blocks.5.0.emb_layers.1.weight"
    checkpoint = open_checkpoint(rewrite(tmp_path, lambda tensors: tensors.update({bent: torch.zeros(64, 99)})))
    with pytest.raises(MismatchedModel, match=r"misshapen: .*emb_layers\.1\.weight is 64x99, not 64x128"):
        checkpoint.load("unet")


def test_many_faults_are_counted_not_listed(tmp_path: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("out_layers.3.bias")]:
            del tensors[name]

    with pytest.raises(MismatchedModel, match=r"and \d+ more") as caught:
        open_checkpoint(rewrite(tmp_path, drop)).load("unet")
    assert len(caught.value.sentence) < 400


def test_a_checkpoint_may_come_without_vae(tmp_path: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("first_stage_model.")]:
            del tensors[name]

    checkpoint = open_checkpoint(rewrite(tmp_path, drop))
    with pytest.raises(MismatchedModel, match="no VAE") as caught:
        checkpoint.load("vae")
    assert "models/vae" in caught.value.remedy


def test_roles_are_not_mixed_up() -> None:
    assert open_checkpoint(tiny_folder() / BASE, role="base").architecture.family.name == "sdxl_base"
    assert open_checkpoint(tiny_folder() / REFINER, role="refiner").architecture.family.name == "sdxl_refiner"
    with pytest.raises(UnsupportedModel, match="refiner and cannot be the base model"):
        open_checkpoint(tiny_folder() / REFINER, role="base")
    with pytest.raises(UnsupportedModel, match="base and cannot be the refiner"):
        open_checkpoint(tiny_folder() / BASE, role="refiner")
    with pytest.raises(UnsupportedModel, match="LoRA"):
        open_checkpoint(tiny_folder() / LORA)


@pytest.mark.parametrize("naming", ["checkpoint", "prefix", "plain", "diffusers", "old diffusers"])
def test_a_vae_of_its_own_is_the_one_in_the_checkpoint(
    tmp_path: Path, base: Checkpoint, stored: dict[str, Tensor], naming: str
) -> None:
    inside = base.load("vae")
    tensors = {key: value for key, value in stored.items() if key.startswith("first_stage_model.")}
    match naming:
        case "checkpoint":
            tensors = stored
        case "plain":
            tensors = {key.removeprefix("first_stage_model."): value for key, value in tensors.items()}
        case "diffusers" | "old diffusers":
            tensors = {name: inside.original(name).contiguous() for name in inside.names()}
    if naming == "old diffusers":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, was in old.items():
            tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{was}."): v for key, v in tensors.items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    alone = open_vae(tmp_path / "vae.safetensors")
    assert alone.blueprint.config == inside.blueprint.config
    for name in inside.names():
        assert torch.equal(alone.module.get_parameter(name), inside.module.get_parameter(name))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc, and needs sparse files")
@pytest.mark.parametrize("name", [layouts.BASE, layouts.REFINER])
def test_files_of_the_real_size_load_without_being_copied(tmp_path: Path, base: Checkpoint, name: str) -> None:
    base.load("unet"), base.load("text_g"), base.load("vae")  # imports count as nobody's memory
    real = real_file(name)
    path = write_sparse(tmp_path / name, real.shapes, real.metadata, file_bytes=real.bytes)
    assert path.stat().st_size == real.bytes
    before = reset_peak()
    checkpoint = open_checkpoint(path)
    networks = [checkpoint.load(kind) for kind in checkpoint.architecture.blueprints]
    assert peak() - before < 600 * _MB
    assert parameters(networks) == sum(_PARAMETERS[name].values())
    assert {network.kind: parameters([network]) for network in networks} == _PARAMETERS[name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc, and needs sparse files")
def test_a_cast_holds_no_second_copy(tmp_path: Path, base: Checkpoint) -> None:
    base.load("vae")
    real = real_file(layouts.BASE)
    path = write_sparse(tmp_path / "real.safetensors", real.shapes, real.metadata)
    checkpoint = open_checkpoint(path)
    before = reset_peak()
    network = checkpoint.load("vae", dtype=torch.float32)
    float32, mapped = parameters([network]) * 4, parameters([network]) * 2
    assert peak() - before < float32 + mapped + 60 * _MB
    assert network.module.dtype == torch.float32


_PARAMETERS = {
    layouts.BASE: {"unet": 2_567_463_684, "vae": 83_653_863, "text_l": 123_060_480, "text_g": 694_659_840},
    layouts.REFINER: {"unet": 2_259_526_660, "vae": 83_653_863, "text_g": 694_659_840},
}


def parameters(networks: list[Network]) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.module.parameters())


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))

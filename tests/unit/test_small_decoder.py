"""A small decoder draws the previews where a card keeps the UNet; where it cannot, the picture comes all the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from PIL import Image
from safetensors.torch import save_file

from fooocus.config import Config
from fooocus.errors import ModelError
from fooocus.loading.memory import Memory
from fooocus.memory.plan import GIB
from fooocus.prompt.plan import plan
from fooocus.prompt.styles import load_styles
from fooocus.render import engine as engine_module
from fooocus.render.engine import Engine
from fooocus.render.preview import jpeg, preview_jpeg
from fooocus.render.small_decoder import SmallDecoder, find_small_decoder
from fooocus.render.watch import Watch
from fooocus.request import Recipe, Request, Size
from tests.fakes.fake_card import fake_card

CPU = torch.device("cpu")


def decoder() -> DecoderTiny:
    torch.manual_seed(5)
    return DecoderTiny(4, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest").eval()


def own_names(module: DecoderTiny) -> dict[str, torch.Tensor]:
    """Name the tensors as TAESD's own files do: one clamp in front, which diffusers' class does not count."""
    named = {}
    for name, tensor in module.state_dict().items():
        _, number, rest = name.split(".", 2)
        named[f"{int(number) + 1}.{rest}"] = tensor
    return named


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "vae_approx"
    folder.mkdir(parents=True)
    save_file(own_names(decoder()), folder / "taesdxl_decoder.safetensors")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    request = Request(
        prompt="a red circle", styles=(), size=Size(64, 64), steps=2, seed=1, base=str(tiny / "tiny_base.safetensors")
    )
    return plan(request, load_styles(Config().styles_folder))[0]


@pytest.mark.parametrize("layout", ["its own", "diffusers"])
def test_both_layouts_are_the_same_decoder(tmp_path: Path, layout: str) -> None:
    module, file = decoder(), tmp_path / "taesdxl.safetensors"
    diffusers = {f"decoder.{name}": tensor for name, tensor in module.state_dict().items()}
    beside = {"encoder.layers.0.weight": torch.zeros(1)}  # what a whole autoencoder's file holds besides
    save_file(own_names(module) if layout == "its own" else diffusers | beside, file)
    latents = torch.randn((1, 4, 8, 72), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = torch.nn.functional.avg_pool2d(module(latents)[0], 2)  # 576 pixels are two times 288
    seen = SmallDecoder(file, CPU, torch.float32).picture(latents)
    assert seen is not None and seen.shape == (3, 32, 288)
    assert torch.allclose(seen, wanted, atol=1e-6)


def test_only_a_decoder_for_sdxl_is_found(models: Path) -> None:
    folder = models / "vae_approx"
    for name in ("taesd_decoder.safetensors", "taesdxl_encoder.safetensors", "taesdxl_decoder.pth"):
        (folder / name).touch()
    assert find_small_decoder([models / "nowhere", folder]) == folder / "taesdxl_decoder.safetensors"
    (folder / "taesdxl_decoder.safetensors").unlink()
    assert find_small_decoder([folder]) is None


def test_previews_are_decoded_on_a_card_and_the_picture_is_the_same(
    tmp_path: Path, models: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SMALL_VAE_CHANNELS", 0)  # the miniature passes for a model of SDXL's latents
    monkeypatch.setattr(engine_module, "LOOK_SECONDS", 0.0)
    config = Config(models=models, outputs=tmp_path, data=tmp_path, metadata=False)
    engine = Engine(config, memory=Memory(fake_card(64 * GIB)))
    frames: list[tuple[bytes, torch.Tensor]] = []

    def step(state: object, steps: int) -> None:
        denoised = state.denoised  # type: ignore[attr-defined]
        frames.append((engine.look(denoised), denoised))

    latents = engine.render(recipe, Watch(step=step)).latents
    with torch.no_grad():
        assert [frame for frame, _ in frames] == [jpeg(decoder()(denoised)[0]) for _, denoised in frames]
    assert Image.open(io.BytesIO(frames[0][0])).size == (512, 512)
    plain = Engine(Config(outputs=tmp_path, data=tmp_path, metadata=False, models=tmp_path), memory=Memory(fake_card()))
    assert torch.equal(plain.render(recipe).latents, latents)
    assert plain.look(frames[0][1]) == preview_jpeg(frames[0][1], plain.mix) != frames[0][0]

    engine.leave_card()
    assert engine.look(frames[0][1]) == preview_jpeg(frames[0][1], engine.mix), "nothing of it stays on the card"
    beside = Engine(config, memory=Memory(engine_module.choose_device("cpu", "float32")))
    beside.render(recipe)
    assert beside.look(frames[0][1]) == preview_jpeg(frames[0][1], beside.mix), "on a processor it would cost too much"


def test_what_is_no_decoder_is_told_and_costs_no_picture(
    tmp_path: Path, models: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SMALL_VAE_CHANNELS", 0)
    file = models / "vae_approx" / "taesdxl_decoder.safetensors"
    save_file({"1.weight": torch.zeros(64, 16, 3, 3), "more": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="is not TAESD's decoder"):
        SmallDecoder(file, CPU, torch.float32)
    told: list[str] = []
    engine = Engine(Config(models=models, outputs=tmp_path, data=tmp_path, metadata=False), memory=Memory(fake_card()))
    rendered = engine.render(recipe, Watch(notice=told.append))
    assert np.asarray(rendered.image).std() > 0
    assert [text for text in told if str(file) in text and "Take the file away" in text]


def test_latents_of_a_paused_picture_are_brought_to_the_decoder(models: Path) -> None:
    file = find_small_decoder([models / "vae_approx"])
    assert file is not None
    decoder, seen = SmallDecoder(file, CPU, torch.float32), []
    decoder._decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    decoder._decoder.to("meta")  # as if it were on a card, where nothing rests
    with pytest.raises(NotImplementedError):
        decoder.picture(torch.zeros(1, 4, 8, 8))
    assert seen[0].device.type == "meta"


def test_a_card_without_room_goes_back_to_mixing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallDecoder(models / "vae_approx" / "taesdxl_decoder.safetensors", CPU, torch.float32)
    latents, asked = torch.zeros(1, 4, 4, 4), []

    def full(*arguments: object) -> torch.Tensor:
        asked.append(arguments)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small._decoder, "forward", full)
    assert small.picture(latents) is None and small.picture(latents) is None
    assert len(asked) == 1, "it is not asked again at every step"

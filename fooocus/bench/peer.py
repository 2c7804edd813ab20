"""The contestant to compare with: diffusers' own two pipelines, base and refiner, as its documentation joins them.

It has the same tensors, number format, size and numbers of steps, and shares the weights in memory, so that a card need
not hold them twice; everything else is diffusers' own: its classes with its attention, its text encoding, its loops and
its default sampler for SDXL, Euler, which asks the network as often as ours and costs less beside it. Weights are on
the device before it begins, so it pays for no swap.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fooocus.bench.clock import CallClock, MemoryGauge, now
from fooocus.bench.ours import Timing
from fooocus.families.records import Kind
from fooocus.families.tokenizer import BOS, EOS, VOCABULARY, WINDOW, clip_vocabulary
from fooocus.loading.checkpoint import Checkpoint, Role, open_checkpoint
from fooocus.loading.memory import Memory
from fooocus.loading.network import empty_module
from fooocus.request import Request

# The published scheduler_config.json of SDXL.
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
_TIMESTEPS = 1000


class Peer:
    """diffusers' pipelines on the weights that ``memory`` holds for two prepared checkpoints."""

    def __init__(self, memory: Memory, base: Path, refiner: Path) -> None:
        self._memory = memory
        self._files: dict[Role, Path] = {"base": base, "refiner": refiner}
        self._checkpoints = {role: open_checkpoint(path, role=role) for role, path in self._files.items()}
        self._modules = {
            (role, kind): _module(checkpoint, kind)
            for role, checkpoint in self._checkpoints.items()
            for kind in _kinds(role)
        }
        device = memory.device.device
        for module in self._modules.values():
            _buffers_to(module, device)
        self._base, self._refiner = self._pipelines()

    def picture(self, request: Request, steps: int, switch: int) -> Timing:
        """Make one picture and say how long each part took."""
        device = self._memory.device.device
        clock, gauge = CallClock(device), MemoryGauge(device)
        with _quiet():
            cut = self._cut(steps, switch)
        times: list[float] = []
        inside: list[float] = []

        def step_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            inside.append(clock.take())
            times.append(now(device))
            return tensors

        common = {
            "num_inference_steps": steps,
            "guidance_scale": request.guidance,
            "output_type": "latent",
            "callback_on_step_end": step_end,
        }
        seeded = torch.Generator().manual_seed(request.seed or 0)
        with self._weights() as unets, clock.on(unets), gauge.on(), torch.no_grad(), _quiet():
            began = now(device)
            told_base, told_refiner = (_encode(pipe, request) for pipe in (self._base, self._refiner))
            read = now(device)
            size = {"width": request.size.width, "height": request.size.height}
            latents = self._base(**told_base, **size, **common, denoising_end=cut, generator=seeded).images
            if switch < steps:
                latents = self._refiner(
                    **told_refiner, **common, image=latents, denoising_start=cut, generator=seeded
                ).images
            drawn = now(device)
            vae = self._base.vae
            decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
            self._base.image_processor.postprocess(decoded, output_type="pil")
            ended = now(device)
        whole = [read, *times]
        return Timing(
            text=read - began,
            steps=tuple(after - before for before, after in itertools.pairwise(whole)),
            calls=tuple(inside),
            switch=min(switch, len(times)),
            decode=ended - drawn,
            save=0.0,
            picture=ended - began,
            main_bytes=gauge.main_bytes,
            own_bytes=gauge.own_bytes,
            device_bytes=gauge.device_bytes,
        )

    def _pipelines(self) -> tuple[Any, Any]:
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

        words = _tokenizer()
        shared = {"vae": self._modules["base", "vae"], "tokenizer_2": words, "add_watermarker": False}
        base = StableDiffusionXLPipeline(
            **shared,
            text_encoder=self._modules["base", "text_l"],
            text_encoder_2=self._modules["base", "text_g"],
            tokenizer=words,
            unet=self._modules["base", "unet"],
            scheduler=EulerDiscreteScheduler(**_SCHEDULER),
            force_zeros_for_empty_prompt=False,
        )
        refiner = StableDiffusionXLImg2ImgPipeline(
            **shared,
            text_encoder=None,
            text_encoder_2=self._modules["refiner", "text_g"],
            tokenizer=None,
            unet=self._modules["refiner", "unet"],
            scheduler=EulerDiscreteScheduler(**_SCHEDULER),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
        )
        for pipe in (base, refiner):
            pipe.set_progress_bar_config(disable=True)
        return base, refiner

    def _cut(self, steps: int, switch: int) -> float | None:
        """Return the part of the noise levels after which the refiner takes over, so that it does so at ``switch``."""
        if switch >= steps:
            return None
        scheduler = self._base.scheduler
        scheduler.set_timesteps(steps)
        before, after = (float(scheduler.timesteps[i]) for i in (switch - 1, switch))
        return 1 - (before + after) / 2 / _TIMESTEPS

    @contextmanager
    def _weights(self) -> Iterator[list[nn.Module]]:
        """Lend our own weights to the pipelines' modules; all of them stay on the device until the block ends."""
        with ExitStack() as placed:
            for (role, kind), module in self._modules.items():
                path = self._files[role]
                use = self._memory.use_vae(path) if kind == "vae" else self._memory.use(path, role, kind)
                _share(placed.enter_context(use), module)
            yield [self._modules[role, "unet"] for role in self._files]


def _kinds(role: Role) -> tuple[Kind, ...]:
    return ("text_l", "text_g", "unet", "vae") if role == "base" else ("text_g", "unet")


def _module(checkpoint: Checkpoint, kind: Kind) -> nn.Module:
    return empty_module(checkpoint.architecture.blueprints[kind])


def _share(owner: nn.Module, borrower: nn.Module) -> None:
    for name, parameter in owner.named_parameters():
        place, _, leaf = name.rpartition(".")
        borrower.get_submodule(place).register_parameter(leaf, parameter)


def _buffers_to(module: nn.Module, device: torch.device) -> None:
    for owner in module.modules():
        for leaf, buffer in owner.named_buffers(recurse=False):
            owner.register_buffer(leaf, buffer.to(device), leaf not in owner._non_persistent_buffers_set)


def _encode(pipe: Any, request: Request) -> dict[str, Any]:
    """Encode both texts as the pipeline does; what is longer than a window is cut off there."""
    found = pipe.encode_prompt(
        prompt=request.prompt, negative_prompt=request.negative, do_classifier_free_guidance=request.guidance > 1
    )
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, found, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """What a library says of its own future is nothing to a person who measures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    words = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=WINDOW)
    begin_and_end = words("")["input_ids"][:2]
    if len(words) != VOCABULARY or begin_and_end != [BOS, EOS]:  # wrong arguments are answered with an empty vocabulary
        raise ValueError("the peer's tokenizer has another vocabulary")
    return words

"""What each stage of the training learns from, and how its loss is made. See :mod:`pocket.train` for their order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pocket import vae as vae_start
from pocket.begin import newest, take_up
from pocket.judge import JUDGE, Judge, answers, judge_sample, squeeze
from pocket.judge import loss as judge_loss
from pocket.latents import Library, load_vae
from pocket.lora import OffsetLora, wider_tones, with_offset
from pocket.networks import LATENT_SCALE, Plan, make_base, make_refiner, make_text, make_vae, read_text
from pocket.samples import crop, pictures, sample
from pocket.training import Bench, averaged, torch_dice, train
from pocket.words import Words
from pocket.world import Level, attribute_sizes, attributes, scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

HELD_OUT = 1_000_000_000
"""Seeds from here on are never trained on."""

REFINER_STEPS = 200
"""The refiner knows the last 200 of the 1000 noise levels only (SDXL report, arXiv:2307.01952, section 2.5)."""

MIN_SNR = 5.0
"""Bound on the signal-to-noise ratio in the base's loss weights (Hang et al. 2023, arXiv:2303.09556, equation 7)."""

UNCAPTIONED = 0.05  # captions replaced by zeros, besides the empty ones


def alphas_cumprod() -> Tensor:
    """Return the signal's part of the variance at each of 1000 timesteps, for the betas of SDXL: float32 (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def train_vae(plan: Plan, bench: Bench) -> None:
    """Train the VAE on crops of the whole world, whatever the base will see, so that it need not change later."""
    torch.manual_seed(0)
    vae = make_vae(plan)
    vae_start.begin_with_colours(vae)
    vae.to(bench.device, memory_format=torch.channels_last)
    stage = plan.stages["vae"]

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        size = plan.sizes[int(rng.integers(len(plan.sizes)))]
        seeds = rng.integers(0, HELD_OUT, (stage.batch, 2)).tolist()
        crops = pictures([crop(rng, sample(seed, size, "all").picture, plan.crop_px) for seed in seeds])
        cells = plan.crop_px // 8
        return crops, torch.randn((stage.batch, 4, cells, cells), generator=torch_dice(rng))

    train("vae", {"vae": vae}, stage, bench, draw, lambda crops, noise: vae_start.loss(vae, crops, noise))
    level: Level
    for level in plan.levels | {"all": 1.0}:
        bench.say(f"vae: {psnr(vae, plan, bench, level):.2f} dB on held-out pictures, {level}")


@torch.no_grad()
def psnr(vae: AutoencoderKL, plan: Plan, bench: Bench, level: Level, count: int = 64) -> float:
    """Return the mean peak signal-to-noise ratio of held-out pictures through the VAE, in dB."""
    values = []
    for seed in range(count):
        size = plan.sizes[seed % len(plan.sizes)]
        shown = pictures([sample((HELD_OUT, seed), size, level, plainly=True)]).to(bench.device)
        seen = vae.decode(vae.encode(shown).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * math.log10(4 / max(float((seen - shown).pow(2).mean()), 1e-9)))
    return float(np.mean(values))


def text_encoders(plan: Plan, words: Words) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build both text encoders for the short vocabulary."""
    return make_text(plan, len(words), words.begin, words.end)


def train_text(plan: Plan, bench: Bench) -> None:
    """Teach both text encoders what a caption says, by having its attributes read off what the UNets will be given."""
    torch.manual_seed(1)
    words, stage, sizes = Words(), plan.stages["text"], attribute_sizes()
    text_l, text_g = (module.to(bench.device) for module in text_encoders(plan, words))
    take_up(bench, {"text_l": text_l, "text_g": text_g})
    widths = (plan.text_l_width, plan.text_g_width, text_g.config.projection_dim)
    heads = nn.ModuleList(nn.Linear(width, sum(sizes.values())) for width in widths).to(bench.device)

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        shown = [scene(rng, *plan.sizes[0], "all") for _ in range(stage.batch)]
        rows = words.rows([words.text(one, "all", rng) for one in shown], rng)
        known = [[attributes(one)[name] for name in sizes] for one in shown]
        return *(torch.from_numpy(table) for table in rows), torch.tensor(known)

    def loss_of(rows_l: Tensor, rows_g: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        states_l, states_g, pooled = read_text(text_l, text_g, rows_l, rows_g, words.end)
        ends = (rows_l == words.end).int().argmax(1)
        every = torch.arange(len(ends), device=ends.device)
        read = (states_l[every, ends], states_g[every, ends], pooled)
        total, right = rows_l.new_zeros((), dtype=torch.float32), []
        for head, features in zip(heads, read, strict=True):
            for number, scores in enumerate(head(features).float().split(list(sizes.values()), 1)):
                wanted = known[:, number]
                said = wanted >= 0
                if said.any():
                    total = total + nn.functional.cross_entropy(scores[said], wanted[said]) / len(sizes)
                    right.append((scores[said].argmax(1) == wanted[said]).float().mean())
        # A pooled vector of unit size stands on equal terms with the sinusoids of the sizes.
        total = total + 0.01 * (pooled.float().pow(2).mean() - 1).pow(2)
        return total, torch.stack(right).mean().detach()

    train("text", {"text_l": text_l, "text_g": text_g, "heads": heads}, stage, bench, draw, loss_of)


def train_base(plan: Plan, bench: Bench) -> None:
    """Train the base's UNet, and the text encoders a little further, through the widening worlds."""
    torch.manual_seed(2)
    words, stage, signal = Words(), plan.stages["base"], alphas_cumprod().to(bench.device)
    library = Library(plan, bench, words)
    text_l, text_g = (module.to(bench.device) for module in text_encoders(plan, words))
    unet = make_base(plan).to(bench.device, memory_format=bench.layout)
    take_up(bench, {"unet": unet, "text_l": text_l, "text_g": text_g})
    averaged("text", text_l, bench, "text_l")
    averaged("text", text_g, bench, "text_g")
    learns = plan.text_rate > 0
    for module in (text_l, text_g):
        module.requires_grad_(learns)
    see = bench.eye(unet)

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        drawn, captions = library.draw(rng, progress, stage.batch)
        rows = (torch.from_numpy(table) for table in words.rows(captions, rng))
        return drawn["latents"], drawn["sizes"], *rows, *_noise(rng, drawn["latents"], 1000)

    def loss_of(
        latents: Tensor, sizes: Tensor, rows_l: Tensor, rows_g: Tensor, noise: Tensor, times: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        states_l, states_g, pooled = read_text(text_l, text_g, rows_l, rows_g, words.end)
        context = torch.cat([states_l, states_g], -1) * kept[:, None, None]
        square = _square(see, latents, noise, times, signal, context, pooled * kept[:, None], sizes)
        return (square * _min_snr(signal[times])).mean(), square.mean().detach()

    modules = {"unet": unet, "text_l": text_l, "text_g": text_g}
    slower = {"text_l": plan.text_rate, "text_g": plan.text_rate}
    train("base", modules, stage, bench, draw, loss_of, slower=slower)


def text_stage(plan: Plan) -> str:
    """Return the stage in which the text encoders become what they will be."""
    return "base" if plan.text_rate > 0 else "text"


def train_refiner(plan: Plan, bench: Bench) -> None:
    """Train the refiner on low noise only, with the base's G as it is and the aesthetic score in place of a target."""
    torch.manual_seed(3)
    words, stage, signal = Words(), plan.stages["refiner"], alphas_cumprod().to(bench.device)
    library = Library(plan, bench, words)
    text_l, text_g = (module.to(bench.device).requires_grad_(False) for module in text_encoders(plan, words))
    # Where the base does not teach them, there is no need to wait for it.
    if not newest(bench, text_stage(plan), {"text_l": text_l, "text_g": text_g}):
        raise SystemExit("there are no text encoders yet: run the stages text and base first")
    unet = make_refiner(plan).to(bench.device, memory_format=bench.layout)
    see = bench.eye(unet)

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        drawn, captions = library.draw(rng, 0.99, stage.batch)
        rows = (torch.from_numpy(table) for table in words.rows(captions, rng))
        sizes = torch.cat([drawn["sizes"][:, :4], drawn["aesthetic"][:, None]], 1)
        return drawn["latents"], sizes, *rows, *_noise(rng, drawn["latents"], REFINER_STEPS)

    def loss_of(
        latents: Tensor, sizes: Tensor, rows_l: Tensor, rows_g: Tensor, noise: Tensor, times: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, states_g, pooled = read_text(text_l, text_g, rows_l, rows_g, words.end)
        context = states_g * kept[:, None, None]
        square = _square(see, latents, noise, times, signal, context, pooled * kept[:, None], sizes).mean()
        return square, square.detach()

    train("refiner", {"unet": unet}, stage, bench, draw, loss_of)


def train_lora(plan: Plan, bench: Bench) -> None:
    """Train the offset LoRA on a few pictures of wider tones, with the base as it is."""
    torch.manual_seed(4)
    words, stage, signal = Words(), plan.stages["lora"], alphas_cumprod().to(bench.device)
    library = Library(plan, bench, words)
    text_l, text_g = (module.to(bench.device).requires_grad_(False) for module in text_encoders(plan, words))
    unet = make_base(plan).to(bench.device).requires_grad_(False)
    if not newest(bench, "base", {"text_l": text_l, "text_g": text_g, "unet": unet}):
        raise SystemExit("there is no base yet: run the stage base first")
    vae = load_vae(plan, bench)
    additions = OffsetLora(unet).to(bench.device)
    take_up(bench, {"lora": additions})
    additions.join(unet)

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        drawn, captions = library.draw(rng, 0.99, stage.batch)
        rows = (torch.from_numpy(table) for table in words.rows(captions, rng))
        noise, times, kept = _noise(rng, drawn["latents"], 1000)
        return drawn["latents"], drawn["sizes"], *rows, with_offset(noise, torch_dice(rng)), times, kept

    def loss_of(
        latents: Tensor, sizes: Tensor, rows_l: Tensor, rows_g: Tensor, noise: Tensor, times: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wider = wider_tones(vae.decode(latents / LATENT_SCALE).sample)
            latents = vae.encode(wider).latent_dist.mean * LATENT_SCALE
            states_l, states_g, pooled = read_text(text_l, text_g, rows_l, rows_g, words.end)
            context = torch.cat([states_l, states_g], -1) * kept[:, None, None]
        square = _square(unet, latents, noise, times, signal, context, pooled * kept[:, None], sizes)
        return (square * _min_snr(signal[times])).mean(), square.mean().detach()

    train("lora", {"lora": additions}, stage, bench, draw, loss_of)


def train_judge(plan: Plan, bench: Bench) -> None:
    """Train the judge of looks and landscapes, from pictures of its own."""
    torch.manual_seed(5)
    stage = plan.stages[JUDGE]
    judge = Judge().to(bench.device)

    def draw(rng: np.random.Generator, progress: float) -> tuple[Tensor, ...]:
        size = plan.sizes[int(rng.integers(len(plan.sizes)))]
        made = [judge_sample(seed, size) for seed in rng.integers(0, HELD_OUT, (stage.batch, 2)).tolist()]
        shown = squeeze([picture for picture, _ in made])
        # A little noise and blur, so that it looks at what is shown and not at how cleanly.
        shown = shown + torch.randn(shown.shape, generator=torch_dice(rng)) * float(rng.uniform(0, 0.06))
        return shown, answers([shown_scene for _, shown_scene in made])

    train(JUDGE, {JUDGE: judge}, stage, bench, draw, lambda shown, wanted: judge_loss(judge, shown, wanted))


def _noise(rng: np.random.Generator, latents: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw noise, timesteps spread evenly over 0 .. steps, and which captions stay (1) or become zeros (0)."""
    batch = len(latents)
    noise = torch.randn(latents.shape, generator=torch_dice(rng))
    spread = (np.arange(batch) + rng.random()) / batch * steps
    times = torch.from_numpy(rng.permutation(spread.astype(np.int64).clip(0, steps - 1)))
    return noise, times, torch.from_numpy(rng.random(batch) >= UNCAPTIONED).float()


def _min_snr(signal: Tensor) -> Tensor:
    """Return the weight in the loss of the noise at each signal's part of the variance: min(SNR, MIN_SNR) / SNR."""
    ratio = signal / (1 - signal)
    return ratio.clamp(max=MIN_SNR) / ratio


def _square(
    unet: Callable[..., Any],
    latents: Tensor,
    noise: Tensor,
    times: Tensor,
    signal: Tensor,
    context: Tensor,
    pooled: Tensor,
    sizes: Tensor,
) -> Tensor:
    """Return each picture's mean square error (B,) of the noise that the UNet sees in noisy latents."""
    part = signal[times][:, None, None, None]
    noisy = part.sqrt() * latents + (1 - part).sqrt() * noise
    told = {"text_embeds": pooled, "time_ids": sizes}
    seen = unet(noisy, times, encoder_hidden_states=context, added_cond_kwargs=told).sample
    return (seen.float() - noise).pow(2).mean((1, 2, 3))

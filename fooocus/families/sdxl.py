"""Stable Diffusion XL: its base and its refiner, and everything cut from the same cloth.

The two differ in their text encoders (base: CLIP-L and bigG; refiner: bigG alone) and in the numbers they are told
about the picture (SDXL report, arXiv:2307.01952, sections 2.2 to 2.5). Widths and depths are read off the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from fooocus.families.clip_text import read_text_g, read_text_l
from fooocus.families.layout import Declared, LayoutError, UnsupportedLayout, read_declared
from fooocus.families.records import Architecture, Blueprint, Family, Kind, Shapes
from fooocus.families.sdxl_unet import PREFIX as UNET
from fooocus.families.sdxl_unet import read_unet
from fooocus.families.sdxl_vae import PREFIX as VAE
from fooocus.families.sdxl_vae import is_vae, read_vae

SDXL_BASE = Family(
    name="sdxl_base",
    title="SDXL base",
    text=("text_l", "text_g"),
    size_ids=("height", "width", "top", "left", "target_height", "target_width"),
)
SDXL_REFINER = Family(
    name="sdxl_refiner",
    title="SDXL refiner",
    text=("text_g",),
    size_ids=("height", "width", "top", "left", "aesthetic"),
)

_TEXT_L = "conditioner.embedders.0.transformer."
_TEXT_G = {"sdxl_base": "conditioner.embedders.1.model.", "sdxl_refiner": "conditioner.embedders.0.model."}

# Tensors that real files carry and no network wants: constants, schedule tables, weight averages of the training.
_EXTRA_PREFIXES = ("model_ema.", "denoiser.", "loss.", "first_stage_model.loss.")
_EXTRA_NAMES = frozenset(
    (
        "v_pred", "ztsnr",  # markers, read before
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
        "logvar", "sigmas", "log_sigmas", "model_sampling.sigmas", "scale_factor",
        # CLIP-L's projection is never used by SDXL, but some savers write it
        "conditioner.embedders.0.transformer.text_projection.weight", "conditioner.embedders.0.text_projection",
    )
)  # fmt: skip
_EXTRA_SUFFIXES = (".position_ids", ".logit_scale", ".attn_mask", ".num_batches_tracked")


def find_family(shapes: Shapes) -> Family | None:
    """Say which family a checkpoint belongs to, by its text encoders; None if to none here."""
    if not any(key.startswith(UNET) for key in shapes):
        return None
    for family in (SDXL_BASE, SDXL_REFINER):
        if any(key.startswith(_TEXT_G[family.name]) for key in shapes):
            return family
    return None


def is_extra(key: str) -> bool:
    """Tell whether a tensor is one of those that files carry but no network needs."""
    return key.startswith(_EXTRA_PREFIXES) or key.endswith(_EXTRA_SUFFIXES) or key in _EXTRA_NAMES


def read_sdxl(family: Family, shapes: Shapes, metadata: Mapping[str, str]) -> Architecture:
    """Read the architecture of a checkpoint of ``family``. Raises :class:`LayoutError` where it contradicts itself."""
    declared = read_declared(shapes, metadata)
    wanted = {key: shape for key, shape in shapes.items() if not is_extra(key)}
    blueprints: dict[Kind, Blueprint] = {
        "unet": read_unet(wanted, declared),
        "text_g": read_text_g(wanted, _TEXT_G[family.name], declared),
    }
    if "text_l" in family.text:
        blueprints["text_l"] = read_text_l(wanted, _TEXT_L, declared)
    if any(key.startswith(VAE) for key in wanted):
        blueprints["vae"] = read_vae(wanted, declared)
    used = {source.key for blueprint in blueprints.values() for source in blueprint.sources.values()}
    if strangers := sorted(wanted.keys() - used):
        raise LayoutError("unexpected: " + ", ".join(strangers[:3]))
    return _join(family, blueprints, declared)


def read_vae_alone(shapes: Shapes, metadata: Mapping[str, str]) -> Blueprint:
    """Plan the VAE of a file that holds nothing else, or of a checkpoint. Raises :class:`LayoutError`."""
    if not is_vae(shapes):
        raise LayoutError("missing: decoder.conv_in.weight")
    return read_vae({k: s for k, s in shapes.items() if not is_extra(k)}, read_declared(shapes, metadata))


def _join(family: Family, blueprints: dict[Kind, Blueprint], declared: Declared) -> Architecture:
    """Check that the networks fit each other, and note the widths that run between them."""
    unet, pooled_width = blueprints["unet"].config, blueprints["text_g"].config["projection_dim"]
    context_width, adm_width = unet["cross_attention_dim"], unet["projection_class_embeddings_input_dim"]
    text_width = sum(blueprints[kind].config["hidden_size"] for kind in family.text)
    if text_width != context_width:
        raise LayoutError(f"its UNet reads context of width {context_width}, its text encoders write {text_width}")
    size_width, rest = divmod(adm_width - pooled_width, len(family.size_ids))
    if rest or size_width <= 0 or size_width % 2:
        raise LayoutError(
            f"its UNet's {adm_width} extra inputs do not hold a pooled text and {len(family.size_ids)} sizes"
        )
    latents = unet["in_channels"], unet["out_channels"]
    if latents != (4, 4):
        raise UnsupportedLayout(
            f"its UNet takes {latents[0]} channels and gives {latents[1]}, an inpainting or editing variant"
        )
    blueprints["unet"] = Blueprint("unet", {**unet, "addition_time_embed_dim": size_width}, blueprints["unet"].sources)
    return Architecture(
        family=family,
        blueprints=blueprints,
        prediction=declared.prediction,
        zero_terminal_snr=declared.zero_terminal_snr,
        latent_scale=declared.latent_scale,
        context_width=context_width,
        pooled_width=pooled_width,
        size_width=size_width,
        adm_width=adm_width,
    )

"""Write Pocket's files: ``python -m pocket.export --folder <of the training> --to models/pocket``.

The single-file layout of the original SDXL, float16, with what shapes do not tell declared in the metadata. Every file
is read back by the program's own loader and must give the very networks that were trained.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fooocus.families.tokenizer import VOCABULARY
from pocket import names
from pocket.begin import newest
from pocket.latents import load_vae
from pocket.lora import RANK, OffsetLora
from pocket.names import BASE, LORA, REFINER, TOKEN_TABLE
from pocket.networks import HEAD_WIDTH, PLANS, POOLED_WIDTH, TEXT_HEADS, Plan, make_base, make_refiner
from pocket.stages import text_encoders, text_stage
from pocket.training import Bench, averaged
from pocket.words import STRANGER, Words

MOST_BYTES = 30_000_000
"""What the files may weigh together."""

LARGEST_ERROR = 5e-3
"""Relative, between the trained network and the file's; rounding to float16 alone gives about 1e-3."""

_BELONGS = (("modelspec.architecture", "stable-diffusion-xl-v1"), ("modelspec.prediction_type", "epsilon"))


def export(plan: Plan, bench: Bench, to: Path) -> list[Path]:
    """Write those of the three files whose stages have begun; return their paths.

    A refiner or LoRA for shipped files, with which the training began, needs no base of the training's own.
    """
    to.mkdir(parents=True, exist_ok=True)
    words = Words()
    text_l, text_g = text_encoders(plan, words)
    base, refiner = make_base(plan), make_refiner(plan)
    parts = {"text_l": text_l, "text_g": text_g, "unet": base}
    written = []
    if all(averaged("base", module, bench, key) for key, module in parts.items()):
        tensors = names.unet_tensors(base.state_dict(), plan.base.layers)
        tensors |= names.vae_tensors(load_vae(plan, bench).state_dict(), len(plan.vae_widths))
        tensors |= names.text_l_tensors(full_table(text_l.state_dict(), words))
        tensors |= names.text_g_tensors(full_table(text_g.state_dict(), words), 1)
        written.append(_write(to / BASE, tensors, metadata(plan, "Pocket base")))
    elif not newest(bench, text_stage(plan), {"text_g": text_g}):
        raise SystemExit("there is no base yet: run the stage base first")
    if averaged("refiner", refiner, bench, "unet"):
        tensors = names.unet_tensors(refiner.state_dict(), plan.refiner.layers)
        tensors |= names.text_g_tensors(full_table(text_g.state_dict(), words), 0)
        written.append(_write(to / REFINER, tensors, metadata(plan, "Pocket refiner")))
    additions = OffsetLora(base)
    if averaged("lora", additions, bench, "lora"):
        written.append(_write(to / LORA, lora_tensors(additions, plan), dict(_BELONGS)))
    return written


def full_table(tensors: Mapping[str, Tensor], words: Words) -> dict[str, Tensor]:
    """Spread the short token table over CLIP's whole vocabulary: tokens that Pocket does not know share one row."""
    spread = dict(tensors)
    key = next(name for name in tensors if name.endswith(TOKEN_TABLE))
    table = tensors[key][STRANGER].expand(VOCABULARY, -1).clone()
    table[words.known] = tensors[key][1:]
    spread[key] = table
    return {name: tensor for name, tensor in spread.items() if not name.endswith("position_ids")}


def metadata(plan: Plan, title: str) -> dict[str, str]:
    """Declare what the shapes of the tensors do not tell."""
    return dict(_BELONGS) | {
        "modelspec.title": title,
        "fooocus.head_width": str(HEAD_WIDTH),
        "fooocus.text_l_heads": str(TEXT_HEADS),
        "fooocus.text_g_heads": str(TEXT_HEADS),
        "fooocus.norm_groups": str(plan.unet_groups),
        "fooocus.vae_norm_groups": str(plan.vae_groups),
    }


def lora_tensors(additions: OffsetLora, plan: Plan) -> dict[str, Tensor]:
    """Name the parts of the LoRA after the matrices of the original layout; alpha is the rank, for a factor of 1."""
    places = names.unet_places(plan.base.layers)
    tensors = {}
    for name, down, up in additions.parts():
        module = f"lora_unet_{names.unet_name(name, places).replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = down
        tensors[f"{module}.lora_up.weight"] = up
        tensors[f"{module}.alpha"] = torch.tensor(float(RANK))
    return tensors


def check(plan: Plan, bench: Bench, file: Path) -> None:
    """Load a written base or refiner with the program's loader and compare what its UNet answers with the trained one.

    Leaves the program if it differs.
    """
    from fooocus.loading.checkpoint import open_checkpoint

    is_base = file.name == BASE
    trained = make_base(plan) if is_base else make_refiner(plan)
    averaged("base" if is_base else "refiner", trained, bench, "unet")
    checkpoint = open_checkpoint(file, role="base" if is_base else "refiner")
    loaded: nn.Module = checkpoint.load("unet", dtype=torch.float32).module
    trained.eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 28, 36, generator=generator)
    width = plan.text_g_width + (plan.text_l_width if is_base else 0)
    context = torch.randn(2, 77, width, generator=generator)
    sizes = torch.ones(2, 6 if is_base else 5)
    told = {"text_embeds": torch.randn(2, POOLED_WIDTH, generator=generator), "time_ids": sizes}
    with torch.no_grad():
        ours, theirs = (
            unet(x, torch.tensor(500), encoder_hidden_states=context, added_cond_kwargs=told).sample
            for unet in (trained, loaded)
        )
    error = float((ours - theirs).norm() / ours.norm())
    if error > LARGEST_ERROR:
        raise SystemExit(f"the UNet in {file} answers otherwise than the trained one, by {error:.4f}")


def _write(path: Path, tensors: Mapping[str, Tensor], declared: Mapping[str, str]) -> Path:
    half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(half, path, metadata=dict(declared))
    return path


def main() -> int:
    """Write the files, check them, and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m pocket.export", description="Write Pocket's model files.")
    parser.add_argument("--folder", type=Path, required=True, help="the training's folder")
    parser.add_argument("--to", type=Path, required=True, help="where the files go")
    parser.add_argument("--plan", choices=tuple(PLANS), default="eighth", help="as in the training")
    parsed = parser.parse_args()
    plan, bench = PLANS[parsed.plan], Bench(parsed.folder, torch.device("cpu"), 0, math.inf, print)
    written = export(plan, bench, parsed.to)
    if not written:
        raise SystemExit("there is nothing to write yet: neither base nor refiner nor LoRA has begun")
    for file in written:
        if file.name != LORA:
            check(plan, bench, file)
    total = 0
    for path in written:
        total += path.stat().st_size
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path}")
    print(f"{total / 1e6:6.2f} MB together, {MOST_BYTES / 1e6:.0f} allowed")
    return 0 if total <= MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())

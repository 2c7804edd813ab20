"""Begin a training with the files of another: :mod:`pocket.export` walked backwards.

What the repository holds is all that is needed to go on: the weights are read by the program's own loader, the token
table is cut down to the words that are trained, and the rest is as if the stages up to the base had been run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fooocus.families.tokenizer import VOCABULARY
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.tensors import TensorFile
from pocket import names
from pocket.lora import OffsetLora
from pocket.names import BASE, LORA, TOKEN_TABLE
from pocket.networks import Plan, make_base, make_text, make_vae
from pocket.training import Bench, averaged, keep
from pocket.words import Words

BEGUN = "begin"


def begin(plan: Plan, bench: Bench, models: Path) -> None:
    """Put the networks of the files in ``models`` into the training's folder, unless it has been begun already.

    Raises the subclasses of :class:`fooocus.errors.ModelError` for a file that is none of Pocket's, and RuntimeError
    for one of other widths than the plan's.
    """
    if bench.path(BEGUN).exists():
        return
    words = Words()
    text_l, text_g = make_text(plan, len(words), words.begin, words.end)
    vae, unet = make_vae(plan), make_base(plan)
    checkpoint = open_checkpoint(models / BASE, role="base")
    for kind, module in (("unet", unet), ("vae", vae), ("text_l", text_l), ("text_g", text_g)):
        loaded = checkpoint.load(kind, dtype=torch.float32).module.state_dict()  # type: ignore[arg-type]
        module.load_state_dict(short_table(loaded, words))
    checkpoint.close()
    parts: dict[str, nn.Module] = {"unet": unet, "text_l": text_l, "text_g": text_g}
    if (models / LORA).exists():
        parts["lora"] = offset_lora(models / LORA, unet, plan)
    keep(vae.state_dict(), bench.path("vae_unit"))
    average = {f"{key}.{name}": value for key, module in parts.items() for name, value in module.state_dict().items()}
    keep({"average": average}, bench.path(BEGUN))
    bench.say(f"begun with {', '.join(parts)} and the VAE of {models}")


def take_up(bench: Bench, modules: Mapping[str, nn.Module]) -> bool:
    """Load what :func:`begin` found into the modules; say whether it found all of them."""
    return all(averaged(BEGUN, module, bench, key) for key, module in modules.items())


def newest(bench: Bench, stage: str, modules: Mapping[str, nn.Module]) -> bool:
    """Load what a stage has reached into the modules, or else what the training began with; say if there was either."""
    return all(averaged(stage, module, bench, key) for key, module in modules.items()) or take_up(bench, modules)


def short_table(tensors: Mapping[str, Tensor], words: Words) -> dict[str, Tensor]:
    """Cut a token table of CLIP's length down to the words that are known, with one row for all others in front.

    The stranger's row is the one that most tokens have. A word that the files did not know begins as a stranger.
    """
    cut = dict(tensors)
    for key in [name for name in tensors if name.endswith(TOKEN_TABLE)]:
        table = tensors[key]
        if table.shape[0] != VOCABULARY:
            continue
        rows, counts = table.unique(dim=0, return_counts=True)
        cut[key] = torch.cat([rows[counts.argmax()][None], table[words.known]])
    return cut


def offset_lora(path: Path, unet: nn.Module, plan: Plan) -> OffsetLora:
    """Return the LoRA of a file that :func:`pocket.export.lora_tensors` wrote."""
    additions, places = OffsetLora(unet), names.unet_places(plan.base.layers)
    file = TensorFile(path)
    for name, down, up in zip(additions.names, additions.down, additions.up, strict=True):
        stem = f"lora_unet_{names.unet_name(name, places).replace('.', '_')}"
        for part, matrix in (("down", down), ("up", up)):
            matrix.load_state_dict({"weight": file.tensor(f"{stem}.lora_{part}.weight").float()})
    file.close()
    return additions

"""Count what SDXL's networks take beside their weights while they work: live tensors of a pass without data.

    python benchmarks/activations.py

Nothing is computed: the full networks run on torch's "meta" device, which only knows shapes, so any computer counts the
same in under a minute. Attention counts as one piece, as the fused kernels do it. The numbers are the origin of the
constants in ``fooocus/memory/need.py``.
"""

from __future__ import annotations

import weakref
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20
SIZES = ((1152, 896), (1024, 1024), (512, 512))
UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER: dict[str, Any] = {
    **UNET,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; what ``weights`` hold does not count."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        held = [*weights.parameters(), *weights.buffers()]
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in held}
        self.now_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self.now_bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.now_bytes)
                weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self.now_bytes -= self._sizes.pop(key, 0)


def in_one_piece(query: Tensor, key: Tensor, value: Tensor, **others: Any) -> Tensor:
    """Stand in for attention, whose fused kernels keep nothing but the result."""
    return torch.empty_like(query)


def unet_peak(config: dict[str, Any], width: int, height: int, batch: int = 2) -> int:
    """Return the peak of one UNet call in half precision, without the keys and values that are kept for the prompt."""
    from diffusers import UNet2DConditionModel

    from fooocus.families import attention

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).half().eval()
    attention.install(unet)
    extra = config["projection_class_embeddings_input_dim"]
    ids = 6 if extra == 2816 else 5
    attend = mock.patch("torch.nn.functional.scaled_dot_product_attention", in_one_piece)
    with torch.no_grad(), torch.device("meta"), attend:
        x = torch.empty(batch, 4, height // 8, width // 8, dtype=torch.half)
        context = torch.empty(batch, 77, config["cross_attention_dim"], dtype=torch.half)
        pooled, sizes = torch.empty(batch, extra - 256 * ids, dtype=torch.half), torch.empty(batch, ids)
        added = {"text_embeds": pooled, "time_ids": sizes}
        unet(x, torch.empty(()), encoder_hidden_states=context, added_cond_kwargs=added)
        with Live(unet) as live:  # the second pass: keys and values of the text are there already
            unet(x, torch.empty(()), encoder_hidden_states=context, added_cond_kwargs=added)
    return live.peak_bytes


def sdxl_vae() -> nn.Module:
    """Return SDXL's VAE without data."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).eval()


def whole_peak(width: int, height: int) -> int:
    """Return the peak of decoding a picture in one piece, in float32."""
    vae = sdxl_vae()
    attend = mock.patch("torch.nn.functional.scaled_dot_product_attention", in_one_piece)
    with torch.no_grad(), torch.device("meta"), attend, Live(vae) as live:
        vae.decode(torch.empty(1, 4, height // 8, width // 8), return_dict=False)  # type: ignore[operator]
    return live.peak_bytes


def main() -> None:
    """Print the table."""
    print("| network | picture | peak | elements per channel and (latent) pixel |\n|---|---|---|---|")
    for width, height in SIZES:
        latent_px = width * height // 64
        for name, config in (("base", UNET), ("refiner", REFINER)):
            peak = unet_peak(config, width, height)
            elements = peak / 2 / (2 * latent_px * config["block_out_channels"][0])
            print(f"| {name}, fp16, 2 prompts | {width}x{height} | {peak / MIB:.0f} MiB | {elements:.1f} |")
        peak = whole_peak(width, height)
        print(
            f"| VAE whole, float32 | {width}x{height} | {peak / MIB:.0f} MiB | {peak / 4 / width / height / 128:.1f} |"
        )


if __name__ == "__main__":
    main()

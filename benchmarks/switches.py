"""What each idea for a faster step is worth on this computer, one by one, and how far it moves the numbers.

All variants of one UNet take turns on the same inputs (reduced size, see ``fooocus/bench/layout.py``, or SDXL's with
``--full``). On a processor the time is its own, summed over its cores, which other programs lengthen less than the
clock's; of all calls the least and the median are told.

Run ``python benchmarks/switches.py [--size 384x288] [--rounds 15]`` in the environment of the program. With
``--compile`` only torch.compile is tried, block by block, with an empty cache unless TORCHINDUCTOR_CACHE_DIR names one;
that needs a C++ compiler. The seconds of its first call are the clock's, because a person waits for them.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from fooocus.bench.clock import now
from fooocus.bench.layout import BASE, published, reduced
from fooocus.bench.weights import _write as write_weights
from fooocus.families import attention
from fooocus.loading.checkpoint import open_checkpoint
from fooocus.loading.device import choose_device
from fooocus.request import parse_size

Call = Callable[[], Tensor]


def fused(unet: nn.Module) -> nn.Module:
    """Join q, k and v of self-attention into one matrix; those of the text are asked once per prompt as it is."""

    def joined(layers: list[nn.Linear]) -> nn.Linear:
        whole = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), bias=False)
        whole.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
        return whole

    class Fused(attention.CachingAttention):
        def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
            heads = attn.heads
            if encoder_hidden_states is None:
                query, key, value = (attention._split(t, heads) for t in attn.to_qkv(hidden_states).chunk(3, dim=-1))
            else:
                query = attention._split(attn.to_q(hidden_states), heads)
                key, value = self._text(attn, encoder_hidden_states, heads)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            return attn.to_out[0](mixed.transpose(1, 2).flatten(2))

    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.to_qkv = joined([module.to_q, module.to_k, module.to_v])
            del module.to_q, module.to_k, module.to_v
        if name.endswith(("attn1", "attn2")):
            module.processor = Fused()
    return unet


def without_embeddings(unet: nn.Module) -> nn.Module:
    """Keep everything that depends on step, size and pooled text from the first call on, as if known beforehand."""

    def kept(module: nn.Module) -> None:
        known: list[Tensor] = []
        original = module.forward

        def forward(self: nn.Module, *arguments: Any, **named: Any) -> Tensor:
            if not known:
                known.append(original(*arguments, **named))
            return known[0]

        module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]

    for name, module in unet.named_modules():
        if name in ("time_proj", "time_embedding", "add_time_proj", "add_embedding") or name.endswith("time_emb_proj"):
            kept(module)
    return unet


def variants(plain: nn.Module) -> dict[str, nn.Module]:
    """Return the UNet as the program runs it, first, and as each idea would have it."""
    librarys = copy.deepcopy(plain)
    attention.install(plain)
    found = {
        "as it is": plain,
        "without kept keys and values": librarys,
        "channels last": copy.deepcopy(plain).to(memory_format=torch.channels_last),
        "fused projections": fused(copy.deepcopy(plain)),
        "embeddings known beforehand": without_embeddings(copy.deepcopy(plain)),
    }
    if next(plain.parameters()).dtype == torch.float32:
        found["bfloat16"] = copy.deepcopy(plain).to(torch.bfloat16)
    return found


def compiled(plain: nn.Module) -> dict[str, nn.Module]:
    """Return the UNet as the program runs it, and with each of its blocks compiled by torch's inductor."""
    blocks = copy.deepcopy(plain)
    for network in (plain, blocks):
        attention.install(network)
    for module in blocks.modules():
        if type(module).__name__ in ("BasicTransformerBlock", "ResnetBlock2D"):
            module.compile()
    return {"as it is": plain, "blocks compiled": blocks}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="384x288")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device, options.dtype)
    size = parse_size(options.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, BASE)
        write_weights(path, *(published(BASE) if options.full else reduced(BASE)))
        checkpoint = open_checkpoint(path)
        unet = checkpoint.load("unet", device=device.device, dtype=device.dtype).module
        for parameter in unet.parameters():
            parameter.data = parameter.data.clone()  # the file goes away
        checkpoint.close()
        networks = compiled(unet) if options.compile else variants(unet)
        if options.compile:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
            torch._dynamo.config.recompile_limit = 64  # the blocks have a dozen shapes between them
        rows = measure(networks, checkpoint.architecture, size, options.rounds, device.device)
    print(f"{device.reason}; {size}, {torch.get_num_threads()} threads, torch {torch.__version__}, load {_load()}")
    columns = ("least, s", "median, s", "of the first", "moves the output by", "first call, s")
    print(f"| a call for prompt and negative prompt | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    first = rows["as it is"]
    for name, (seconds, output, first_call) in rows.items():
        share = min(seconds) / min(first[0])
        moved = ((output - first[1]).norm() / first[1].norm()).item()
        times = f"{min(seconds):.3f} | {statistics.median(seconds):.3f}"
        print(f"| {name} | {times} | {share:.3f} | {moved:.1e} | {first_call:.1f} |")


def measure(
    networks: dict[str, nn.Module], architecture: Any, size: Any, rounds: int, device: torch.device
) -> dict[str, tuple[list[float], Tensor, float]]:
    """Ask all variants in turns; return the seconds of each call, the output in float32, and those of the first."""
    seeded = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=seeded).to(device)

    x = drawn(2, 4, size.height // 8, size.width // 8)
    context, pooled = drawn(2, 77, architecture.context_width), drawn(2, architecture.pooled_width)
    ids = torch.tensor([[float(size.height), float(size.width), 0.0, 0.0, float(size.height), float(size.width)]] * 2)
    inputs = {
        name: (x.to(dtype), context.to(dtype), pooled.to(dtype), ids.to(device))
        for name, dtype in ((name, next(network.parameters()).dtype) for name, network in networks.items())
    }
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    outputs: dict[str, Tensor] = {}
    firsts: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, network in networks.items():
            latents, told, vector, sizes = inputs[name]
            began, at = clock(device), time.perf_counter()
            with torch.no_grad():
                output = network(
                    latents,
                    torch.tensor(500.0, device=device),
                    encoder_hidden_states=told,
                    added_cond_kwargs={"text_embeds": vector, "time_ids": sizes},
                    return_dict=False,
                )[0]
            if turn:  # the first warms up
                seconds[name].append(clock(device) - began)
            else:
                firsts[name] = time.perf_counter() - at
            outputs[name] = output.float()
    return {name: (seconds[name], outputs[name], firsts[name]) for name in networks}


def clock(device: torch.device) -> float:
    """Return the processor's own seconds, or the clock's where a card works."""
    return time.process_time() if device.type == "cpu" else now(device)


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


if __name__ == "__main__":
    main()

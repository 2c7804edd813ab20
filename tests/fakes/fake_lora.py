"""Files for the fake hub that the scan of models takes for LoRAs, as files of noise would be called unusable."""

from __future__ import annotations

import json
import struct

from tests.fakes.fake_hub import RemoteFile


class LoraFile(RemoteFile):
    """A file that begins like a LoRA of one matrix, so that the scan takes it for what it is; the rest is noise."""

    def block(self, index: int) -> bytes:
        """Return the bytes of one block."""
        plain = super().block(index)
        return plain if index else self.head + plain[len(self.head) :]

    @property
    def head(self) -> bytes:
        """The header."""
        return lora_head(rank=self.size // 4096)


def lora_head(rank: int) -> bytes:
    """Return the header of a LoRA whose matrix has ``rank`` rows of 4096 bytes."""
    tensor = {"dtype": "F16", "shape": [rank, 2048], "data_offsets": [0, rank * 4096]}
    text = json.dumps({"lora_unet_middle_block_1_attn2_to_k.lora_down.weight": tensor}).encode()
    return struct.pack("<Q", len(text)) + text


def lora_file(name: str, rank: int) -> LoraFile:
    """Return a file of ``rank`` times 4 kB; different ranks have different bytes."""
    return LoraFile(name, len(lora_head(rank)) + rank * 4096, rank)

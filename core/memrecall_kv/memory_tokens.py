"""The learned compressor, layout `frozen_raw`: memory tokens that read a chunk the backbone has read.

Source: LycheeMemory, arXiv:2602.08382, section on the compressor. Deviations:

1. Raw tokens never see memory tokens. Reading them needs no gradient and is the untouched backbone,
   bit for bit; the published layout is `reference.py`.
2. A memory token takes no position of its own: it stands where the last token of its group stands.
3. Its embedding is the mean of its group's embeddings plus a learned vector, not a learned vector alone.
4. Its deltas are low-rank (LoRA) instead of full copies of the q, k and v projections.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.errors import InputError
from memrecall_kv.kv import KVAccess
from memrecall_kv.lora import LoraAdapter
from memrecall_kv.types import MemoryBlock

_EMBEDDING = "memory_embedding.safetensors"


class FrozenRawLayout:
    """Weights of the memory tokens and their forward.

    Args:
        kv: The backbone.
        adapter: Deltas that are on at memory positions only.
        embedding: Learned part of a memory token's embedding. `[hidden]`.
    """

    def __init__(self, kv: KVAccess, adapter: LoraAdapter, embedding: Tensor) -> None:
        self._kv = kv
        self.adapter = adapter.to(kv.backbone.device, kv.backbone.dtype)
        self.embedding = embedding.to(kv.backbone.device, kv.backbone.dtype)

    @classmethod
    def from_directory(cls, kv: KVAccess, path: Path) -> FrozenRawLayout:
        """Load what `save` wrote.

        Raises:
            InputError: If a file is missing or unreadable.
        """
        try:
            embedding = load_file(path / _EMBEDDING)["weight"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{path} holds no memory-token compressor: {error}", "Give a directory written by save_pretrained."
            ) from error
        return cls(kv, LoraAdapter.from_directory(path), embedding)

    def save(self, path: Path) -> None:
        """Write adapter and embedding."""
        self.adapter.save(path, base_model=self._kv.backbone.name)
        save_file({"weight": self.embedding.detach().contiguous().clone()}, path / _EMBEDDING)

    @property
    def digest(self) -> str:
        """Return a digest of the weights."""
        vector = self.embedding.detach().float().cpu().numpy().tobytes()
        return f"{self.adapter.digest}-{hashlib.sha256(vector).hexdigest()[:8]}"

    def compress(self, rows: Sequence[Sequence[int]], ratio: int) -> list[MemoryBlock]:
        """Return one block of `ceil(T / ratio)` memory tokens per row; gradient flows if it is on.

        Args:
            rows: Token ids of B chunks.
            ratio: Source tokens per memory token.
        """
        kv = self._kv
        width = max(len(row) for row in rows)
        ids, lengths = kv.pad([[kv.backbone.sink_id, *row] for row in rows], width + 1)
        context = kv.start(len(rows))
        with torch.no_grad():
            kv.forward(context, ids=ids)
        kept = math.ceil(width / ratio)
        ends = ((torch.arange(1, kept + 1, device=ids.device) * ratio)[None]).minimum(lengths[:, None] - 1)  # [B, M]
        with self.adapter.active(kv.backbone.model):
            kv.forward(
                context,
                embeds=self._embed(ids[:, 1:], ratio, lengths - 1),
                positions=ends,
                visible=_visible(ends, width),
            )
        columns = torch.arange(width + 1, width + 1 + kept)
        keys, values = kv.take(context, columns, ends)
        blocks = []
        for row, row_ids in enumerate(rows):
            size, own = len(row_ids), math.ceil(len(row_ids) / ratio)
            positions = (ends[row, :own] - 1).to(torch.int32)[None, None]  # the sink is not part of the block
            blocks.append(
                MemoryBlock(
                    keys[:, row, :, :own], values[:, row, :, :own], positions, extent=size, num_source_tokens=size
                )
            )
        return blocks

    def _embed(self, ids: Tensor, ratio: int, lengths: Tensor) -> Tensor:
        """Return the mean embedding of each group's real tokens plus the learned vector, `[B, M, hidden]`."""
        batch, width = ids.shape
        kept = math.ceil(width / ratio)
        raw = self._kv.embed(ids)
        real = (torch.arange(width, device=ids.device) < lengths[:, None]).to(raw.dtype)
        padding = (0, kept * ratio - width)
        raw = torch.nn.functional.pad(raw * real[..., None], (0, 0, *padding))
        count = torch.nn.functional.pad(real, padding).view(batch, kept, ratio).sum(dim=2).clamp_min(1)
        mean = raw.view(batch, kept, ratio, -1).sum(dim=2) / count[..., None]
        return mean + self.embedding


def _visible(ends: Tensor, width: int) -> Tensor:
    """Let a memory token see the raw tokens up to its own place and the memory tokens up to itself.

    Shapes:
        ends: `[B, M]` position of each memory token; raw tokens stand at 0 (sink) to `width`.
        return: `[B, M, 1 + width + M]` bool.
    """
    kept = ends.shape[1]
    raw = torch.arange(width + 1, device=ends.device)[None, None] <= ends[..., None]
    memory = torch.ones(kept, kept, dtype=torch.bool, device=ends.device).tril()
    return torch.cat([raw, memory[None].expand(len(ends), -1, -1)], dim=2)

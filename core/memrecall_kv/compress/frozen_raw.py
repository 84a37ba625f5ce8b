"""The learned compressor, layout `frozen_raw`: memory tokens that read a chunk the backbone has read.

Source: LycheeMemory, arXiv:2602.08382, section on the compressor. Deviations:

1. Raw tokens never see memory tokens. Reading them needs no gradient and is the untouched backbone,
   bit for bit; the published layout is `published.py`.
2. A memory token takes no position of its own: it stands where the last token of its group stands.
3. Its embedding is the mean of its group's embeddings plus a learned vector, not a learned vector alone.
4. Its deltas are low-rank (LoRA) instead of full copies of the q, k and v projections.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.compressor import in_batches
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import InputError
from memrecall_kv.types import Chunk, MemoryBlock

_EMBEDDING = "memory_embedding.safetensors"


@dataclass(frozen=True, eq=False)
class Reading:
    """Chunks that the backbone has read.

    Attributes:
        state: What it holds of them, the sink first.
        ids: `[B, 1 + T]`.
        lengths: Tokens of each row, the sink included. `[B]`.
    """

    state: KVState
    ids: Tensor
    lengths: Tensor


class FrozenRawLayout:
    """Weights of the memory tokens and their forward.

    Args:
        backbone: The model.
        adapter: Deltas that are on at memory positions only.
        embedding: Learned part of a memory token's embedding. `[hidden]`.
    """

    def __init__(self, backbone: Backbone, adapter: LoraAdapter, embedding: Tensor) -> None:
        self._backbone = backbone
        self.adapter = adapter.to(backbone.device, backbone.dtype)
        self.embedding = embedding.to(backbone.device, backbone.dtype)

    @classmethod
    def from_directory(cls, backbone: Backbone, path: Path) -> FrozenRawLayout:
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
        return cls(backbone, LoraAdapter.from_directory(path), embedding)

    def save(self, path: Path) -> None:
        """Write adapter and embedding."""
        self.adapter.save(path, base_model=self._backbone.name)
        save_file({"weight": self.embedding.detach().contiguous().clone()}, path / _EMBEDDING)

    @property
    def digest(self) -> str:
        """Return a digest of the weights; see `LoraAdapter.digest`."""
        vector = self.embedding.detach().bfloat16().float().cpu().numpy().tobytes()
        return f"{self.adapter.digest}-{hashlib.sha256(vector).hexdigest()[:8]}"

    def compress(self, rows: Sequence[Sequence[int]], ratio: int) -> list[MemoryBlock]:
        """Return one block of `ceil(T / ratio)` memory tokens per row; gradient flows if it is on.

        Args:
            rows: Token ids of B chunks.
            ratio: Source tokens per memory token.
        """
        return self.write(self.read(rows), ratio)

    def read(self, rows: Sequence[Sequence[int]]) -> Reading:
        """Read chunks with the untouched backbone, without gradient."""
        backbone = self._backbone
        ids, lengths = backbone.kv.pad([[backbone.sink_id, *row] for row in rows])
        state = backbone.kv.start(len(rows))
        with torch.no_grad():
            backbone.kv.forward(state, ids=ids)
        return Reading(state, ids, lengths)

    def write(self, reading: Reading, ratio: int) -> list[MemoryBlock]:
        """Let memory tokens read what was read, and return their keys and values as blocks."""
        backbone = self._backbone
        sizes = (reading.lengths - 1).tolist()
        width = reading.ids.shape[1] - 1
        kept = math.ceil(width / ratio)
        steps = torch.arange(1, kept + 1, device=reading.ids.device) * ratio
        ends = steps[None].minimum(reading.lengths[:, None] - 1)  # [B, M]
        first = reading.state.mask.shape[1]
        with self.adapter.active(backbone.model):
            backbone.kv.forward(
                reading.state,
                embeds=self._embed(reading, ratio),
                positions=ends,
                visible=_visible(ends, width),
            )
        keys, values = backbone.kv.take(reading.state, torch.arange(first, first + kept), ends)
        return [_block(keys, values, ends, row, math.ceil(size / ratio), size) for row, size in enumerate(sizes)]

    def whole(self, reading: Reading) -> list[MemoryBlock]:
        """Return the chunks uncompressed, as blocks of ratio 1."""
        places = torch.arange(1, reading.ids.shape[1], device=reading.ids.device)[None]
        keys, values = self._backbone.kv.take(reading.state, places[0], places)
        places = places.expand(len(reading.ids), -1)
        return [
            _block(keys, values, places, row, size, size) for row, size in enumerate((reading.lengths - 1).tolist())
        ]

    def _embed(self, reading: Reading, ratio: int) -> Tensor:
        """Return the mean embedding of each group's real tokens plus the learned vector, `[B, M, hidden]`."""
        ids, lengths = reading.ids[:, 1:], reading.lengths - 1
        raw = self._backbone.kv.embed(ids)
        batch, width = ids.shape
        kept = math.ceil(width / ratio)
        real = (torch.arange(width, device=ids.device) < lengths[:, None]).to(raw.dtype)
        padding = (0, kept * ratio - width)
        raw = torch.nn.functional.pad(raw * real[..., None], (0, 0, *padding))
        count = torch.nn.functional.pad(real, padding).view(batch, kept, ratio).sum(dim=2).clamp_min(1)
        mean = raw.view(batch, kept, ratio, -1).sum(dim=2) / count[..., None]
        return mean + self.embedding


class MemoryTokenCompressor:
    """The learned compressor in the `frozen_raw` layout; see `frozen_raw.py`.

    Args:
        backbone: The model.
        layout: The trained weights.
        config: The ratio.
    """

    unrotated = False

    def __init__(self, backbone: Backbone, layout: FrozenRawLayout, config: CompressorConfig) -> None:
        self._backbone = backbone
        self.layout = layout
        self.config = config

    @property
    def digest(self) -> str:
        """Name the weights."""
        return f"memory_tokens:{self.layout.digest}"

    def compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return one block of `ceil(T / compression_ratio)` memory tokens per chunk, in order.

        Raises:
            ContextOverflowError: If a chunk is longer than the backbone's window.
            InputError: If a chunk has no tokens.
        """
        return in_batches(
            self._backbone, chunks, lambda rows: self.layout.compress(rows, self.config.compression_ratio)
        )


def _visible(ends: Tensor, width: int) -> Tensor:
    """Let a memory token see the raw tokens up to its own place and the memory tokens up to itself.

    Args:
        ends: Position of each memory token; raw tokens stand at 0 (sink) to `width`. `[B, M]`.
        width: Raw tokens of the longest row.

    Returns:
        `[B, M, 1 + width + M]` bool.
    """
    kept = ends.shape[1]
    raw = torch.arange(width + 1, device=ends.device)[None, None] <= ends[..., None]
    memory = torch.ones(kept, kept, dtype=torch.bool, device=ends.device).tril()
    return torch.cat([raw, memory[None].expand(len(ends), -1, -1)], dim=2)


def _block(keys: Tensor, values: Tensor, ends: Tensor, row: int, kept: int, size: int) -> MemoryBlock:
    positions = (ends[row, :kept] - 1).to(torch.int32)[None, None]  # the sink is not part of the block
    return MemoryBlock(keys[:, row, :, :kept], values[:, row, :, :kept], positions, extent=size, num_source_tokens=size)

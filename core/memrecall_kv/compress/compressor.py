"""Chunks to memory blocks, without knowing any question: what a compressor is, and how its forwards are filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.errors import InputError
from memrecall_kv.types import Chunk, MemoryBlock

BATCH_TOKENS = 2048
"""Tokens of one forward: enough to keep two cores or one GPU busy, little enough for any memory."""


class Compressor(Protocol):
    """What the pipeline needs of a compressor."""

    @property
    def digest(self) -> str:
        """Name whatever changes a block besides the backbone; part of the bank's fingerprint."""
        ...

    @property
    def unrotated(self) -> bool:
        """Whether blocks are read with keys left un-rotated, as published checkpoints are."""
        ...

    def compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return one block per chunk, in order."""
        ...


def in_batches(
    backbone: Backbone, chunks: Sequence[Chunk], make: Callable[[list[list[int]]], list[MemoryBlock]]
) -> list[MemoryBlock]:
    """Compress batches of chunks of similar length and return the blocks in the order of the chunks."""
    rows = encode_chunks(backbone, chunks)
    blocks: dict[int, MemoryBlock] = {}
    for batch in batches(rows):
        with torch.inference_mode():
            made = make([rows[index] for index in batch])
        blocks.update(zip(batch, made, strict=True))
    return [blocks[index] for index in range(len(chunks))]


def encode_chunks(backbone: Backbone, chunks: Sequence[Chunk]) -> list[list[int]]:
    """Return the token ids of every chunk, its heading in front.

    Raises:
        InputError: If a chunk has no tokens.
    """
    rows = [backbone.encode(chunk.judged_text) for chunk in chunks]
    for chunk, row in zip(chunks, rows, strict=True):
        if not row:
            raise InputError(f"Chunk {chunk.id} has no tokens.", "Leave empty texts out.")
    return rows


def batches(rows: Sequence[Sequence[int]], budget: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield indices of rows of similar length, as many as fit one forward of `budget` tokens, padding included."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

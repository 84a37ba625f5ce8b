"""What the tests of the bank share."""

from __future__ import annotations

import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.types import Chunk, Document, MemoryBlock

FINGERPRINT = {"backbone": "tiny", "compression_ratio": "4"}


def block(seed: int, tokens: int = 4) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, 2, tokens, 8, generator=generator) for _ in range(2))
    return MemoryBlock(keys, values, torch.arange(tokens, dtype=torch.int32)[None, None] * 4, tokens * 4, tokens * 4)


def chunks_of(document: Document, size: int = 10) -> list[Chunk]:
    starts = range(0, len(document.text), size)
    return [
        Chunk(document.id, index, start, min(start + size, len(document.text)), document.text[start : start + size], 3)
        for index, start in enumerate(starts)
    ]


def put(bank: MemoryBank, document: Document) -> list[Chunk]:
    chunks = chunks_of(document)
    bank.put_blocks([(chunk, block(sum(chunk.text.encode()))) for chunk in bank.missing(chunks)])
    bank.put_document(document, chunks)
    return chunks


def same(one: MemoryBlock, other: MemoryBlock) -> bool:
    return (
        torch.equal(one.keys, other.keys)
        and torch.equal(one.values, other.values)
        and torch.equal(one.positions, other.positions)
        and (one.extent, one.num_source_tokens) == (other.extent, other.num_source_tokens)
    )

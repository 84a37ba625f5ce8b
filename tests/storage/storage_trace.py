"""What the storage tests do to a bank, and what the bank must hold after each step."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.types import Chunk, Document, MemoryBlock

FINGERPRINT = {"backbone": "tiny"}
NATIVE = BankConfig(storage="native", segment_bytes=4096, wait_seconds=0.3)
BUDGET = NATIVE.model_copy(update={"max_bytes": 12 * 1024})
"""Holds fewer blocks than the steps and the writers store."""


class WrongError(Exception):
    """A bank holds, or says, what it must not."""


def block_of(text: str) -> MemoryBlock:
    """Return a block that only this text has."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    keys, values = (torch.randn(1, 2, 3, 8, generator=generator) for _ in range(2))
    return MemoryBlock(keys, values, torch.arange(3, dtype=torch.int32)[None, None], 6, 6)


def chunks_of(document: Document) -> list[Chunk]:
    starts = range(0, len(document.text), 8)
    return [
        Chunk(document.id, index, start, min(start + 8, len(document.text)), document.text[start : start + 8], 6)
        for index, start in enumerate(starts)
    ]


def put(bank: MemoryBank, document: Document) -> None:
    chunks = chunks_of(document)
    bank.put_blocks([(chunk, block_of(chunk.text)) for chunk in bank.missing(chunks)])
    bank.put_document(document, chunks)


def open_bank(path: Path, config: BankConfig = NATIVE) -> MemoryBank:
    return MemoryBank.open(path, fingerprint=FINGERPRINT, config=config)


def content(bank: MemoryBank) -> list[Document]:
    """Return the documents, after comparing chunks and blocks with them.

    Raises:
        WrongError: If they differ.
    """
    documents, chunks = bank.documents(), bank.chunks()
    if chunks != [chunk for document in documents for chunk in chunks_of(document)]:
        raise WrongError("chunks are not those of the documents")
    missing = {chunk.text for chunk in bank.missing(chunks)}
    there = [chunk for chunk in chunks if chunk.text not in missing]
    if len(chunks) - len(there) != bank.stats().chunks_evicted:
        there = chunks  # a block that nobody evicted is lost
    for chunk, block in zip(there, bank.blocks(there), strict=True):
        if not torch.equal(block.keys, block_of(chunk.text).keys):
            raise WrongError(f"the block of {chunk.id} is another's")
    return documents


def goes_on(bank: MemoryBank) -> None:
    """Verify, write, compact and verify; nothing unused may be left, and nothing beyond a budget."""
    bank.verify()
    put(bank, Document("next", "it goes on"))
    bank.compact()
    stats = bank.stats()
    if stats.file_bytes != stats.live_bytes:
        raise WrongError(f"{stats.file_bytes} bytes are kept for {stats.live_bytes}")
    if bank.budget.max_bytes is not None and stats.live_bytes > bank.budget.max_bytes:
        raise WrongError(f"{stats.live_bytes} bytes are in use, {bank.budget.max_bytes} may be")
    bank.verify()


OLD = Document("a", "aaaabbbbccccdddd", {"n": 1})
NEW = Document("a", "bbbbddddeeeeffffgggg", {"n": 2})
OTHER = Document("b", "bbbbddddhhhh")
LARGE = Document("large", "".join(f"{number:08d}" for number in range(40)), {"k": "v" * 3000})
MORE = Document("more", "".join(f"{number:08d}" for number in range(100, 112)))

STEPS: list[tuple[Callable[[MemoryBank], object], list[Document]]] = [
    (lambda bank: put(bank, OLD), [OLD]),
    (lambda bank: put(bank, OTHER), [OLD, OTHER]),
    (lambda bank: put(bank, NEW), [NEW, OTHER]),
    (lambda bank: bank.compact(), [NEW, OTHER]),
    (lambda bank: put(bank, LARGE), [NEW, OTHER, LARGE]),
    (lambda bank: bank.delete("a"), [OTHER, LARGE]),
    (lambda bank: bank.compact(), [OTHER, LARGE]),
    (lambda bank: put(bank, OLD), [OTHER, LARGE, OLD]),
    (lambda bank: bank.delete("large"), [OTHER, OLD]),
    (lambda bank: bank.compact(), [OTHER, OLD]),
    # from here on under a budget
    (lambda bank: put(bank, MORE), [OTHER, OLD, MORE]),
    (lambda bank: bank.budget.mark_opened(bank.chunks()[:2]), [OTHER, OLD, MORE]),
    (lambda bank: put(bank, LARGE), [OTHER, OLD, MORE, LARGE]),
    (lambda bank: bank.delete("more"), [OTHER, OLD, LARGE]),
    (lambda bank: put(bank, MORE), [OTHER, OLD, LARGE, MORE]),
]
"""What is done, and what the bank holds when it is done."""

EVICTS = len(STEPS) - 4
"""The first step that is done under a budget, counted from 1."""


def versioned(doc_id: str, version: int) -> Document:
    """Return a document whose text shows whether it is whole and which version it is."""
    source = random.Random(f"{doc_id}/{version}")
    words = " ".join(
        source.choice(("alpha", "beta", f"x{source.randrange(50)}")) for _ in range(source.randrange(1, 40))
    )
    text = f"{doc_id}:{version}:{words}"
    return Document(doc_id, f"{text}|{zlib.crc32(text.encode()):08x}", {"version": version})

"""What the tests of shards by workers share; workers import it by name."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from memrecall_kv.bank.shards import open_bank, shard_of
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document

SHARDS = 2
QUESTION = "Which ship carries tea number 7?"


def load() -> MemRecall:
    return tiny_memory(
        MemRecallConfig(
            chunking=ChunkingConfig(chunk_tokens=32),
            gate=GateConfig(threshold=0.4, lexical_weight=1.0),
            scan=ScanConfig(top_k=3, candidates=8),
            reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=6),
        )
    )


class Mortal:
    """A compressor whose process is killed in its second batch, if a file is there: it is taken away first."""

    def __init__(self, compressor, flag: Path) -> None:
        self._compressor, self._flag, self._calls = compressor, flag, 0

    def __getattr__(self, name):
        return getattr(self._compressor, name)

    def compress(self, chunks):
        self._calls += 1
        if self._calls == 2 and self._flag.exists():
            self._flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._compressor.compress(chunks)


def load_mortal(flag: Path) -> MemRecall:
    parts = load().parts
    return MemRecall(replace(parts, compressor=Mortal(parts.compressor, flag)))


def texts(count: int = 60) -> list[Document]:
    """About 130 chunks, of which every third document has no id of its own."""
    return [
        Document(
            "" if number % 3 == 0 else f"ship {number}",
            f"Ship {number} carries tea number {number} to port {number % 7}." + " It sails at noon." * (number % 4),
            {"port": number % 7},
        )
        for number in range(count)
    ]


def contents(paths: list[Path] | Path) -> dict[str, tuple]:
    """Every chunk's block as it is stored, its numbers and its sizes, by the chunk's id."""
    found = {}
    with open_bank(paths, read_only=True) as bank:
        for chunk in bank.chunks():
            (block,) = bank.blocks([chunk])
            tensors = (block.keys, block.values, block.positions)
            found[chunk.id] = (chunk.text, *(tensor.contiguous().numpy().tobytes() for tensor in tensors))
        return found


def home(folder: Path, doc_id: str, shards: int = SHARDS) -> int:
    return shard_of(doc_id, shards)

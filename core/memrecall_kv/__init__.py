"""Compressed-memory recall: compress documents once into KV-cache blocks, then recall what a question needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrecall_kv.config import (
    BankConfig,
    ChunkingConfig,
    CompressorConfig,
    GateConfig,
    MemRecallConfig,
    ReasonerConfig,
    ScanConfig,
)
from memrecall_kv.errors import MemRecallError
from memrecall_kv.faces import on_demand
from memrecall_kv.types import (
    Answer,
    Chunk,
    Document,
    IngestReport,
    MemoryBlock,
    Quote,
    Recall,
    Trace,
    Usage,
    WorkingMemory,
)

if TYPE_CHECKING:
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall

__all__ = [
    "Answer",
    "BankConfig",
    "Chunk",
    "ChunkingConfig",
    "CompressorConfig",
    "Document",
    "GateConfig",
    "IngestReport",
    "MemoryBank",
    "MemoryBlock",
    "MemRecall",
    "MemRecallConfig",
    "MemRecallError",
    "Quote",
    "ReasonerConfig",
    "Recall",
    "ScanConfig",
    "Trace",
    "Usage",
    "WorkingMemory",
]

__getattr__ = on_demand(__name__, {"MemoryBank": "memrecall_kv.bank.bank", "MemRecall": "memrecall_kv.pipeline"})

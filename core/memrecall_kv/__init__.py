"""Compressed-memory recall: compress documents once into KV-cache blocks, then recall what a question needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from memrecall_kv.types import (
    Answer,
    Chunk,
    Document,
    IngestReport,
    MemoryBlock,
    Recall,
    Trace,
    Usage,
    WorkingMemory,
)

if TYPE_CHECKING:
    from memrecall_kv.bank import MemoryBank
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
    "ReasonerConfig",
    "Recall",
    "ScanConfig",
    "Trace",
    "Usage",
    "WorkingMemory",
]

# torch takes seconds to import; these names bring it in when they are first used
_LAZY = {"MemoryBank": "memrecall_kv.bank", "MemRecall": "memrecall_kv.pipeline"}


def __getattr__(name: str) -> Any:
    """Import the pipeline and the bank when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

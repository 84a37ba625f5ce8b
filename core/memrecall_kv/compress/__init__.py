"""Chunk -> memory block, before any question is known."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.compress.compressor import Compressor
    from memrecall_kv.compress.frozen_raw import MemoryTokenCompressor
    from memrecall_kv.compress.operators import OperatorCompressor
    from memrecall_kv.compress.published import ReferenceCompressor

__all__ = [
    "Compressor",
    "MemoryTokenCompressor",
    "OperatorCompressor",
    "ReferenceCompressor",
]

__getattr__ = on_demand(
    __name__,
    {
        "Compressor": "memrecall_kv.compress.compressor",
        "MemoryTokenCompressor": "memrecall_kv.compress.frozen_raw",
        "OperatorCompressor": "memrecall_kv.compress.operators",
        "ReferenceCompressor": "memrecall_kv.compress.published",
    },
)

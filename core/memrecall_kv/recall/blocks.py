"""The blocks of chunks, read from a bank; those that ingest deferred are compressed first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.compress.compressor import Compressor
from memrecall_kv.errors import BlockCorruptError
from memrecall_kv.ingest.ingest import compress_into
from memrecall_kv.recall.gate import AtRest, Gate, PlacingGate
from memrecall_kv.recall.resident import ResidentBlocks
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Chunk, MemoryBlock

_AT_ONCE = 32
"""Blocks that are in memory as they are stored while a gate gets ready what it reads of them."""


class BlockReader:
    """Reads blocks in a turn of the backbone's, since it may compress.

    Args:
        bank: Where they are.
        compressor: Makes those that are not there yet.
        backbone: Is to read them.
        stages: Are told how much was read.
        resident: Keeps what a gate reads of them.
        layers: Which `(first, last)` they hold; `None` for all.
    """

    def __init__(
        self,
        bank: MemoryBank,
        compressor: Compressor,
        backbone: Backbone,
        stages: Stages,
        resident: ResidentBlocks,
        layers: tuple[int, int] | None = None,
    ) -> None:
        self._bank, self._compressor, self._backbone, self._stages = bank, compressor, backbone, stages
        self._resident, self._shape = resident, backbone.kv.block_shape(layers)

    def read(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order, in the backbone's dtype, whatever they were made in.

        Raises:
            BankError: If a block is damaged or is none of this backbone's, or cannot be written.
            ConfigError: If a block is larger than the bank may be.
            InputError: If a chunk has no block, and the bank is open for reading.
        """
        # what is read here may not make room for what is compressed here
        with self._bank.budget.holding(chunks):
            for _ in compress_into(self._bank, self._bank.deferred(chunks), self._compressor.compress):
                pass  # each group is durable by now
            blocks = self._bank.blocks(chunks, shape=self._shape)
        self._stages.read(sum(block.nbytes for block in blocks))
        return [self._read_by_backbone(chunk, block) for chunk, block in zip(chunks, blocks, strict=True)]

    def read_for(self, gate: Gate, chunks: Sequence[Chunk]) -> Sequence[Any]:
        """Return the blocks of chunks as a gate reads them, in order; raises as `read`."""
        if not isinstance(gate, PlacingGate):
            return self.read(chunks)

        def placed(missing: Sequence[Chunk]) -> list[AtRest]:
            parts = [missing[start : start + _AT_ONCE] for start in range(0, len(missing), _AT_ONCE)]
            return [gate.place(block) for part in parts for block in self.read(part)]

        return self._resident.of(self._bank, chunks, placed)

    def _read_by_backbone(self, chunk: Chunk, block: MemoryBlock) -> MemoryBlock:
        dtype, window = self._backbone.dtype, self._backbone.window
        problem = ""
        if block.extent > window:
            problem = f"takes {block.extent} positions, but the backbone has {window}"
        elif block.keys.dtype != dtype:
            block = replace(block, keys=block.keys.to(dtype), values=block.values.to(dtype))
            # what was finite where it was made need not be here
            if not (bool(block.keys.isfinite().all()) and bool(block.values.isfinite().all())):
                problem = f"holds numbers that the backbone's {str(dtype).removeprefix('torch.')} cannot"
        if problem:
            raise BlockCorruptError(
                f"The block of chunk {chunk.id} {problem}.", "Delete the document and ingest it again."
            )
        return block

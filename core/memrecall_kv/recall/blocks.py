"""The blocks of chunks, read from a bank; those that ingest deferred are compressed first."""

from __future__ import annotations

from collections.abc import Sequence

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.compress.compressor import Compressor
from memrecall_kv.ingest.ingest import compress_into
from memrecall_kv.types import Chunk, MemoryBlock


class BlockReader:
    """Reads blocks in a turn of the backbone's, since it may compress.

    Args:
        bank: Where they are.
        compressor: Makes those that are not there yet.
    """

    def __init__(self, bank: MemoryBank, compressor: Compressor) -> None:
        self._bank, self._compressor = bank, compressor

    def read(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order.

        Raises:
            BankError: If a block is damaged, or cannot be written.
            ConfigError: If a block is larger than the bank may be.
            InputError: If a chunk has no block, and the bank is open for reading.
        """
        # what is read here may not make room for what is compressed here
        with self._bank.budget.holding(chunks):
            for _ in compress_into(self._bank, self._bank.deferred(chunks), self._compressor.compress):
                pass  # each group is durable by now
            return self._bank.blocks(chunks)

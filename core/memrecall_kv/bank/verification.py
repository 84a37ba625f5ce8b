"""Looking at everything that a bank holds: rows, texts and records."""

from __future__ import annotations

from collections.abc import Callable

from memrecall_kv.bank import segment
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.errors import BankFormatError, BlockCorruptError
from memrecall_kv.types import Chunk


def verify_bank(
    catalogue: Catalogue, block_id_of: Callable[[Chunk], bytes], record_of: Callable[[bytes, str], bytes]
) -> int:
    """Return the number of blocks in use; raises like `MemoryBank.verify`.

    Args:
        catalogue: The bank's.
        block_id_of: Makes a block's id from a chunk's text.
        record_of: Reads a block's record by its id and a chunk's, comparing it with its checksums.
    """
    damage = catalogue.damage()
    if damage is not None:
        raise BankFormatError(f"The catalogue of {catalogue.path} is damaged: {damage}.", "Restore it or ingest again.")
    deferred = {block_id for _, block_id in catalogue.deferred()}
    blocks: dict[bytes, Chunk] = {}
    for entry in catalogue.entries(check=False):
        for chunk, (*_, block_id) in zip(entry.chunks, entry.cuts, strict=True):
            # a block's id is made from the text
            if block_id_of(chunk) != block_id:
                raise BlockCorruptError(
                    f"The text of chunk {chunk.id} is not the one its block was made from.", "Ingest it again."
                )
            if block_id not in deferred:
                blocks.setdefault(block_id, chunk)
        if not entry.is_whole:
            raise catalogue.changed(f"document {entry.id!r}")
        catalogue.parsed(entry.metadata)
    tokens = catalogue.confirm_blocks()
    for block_id, chunk in blocks.items():
        if segment.layout(record_of(block_id, chunk.id), chunk.id).memory_tokens != tokens.get(block_id):
            raise BlockCorruptError(
                f"The block of chunk {chunk.id} holds other memory tokens than the catalogue says.",
                "Delete the document and ingest it again.",
            )
    disagreement = catalogue.disagreement()
    if disagreement is not None:
        raise BankFormatError(f"The catalogue of {catalogue.path} is damaged: {disagreement}.", "Call compact.")
    return len(blocks)

"""A copy of a bank as it is at one moment, without anything that was deleted, and under an id of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from memrecall_kv.bank import segment
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.directory import CATALOGUE, LOCK, BankDirectory
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.bank.schema import FORMAT_VERSION
from memrecall_kv.bank.segment_writer import SegmentWriter
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.errors import BankLockedError, InputError

_TRIES = 8
_GROUP = 32
"""Records that are held in memory and synced together."""


def copy_bank(catalogue: Catalogue, record_of: Callable[[bytes, str], bytes], folder: Path, segment_bytes: int) -> None:
    """Write what a bank holds at this moment into an empty folder: its catalogue and segments, in today's format.

    The catalogue is copied first. Blocks that are moved meanwhile are read where they are by then; if one is removed,
    all is begun again.

    Args:
        catalogue: The bank's.
        record_of: Reads a block's record by its id and a name for messages; raises `InputError` if there is none.
        folder: An empty one.
        segment_bytes: A segment at least this long is not appended to.

    Raises:
        BankLockedError: If blocks are removed each time.
        BankError: If the bank is damaged, or the copy cannot be written.
        OSError: If the disk fails.
    """
    for _ in range(_TRIES):
        try:
            _copy(catalogue, record_of, folder, segment_bytes)
        except InputError:
            for path in folder.iterdir():
                path.unlink()
        else:
            return
    raise BankLockedError(
        f"Blocks of {catalogue.path} were removed each time it was copied.", "Try again when less is written to it."
    )


def _copy(catalogue: Catalogue, record_of: Callable[[bytes, str], bytes], folder: Path, segment_bytes: int) -> None:
    catalogue.copy_to(folder / CATALOGUE)
    directory, lock = BankDirectory(folder), WriterLock(folder, 0.0)
    with lock, closing(Catalogue(directory, lock, read_only=False)) as copy:
        if copy.version < FORMAT_VERSION:
            copy.migrate()
        copy.identify_anew()
        copy.forget_unused()
        writer = SegmentWriter(directory, lock, segment_bytes, FileLayer(), copy)
        names, blocks = copy.names(), copy.live()
        for start in range(0, len(blocks), _GROUP):
            group = [block_id for block_id, _ in blocks[start : start + _GROUP]]
            records = [record_of(block_id, names.get(block_id, block_id.hex())) for block_id in group]
            places = writer.append([segment.renewed(record, copy.bank_id) for record in records])
            copy.relocate(zip(group, places, strict=True))
        copy.rebuild()
        copy.empty_log(wait=True)
    (folder / LOCK).unlink()

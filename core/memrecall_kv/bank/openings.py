"""Which blocks were opened last, and which were evicted: what a size budget remembers in the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Any

from memrecall_kv.bank.connection import CatalogueFile
from memrecall_kv.bank.failures import damaged, translated

_NEVER_OPENED = (
    "SELECT id, segment, length FROM blocks WHERE id NOT IN (SELECT block FROM openings) ORDER BY segment, start"
)
_OPENED = "SELECT id, segment, length FROM openings CROSS JOIN blocks ON id = block WHERE turn > 0 ORDER BY turn"


class OpenedBlocks(CatalogueFile):
    """The table `openings(block, turn)`.

    A block that was opened has a turn, the higher the later; one that was evicted has turn 0 and no row in `blocks`. A
    block without a row was never opened since it was stored.
    """

    def enter_openings(self, block_ids: Sequence[bytes]) -> None:
        """Enter that blocks were opened, the last one last; those that are gone by now are passed over."""
        with self.transaction():
            ((last,),) = self._rows("SELECT coalesce(max(turn), 0) FROM openings")
            if not isinstance(last, int) or last >= 2**62:
                raise damaged(self.path, "the turn of an opening is no number")
            self._database.executemany(
                "INSERT OR REPLACE INTO openings SELECT id, ? FROM blocks WHERE id = ?",
                [(turn, block_id) for turn, block_id in enumerate(block_ids, last + 1)],
            )

    def evict(self, block_ids: Collection[bytes]) -> None:
        """Remove blocks; the chunks that use them are to be compressed again when they are needed."""
        rows = [(block_id,) for block_id in block_ids]
        with self.transaction():
            self._database.executemany("DELETE FROM blocks WHERE id = ?", rows)
            self._database.executemany("INSERT OR REPLACE INTO openings VALUES (?, 0)", rows)

    def is_evicted(self, block_id: bytes) -> bool:
        """Return whether a block was evicted and not stored again."""
        return bool(self._rows("SELECT 1 FROM openings WHERE block = ? AND turn = 0", (block_id,)))

    def longest_unopened(self) -> Generator[tuple[bytes, int, int], None, None]:
        """Yield id, segment and bytes of blocks: those never opened, the oldest first, then as they were opened."""
        for query in (_NEVER_OPENED, _OPENED):
            with self.guard, translated(self.path):
                for block_id, segment, length in self._execute(query):
                    if not (isinstance(block_id, bytes) and isinstance(segment, int) and isinstance(length, int)):
                        raise damaged(self.path, "a block's place is no number")
                    yield block_id, segment, length

    def bytes_by_segment(self) -> dict[int, int]:
        """Return the bytes of the blocks in each segment, used by a chunk or not."""
        return dict(self._numbers("SELECT segment, sum(length) FROM blocks GROUP BY segment"))

    def largest_block(self) -> int:
        """Return the bytes of the largest block; 0 if there is none."""
        return int(self._numbers("SELECT coalesce(max(length), 0) FROM blocks")[0][0])

    def _numbers(self, query: str) -> list[Any]:
        rows = self._rows(query)
        if not all(isinstance(number, int) and 0 <= number < 2**62 for row in rows for number in row):
            raise damaged(self.path, "a block's place is no number")
        return rows

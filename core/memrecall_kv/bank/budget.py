"""Keeping a bank's blocks within a number of bytes: what was opened longest ago goes, and is compressed again if asked.

Texts never go. The bytes follow the rows: a segment of which little is left is moved together and removed, some of
them in each write.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.compaction import move_blocks
from memrecall_kv.bank.failures import translated
from memrecall_kv.bank.segment import Place, segment_number
from memrecall_kv.bank.segment_writer import SegmentWriter
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankFullError, BlockCorruptError, ConfigError
from memrecall_kv.types import Chunk

_DEAD = 1 / 3
"""A segment of which at least this share is dead is moved together."""
_MOVED = 64 * 2**20
"""Bytes moved in one write, if more than one segment is to be."""


def segment_bytes(config: BankConfig) -> int:
    """Return how long a segment may be: under a budget so short that one of them does not matter."""
    return config.segment_bytes if config.max_bytes is None else min(config.segment_bytes, config.max_bytes // 16)


class Budget:
    """What a bank may hold; without a number it does nothing.

    Args:
        max_bytes: Bytes of blocks, records as they are stored; `None` for any number.
        catalogue: The bank's.
        writer: The bank's.
        block_id_of: Makes the id of a chunk's block.
        writing: Holds the writer's lock, and calls `fit` at its end.

    Attributes:
        max_bytes: As given.
    """

    def __init__(
        self,
        max_bytes: int | None,
        catalogue: Catalogue,
        writer: SegmentWriter,
        block_id_of: Callable[[Chunk], bytes],
        writing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.max_bytes = max_bytes
        self._catalogue = catalogue
        self._writer = writer
        self._block_id_of = block_id_of
        self._writing = writing
        self._guard = threading.Lock()  # around the next two, which readers change
        self._held: Counter[bytes] = Counter()
        self._opened: dict[bytes, None] = {}
        self._used: dict[int, int] | None = None
        self._largest = 0
        self._stored: set[bytes] = set()
        self._damaged: set[Path] = set()

    def check(self, records: Sequence[bytes]) -> None:
        """Raise `ConfigError` if a record alone is larger than the budget."""
        largest = max(map(len, records), default=0)
        if self.max_bytes is not None and largest > self.max_bytes:
            raise ConfigError(
                f"bank.max_bytes is {self.max_bytes:,}, and one block takes {largest:,} bytes.",
                "Set it to several blocks at least, or to None.",
            )

    def room(self) -> int | None:
        """Return how many more blocks fit, evicting none: 1 if nobody knows yet how large they are, `None` for any."""
        if self.max_bytes is None:
            return None
        with self._writing():
            used = sum(self._by_segment().values())
            return max(0, self.max_bytes - used) // self._largest if self._largest else 1

    def mark_opened(self, chunks: Sequence[Chunk]) -> None:
        """Note that the blocks of chunks were opened: they are evicted later than others.

        It is kept in memory until the next change or until the bank is closed. One that is open for reading forgets it.
        """
        if self.max_bytes is None:
            return
        with self._guard:
            for block_id in map(self._block_id_of, chunks):
                self._opened.pop(block_id, None)
                self._opened[block_id] = None

    @property
    def has_openings(self) -> bool:
        """Return whether there is something that `enter_openings` would write."""
        return bool(self._opened)

    def enter_openings(self) -> None:
        """Write which blocks were opened, if there are any."""
        with self._guard:
            opened, self._opened = self._opened, {}
        if opened:
            self._catalogue.enter_openings(list(opened))

    @contextmanager
    def holding(self, chunks: Sequence[Chunk]) -> Iterator[None]:
        """Evict no block of these chunks while the `with` block runs; what is too much then goes afterwards."""
        if self.max_bytes is None:
            yield
            return
        block_ids = [self._block_id_of(chunk) for chunk in chunks]
        with self._guard:
            self._held.update(block_ids)
        try:
            yield
        finally:
            with self._guard:
                self._held -= Counter(block_ids)
        if self._used is not None and sum(self._used.values()) > self.max_bytes:
            with self._writing():
                pass  # it ends with `fit`

    def stored(self, places: dict[bytes, Place]) -> None:
        """Take in what was stored just now: it goes last."""
        if self.max_bytes is None:
            return
        self._stored |= places.keys()
        for place in places.values():
            self._largest = max(self._largest, place.length)
            if self._used is not None:
                self._used[place.segment] = self._used.get(place.segment, 0) + place.length

    def recount(self) -> None:
        """Count again what is stored: blocks were deleted, or another process may have written."""
        self._used = None

    def fit(self) -> None:
        """Evict what is too much, and let the bytes on the disk follow.

        Raises:
            BankError: If the catalogue or a segment cannot be written; blocks are missing then, texts never.
        """
        if self.max_bytes is None:
            return
        self.enter_openings()
        used = self._by_segment()
        evicted = self._victims(sum(used.values()) - self.max_bytes)
        if evicted:
            self._catalogue.evict([block_id for block_id, _, _ in evicted])
            for _, segment, length in evicted:
                used[segment] -= length
        self._stored.clear()
        self._reclaim(used)

    def _by_segment(self) -> dict[int, int]:
        if self._used is None:
            self._used, self._largest = self._catalogue.bytes_by_segment(), self._catalogue.largest_block()
        return self._used

    def _victims(self, excess: int) -> list[tuple[bytes, int, int]]:
        """Return blocks of as many bytes as are too much; what was stored just now only after all others."""
        found: list[tuple[bytes, int, int]] = []
        last: list[tuple[bytes, int, int]] = []
        with self._guard:
            held = frozenset(self._held)
        if excess <= 0:
            return found
        with closing(self._catalogue.longest_unopened()) as blocks:
            for block in blocks:
                if block[0] in self._stored:
                    last.append(block)
                elif block[0] not in held:
                    found.append(block)
                    excess -= block[2]
                if excess <= 0:
                    return found
        for block in last:
            if excess > 0 and block[0] not in held:
                found.append(block)
                excess -= block[2]
        return found

    def _reclaim(self, used: dict[int, int]) -> None:
        """Remove segments of which nothing is left, and move together some of which little is."""
        sizes = {path: path.lstat().st_size for path in self._writer.segments()}
        left = {path: used.get(segment_number(path.name) or 0, 0) for path in sizes}
        empty = [path for path in sizes if not left[path]]
        if empty:
            self._writer.remove(empty)
        moved = 0
        for path in sorted(sizes, key=lambda path: left[path]):
            if path in empty or path in self._damaged or left[path] > sizes[path] * (1 - _DEAD):
                continue
            if moved and moved + left[path] > _MOVED:
                break
            moved += left[path]
            self._used = None
            if path == self._writer.active:
                self._writer.start_segment()
            try:
                with translated(self._catalogue.path):
                    number = segment_number(path.name)
                    move_blocks(self._catalogue, self._writer, self._catalogue.inside(number or 0))
                    self._writer.remove([path])
            except BankFullError:
                break  # it is what it was; there may be room the next time
            except BlockCorruptError:
                self._damaged.add(path)  # whoever reads the block is told

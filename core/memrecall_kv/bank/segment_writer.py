"""The one writer of a bank's segments: appending, and cutting off what was never acknowledged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.bank.directory import BankDirectory
from memrecall_kv.bank.files import FileLayer, open_regular, refuse_strange
from memrecall_kv.bank.segment import HEADER_BYTES, Place, owner, segment_name, segment_number
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.errors import BankFormatError

if TYPE_CHECKING:
    from memrecall_kv.bank.catalogue import Catalogue


class SegmentWriter:
    """Appends records under a lock.

    Args:
        directory: The bank's.
        lock: Taken by `open`.
        segment_bytes: A segment at least this long is not appended to.
        files: The system calls.
        catalogue: Knows where the acknowledged records end.
    """

    def __init__(
        self, directory: BankDirectory, lock: WriterLock, segment_bytes: int, files: FileLayer, catalogue: Catalogue
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._files = files
        self._catalogue = catalogue
        self._active = 0

    def open(self) -> None:
        """Take the lock, unless it is held already, and cut off bytes behind the acknowledged ends.

        Raises:
            BankLockedError: If another process writes.
            BankMovedError: If the path leads to another bank by now.
            BankError: If the lock was lost, or another bank's segments are among these; nothing was cut.
            OSError: If the disk fails.
        """
        self._directory.confirm()
        if self._lock.is_held:
            self._lock.confirm()
            return
        self._lock.take()
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self._active = max(0, self._next_segment() - 1)
            # only under the lock: until then another process may acknowledge more
            self._cut_tails()
            undo.pop_all()

    def segments(self) -> list[Path]:
        """Return the segment files, and nothing that only looks like one."""
        names = [name for name in os.listdir(self._directory.path) if segment_number(name) is not None]
        return [self._directory.path / name for name in sorted(names)]

    def file_bytes(self) -> int:
        """Return the bytes of all segments."""
        self._directory.confirm()
        sizes = []
        for path in self.segments():
            with contextlib.suppress(FileNotFoundError):  # another process compacts
                sizes.append(path.lstat().st_size)
        return sum(sizes)

    @property
    def active(self) -> Path:
        """Return the segment that is appended to, which need not exist yet."""
        return self._directory.path / segment_name(self._active)

    def start_segment(self) -> None:
        """Leave the segments there are and append to a new one."""
        self._active = self._next_segment()

    def append(self, records: Sequence[bytes]) -> list[Place]:
        """Write records; they are on the disk when this returns.

        Raises:
            OSError: If the disk fails or is full; nothing of the call is kept.
        """
        try:
            places = [self._append(record) for record in records]
            for number in {place.segment for place in places}:
                self._files.sync(self._path(number))
            self._files.sync(self._directory.path)
        except OSError:
            # after a failed write or sync nobody knows what a segment holds: leave it for ever
            self.start_segment()
            self._cut_tails()
            raise
        return places

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove segments that no row points to any more; raises like `open`."""
        for path in paths:
            self._refuse_stranger(path, 0)
        for path in paths:
            self._directory.confirm()
            self._files.remove(path)
        self._files.sync(self._directory.path)

    def _append(self, record: bytes) -> Place:
        self._directory.confirm()
        path = self._path(self._active)
        if path.exists() and not self._takes_more(path):
            self._active += 1
            path = self._path(self._active)
        return Place(self._active, self._files.append(path, record), len(record))

    def _takes_more(self, path: Path) -> bool:
        found = path.stat()
        # a file of two names may be in somebody's backup
        return found.st_size < self._segment_bytes and found.st_nlink == 1

    def _cut_tails(self) -> None:
        """Cut off what no row points to.

        In a transaction: a writer that lost its lock file cannot acknowledge anything meanwhile.
        """
        with self._catalogue.transaction():
            ends = self._catalogue.ends()
            tails = [
                (path, number, ends.get(number, 0))
                for path in self.segments()
                for number in [_number(path)]
                if path.lstat().st_size > ends.get(number, 0)
            ]
            for path, number, end in tails:
                self._refuse_stranger(path, 0)
                self._refuse_stranger(path, end)
                self._catalogue.confirm_blocks(number)
            for path, _, end in tails:
                self._directory.confirm()
                self._cut(path, end)

    def _cut(self, path: Path, end: int) -> None:
        if end == 0:
            self._files.remove(path)  # also if it has another name, which keeps what it has
        elif path.stat().st_nlink == 1:
            self._files.truncate(path, end)

    def _refuse_stranger(self, path: Path, offset: int) -> None:
        """Raise if what lies in a segment from an offset on was written by another bank."""
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            file.seek(offset)
            found = owner(file.read(HEADER_BYTES))
        if found is not None and found != self._catalogue.bank_id:
            raise BankFormatError(
                f"{path} was written by another bank than the catalogue beside it.",
                "Put back the catalogue or the segments that belong together; nothing was changed.",
            )

    def _path(self, number: int) -> Path:
        path = self._directory.path / segment_name(number)
        refuse_strange(path)
        return path

    def _next_segment(self) -> int:
        return max((_number(path) for path in self.segments()), default=-1) + 1


def _number(path: Path) -> int:
    number = segment_number(path.name)
    return -1 if number is None else number

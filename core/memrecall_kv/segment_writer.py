"""The one writer of a bank's segments: its lock, appending, and cutting off what was never acknowledged."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from memrecall_kv import catalogue
from memrecall_kv.errors import BankLockedError
from memrecall_kv.segment import FileLayer, segment_name

_LOCK = "writer.lock"

Placed = tuple[bytes, int, int, int]
"""A block's id, and the segment, start and length of its record."""


class SegmentWriter:
    """Appends records under a lock.

    Args:
        path: The bank's directory.
        segment_bytes: A segment at least this long is not appended to.
        files: The system calls.
    """

    def __init__(self, path: Path, segment_bytes: int, files: FileLayer) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._files = files
        self._lock: IO[str] | None = None
        self._active = 0
        self._ends: Callable[[], Mapping[int, int]] = dict

    def open(self, ends: Callable[[], Mapping[int, int]]) -> None:
        """Take the lock, unless it is held already, and cut off bytes behind the acknowledged ends.

        Args:
            ends: Returns the end of the last acknowledged record by segment; asked under the lock, since
                until then another process may acknowledge more.

        Raises:
            BankLockedError: If another process writes.
        """
        self._ends = ends
        if self._lock is not None:
            return
        with catalogue.translated(self._path):
            lock = (self._path / _LOCK).open("a+", encoding="utf-8")
            try:
                _lock_file(lock)
            except OSError as error:
                lock.close()
                raise BankLockedError(
                    f"Another process writes to {self._path}.", "Wait until it is done, or open with read_only."
                ) from error
            self._lock = lock
            self._cut_tails()
            self._active = max(0, self._next_segment() - 1)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def segments(self) -> list[Path]:
        """Return the segment files."""
        return sorted(self._path.glob("seg-*.kvs"))

    def start_segment(self) -> None:
        """Leave the segments there are and append to a new one."""
        self._active = self._next_segment()

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> list[Placed]:
        """Write records of block ids, return when they are on the disk.

        Raises:
            OSError: If the disk fails or is full; nothing of the call is kept.
        """
        placed: list[Placed] = []
        touched = set()
        try:
            for key, record in records:
                path = self._path / segment_name(self._active)
                if path.exists() and path.stat().st_size >= self._segment_bytes:
                    self._active += 1
                    path = self._path / segment_name(self._active)
                touched.add(path)
                start = self._files.append(path, record)
                placed.append((key, self._active, start, len(record)))
            for path in touched:
                self._files.sync(path)
            self._files.sync(self._path)
        except OSError:
            # after a failed write or sync nobody knows what a segment holds: leave it and start another
            self._cut_tails()
            self.start_segment()
            raise
        return placed

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove segments that no row points to any more."""
        for path in paths:
            path.unlink()
        self._files.sync(self._path)

    def _cut_tails(self) -> None:
        ends = self._ends()
        for path in self.segments():
            end = ends.get(_number(path), 0)
            if path.stat().st_size > end:
                self._files.truncate(path, end)

    def _next_segment(self) -> int:
        return max((_number(path) for path in self.segments()), default=-1) + 1


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("seg-"))


def _lock_file(file: IO[str]) -> None:
    """Take an exclusive lock on a file or raise OSError at once."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows only
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

"""The one writer of a bank's segments: its lock, appending, and cutting off what was never acknowledged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from memrecall_kv.bank.segment import FileLayer, Place, segment_name
from memrecall_kv.errors import BankLockedError

_LOCK = "writer.lock"


class SegmentWriter:
    """Appends records under a lock.

    Args:
        path: The bank's directory.
        segment_bytes: A segment at least this long is not appended to.
        files: The system calls.
        ends: Returns the end of the last acknowledged record by segment.
    """

    def __init__(self, path: Path, segment_bytes: int, files: FileLayer, ends: Callable[[], Mapping[int, int]]) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._files = files
        self._ends = ends
        self._lock: IO[str] | None = None
        self._active = 0

    def open(self) -> None:
        """Take the lock, unless it is held already, and cut off bytes behind the acknowledged ends.

        Raises:
            BankLockedError: If another process writes.
            OSError: If the disk fails.
        """
        if self._lock is not None:
            return
        lock = _locked(self._path / _LOCK)
        with contextlib.ExitStack() as undo:
            undo.callback(lock.close)
            # only under the lock: until then another process may acknowledge more
            self._cut_tails()
            self._active = max(0, self._next_segment() - 1)
            undo.pop_all()
        self._lock = lock

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

    def append(self, records: Sequence[bytes]) -> list[Place]:
        """Write records; they are on the disk when this returns.

        Raises:
            OSError: If the disk fails or is full; nothing of the call is kept.
        """
        try:
            places = [self._append(record) for record in records]
            for number in {place.segment for place in places}:
                self._files.sync(self._path / segment_name(number))
            self._files.sync(self._path)
        except OSError:
            # after a failed write or sync nobody knows what a segment holds: leave it for ever
            self.start_segment()
            self._cut_tails()
            raise
        return places

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove segments that no row points to any more."""
        for path in paths:
            self._files.remove(path)
        self._files.sync(self._path)

    def _append(self, record: bytes) -> Place:
        path = self._path / segment_name(self._active)
        if path.exists() and path.stat().st_size >= self._segment_bytes:
            self._active += 1
            path = self._path / segment_name(self._active)
        return Place(self._active, self._files.append(path, record), len(record))

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


def _locked(path: Path) -> IO[str]:
    """Return an open file that holds the writer's lock and, for people, its process id."""
    file = path.open("a+", encoding="utf-8")
    try:
        _lock_file(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise BankLockedError(
            f"Another process ({owner}) writes to {path.parent}.", "Wait until it is done, or open with read_only."
        ) from error
    with contextlib.suppress(OSError):  # on a full disk the lock still holds, and deleting must stay possible
        file.truncate(0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


def _lock_file(file: IO[str]) -> None:
    """Take an exclusive lock on a file or raise OSError at once."""
    if os.name == "nt":
        import msvcrt

        file.seek(2**20)  # behind the process id, which others may read then
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows only
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

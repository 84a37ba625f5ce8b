"""The lock by which one process at a time writes to a bank."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType

from memrecall_kv.bank.directory import LOCK
from memrecall_kv.bank.files import open_regular
from memrecall_kv.bank.forks import abandon_in_children
from memrecall_kv.errors import BankError, BankLockedError

_LONGEST = 32
"""Bytes of a process id at most; a longer file is not ours to overwrite."""
_PAUSE = 0.02
"""Seconds between two tries."""


class WriterLock:
    """A lock on a file that stays behind, with the last writer's process id in it.

    Args:
        folder: The bank's directory.
        wait: Seconds to wait for another writer.
    """

    def __init__(self, folder: Path, wait: float) -> None:
        self._path = folder / LOCK
        self._wait = wait
        self._descriptor: int | None = None
        abandon_in_children(self)

    @property
    def is_held(self) -> bool:
        """Return whether it is ours."""
        return self._descriptor is not None

    def __enter__(self) -> WriterLock:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self, wait: float | None = None) -> None:
        """Take the lock, waiting for another writer, for other seconds than usual if they are given.

        Raises:
            BankLockedError: If that one keeps it.
            BankFormatError: If something else stands in its place.
            OSError: If the file cannot be made.
        """
        end = time.monotonic() + (self._wait if wait is None else wait)
        while (taken := self._try()) is None:
            if time.monotonic() >= end:
                raise BankLockedError(
                    f"Another process ({self._owner()}) writes to {self._path.parent}.",
                    "Wait until it is done, open with read_only, or wait longer: bank.wait_seconds.",
                )
            time.sleep(_PAUSE)
        self._descriptor = taken
        self._sign(taken)

    def confirm(self) -> None:
        """Raise `BankError` unless the lock is held and the file it is on is still in its place."""
        if self._descriptor is None or not self._is_in_place(self._descriptor):
            raise BankError(
                f"{self._path} was removed or replaced while this process was writing.",
                "Close the bank and open it again; what was acknowledged is kept.",
            )

    def release(self) -> None:
        """Give the lock back; doing so twice is no mistake."""
        if self._descriptor is not None and os.name != "nt":
            import fcntl

            # a child that was forked just now may still have a copy, which would keep the lock
            with contextlib.suppress(OSError):  # closing it does as well, only later
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor alone: in a forked child it is a copy, and the parent's lock lasts."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _try(self) -> int | None:
        descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            # a file that was removed meanwhile locks nobody out
            if not _lock(descriptor) or not self._is_in_place(descriptor):
                return None
            undo.pop_all()
        return descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(follow_symlinks=False), os.fstat(descriptor))
        except OSError:
            return False

    def _owner(self) -> str:
        try:
            with os.fdopen(open_regular(self._path, os.O_RDONLY), encoding="ascii") as file:
                return file.read(_LONGEST).strip() or "unknown"
        except (OSError, ValueError):
            return "unknown"

    def _sign(self, descriptor: int) -> None:
        """Leave the process id, for people; on a full disk the lock holds without it."""
        found = os.fstat(descriptor)
        if found.st_size > _LONGEST or found.st_nlink > 1:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, str(os.getpid()).encode())


def _lock(descriptor: int) -> bool:
    """Take an exclusive lock at once, or return False."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, 2**20, os.SEEK_SET)  # behind the process id, which others may read then
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows only
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is what Windows says
        return False
    return True

"""How a bank's files are opened: never through a link, and never anything but a file."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from memrecall_kv.errors import BankFormatError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says of a disk, a user's share of it, or a file that may not grow."""
_TRIED = 64 * 1024
"""Bytes by which a file that is tried must be able to grow."""

# NOFOLLOW: a link among a bank's files leads to somebody else's; NONBLOCK: a pipe would keep us waiting
_CAREFUL = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_regular(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file.

    Args:
        path: The file; with `os.O_CREAT` it need not exist.
        flags: Those of `os.open`.

    Raises:
        BankFormatError: If something else stands there, a link too.
        OSError: If it cannot be opened.
    """
    refuse_strange(path)
    try:
        descriptor = os.open(path, flags | _CAREFUL, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _strange(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _strange(path)
    return descriptor


def may(path: Path, mode: int) -> bool:
    """Return whether this process may read, write or enter a path, `mode` being `os.access`'s."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def free_bytes(folder: Path) -> int:
    """Return the bytes that can be written to a folder's disk; 0 where nobody says, as on Windows."""
    if not hasattr(os, "statvfs"):
        return 0
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def has_no_room(folder: Path) -> bool:
    """Return whether a file in a folder, as long as its longest one, cannot grow; found out by trying."""
    try:
        longest = max((entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder)), default=0)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.seek(longest)
            return file.write(bytes(_TRIED)) < _TRIED
    except OSError as error:
        return error.errno in NO_ROOM


def refuse_strange(path: Path) -> None:
    """Raise `BankFormatError` if something stands at a path that is no regular file."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(kind):
        raise _strange(path)


def _strange(path: Path) -> BankFormatError:
    return BankFormatError(f"{path} is no regular file, as all files of a bank are.", "Look at it and take it away.")


class FileLayer:
    """The system calls of a writer; tests put faults in by subclassing."""

    def append(self, path: Path, data: bytes) -> int:
        """Write at the end of a file, creating it, and return the offset."""
        with os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            offset = file.seek(0, os.SEEK_END)
            file.write(data)
            return offset

    def sync(self, path: Path) -> None:
        """Return when a file or directory is on the disk."""
        if os.name == "nt" and path.is_dir():
            return  # Windows has no such call and keeps directories itself
        descriptor = os.open(path, os.O_RDONLY) if path.is_dir() else open_regular(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to a size."""
        with os.fdopen(open_regular(path, os.O_RDWR), "r+b") as file:
            file.truncate(size)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

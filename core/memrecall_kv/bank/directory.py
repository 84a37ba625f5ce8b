"""A bank's directory as it was opened: where it is, which one it is, and whose process opened it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from memrecall_kv.bank.files import FileLayer, open_regular, refuse_strange
from memrecall_kv.errors import BankError, BankFormatError, BankMovedError, InputError

CATALOGUE = "catalogue.sqlite"
LOCK = "writer.lock"
_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite may put beside a catalogue."""

_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""The last bytes of a journal with a super-journal's name; https://sqlite.org/fileformat2.html#the_rollback_journal"""
_MISSING = (0, 0)
_Identity: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


class BankDirectory:
    """The directory of an open bank.

    A path may come to mean another directory: after `chdir`, or when a new bank is moved to where the old one
    was. Whatever writes or reads by name asks `confirm` first.

    Args:
        path: Where it is, absolute and without links, from `resolved`.

    Attributes:
        path: The same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = os.getpid()
        for name in (CATALOGUE, LOCK, *(CATALOGUE + ending for ending in _BESIDE)):
            refuse_strange(path / name)
        _refuse_names_of_others(path / f"{CATALOGUE}-journal")
        self._opened = self._identity()

    @property
    def catalogue(self) -> Path:
        """Return the catalogue's path."""
        return self.path / CATALOGUE

    @property
    def log(self) -> Path:
        """Return the path of the catalogue's write-ahead log."""
        return self.path / f"{CATALOGUE}-wal"

    @property
    def has_lock(self) -> bool:
        """Return whether somebody writes to it or has ever done so."""
        return (self.path / LOCK).exists()

    def confirm_process(self) -> None:
        """Raise `BankError` in a process that was forked from the one that opened the bank."""
        if not self.is_of_this_process:
            raise BankError(
                f"{self.path} was opened by process {self._process}, this is {os.getpid()}.",
                "Open it again in this process; a forked one cannot share it.",
            )

    def confirm(self) -> None:
        """Raise `BankMovedError` if the path leads to another bank by now, `BankError` in another process."""
        self.confirm_process()
        if self._identity() != self._opened:
            raise BankMovedError(
                f"{self.path} is not the bank that was opened: it was moved, removed or replaced.",
                "Close it and open the one you mean; nothing was changed.",
            )

    def settle(self) -> None:
        """Take a catalogue that was created by now for the one that was opened; raises like `confirm`."""
        if self._opened[1] == _MISSING:
            self._opened = self._opened[0], _number(self.catalogue)
        self.confirm()

    @property
    def is_of_this_process(self) -> bool:
        """Return whether this process opened the bank."""
        return os.getpid() == self._process

    def _identity(self) -> _Identity:
        """Return device and number of directory and catalogue; a missing one has none."""
        return _number(self.path), _number(self.catalogue)


def resolved(path: str | Path) -> Path:
    """Return the absolute path, without links, of a bank that is to be opened.

    Raises:
        InputError: If it is no path, or a URL.
        BankError: If it cannot be looked at.
    """
    if isinstance(path, str) and "://" in path:
        raise InputError(
            f"Expected the path of a bank, got the URL {path!r}.",
            "Copy it here first, by memrecall_kv.distributed.fetch_shards; for a server, use MemRecall.from_url.",
        )
    try:
        return Path(path).resolve()
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected the path of a bank, got {path!r}: {error}.", "Give a directory.") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise BankError(f"{path} cannot be used: {error}.", "See whether it may be read.") from error


def make_directory(path: Path, files: FileLayer) -> None:
    """Make a directory for a new bank, unless there is a bank or an empty one.

    Raises:
        BankFormatError: If it is a file or holds other things.
        OSError: If it cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise BankFormatError(f"{path} is a file, a bank is a directory.", "Give an empty or a new directory.")
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        files.sync(path.parent)
    names = os.listdir(path)
    # a lock, and what SQLite makes before the catalogue, may be those of a process that is creating the bank right now
    others = [name for name in names if name != LOCK and not name.startswith(CATALOGUE)]
    if others and CATALOGUE not in names:
        raise BankFormatError(f"{path} holds other files and no {CATALOGUE}.", "Give an empty or a new directory.")


def _refuse_names_of_others(journal: Path) -> None:
    """Raise if a rollback journal ends with the name of a super-journal: SQLite would delete that file, whatever it is.

    No transaction of ours has one.
    """
    try:
        descriptor = open_regular(journal, os.O_RDONLY)
    except FileNotFoundError:  # none, or that of a process which has just finished with it
        return
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_JOURNAL_MAGIC)))
        if file.read() == _JOURNAL_MAGIC:
            raise BankFormatError(f"{journal} is of no bank: it names another file.", "Look at it and take it away.")


def _number(path: Path) -> tuple[int, int]:
    try:
        found = path.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    return found.st_dev, found.st_ino

"""Room that a bank keeps for a full disk: deleting needs some before it frees any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.files import free_bytes, open_regular
from memrecall_kv.errors import BankFullError

NAME = f"{CATALOGUE}-reserve"
_BYTES = 256 * 1024
"""What the log takes when a document of about as many bytes is overwritten."""
_PLENTY = 4 * _BYTES
"""Free bytes of a disk from which it takes the reserve without notice."""

T = TypeVar("T")


class Reserve:
    """A file of noise, since zeros take no room on some file systems; it means nothing and may be removed.

    Args:
        folder: The bank's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def make(self) -> None:
        """Make it, if there is plenty of room."""
        if os.path.lexists(self._path) or free_bytes(self._path.parent) < _PLENTY:
            return
        with contextlib.suppress(OSError), os.fdopen(open_regular(self._path, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(os.urandom(_BYTES))

    def rescued(self, call: Callable[[], T]) -> T:
        """Call; on a full disk once more without the reserve."""
        try:
            return call()
        except BankFullError:
            if not self._give_up():
                raise
            return call()

    def _give_up(self) -> bool:
        """Free the room; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

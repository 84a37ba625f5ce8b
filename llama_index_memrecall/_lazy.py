"""The model and the bank behind an adapter, loaded when they are first needed."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # both import torch, which importing an adapter must not
    from memrecall_kv import MemoryBank, MemRecall


class LazyMemory:
    """A `MemRecall`, given or loaded by name on first use.

    Args:
        memory: The one to use; then nothing is loaded.
        name_or_path: What `MemRecall.from_pretrained` loads otherwise; `None` for its default.
        device: Where it is loaded.
    """

    def __init__(self, memory: MemRecall | None, name_or_path: str | None, device: str) -> None:
        self._memory = memory
        self._name_or_path = name_or_path
        self._device = device
        self._lock = threading.Lock()

    def get(self) -> MemRecall:
        """Return the memory, loading it the first time."""
        with self._lock:
            if self._memory is None:
                from memrecall_kv import MemRecall

                self._memory = MemRecall.from_pretrained(self._name_or_path, device=self._device)
            return self._memory


class LazyBank:
    """A `MemoryBank`, given or opened on first use.

    Args:
        bank: An open bank, which stays its owner's to close; a directory; or `None` for a temporary
            one, which is removed by `close` or with this object.
        memory: Whose bank it is.
        read_only: Whether a directory is opened for reading only.
    """

    def __init__(self, bank: MemoryBank | str | Path | None, memory: LazyMemory, *, read_only: bool) -> None:
        self._given = bank
        self._memory = memory
        self._read_only = read_only
        self._opened: MemoryBank | None = None
        self._cleanup: weakref.finalize[..., LazyBank] | None = None
        self._lock = threading.Lock()

    def get(self) -> MemoryBank:
        """Return the bank, opening it the first time and again after `close`."""
        if self._given is not None and not isinstance(self._given, (str, Path)):
            return self._given
        with self._lock:
            if self._opened is None:
                memory = self._memory.get()
                if self._given is None:
                    directory = tempfile.mkdtemp(prefix="memrecall-")
                    self._opened = memory.open_bank(directory)
                    self._cleanup = weakref.finalize(self, _discard, self._opened, directory)
                else:
                    self._opened = memory.open_bank(self._given, read_only=self._read_only)
            return self._opened

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        with self._lock:
            opened, self._opened = self._opened, None
            if self._cleanup is not None:
                self._cleanup()
                self._cleanup = None
            elif opened is not None:
                opened.close()


def _discard(bank: MemoryBank, directory: str) -> None:
    bank.close()
    shutil.rmtree(directory, ignore_errors=True)

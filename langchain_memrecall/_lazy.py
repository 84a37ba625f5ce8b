"""The model and the bank behind an adapter, loaded when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """A `MemoryBank`, given or opened when needed: for reading until `close`, for writing as long as it takes.

    Args:
        bank: An open bank, which stays its owner's to close, or a directory.
        memory: Whose bank it is.
    """

    def __init__(self, bank: MemoryBank | str | Path, memory: LazyMemory) -> None:
        self._bank = bank
        self._memory = memory
        self._reading: MemoryBank | None = None
        self._lock = threading.Lock()

    def get(self) -> MemoryBank:
        """Return the bank for reading, opening it the first time and again after `close`."""
        if not isinstance(self._bank, (str, Path)):
            return self._bank
        with self._lock:
            if self._reading is None:
                self._reading = self._memory.get().open_bank(self._bank, read_only=True)
            return self._reading

    @contextmanager
    def writing(self) -> Iterator[MemoryBank]:
        """Open the bank for writing and give the writer's lock back afterwards."""
        if not isinstance(self._bank, (str, Path)):
            yield self._bank
            return
        with self._memory.get().open_bank(self._bank) as bank:
            yield bank

    def close(self) -> None:
        """Close the bank if it was opened here."""
        with self._lock:
            if self._reading is not None:
                self._reading.close()
                self._reading = None

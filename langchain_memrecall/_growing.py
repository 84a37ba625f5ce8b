"""A bank that is there as soon as it is read or written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

if TYPE_CHECKING:  # it imports torch
    from memrecall_kv import MemoryBank


def check_bank(given: Any) -> None:
    """Refuse what is neither a bank nor the path of one.

    Raises:
        InputError: If it is something else.
    """
    if given == "" or not (isinstance(given, str | Path) or hasattr(given, "delete_many")):
        raise InputError(
            f"Expected a bank, got {type(given).__name__} {given!r}.", "Pass an open bank or the path of one."
        )


class GrowingBank(LazyBank):
    """A `LazyBank` whose directory need not exist: it is created by the first use, reading included.

    Args:
        bank: As for `LazyBank`.
        memory: Whose bank it is.
        defer: As for `LazyBank`.

    Raises:
        InputError: If `bank` is something else.
    """

    def __init__(self, bank: MemoryBank | str | Path | None, memory: LazyMemory, *, defer: bool = False) -> None:
        if bank is not None:
            check_bank(bank)
        super().__init__(bank, memory, defer=defer)

    def get(self) -> MemoryBank:
        """Return the bank for reading, making an empty one first if there is none; whoever writes is not waited for."""
        if self._path is not None and not self._is_temporary and not (self._path / CATALOGUE).exists():
            self._memory.get().open_bank(self._path).close()
        return super().get()

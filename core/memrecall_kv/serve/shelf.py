"""The banks that are served, by name. A name is looked up here and never becomes part of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.errors import ConfigError, InputError
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".bank"


class Shelf:
    """Opens banks for questions, and one at a time for a change.

    Args:
        memory: Reads and makes their blocks.
        paths: Their directories; a bank is made where there is none, unless only reading is allowed.
        read_only: Whether nothing may be changed.
        defer: Whether only texts are stored, and a question compresses what it comes near.

    Attributes:
        read_only: As given.
        defer: As given.

    Raises:
        ConfigError: If questions were to compress what may only be read.
        InputError: If two banks have the same name, or one has a name that no client could write.
        BankError: If a directory is no bank, or was made by something else.
    """

    def __init__(
        self, memory: MemRecall, paths: Iterable[Path], *, read_only: bool = False, defer: bool = False
    ) -> None:
        self.read_only, self.defer = read_only, defer
        self._banks: dict[str, LazyBank] = {}
        self._lazy = LazyMemory(memory, None, "auto")
        for name, path in bank_names(paths).items():
            with memory.open_bank(path, read_only=read_only) as bank:
                stats = bank.stats()
            grows = (
                defer or bool(stats.chunks_deferred or stats.chunks_evicted) or memory.config.bank.max_bytes is not None
            )
            if grows and read_only:
                raise ConfigError(
                    f"Expected every chunk of {name!r} to have its block; questions would have to compress some.",
                    "Ingest the rest first, or leave read_only, defer and bank.max_bytes out.",
                )
            # one that grows with questions stays open for writing
            self._banks[name] = LazyBank(path, self._lazy, defer=grows)

    def __getitem__(self, name: str) -> LazyBank:
        """Return a bank; raises `KeyError` for an unknown one."""
        return self._banks[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all banks, in the order they were given."""
        return tuple(self._banks)

    @property
    def places(self) -> Mapping[str, str]:
        """Return the directory of each bank, which is nobody's business outside this process."""
        return {name: str(bank.path) for name, bank in self._banks.items()}

    def close(self) -> None:
        """Close all banks; one that is asked for again is opened again."""
        for bank in self._banks.values():
            bank.close()


def bank_names(paths: Iterable[Path]) -> dict[str, Path]:
    """Return banks by the names they are served under: those of their directories, without `.bank`.

    Raises:
        InputError: If a client could not write one in a path, or two are the same.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = path.resolve().name.removesuffix(_SUFFIX)
        if not _NAME.fullmatch(name):
            raise InputError(
                f"Expected the name of a bank to be letters, digits, '.', '_' and '-', at most 64, got {name!r}.",
                "Rename the directory.",
            )
        if name in named:
            raise InputError(f"Expected banks of different names, got {name!r} twice.", "Rename a directory.")
        named[name] = path
    return named

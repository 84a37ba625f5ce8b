"""The model and the bank behind a host adapter, loaded when they are first needed, without importing torch before."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.errors import BankLockedError, InputError
from memrecall_kv.hosts.arguments import check_memory
from memrecall_kv.hosts.served import ServedBank
from memrecall_kv.remote.address import is_url
from memrecall_kv.remote.memory import RemoteMemRecall
from memrecall_kv.types import Document, Where

if TYPE_CHECKING:  # both import torch, which importing an adapter must not
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall


_loaded: weakref.WeakValueDictionary[tuple[str | None, str], MemRecall] = weakref.WeakValueDictionary()
"""What is loaded and in use, by name and device: all adapters of a process share it."""

_loading = threading.Lock()


class LazyMemory:
    """A `MemRecall`, given or loaded by name on first use; two of the same name and device share one.

    Args:
        memory: The one to use; then nothing is loaded.
        name_or_path: What `MemRecall.from_pretrained` loads otherwise; `None` for its default.
        device: Where it is loaded.

    Raises:
        InputError: If `memory` is something else.
    """

    def __init__(self, memory: MemRecall | None, name_or_path: str | None, device: str) -> None:
        check_memory(memory)
        self._memory = memory
        self._name_or_path = name_or_path
        self._device = device
        self._lock = threading.Lock()

    def get(self) -> MemRecall:
        """Return the memory, loading it the first time.

        Raises:
            InputError: If it is a client of a server, and what is wanted a model.
        """
        with self._lock:
            if isinstance(self._memory, RemoteMemRecall):
                raise InputError(
                    f"Expected a memory that is here, got {self._memory!r}.", "Use from_url of a class that has it."
                )
            if self._memory is None:
                self._memory = _load(self._name_or_path, self._device)
            return self._memory


class LazyBank:
    """A `MemoryBank`, given or opened when needed: for reading until `close`, for writing as long as it takes.

    Who reads never waits for who writes. A process forked from this one, as a server's workers are, opens its own.

    Args:
        bank: An open bank, which stays its owner's to close; a directory; or `None` for a temporary one,
            made when it is first needed and removed by `close` or with this object.
        memory: Whose bank it is.
        defer: Store texts alone, and compress when a question comes near: the bank is then opened for writing from the
            first use until `close`, by nobody else meanwhile.

    Attributes:
        defer: As given.
    """

    def __init__(self, bank: MemoryBank | str | Path | None, memory: LazyMemory, *, defer: bool = False) -> None:
        if is_url(bank):
            raise InputError(f"Expected a directory, got {bank!r}.", "Use from_url of a class that has it.")
        self.defer = defer
        self._given = bank if not isinstance(bank, (str, Path)) else None
        # where it is now: what a relative path means changes with the working directory
        self._path = Path(bank).resolve() if isinstance(bank, (str, Path)) else None
        self._is_temporary = bank is None
        self._memory = memory
        self._process = os.getpid()
        self._reading: list[MemoryBank] = []  # none or one; a list, so that the clean-up sees it
        self._cleanup: weakref.finalize[..., LazyBank] | None = None
        self._lock = threading.Lock()  # around what is open; nobody holds it while writing
        self._one_writes = threading.RLock()

    @property
    def path(self) -> Path | None:
        """Return the directory, absolute; `None` for a bank that was given open, or a temporary one not yet made."""
        return self._path

    def get(self) -> MemoryBank:
        """Return the bank for reading, opening it the first time and again after `close`."""
        if self._given is not None:
            return self._given
        self._begin_in_fork()
        return self._kept()

    def _kept(self) -> MemoryBank:
        """Return the bank that stays open until `close`."""
        with self._lock:
            if not self._reading:
                memory = self._memory.get()
                # one that was closed is gone: to read on as if it were empty would hide that
                path = self._place(memory) if self._path is None or self.defer else self._path
                self._reading.append(memory.open_bank(path, read_only=not self.defer))
                if self._cleanup is None:
                    self._cleanup = weakref.finalize(self, _close, self._reading)
            return self._reading[0]

    @contextmanager
    def writing(self, *, wait: float | None = None) -> Iterator[MemoryBank]:
        """Open the bank for writing, for one at a time, and give the writer's lock back afterwards.

        Args:
            wait: Seconds to wait for another thread; `None` for as long as it writes.

        Raises:
            BankLockedError: If that one, or another process, still writes then.
        """
        self._begin_in_fork()
        one_writes = self._one_writes
        if not one_writes.acquire(timeout=-1 if wait is None else wait):
            raise BankLockedError(f"Another thread writes to {self._path}.", "Wait until it is done.")
        try:
            if self._given is not None:
                yield self._given
                return
            if self.defer:
                yield self._kept()
                return
            memory = self._memory.get()
            with self._lock:
                path = self._place(memory)
            with memory.open_bank(path) as bank:
                yield bank
        finally:
            one_writes.release()

    def ingest(self, documents: Iterable[Document], *, show_progress: bool = False) -> None:
        """Compress documents into the bank; see `MemRecall.ingest`."""
        with self.writing() as writable:
            self._memory.get().ingest(writable, documents, defer=self.defer, show_progress=show_progress)

    def forget(self, where: Where, *, compact: bool = True) -> int:
        """Delete the documents for which `where` is true, and return how many there were.

        Args:
            where: Which.
            compact: Leave nothing of them in the bank's files either, which takes as long as copying what is kept.
                Without it the bytes of their blocks, and pieces of their texts, stay until the next `compact`.

        Raises:
            BankError: If the bank cannot be written, or somebody's reading keeps deleted text in the log.
        """
        with self.writing() as writable:
            found = writable.ids(where)
            writable.delete_many(found)
            if found and compact:
                writable.compact()
        return len(found)

    def remove_at_end(self) -> None:
        """Make a bank that was given as a directory a temporary one."""
        if self._path is not None:
            self._is_temporary = True
            self._cleanup = weakref.finalize(self, _discard, self._reading, self._path, os.getpid())

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        self._begin_in_fork()
        with self._one_writes, self._lock:
            _close(self._reading)
            if isinstance(self._given, ServedBank):
                self._given.release()
            if self._cleanup is not None:
                self._cleanup()
                self._cleanup = None

    @property
    def _is_gone(self) -> bool:
        """Return whether it is temporary, and closed or never there."""
        return self._is_temporary and self._cleanup is None

    def _begin_in_fork(self) -> None:
        """Leave to the parent what is its own: its open banks, the locks of its threads, and a temporary bank's end."""
        if self._process != os.getpid():
            self._is_temporary = self._is_gone
            self._process, self._reading, self._cleanup = os.getpid(), [], None
            self._lock, self._one_writes = threading.Lock(), threading.RLock()

    def _place(self, memory: MemRecall) -> Path:
        """Return the bank's directory; a temporary bank that is not there is made, whole before anyone reads it."""
        if self._path is None or self._is_gone:
            self._path = Path(tempfile.mkdtemp(prefix="memrecall-"))
            self.remove_at_end()
            memory.open_bank(self._path).close()
        return self._path


def _load(name_or_path: str | None, device: str) -> MemRecall:
    from memrecall_kv.pipeline import MemRecall

    with _loading:
        memory = _loaded.get((name_or_path, device))
        if memory is None:
            memory = MemRecall.from_pretrained(name_or_path, device=device)
            _loaded[name_or_path, device] = memory
        return memory


def _close(opened: list[MemoryBank]) -> None:
    while opened:
        opened.pop().close()


def _discard(opened: list[MemoryBank], directory: Path, process: int) -> None:
    _close(opened)
    if os.getpid() == process:  # a forked process that ends leaves it to the one that made it
        shutil.rmtree(directory, ignore_errors=True)

"""The file a catalogue is in: how it is opened, shared with other processes, waited for and closed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from memrecall_kv.bank import digest, schema
from memrecall_kv.bank.directory import CATALOGUE, BankDirectory
from memrecall_kv.bank.failures import damaged, translated
from memrecall_kv.bank.files import free_bytes, may
from memrecall_kv.bank.forks import abandon_in_children
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.errors import BankFormatError, BankLockedError

_SLICE = 0.1
"""Seconds that SQLite itself waits for another process; between two slices Ctrl-C is heard."""
_PAUSE = 0.01
"""Seconds between two tries."""
_UNCHANGING = "ro&immutable=1"
"""How to connect without making files: as to a file that nobody writes to, which has to be seen to."""

_SHARING = 2**16
"""Bytes that are more than SQLite's files for sharing a catalogue take at first."""

T = TypeVar("T")
Values: TypeAlias = tuple[Any, ...] | Mapping[str, Any]
"""Of a query's question marks, or of its names."""


class CatalogueFile:
    """An open SQLite file with the tables of a bank; methods may be called from any thread of its process.

    Every method raises `BankError` or one of its kinds if the file cannot be read or written.

    Args:
        directory: The bank's.
        lock: What a transaction must hold.
        read_only: Never write, nor leave files behind.
        wait: Seconds to wait for another process.
        found_with: What a new bank's blocks are made with; `None` creates none.

    Attributes:
        path: The bank's directory.
        guard: Held while the connection is in use.
        read_only: As given.
        version: The format's.
        bank_id: The bank's, 16 bytes; none at all in a bank of format 1.
    """

    def __init__(
        self,
        directory: BankDirectory,
        lock: WriterLock,
        *,
        read_only: bool,
        wait: float = 0.0,
        found_with: Mapping[str, str] | None = None,
    ) -> None:
        self.path = directory.path
        self.guard = threading.RLock()
        self.read_only = read_only
        self.version = 0
        self.bank_id = b""
        self._directory = directory
        self._lock = lock
        self._wait = wait
        self._seen: tuple[int, ...] | None = None
        with translated(self.path), ExitStack() as undo:
            if found_with is None and not self._is_in_time(directory.catalogue.exists):
                raise BankFormatError(
                    f"{self.path} is no memory bank: it has no {CATALOGUE}.", "Give a directory made by ingest."
                )
            self._connect(create=found_with is not None)
            undo.callback(self.close)
            if found_with is not None:
                self._found(json.dumps(dict(found_with)))
            elif not self._is_in_time(lambda: not schema.is_empty(self._database)):
                raise BankFormatError(f"{self.path} was never finished.", "Open it for writing with a model.")
            directory.settle()
            self._prepare()
            undo.pop_all()
        abandon_in_children(self)

    def close(self) -> None:
        """Close the file."""
        with self.guard:
            self._database.close()

    def abandon(self) -> None:
        """Keep the copy of a forked child from ever being closed, which could remove a later writer's log."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does, or nothing, while the writer's lock is held; inside another one, with that."""
        self._directory.confirm_process()
        with self.guard, translated(self.path):
            if self._database.in_transaction:
                yield
                return
            try:
                self._execute("BEGIN IMMEDIATE")
                self._lock.confirm()
                yield
                self._execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def migrate(self) -> None:
        """Take an older catalogue to today's format, whole or not at all; needs the writer's lock."""
        with self.transaction():
            version = schema.version_of(self._database)  # another process may have been first
            schema.drop_views(self._database)
            try:
                schema.migrate(self._database, version)
            except ValueError as error:
                raise damaged(self.path, str(error)) from error
        self._prepare()

    def identify_anew(self) -> None:
        """Give a copy an id of its own: two banks of one id would take each other's segments for their own."""
        with self.transaction():
            schema.identify(self._database, self._meta()["fingerprint"])
        self.bank_id = self._identity()

    def copy_to(self, path: Path) -> None:
        """Write a copy of the catalogue as it is at this moment, without what was deleted, to a new file."""
        self._rows("VACUUM INTO ?", (str(path),))
        with closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA journal_mode=WAL")

    def rebuild(self) -> None:
        """Write the catalogue anew, without what deleted rows left between others in its pages."""
        self._directory.confirm()
        with self.guard, translated(self.path):
            self._execute("VACUUM")

    def empty_log(self, *, wait: bool = False) -> bool:
        """Empty the write-ahead log, which may hold deleted text.

        Args:
            wait: For readers, as long as for a writer.

        Returns:
            False if a reader or the disk prevents it.
        """
        end = time.monotonic() + (self._wait if wait else 0.0)
        with self.guard, translated(self.path):
            while True:
                try:
                    ((busy, _, _),) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                except sqlite3.OperationalError:
                    return False
                if not busy or time.monotonic() >= end:
                    return not busy
                time.sleep(_PAUSE)

    # -- inside ------------------------------------------------------------------------------------------

    def _connect(self, *, create: bool = False) -> None:
        mode = "rwc" if create else "rw"
        if not self.read_only and self._directory.catalogue.exists() and not _may_write(self._directory):
            # SQLite would open it all the same, and leave its own files beside it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        if self.read_only:
            mode = _how_to_read(self._directory)
            self._seen = self._state() if mode == _UNCHANGING else None
        where = f"{self._directory.catalogue.as_uri()}?mode={mode}"
        database = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None, timeout=_SLICE)
        self._database = database

    def _found(self, fingerprint: str) -> None:
        """Create the catalogue, unless another process did: whole or not at all."""
        if not self._waiting(self._is_unfinished):
            return
        with self._lock:
            if self._waiting(lambda: schema.is_empty(self._database)):
                self._execute("PRAGMA journal_mode=WAL")
                self._execute("PRAGMA synchronous=FULL")
                with self.transaction():
                    schema.create(self._database, fingerprint)
            elif self._waiting(self._is_unfinished):
                with self.transaction():
                    schema.claim(self._database, fingerprint)

    def _is_in_time(self, is_true: Callable[[], bool]) -> bool:
        """Return whether something is true, waiting for it if another process may be creating the bank."""
        end = time.monotonic() + self._wait
        while not self._waiting(is_true):
            if time.monotonic() >= end or not self._directory.has_lock:
                return False
            time.sleep(_PAUSE)
        return True

    def _is_unfinished(self) -> bool:
        return schema.is_empty(self._database) or schema.is_unclaimed(self._database)

    def _prepare(self) -> None:
        """Set what holds for a connection, and refuse a catalogue that this release did not make."""
        self._execute("PRAGMA trusted_schema=OFF")
        self._execute("PRAGMA cell_size_check=ON")
        self._execute("PRAGMA foreign_keys=ON")
        self.version = self._waiting(lambda: schema.version_of(self._database))
        if not schema.is_known(self.version):
            raise BankFormatError(
                f"{self.path} has bank format {self.version}, this release reads {schema.FORMAT_VERSION} and older.",
                "Open it with the release that made it, or ingest into a new bank.",
            )
        if not schema.is_as_made(self._database, self.version):
            raise BankFormatError(
                f"The catalogue of {self.path} has other tables than bank format {self.version}.",
                "Give a directory made by ingest; one that somebody changed is not opened.",
            )
        if self.version < schema.FORMAT_VERSION:
            self._execute("PRAGMA temp_store=MEMORY")
        schema.add_views(self._database, self.version)
        if self.version > 1:
            self.bank_id = self._identity()
        if not self.read_only:
            self._execute("PRAGMA synchronous=FULL")
            self._execute("PRAGMA secure_delete=ON")

    def _identity(self) -> bytes:
        """Return the bank's id, after comparing what the catalogue says of the bank with its digest."""
        meta = self._meta()
        try:
            found = bytes.fromhex(meta["bank"])
            is_same = meta["digest"] == digest.of_bank(meta["bank"], meta["fingerprint"]).hex()
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(self.path, f"it does not say which bank it is of ({error})") from error
        if len(found) != 16 or not is_same:
            raise damaged(self.path, "what it says of the bank is not as it was stored")
        return found

    def _meta(self) -> dict[str, str]:
        return dict(self._rows("SELECT key, value FROM meta"))

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Let several reads see the same state, whatever others write meanwhile; inside a transaction its own."""
        self._directory.confirm_process()
        with self.guard, translated(self.path):
            if self._database.in_transaction:
                yield
                return
            self._renew()
            try:
                self._execute("BEGIN")
                yield
            finally:
                if self._database.in_transaction:
                    self._database.execute("COMMIT")

    def _rows(self, query: str, values: Values = ()) -> list[Any]:
        self._directory.confirm_process()
        with self.guard, translated(self.path):
            self._renew()
            rows = self._execute(query, values).fetchall()
            if self._seen is not None and self._seen != self._state():
                raise BankLockedError(f"Another process writes to {self.path}.", "Ask again when it is done.")
            return rows

    def _execute(self, query: str, values: Values = ()) -> sqlite3.Cursor:
        return self._waiting(lambda: self._database.execute(query, values))

    def _waiting(self, call: Callable[[], T]) -> T:
        """Call, again and again while another process is in the way, as long as the settings say."""
        end = time.monotonic() + self._wait
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE)  # SQLite does not always wait itself

    def _renew(self) -> None:
        """Open the file again if it was taken for unchanging and has changed."""
        if self._seen is not None and not self._database.in_transaction and self._seen != self._state():
            self._database.close()
            self._connect()
            self._prepare()

    def _state(self) -> tuple[int, ...]:
        """Return what changes whenever somebody writes."""
        found = self._directory.catalogue.stat()
        log = self._directory.log.stat().st_size if self._directory.log.exists() else 0
        return found.st_ino, found.st_size, found.st_mtime_ns, log


def _how_to_read(directory: BankDirectory) -> str:
    """Return the mode in which a reader connects.

    SQLite's files for sharing a catalogue cannot be made where a reader may not write or the disk is full, and those
    it makes in another user's bank would keep that user out. A log that is there has to be read, through what its
    writer made.
    """
    is_ours = os.name == "nt" or os.geteuid() in (0, directory.catalogue.stat().st_uid)
    has_room = os.name == "nt" or free_bytes(directory.path) >= _SHARING
    if _may_write(directory) and is_ours and has_room:
        return "ro"
    has_log = directory.log.exists() and directory.log.stat().st_size > 0
    return "ro&readonly_shm=1" if has_log else _UNCHANGING


def _may_write(directory: BankDirectory) -> bool:
    return may(directory.path, os.W_OK) and may(directory.catalogue, os.W_OK)

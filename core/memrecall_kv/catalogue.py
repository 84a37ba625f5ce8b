"""The bank's SQLite catalogue: which documents and chunks there are, and where their blocks lie."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from memrecall_kv.errors import BankError, BankFormatError, BankFullError, FingerprintMismatchError, InputError
from memrecall_kv.types import Document

FORMAT_VERSION = 1
NAME = "catalogue.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE documents (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE blocks (
    id BLOB PRIMARY KEY, segment INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    memory_tokens INTEGER NOT NULL);
CREATE TABLE chunks (
    document INTEGER NOT NULL REFERENCES documents(place) ON DELETE CASCADE, number INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, num_tokens INTEGER NOT NULL, block BLOB NOT NULL,
    PRIMARY KEY (document, number));
CREATE INDEX chunks_by_block ON chunks(block);
"""


def connect(path: Path, *, create: bool, read_only: bool) -> sqlite3.Connection:
    """Open the catalogue of the bank in a directory.

    Raises:
        BankFormatError: If there is none, or it cannot be read by this release.
    """
    file = path / NAME
    if not file.exists() and not create:
        raise BankFormatError(f"{path} is no memory bank: it has no {NAME}.", "Give a directory made by ingest.")
    with translated(path):
        mode = "ro" if read_only else "rwc"
        database = sqlite3.connect(
            f"{file.resolve().as_uri()}?mode={mode}",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
            timeout=30,
        )
        try:
            _prepare(database, path, create=create and not read_only)
        except BaseException:
            database.close()
            raise
    return database


def _prepare(database: sqlite3.Connection, path: Path, *, create: bool) -> None:
    if create:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA secure_delete=ON")
    database.execute("PRAGMA foreign_keys=ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if version == 0 and not tables and create:
        # one transaction: a catalogue exists whole or not at all
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT_VERSION}; COMMIT;")
    elif version != FORMAT_VERSION or not {"meta", "documents", "blocks", "chunks"} <= tables:
        raise BankFormatError(
            f"{path} has bank format {version}, this release reads {FORMAT_VERSION}.",
            "Open it with the release that made it, or ingest into a new bank.",
        )


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Commit what the block does, or nothing."""
    with translated(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def snapshot(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Let several reads see the same state, whatever other processes write meanwhile."""
    with translated(path):
        database.execute("BEGIN")
        try:
            yield
        finally:
            database.execute("COMMIT")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into errors of a bank."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise full(path) from error
        raise BankError(f"The catalogue of {path} cannot be used: {error}.", "See whether the disk works.") from error
    except sqlite3.DatabaseError as error:
        raise BankFormatError(
            f"The catalogue of {path} is damaged: {error}.", "Restore the directory from a backup, or ingest again."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise full(path) from error
        raise BankError(f"{path} cannot be used: {error}.", "See whether the disk works and may be written.") from error


def full(path: Path) -> BankFullError:
    """Return the error of a full disk."""
    return BankFullError(
        f"There is no room left for {path}.", "Free space and run the same call again: what was stored is kept."
    )


def compare(path: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuse a bank that was made with something else.

    Raises:
        FingerprintMismatchError: If a part differs; the message shows both.
    """
    differing = [
        f"{key}: bank {stored.get(key)!r}, yours {given.get(key)!r}"
        for key in sorted({*stored, *given})
        if stored.get(key) != given.get(key)
    ]
    if differing:
        raise FingerprintMismatchError(
            f"{path} was made with something else: {'; '.join(differing)}.",
            "Open it with the same backbone and settings, or ingest into a new bank.",
        )


def as_json(document: Document) -> str:
    """Return a document's metadata as JSON, its order kept.

    Raises:
        InputError: If it is no JSON.
    """
    try:
        return json.dumps(dict(document.metadata), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The metadata of {document.id!r} is not JSON: {error}.", "Use texts, numbers, lists and mappings."
        ) from error

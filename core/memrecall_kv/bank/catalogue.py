"""The bank's SQLite catalogue: which documents and chunks there are, and where their blocks lie."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from memrecall_kv.bank.segment import Place
from memrecall_kv.errors import BankError, BankFormatError, BankFullError, BankLockedError, InputError
from memrecall_kv.types import BankStats, Chunk, Document

FORMAT_VERSION = 1
NAME = "catalogue.sqlite"

Listing: TypeAlias = list[tuple[str, str, list[Chunk]]]
"""Id, metadata as JSON, and chunks of every document, in the bank's order."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    id BLOB PRIMARY KEY, segment INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    memory_tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
    document INTEGER NOT NULL REFERENCES documents(place) ON DELETE CASCADE, number INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, num_tokens INTEGER NOT NULL, block BLOB NOT NULL,
    PRIMARY KEY (document, number));
CREATE INDEX IF NOT EXISTS chunks_by_block ON chunks(block);
"""
_TABLES = {"meta", "documents", "blocks", "chunks"}


class Catalogue:
    """An open catalogue; methods may be called from any thread.

    Every method raises `BankError` or one of its kinds if the catalogue cannot be read or written.
    """

    def __init__(self, path: Path, *, create: bool, read_only: bool) -> None:
        self.path = path
        self.guard = threading.RLock()
        self._listed: tuple[tuple[int, int], Listing] | None = None
        if not (path / NAME).exists() and not create:
            raise BankFormatError(f"{path} is no memory bank: it has no {NAME}.", "Give a directory made by ingest.")
        with translated(path):
            where = f"{(path / NAME).resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._database = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
            with ExitStack() as undo:
                undo.callback(self._database.close)
                self._prepare(create=create, read_only=read_only)
                undo.pop_all()

    def close(self) -> None:
        """Close the file."""
        with self.guard:
            self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does, or nothing."""
        with self.guard, translated(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    # -- reading ------------------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str] | None:
        """Return what the blocks are made with; `None` if the bank was never finished."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'fingerprint'")
        return json.loads(rows[0][0]) if rows else None

    def documents(self) -> list[Document]:
        """Return all documents in the order they were added."""
        rows = self._rows("SELECT id, text, metadata FROM documents ORDER BY place")
        return [Document(doc_id, text, json.loads(metadata)) for doc_id, text, metadata in rows]

    def document(self, doc_id: str) -> Document | None:
        """Return a document, or `None`."""
        rows = self._rows("SELECT text, metadata FROM documents WHERE id = ?", (doc_id,))
        return Document(doc_id, rows[0][0], json.loads(rows[0][1])) if rows else None

    def metadata(self, doc_id: str) -> dict[str, Any] | None:
        """Return a document's metadata, or `None`."""
        rows = self._rows("SELECT metadata FROM documents WHERE id = ?", (doc_id,))
        return json.loads(rows[0][0]) if rows else None

    def count_chunks(self) -> int:
        """Return the number of chunks."""
        return int(self._rows("SELECT count(*) FROM chunks")[0][0])

    def place(self, block_id: bytes) -> Place | None:
        """Return where a block's record lies, or `None`."""
        rows = self._rows("SELECT segment, start, length FROM blocks WHERE id = ?", (block_id,))
        return Place(*rows[0]) if rows else None

    def live(self) -> list[tuple[bytes, Place]]:
        """Return the blocks in use, in the order of their records."""
        rows = self._rows(
            "SELECT id, segment, start, length FROM blocks WHERE id IN (SELECT block FROM chunks) "
            "ORDER BY segment, start"
        )
        return [(block_id, Place(*place)) for block_id, *place in rows]

    def deferred(self) -> list[tuple[str, bytes]]:
        """Return document and block id of every chunk whose block is not there."""
        return self._rows(
            "SELECT id, block FROM chunks JOIN documents ON place = document WHERE block NOT IN (SELECT id FROM blocks)"
        )

    def ends(self) -> dict[int, int]:
        """Return where the last acknowledged record of each segment ends."""
        return dict(self._rows("SELECT segment, max(start + length) FROM blocks GROUP BY segment"))

    def stats(self, file_bytes: int) -> BankStats:
        """Return counts; `file_bytes` is passed through."""
        with self._snapshot():
            ((documents,),) = self._rows("SELECT count(*) FROM documents")
            ((chunks, source_tokens),) = self._rows("SELECT count(*), coalesce(sum(num_tokens), 0) FROM chunks")
            ((blocks, memory_tokens, live_bytes),) = self._rows(
                "SELECT count(*), coalesce(sum(memory_tokens), 0), coalesce(sum(length), 0) FROM blocks "
                "WHERE id IN (SELECT block FROM chunks)"
            )
        return BankStats(documents, chunks, blocks, source_tokens, memory_tokens, live_bytes, file_bytes)

    def listing(self) -> Listing:
        """Return documents and chunks; read again only when somebody has written."""
        with self.guard:
            state = (self._rows("PRAGMA data_version")[0][0], self._database.total_changes)
            if self._listed is None or self._listed[0] != state:
                self._listed = (state, self._read_listing())
            return self._listed[1]

    def damage(self) -> str | None:
        """Return what SQLite's own check finds wrong, or `None`."""
        state = self._rows("PRAGMA integrity_check")[0][0]
        return None if state == "ok" else str(state)

    # -- writing ------------------------------------------------------------------------------------------

    def claim(self, fingerprint: Mapping[str, str]) -> None:
        """Enter what blocks are made with, unless that is known already."""
        if self.fingerprint() is None:
            with self.transaction():
                row = ("fingerprint", json.dumps(dict(fingerprint)))
                self._database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", row)

    def enter_blocks(self, blocks: Iterable[tuple[bytes, Place, int]]) -> None:
        """Enter ids, places and memory tokens of blocks whose records are on the disk."""
        rows = [(block_id, p.segment, p.start, p.length, tokens) for block_id, p, tokens in blocks]
        with self.transaction():
            self._database.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", rows)

    def enter_document(self, document: Document, chunks: Sequence[tuple[Chunk, bytes]]) -> None:
        """Add a document with its chunks and their blocks' ids, or replace the one of the same id in its place."""
        with self.transaction():
            self._database.execute(
                "INSERT INTO documents (id, text, metadata) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET text = excluded.text, metadata = excluded.metadata",
                (document.id, document.text, metadata_json(document)),
            )
            ((place,),) = self._rows("SELECT place FROM documents WHERE id = ?", (document.id,))
            self._database.execute("DELETE FROM chunks WHERE document = ?", (place,))
            self._database.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
                [(place, c.index, c.start, c.end, c.num_tokens, block_id) for c, block_id in chunks],
            )

    def remove_document(self, doc_id: str) -> bool:
        """Remove a document, its chunks, and the blocks that only it used; return whether there was one."""
        with self.transaction():
            blocks = self._rows(
                "SELECT DISTINCT block FROM chunks JOIN documents ON place = document WHERE id = ?", (doc_id,)
            )
            removed = self._database.execute("DELETE FROM documents WHERE id = ?", (doc_id,)).rowcount
            self._database.executemany(
                "DELETE FROM blocks WHERE id = ? AND id NOT IN (SELECT block FROM chunks)", blocks
            )
        return removed > 0

    def relocate(self, blocks: Iterable[tuple[bytes, Place]]) -> None:
        """Enter new places of the blocks in use and forget all other blocks."""
        rows = [(p.segment, p.start, p.length, block_id) for block_id, p in blocks]
        with self.transaction():
            self._database.execute("DELETE FROM blocks WHERE id NOT IN (SELECT block FROM chunks)")
            self._database.executemany("UPDATE blocks SET segment = ?, start = ?, length = ? WHERE id = ?", rows)

    def empty_log(self) -> bool:
        """Empty the write-ahead log, which may hold deleted text; return False if a reader or the disk prevents it."""
        with self.guard, translated(self.path):
            try:
                ((busy, _, _),) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError:
                return False
            return not busy

    # -- inside -------------------------------------------------------------------------------------------

    def _prepare(self, *, create: bool, read_only: bool) -> None:
        if create:
            self._database.execute("PRAGMA journal_mode=WAL")
        if not read_only:
            # these two hold for a connection only, not for the file
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("PRAGMA secure_delete=ON")
        self._database.execute("PRAGMA foreign_keys=ON")
        if create and not self._tables():
            # one transaction: a catalogue exists whole or not at all
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT_VERSION}; COMMIT;")
        ((version,),) = self._rows("PRAGMA user_version")
        if version != FORMAT_VERSION or not self._tables() >= _TABLES:
            raise BankFormatError(
                f"{self.path} has bank format {version}, this release reads {FORMAT_VERSION}.",
                "Open it with the release that made it, or ingest into a new bank.",
            )

    def _tables(self) -> set[str]:
        return {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Let several reads see the same state, whatever other processes write meanwhile."""
        with self.guard, translated(self.path):
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    def _read_listing(self) -> Listing:
        cuts: dict[int, list[Any]] = {}
        with self._snapshot():
            documents = self._rows("SELECT place, id, metadata, text FROM documents ORDER BY place")
            query = "SELECT document, number, start, stop, num_tokens FROM chunks ORDER BY document, number"
            for place, *cut in self._rows(query):
                cuts.setdefault(place, []).append(cut)
        return [
            (doc_id, metadata, [Chunk(doc_id, n, a, b, text[a:b], tokens) for n, a, b, tokens in cuts.get(place, [])])
            for place, doc_id, metadata, text in documents
        ]

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self.guard, translated(self.path):
            return self._database.execute(query, values).fetchall()


def metadata_json(document: Document) -> str:
    """Return a document's metadata as JSON, its order kept.

    Raises:
        InputError: If it is no JSON.
    """
    try:
        text = json.dumps(dict(document.metadata), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The metadata of {document.id!r} is not JSON: {error}.", "Use texts, numbers, lists and mappings."
        ) from error
    if _has_other_keys(document.metadata):
        # json would turn 1 into "1" without a word, and the metadata would come back changed
        raise InputError(f"The metadata of {document.id!r} is not JSON: a key is no text.", "Use texts as keys.")
    return text


def _has_other_keys(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(not isinstance(key, str) or _has_other_keys(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_has_other_keys(item) for item in value)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into errors of a bank."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except sqlite3.ProgrammingError as error:
        raise BankError(f"The catalogue of {path} cannot be used: {error}", "Open the bank again.") from error
    except sqlite3.DatabaseError as error:
        raise BankFormatError(
            f"The catalogue of {path} is damaged: {error}.", "Restore the directory from a backup, or ingest again."
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"A text cannot be stored: {error}.", "Replace its lone surrogates.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path) from error
        raise BankError(f"{path} cannot be used: {error}.", "See whether the disk works and may be written.") from error


def _unusable(path: Path, error: sqlite3.OperationalError) -> BankError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits say more than we need
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if code == sqlite3.SQLITE_BUSY:
        return BankLockedError(f"Another process writes to the catalogue of {path}.", "Try again when it is done.")
    return BankError(f"The catalogue of {path} cannot be used: {error}.", "See whether the disk works.")


def _full(path: Path) -> BankFullError:
    return BankFullError(
        f"There is no room left for {path}.", "Free space and run the same call again: what was stored is kept."
    )

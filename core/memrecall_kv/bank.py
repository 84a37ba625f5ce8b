"""The memory bank: a directory of append-only segments and one SQLite catalogue.

A block is appended to a segment, the segment is synced, then one transaction enters it in the catalogue, and
only then is it acknowledged. A crash in between leaves bytes that no row points to; the next writer cuts
them off. Deleting is a transaction; `compact` removes the bytes. One process writes, any number read.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from memrecall_kv import catalogue, segment
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import (
    BankError,
    BankFormatError,
    BlockCorruptError,
    InputError,
)
from memrecall_kv.quantize import dequantize, quantize
from memrecall_kv.segment_writer import SegmentWriter
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock, Metadata, Where


class MemoryBank:
    """Blocks, texts and catalogue in a directory. Made by `MemRecall.open_bank` or `MemoryBank.open`."""

    def __init__(
        self, path: Path, database: sqlite3.Connection, config: BankConfig, files: segment.FileLayer, *, read_only: bool
    ) -> None:
        self.path = path
        self._database = database
        self._config = config
        self._read_only = read_only
        self._writer = SegmentWriter(path, config.segment_bytes, files)
        self._guard = threading.RLock()
        self._verified: set[bytes] = set()
        self._listed: tuple[tuple[int, int], list[tuple[str, str, list[Chunk]]]] | None = None
        self.fingerprint: Mapping[str, str] = self._meta("fingerprint")

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: Mapping[str, str] | None = None,
        config: BankConfig | None = None,
        read_only: bool = False,
        files: segment.FileLayer | None = None,
    ) -> MemoryBank:
        """Open a bank, or create one if there is none and a fingerprint is given.

        Args:
            path: The directory.
            fingerprint: What its blocks are made with; `None` opens an existing bank without a model.
            config: How new blocks are stored.
            read_only: Refuse to write.
            files: The system calls of the writer; tests put faults in.

        Raises:
            BankFormatError: If the directory is no bank, or cannot be read by this release.
            FingerprintMismatchError: If the bank was made with something else.
            BankFullError: If it cannot be created for lack of room.
        """
        path = Path(path)
        create = fingerprint is not None and not read_only
        with catalogue.translated(path):
            if create:
                path.mkdir(parents=True, exist_ok=True)
                if not (path / catalogue.NAME).exists() and any(path.iterdir()):
                    raise BankFormatError(
                        f"{path} holds other files and no {catalogue.NAME}.", "Give an empty or a new directory."
                    )
        database = catalogue.connect(path, create=create, read_only=read_only)
        try:
            if create:
                with catalogue.transaction(database, path):
                    row = ("fingerprint", json.dumps(dict(fingerprint or {})))
                    database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", row)
            bank = cls(path, database, config or BankConfig(), files or segment.FileLayer(), read_only=read_only)
            if fingerprint is not None:
                catalogue.compare(path, bank.fingerprint, fingerprint)
        except BaseException:
            database.close()
            raise
        return bank

    def __enter__(self) -> MemoryBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return int(self._one("SELECT count(*) FROM chunks")[0])

    def __contains__(self, doc_id: object) -> bool:
        """Return whether there is a document of this id."""
        return bool(self._rows("SELECT 1 FROM documents WHERE id = ?", (doc_id,)))

    def close(self) -> None:
        """Close files and give the writer's lock back. Closing twice is no mistake."""
        with self._guard:
            self._database.close()
            self._writer.close()

    # -- writing ------------------------------------------------------------------------------------------

    def holds(self, document: Document) -> bool:
        """Return whether this very text and metadata are stored under the document's id."""
        rows = self._rows("SELECT text, metadata FROM documents WHERE id = ?", (document.id,))
        same = bool(rows) and rows[0][0] == document.text
        # parsed, since the order of keys is kept but makes no difference
        return same and json.loads(rows[0][1]) == json.loads(catalogue.as_json(document))

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks whose text has no stored block yet, equal texts once."""
        first: dict[bytes, Chunk] = {}
        for chunk in chunks:
            first.setdefault(self._block_id(chunk.text), chunk)
        return [chunk for key, chunk in first.items() if not self._rows("SELECT 1 FROM blocks WHERE id = ?", (key,))]

    def put_blocks(self, items: Sequence[tuple[Chunk, MemoryBlock]]) -> None:
        """Store blocks; they are durable when this returns, all or none of them.

        Raises:
            InputError: If a block holds NaN or infinity.
            BankFullError: If the disk is full.
            BankLockedError: If another process writes.
        """
        records = []
        for chunk, block in items:
            if not (bool(block.keys.isfinite().all()) and bool(block.values.isfinite().all())):
                raise InputError(
                    f"The block of chunk {chunk.id} holds NaN or infinity.", "Check the backbone's weights and dtype."
                )
            key = self._block_id(chunk.text)
            record = segment.pack(key, quantize(block, self._config.storage))
            records.append((key, record, block.num_memory_tokens))
        if not records:
            return
        with self._writing():
            with catalogue.translated(self.path):
                rows = self._writer.append([(key, record) for key, record, _ in records])
            with catalogue.transaction(self._database, self.path):
                self._database.executemany(
                    "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?)",
                    [(*row, tokens) for row, (_, _, tokens) in zip(rows, records, strict=True)],
                )

    def put_document(self, document: Document, chunks: Sequence[Chunk]) -> None:
        """Add a document, or replace the one of the same id, which keeps its place. One transaction.

        Raises:
            InputError: If a chunk's block is not stored, or the metadata is not JSON.
        """
        metadata = catalogue.as_json(document)
        absent = self.missing(chunks)
        if absent:
            raise InputError(f"Chunk {absent[0].id} has no stored block.", "Call put_blocks first.")
        with self._writing(), catalogue.transaction(self._database, self.path) as database:
            database.execute(
                "INSERT INTO documents (id, text, metadata) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET text = excluded.text, metadata = excluded.metadata",
                (document.id, document.text, metadata),
            )
            (place,) = database.execute("SELECT place FROM documents WHERE id = ?", (document.id,)).fetchone()
            self._drop_chunks(place, keep={self._block_id(chunk.text) for chunk in chunks})
            database.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
                [(place, c.index, c.start, c.end, c.num_tokens, self._block_id(c.text)) for c in chunks],
            )
        self._forget_old_pages()

    def delete(self, doc_id: str) -> None:
        """Delete a document: its text at once, the bytes of its blocks with the next `compact`.

        Raises:
            InputError: If there is no such document.
        """
        with self._writing():
            with catalogue.transaction(self._database, self.path) as database:
                row = database.execute("SELECT place FROM documents WHERE id = ?", (doc_id,)).fetchone()
                if row is None:
                    raise InputError(f"There is no document {doc_id!r} in {self.path}.", "See inspect for the ids.")
                self._drop_chunks(row[0], keep=set())
                database.execute("DELETE FROM documents WHERE place = ?", row)
            self._forget_old_pages()

    def compact(self) -> int:
        """Copy the blocks in use to new segments and remove the old ones; return the bytes freed."""
        with self._writing():
            before = self.stats().file_bytes
            old = self._writer.segments()
            with catalogue.translated(self.path):
                self._writer.start_segment()
                live = self._rows(
                    "SELECT id, segment, start, length FROM blocks "
                    "WHERE id IN (SELECT block FROM chunks) ORDER BY segment, start"
                )
                rows = []
                for key, number, start, length in live:
                    record = segment.read(self.path / segment.segment_name(number), start, length, key.hex())
                    segment.check(record, key, key.hex())
                    rows += self._writer.append([(key, record)])
            with catalogue.transaction(self._database, self.path) as database:
                database.execute("DELETE FROM blocks WHERE id NOT IN (SELECT block FROM chunks)")
                database.executemany(
                    "UPDATE blocks SET segment = ?, start = ?, length = ? WHERE id = ?",
                    [(number, start, length, key) for key, number, start, length in rows],
                )
            with catalogue.translated(self.path):
                self._writer.remove(old)
            self._forget_old_pages()
            return before - self.stats().file_bytes

    # -- reading ------------------------------------------------------------------------------------------

    def documents(self) -> list[Document]:
        """Return all documents in the order they were added."""
        rows = self._rows("SELECT id, text, metadata FROM documents ORDER BY place")
        return [Document(doc_id, text, json.loads(metadata)) for doc_id, text, metadata in rows]

    def document(self, doc_id: str) -> Document:
        """Return a document.

        Raises:
            InputError: If there is no such document.
        """
        rows = self._rows("SELECT text, metadata FROM documents WHERE id = ?", (doc_id,))
        if not rows:
            raise InputError(f"There is no document {doc_id!r} in {self.path}.", "See inspect for the ids.")
        return Document(doc_id, rows[0][0], json.loads(rows[0][1]))

    def metadata(self, doc_id: str) -> Metadata:
        """Return a document's metadata; raises like `document`."""
        rows = self._rows("SELECT metadata FROM documents WHERE id = ?", (doc_id,))
        return json.loads(rows[0][0]) if rows else self.document(doc_id).metadata

    def chunks(self, where: Where | None = None) -> list[Chunk]:
        """Return the chunks of all documents, or of those a filter lets through, in the bank's order."""
        return [
            chunk
            for doc_id, metadata, chunks in self._listing()
            if where is None or where(doc_id, json.loads(metadata))
            for chunk in chunks
        ]

    def blocks(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order; a block's checksum is verified when it is first read.

        Raises:
            BlockCorruptError: If a block is damaged.
            InputError: If a chunk has no block.
        """
        return [dequantize(segment.unpack(self._record(chunk.text, chunk.id))) for chunk in chunks]

    def stats(self) -> BankStats:
        """Return sizes and counts."""
        (documents,) = self._one("SELECT count(*) FROM documents")
        chunks, source = self._one("SELECT count(*), coalesce(sum(num_tokens), 0) FROM chunks")
        blocks, memory, live = self._one(
            "SELECT count(*), coalesce(sum(memory_tokens), 0), coalesce(sum(length), 0) FROM blocks "
            "WHERE id IN (SELECT block FROM chunks)"
        )
        on_disk = sum(path.stat().st_size for path in self._writer.segments())
        return BankStats(documents, chunks, blocks, source, memory, live, on_disk)

    def verify(self) -> int:
        """Check the catalogue and every block in use; return the number of blocks.

        Raises:
            BankFormatError: If the catalogue is damaged.
            BlockCorruptError: If a block is; the message names its document.
        """
        (state,) = self._one("PRAGMA integrity_check")
        if state != "ok":
            raise BankFormatError(f"The catalogue of {self.path} is damaged: {state}.", "Restore it or ingest again.")
        self._verified.clear()
        seen = set()
        for chunk in self.chunks():
            if chunk.text not in seen:
                seen.add(chunk.text)
                self._record(chunk.text, chunk.id)
        return len(seen)

    def _listing(self) -> list[tuple[str, str, list[Chunk]]]:
        """Return id, metadata as JSON and chunks of every document; read again when somebody has written."""
        with self._guard:
            state = (self._one("PRAGMA data_version")[0], self._database.total_changes)
            if self._listed is None or self._listed[0] != state:
                cuts: dict[int, list[Any]] = {}
                with catalogue.snapshot(self._database, self.path):
                    documents = self._rows("SELECT place, id, metadata, text FROM documents ORDER BY place")
                    query = "SELECT document, number, start, stop, num_tokens FROM chunks ORDER BY document, number"
                    for place, *cut in self._rows(query):
                        cuts.setdefault(place, []).append(cut)
                listing = []
                for place, doc_id, metadata, text in documents:
                    made = [Chunk(doc_id, n, a, b, text[a:b], tokens) for n, a, b, tokens in cuts.get(place, [])]
                    listing.append((doc_id, metadata, made))
                self._listed = (state, listing)
            return self._listed[1]

    # -- inside -------------------------------------------------------------------------------------------

    def _record(self, text: str, name: str) -> bytes:
        key = self._block_id(text)
        for attempt in range(2):
            rows = self._rows("SELECT segment, start, length FROM blocks WHERE id = ?", (key,))
            if not rows:
                raise InputError(f"Chunk {name} has no block in {self.path}.", "Recall chunks of this bank only.")
            number, start, length = rows[0]
            where = f"chunk {name} in {segment.segment_name(number)}"
            try:
                with catalogue.translated(self.path):
                    record = segment.read(self.path / segment.segment_name(number), start, length, where)
            except BankError as error:
                # another process may have compacted between the two reads: its rows are there by now
                if attempt == 0 and isinstance(error.__cause__, FileNotFoundError):
                    continue
                if isinstance(error.__cause__, FileNotFoundError):
                    raise BlockCorruptError(
                        f"The block of {where} is damaged: the file is gone.", "Ingest the document again."
                    ) from error
                raise
            if key not in self._verified:
                segment.check(record, key, where)
                self._verified.add(key)
            return record
        raise BankError(f"{self.path} changed while it was read.", "Try again.")

    def _drop_chunks(self, place: int, keep: set[bytes]) -> None:
        """Remove a document's chunks, and blocks that nothing else uses."""
        used = self._database.execute("SELECT DISTINCT block FROM chunks WHERE document = ?", (place,)).fetchall()
        self._database.execute("DELETE FROM chunks WHERE document = ?", (place,))
        for (key,) in used:
            if key not in keep:
                self._database.execute(
                    "DELETE FROM blocks WHERE id = ? AND id NOT IN (SELECT block FROM chunks)", (key,)
                )
                self._verified.discard(key)

    def _forget_old_pages(self) -> None:
        """Empty the write-ahead log, so that a deleted text is in no file any more."""
        with catalogue.translated(self.path):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writer's lock; taken at the first write and kept until the bank is closed."""
        with self._guard:
            if self._read_only:
                raise BankError(f"{self.path} is open for reading.", "Open it without read_only to write.")
            self._writer.open(self._ends)
            yield

    def _ends(self) -> dict[int, int]:
        """Return where the last acknowledged record of each segment ends."""
        return dict(self._rows("SELECT segment, max(start + length) FROM blocks GROUP BY segment"))

    def _block_id(self, text: str) -> bytes:
        content = json.dumps(dict(sorted(self.fingerprint.items()))) + "\0" + text
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:16]

    def _meta(self, key: str) -> Any:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        if not rows:
            raise BankFormatError(f"{self.path} has no {key}.", "Give a directory made by ingest.")
        return json.loads(rows[0][0])

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._guard, catalogue.translated(self.path):
            return self._database.execute(query, values).fetchall()

    def _one(self, query: str) -> Any:
        return self._rows(query)[0]

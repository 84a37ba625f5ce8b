"""The memory bank: a directory of append-only segments and one SQLite catalogue.

A block is appended to a segment, the segment is synced, then one transaction enters it in the catalogue, and
only then is it acknowledged. A crash in between leaves bytes that no row points to; the next writer cuts
them off. Deleting is a transaction; `compact` removes the bytes. One process writes, any number read.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from weakref import proxy

from memrecall_kv.bank import segment
from memrecall_kv.bank.budget import Budget, segment_bytes
from memrecall_kv.bank.candidates import Part, candidates
from memrecall_kv.bank.checks import check_block, check_chunks, check_ids, check_stored, compare_fingerprints
from memrecall_kv.bank.compaction import compact_segments
from memrecall_kv.bank.directory import BankDirectory, make_directory, resolved
from memrecall_kv.bank.failures import translated
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.bank.finder import Finder, Scope
from memrecall_kv.bank.metadata import storable
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.bank.reserve import Reserve
from memrecall_kv.bank.schema import FORMAT_VERSION
from memrecall_kv.bank.segment_writer import SegmentWriter
from memrecall_kv.bank.snapshot import copy_bank
from memrecall_kv.bank.verification import verify_bank
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BlockCorruptError, InputError
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock, Metadata, Outline, Where


class MemoryBank:
    """Blocks, texts and catalogue in a directory. Made by `MemRecall.open_bank` or `MemoryBank.open`.

    It is used in the process that opened it: another one, forked from it, opens its own.

    Attributes:
        path: The directory, absolute: what `chdir` does later makes no difference.
        fingerprint: What the blocks are made with.
        budget: How many bytes the blocks may take, and what is evicted otherwise.
    """

    def __init__(
        self, directory: BankDirectory, lock: WriterLock, catalogue: Finder, config: BankConfig, files: FileLayer
    ) -> None:
        self.path = directory.path
        self.fingerprint: Mapping[str, str] = catalogue.fingerprint()
        self._directory = directory
        self._lock = lock
        self._catalogue = catalogue
        self._storage, self._segment_bytes = config.storage, config.segment_bytes
        self._writer = SegmentWriter(directory, lock, segment_bytes(config), files, catalogue)
        self._salt = json.dumps(dict(sorted(self.fingerprint.items()))) + "\0"
        self._reserve = Reserve(self.path)
        self._one_writes = threading.RLock()
        here = proxy(self)  # a bank that nobody holds goes at once
        self.budget = Budget(
            config.max_bytes, catalogue, self._writer, lambda c: here._block_id(c), lambda: here._writing()
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: Mapping[str, str] | None = None,
        config: BankConfig | None = None,
        read_only: bool = False,
        files: FileLayer | None = None,
    ) -> MemoryBank:
        """Open a bank, or create one if there is none and a fingerprint is given.

        A bank of an older format is taken to today's unless it is opened for reading.

        Args:
            path: The directory.
            fingerprint: What its blocks are made with; `None` opens an existing bank without a model.
            config: How new blocks are stored, and how long to wait for other processes.
            read_only: Refuse to write.
            files: The system calls of the writer; tests put faults in.

        Raises:
            InputError: If the path is none.
            BankFormatError: If the directory is no bank, or cannot be read by this release.
            FingerprintMismatchError: If the bank was made with something else.
            BankFullError: If it cannot be created for lack of room.
            BankLockedError: If another process writes while it is to be created or taken to today's format.
        """
        path, files, config = resolved(path), files or FileLayer(), config or BankConfig()
        create = fingerprint is not None and not read_only
        with translated(path):
            if create:
                make_directory(path, files)
            directory, lock = BankDirectory(path), WriterLock(path, config.wait_seconds)
        catalogue = Finder(
            directory,
            lock,
            read_only=read_only,
            wait=config.wait_seconds,
            found_with=fingerprint if create else None,
        )
        with ExitStack() as undo:
            undo.callback(catalogue.close)
            if fingerprint is not None:
                compare_fingerprints(path, catalogue.fingerprint(), fingerprint)
            if catalogue.version < FORMAT_VERSION and not read_only:
                with translated(path), lock:
                    catalogue.migrate()
            if not read_only and not catalogue.is_of_today:
                with translated(path), lock:
                    catalogue.renew()
            bank = cls(directory, lock, catalogue, config, files)
            undo.pop_all()
        return bank

    @property
    def read_only(self) -> bool:
        """Return whether the bank refuses to be written."""
        return self._catalogue.read_only

    def __enter__(self) -> MemoryBank:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self._catalogue.count_chunks()

    def __contains__(self, doc_id: object) -> bool:
        """Return whether there is a document of this id."""
        return isinstance(doc_id, str) and self._catalogue.has(doc_id)

    def close(self) -> None:
        """Close files and give the writer's lock back. Closing twice is no mistake, nor is closing a forked copy."""
        if self._directory.is_of_this_process:
            with self._one_writes:
                self._close_budget()
                self._catalogue.close()
                self._lock.release()

    # -- writing ------------------------------------------------------------------------------------------

    def holds(self, document: Document) -> bool:
        """Return whether this very text, heading and metadata are stored under the id, as they would come back."""
        return self._catalogue.document(document.id) == storable(document)

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks whose text has no stored block yet, equal texts once."""
        first: dict[bytes, Chunk] = {}
        for chunk in chunks:
            first.setdefault(self._block_id(chunk), chunk)
        return [chunk for block_id, chunk in first.items() if self._catalogue.place(block_id) is None]

    def put_blocks(self, items: Sequence[tuple[Chunk, MemoryBlock]]) -> None:
        """Store blocks that are not stored yet; they are durable when this returns, all or none of them.

        Raises:
            InputError: If a block's shapes do not fit together, or it holds NaN or infinity.
            BankFullError: If the disk is full.
            BankLockedError: If another process writes.
            ConfigError: If one is larger than `bank.max_bytes`.
        """
        if not items:
            return
        for chunk, block in items:
            check_block(chunk, block)
        with self._writing():
            blocks = {self._block_id(chunk): block for chunk, block in items}
            new = {key: block for key, block in blocks.items() if self._catalogue.place(key) is None}
            records = [
                segment.pack(key, quantize(block, self._storage), self._catalogue.bank_id) for key, block in new.items()
            ]
            self.budget.check(records)
            with translated(self.path):
                places = self._writer.append(records)
            tokens = (block.num_memory_tokens for block in new.values())
            self._catalogue.enter_blocks(zip(new, places, tokens, strict=True))
            self.budget.stored(dict(zip(new, places, strict=True)))

    def deferred_documents(self) -> set[str]:
        """Return the ids of documents some of whose chunks are still to be compressed; looks at every chunk."""
        return {doc_id for doc_id, _ in self._catalogue.deferred()}

    def is_deferred(self, doc_id: str) -> bool:
        """Return whether some chunks of a document are still to be compressed."""
        return self._catalogue.is_deferred(doc_id)

    def deferred(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks that are still to be compressed, equal texts once; none if the bank is open for reading."""
        missing = [] if self.read_only else self.missing(chunks)
        # a text that was changed on the disk has no block either: that is damage, not to be compressed
        return [chunk for chunk in missing if self.uses(chunk)]

    def put_document(self, document: Document, chunks: Sequence[Chunk], *, defer: bool = False) -> None:
        """Add a document, or replace the one of the same id; see `put_documents`."""
        self.put_documents([(document, chunks)], defer=defer)

    def put_documents(self, items: Iterable[tuple[Document, Sequence[Chunk]]], *, defer: bool = False) -> None:
        """Add documents, or replace those of the same ids, which keep their places. One transaction: all or none.

        Blocks that only a replaced text used stay until `compact`: another document may be about to use them.

        Args:
            items: Documents, each with the spans of it that can be recalled.
            defer: Their blocks may come later.

        Raises:
            InputError: If a chunk is none of its document's or its block is not stored, or the metadata is not JSON.
        """
        items = list(items)
        if not items:
            return
        for document, chunks in items:
            check_chunks(document, chunks)
        with self._writing():
            for chunk in () if defer else self.missing([chunk for _, chunks in items for chunk in chunks]):
                if not self._catalogue.is_evicted(self._block_id(chunk)):
                    raise InputError(f"Chunk {chunk.id} has no stored block.", "Call put_blocks first.")
            replaces = any(document.id in self for document, _ in items)
            self._catalogue.enter_documents(
                [(document, [(chunk, self._block_id(chunk)) for chunk in chunks]) for document, chunks in items]
            )
            if replaces:
                self._catalogue.empty_log()

    def delete(self, doc_id: str) -> None:
        """Delete a document; see `delete_many`."""
        self.delete_many([doc_id])

    def delete_many(self, doc_ids: Iterable[str]) -> None:
        """Delete documents: their texts at once, the bytes of their blocks with the next `compact`. All or none.

        Raises:
            InputError: If one of them is not there.
        """
        check_ids(doc_ids)
        wanted = dict.fromkeys(doc_ids)
        if not wanted:
            return

        with self._writing():
            for doc_id in wanted:
                if doc_id not in self:
                    raise self._unknown(doc_id)
            self._reserve.rescued(lambda: self._catalogue.remove_documents(wanted))
            self.budget.recount()
            self._catalogue.empty_log()

    def compact(self) -> int:
        """Copy the blocks in use to new segments, remove the old ones, and write the catalogue anew.

        Returns:
            The bytes freed in segments.

        Raises:
            BankError: If a reader keeps deleted text in the write-ahead log; all else is done.
            BankFullError: If there is no room for the copy; nothing is lost then.
            BankLockedError: If another process writes.
            BlockCorruptError: If a block in use is damaged; its segment stays as it is.
        """
        with self._writing(), translated(self.path):
            before = self._writer.file_bytes()
            self._reserve.rescued(self._catalogue.forget_unused)
            self.budget.recount()
            compact_segments(self._catalogue, self._writer)
            self._catalogue.rebuild()
            if not self._catalogue.empty_log(wait=True):
                raise BankError(f"A reader of {self.path} keeps deleted text in the log.", "Close it, compact again.")
            return before - self._writer.file_bytes()

    # -- reading ------------------------------------------------------------------------------------------

    def documents(self) -> list[Document]:
        """Return all documents in the order they were added."""
        return self._catalogue.documents()

    def document(self, doc_id: str) -> Document:
        """Return a document.

        Raises:
            InputError: If there is no such document.
        """
        document = self._catalogue.document(doc_id)
        if document is None:
            raise self._unknown(doc_id)
        return document

    def metadata(self, doc_id: str) -> Metadata:
        """Return a document's metadata; raises like `document`."""
        metadata = self._catalogue.metadata(doc_id)
        if metadata is None:
            raise self._unknown(doc_id)
        return metadata

    def ids(self, where: Where | None = None) -> list[str]:
        """Return the ids of all documents, or of those a filter lets through, in order; `where` as for `scope`."""
        return self._catalogue.ids(where)

    def outlines(self, limit: int) -> list[Outline]:
        """Return what there is to say of the first so many documents, in the bank's order, without reading texts."""
        return self._catalogue.outlines(limit)

    def chunks(self, where: Where | None = None) -> list[Chunk]:
        """Return the chunks of all documents, or of those a filter lets through, in the bank's order."""
        return self._catalogue.chunks(self._catalogue.scope(where))

    def scope(self, where: Where | None = None) -> Scope:
        """Return what a filter lets through, looked up once for all that a question asks.

        Args:
            where: A filter of `memrecall_kv.filters` is asked of each value there is; any other is called with the
                metadata of every document.
        """
        return self._catalogue.scope(where)

    def candidates(self, text: str, limit: int | None, scope: Scope) -> list[tuple[Chunk, float]]:
        """Return the chunks that a question may need, in the bank's order, each with its share of words.

        The share is BM25's score over the best one's, in [0, 1]. Those that share most words with the text come first;
        where they are fewer than the limit, others that hold other forms of its words, and then in turn the first
        chunks and the latest ones.

        Args:
            text: What is asked.
            limit: Most chunks; `None` for all in the scope.
            scope: Which chunks may be recalled.

        Raises:
            BankFormatError: If the index, or a document that it leads to, is not as it was stored.
        """
        return candidates([Part(self._catalogue, scope)], text, limit)

    def largest(self, count: int, where: Where | None = None) -> int:
        """Return how many chunks those documents that have most have together.

        Args:
            count: How many documents.
            where: Lets them through, as for `scope`.
        """
        return sum(self._catalogue.largest(count, where))

    def blocks(self, chunks: Sequence[Chunk], *, shape: tuple[int, int, int] | None = None) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order, each compared with its checksum and de-quantised.

        Args:
            chunks: The chunks.
            shape: The L, K and D that their keys must have; a block of others is refused before it is de-quantised.

        Raises:
            BlockCorruptError: If a block is damaged or of another shape.
            InputError: If a chunk has no block.
        """
        return [self._block(chunk, shape) for chunk in chunks]

    def uses(self, chunk: Chunk) -> bool:
        """Return whether some document has a chunk of this text and heading."""
        return self._catalogue.is_used(self._block_id(chunk))

    @property
    def revision(self) -> object:
        """Return what is another one after every change, whoever made it."""
        return self._catalogue.revision()

    @property
    def bytes_per_source_token(self) -> float:
        """Return the bytes of the blocks in use by tokens of the chunks; 0.0 without any."""
        return self._catalogue.bytes_per_source_token()

    def stats(self) -> BankStats:
        """Return sizes and counts."""
        return self._catalogue.stats(self._writer.file_bytes())

    def verify(self) -> int:
        """Check the catalogue, every text and every block in use; return the number of blocks, deferred ones apart.

        Raises:
            BankFormatError: If the catalogue is damaged: its pages, or what it says of a document or a block.
            BlockCorruptError: If a block or the text it stands for is; the message names the chunk.
        """
        return verify_bank(self._catalogue, self._block_id, self._record)

    def copy_to(self, folder: Path) -> None:
        """Write what the bank holds at this moment into an empty folder, without what was deleted: another bank.

        Others may read and write meanwhile. Raises like `export_bank`, which is made of it.
        """
        with translated(folder):
            copy_bank(self._catalogue, self._record, folder, self._segment_bytes)

    # -- inside -------------------------------------------------------------------------------------------

    def _block(self, chunk: Chunk, shape: tuple[int, int, int] | None) -> MemoryBlock:
        block = dequantize(segment.unpack(self._record(self._block_id(chunk), chunk.id), chunk.id, shape))
        check_stored(chunk, block)
        return block

    def _record(self, block_id: bytes, name: str) -> bytes:
        self._directory.confirm()
        place = self._catalogue.place(block_id)
        while place is not None:
            try:
                with translated(self.path):
                    return segment.read(self.path, place, block_id, name, self._catalogue.bank_id)
            except BlockCorruptError:
                # another process may have compacted between the two reads: its rows are there by now
                moved = self._catalogue.place(block_id)
                if moved == place:
                    raise
                place = moved
        raise InputError(
            f"Chunk {name} has no block in {self.path}.",
            "Recall chunks of this bank only; if they were deferred, open it for writing or ingest them.",
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writer's lock; taken at the first write and kept until the bank is closed. Evict at the end."""
        if self.read_only:
            raise BankError(f"{self.path} is open for reading.", "Open it without read_only to write.")
        self._directory.confirm_process()
        with self._one_writes:
            with translated(self.path):
                if not self._lock.is_held:
                    self.budget.recount()
                self._writer.open()
                self._reserve.make()
            yield
            with translated(self.path):
                self._reserve.rescued(self.budget.fit)

    def _close_budget(self) -> None:
        """Write what was opened, unless somebody is in the way: it is a hint."""
        if self.read_only or not self.budget.has_openings:
            return
        with suppress(BankError), translated(self.path):
            self._directory.confirm()
            if not self._lock.is_held:
                self._lock.take(wait=0.0)
            self.budget.enter_openings()

    def _block_id(self, chunk: Chunk) -> bytes:
        return hashlib.sha256((self._salt + chunk.judged_text).encode("utf-8", "surrogatepass")).digest()[:16]

    def _unknown(self, doc_id: str) -> InputError:
        return InputError(f"There is no document {doc_id!r} in {self.path}.", "See inspect for the ids.")

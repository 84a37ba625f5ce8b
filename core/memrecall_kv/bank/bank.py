"""The memory bank: a directory of append-only segments and one SQLite catalogue.

A block is appended to a segment, the segment is synced, then one transaction enters it in the catalogue, and
only then is it acknowledged. A crash in between leaves bytes that no row points to; the next writer cuts
them off. Deleting is a transaction; `compact` removes the bytes. One process writes, any number read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from memrecall_kv.bank import segment
from memrecall_kv.bank.catalogue import NAME, Catalogue, metadata_json, translated
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.bank.segment_writer import SegmentWriter
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import (
    BankError,
    BankFormatError,
    BlockCorruptError,
    FingerprintMismatchError,
    InputError,
)
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock, Metadata, Where

_GROUP = 32
"""Records that `compact` holds in memory and syncs together."""


class MemoryBank:
    """Blocks, texts and catalogue in a directory. Made by `MemRecall.open_bank` or `MemoryBank.open`.

    Attributes:
        path: The directory.
        fingerprint: What the blocks are made with.
    """

    def __init__(self, catalogue: Catalogue, config: BankConfig, files: segment.FileLayer, *, read_only: bool) -> None:
        self.path = catalogue.path
        self._catalogue = catalogue
        self._storage = config.storage
        self._read_only = read_only
        self._writer = SegmentWriter(self.path, config.segment_bytes, files, catalogue.ends)
        fingerprint = catalogue.fingerprint()
        if fingerprint is None:
            raise BankFormatError(f"{self.path} has no fingerprint.", "Give a directory made by ingest.")
        self.fingerprint: Mapping[str, str] = fingerprint
        self._salt = json.dumps(dict(sorted(fingerprint.items()))) + "\0"

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
        path, files = Path(path), files or segment.FileLayer()
        create = fingerprint is not None and not read_only
        if create:
            _make_directory(path, files)
        catalogue = Catalogue(path, create=create, read_only=read_only)
        with ExitStack() as undo:
            undo.callback(catalogue.close)
            if fingerprint is not None and create:
                catalogue.claim(fingerprint)
            bank = cls(catalogue, config or BankConfig(), files, read_only=read_only)
            if fingerprint is not None:
                _compare(path, bank.fingerprint, fingerprint)
            undo.pop_all()
        return bank

    @property
    def read_only(self) -> bool:
        """Return whether the bank refuses to be written."""
        return self._read_only

    def __enter__(self) -> MemoryBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self._catalogue.count_chunks()

    def __contains__(self, doc_id: object) -> bool:
        """Return whether there is a document of this id."""
        return isinstance(doc_id, str) and self._catalogue.metadata(doc_id) is not None

    def close(self) -> None:
        """Close files and give the writer's lock back. Closing twice is no mistake."""
        with self._catalogue.guard:
            self._catalogue.close()
            self._writer.close()

    # -- writing ------------------------------------------------------------------------------------------

    def holds(self, document: Document) -> bool:
        """Return whether this very text and metadata are stored under the document's id."""
        stored = self._catalogue.document(document.id)
        # the metadata as it would come back: json keeps the order of keys, which makes no difference
        return stored == Document(document.id, document.text, json.loads(metadata_json(document)))

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
        """
        if not items:
            return
        for chunk, block in items:
            _check_block(chunk, block)
        with self._writing():
            blocks = {self._block_id(chunk): block for chunk, block in items}
            new = {key: block for key, block in blocks.items() if self._catalogue.place(key) is None}
            records = [segment.pack(key, quantize(block, self._storage)) for key, block in new.items()]
            with translated(self.path):
                places = self._writer.append(records)
            tokens = (block.num_memory_tokens for block in new.values())
            self._catalogue.enter_blocks(zip(new, places, tokens, strict=True))

    def deferred_documents(self) -> set[str]:
        """Return the ids of documents some of whose chunks are still to be compressed."""
        return {doc_id for doc_id, _ in self._catalogue.deferred()}

    def deferred(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks that are still to be compressed, equal texts once; none if the bank is open for reading."""
        missing = [] if self._read_only else self.missing(chunks)
        # a text that was changed on the disk has no block either: that is damage, not to be compressed
        known = {block_id for _, block_id in self._catalogue.deferred()} if missing else set()
        return [chunk for chunk in missing if self._block_id(chunk) in known]

    def put_document(self, document: Document, chunks: Sequence[Chunk], *, defer: bool = False) -> None:
        """Add a document, or replace the one of the same id, which keeps its place. One transaction.

        Blocks that only the replaced text used stay until `compact`: another document may be about to use them.

        Args:
            document: Its text and metadata.
            chunks: The spans of it that can be recalled.
            defer: Their blocks may come later.

        Raises:
            InputError: If a chunk is none of the document's or its block is not stored, or the metadata is not JSON.
        """
        _check_chunks(document, chunks)
        with self._writing():
            absent = self.missing(chunks)
            if absent and not defer:
                raise InputError(f"Chunk {absent[0].id} has no stored block.", "Call put_blocks first.")
            replaces = document.id in self
            self._catalogue.enter_document(document, [(chunk, self._block_id(chunk)) for chunk in chunks])
            if replaces:
                self._catalogue.empty_log()

    def delete(self, doc_id: str) -> None:
        """Delete a document: its text at once, the bytes of its blocks with the next `compact`.

        Raises:
            InputError: If there is no such document.
        """
        with self._writing():
            if not self._catalogue.remove_document(doc_id):
                raise self._unknown(doc_id)
            self._catalogue.empty_log()

    def compact(self) -> int:
        """Copy the blocks in use to new segments and remove the old ones; return the bytes freed.

        Raises:
            BankError: If a reader keeps deleted text in the write-ahead log; all else is done.
            BankFullError: If there is no room for the copy; nothing is changed then.
            BankLockedError: If another process writes.
            BlockCorruptError: If a block in use is damaged; nothing is changed then.
        """
        with self._writing(), translated(self.path):
            before, old = self._file_bytes(), self._writer.segments()
            live = self._catalogue.live()
            names = {self._block_id(chunk): chunk.id for chunk in self.chunks()}
            moved: list[tuple[bytes, segment.Place]] = []
            self._writer.start_segment()
            for start in range(0, len(live), _GROUP):
                group = live[start : start + _GROUP]
                records = [segment.read(self.path, place, key, names.get(key, key.hex())) for key, place in group]
                moved += zip((key for key, _ in group), self._writer.append(records), strict=True)
            self._catalogue.relocate(moved)
            self._writer.remove(old)
            if not self._catalogue.empty_log():
                raise BankError(
                    f"A reader of {self.path} keeps deleted text in the log.", "Close it and compact again."
                )
            return before - self._file_bytes()

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

    def chunks(self, where: Where | None = None) -> list[Chunk]:
        """Return the chunks of all documents, or of those a filter lets through, in the bank's order."""
        return [
            chunk
            for doc_id, metadata, chunks in self._catalogue.listing()
            if where is None or where(doc_id, json.loads(metadata))
            for chunk in chunks
        ]

    def blocks(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order, each compared with its checksum and de-quantised.

        Raises:
            BlockCorruptError: If a block is damaged.
            InputError: If a chunk has no block.
        """
        return [dequantize(segment.unpack(self._record(chunk))) for chunk in chunks]

    def stats(self) -> BankStats:
        """Return sizes and counts."""
        return self._catalogue.stats(self._file_bytes())

    def verify(self) -> int:
        """Check the catalogue, every text and every block in use; return the number of blocks, deferred ones apart.

        Raises:
            BankFormatError: If the catalogue is damaged.
            BlockCorruptError: If a block or the text it stands for is; the message names the chunk.
        """
        damage = self._catalogue.damage()
        if damage is not None:
            raise BankFormatError(f"The catalogue of {self.path} is damaged: {damage}.", "Restore it or ingest again.")
        distinct = {self._block_id(chunk): chunk for chunk in reversed(self.chunks())}
        for _, block_id in self._catalogue.deferred():
            distinct.pop(block_id, None)
        for chunk in distinct.values():
            try:
                self._record(chunk)
            except InputError as error:
                # a block's id is made from the text, so that a changed text has none
                raise BlockCorruptError(
                    f"The text of chunk {chunk.id} is not the one its block was made from.", "Ingest it again."
                ) from error
        return len(distinct)

    # -- inside -------------------------------------------------------------------------------------------

    def _record(self, chunk: Chunk) -> bytes:
        block_id = self._block_id(chunk)
        place = self._catalogue.place(block_id)
        while place is not None:
            try:
                with translated(self.path):
                    return segment.read(self.path, place, block_id, chunk.id)
            except BlockCorruptError:
                # another process may have compacted between the two reads: its rows are there by now
                moved = self._catalogue.place(block_id)
                if moved == place:
                    raise
                place = moved
        raise InputError(
            f"Chunk {chunk.id} has no block in {self.path}.",
            "Recall chunks of this bank only; if they were deferred, open it for writing or ingest them.",
        )

    def _file_bytes(self) -> int:
        sizes = []
        for path in self._writer.segments():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # another process compacts
                continue
        return sum(sizes)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writer's lock; taken at the first write and kept until the bank is closed."""
        if self._read_only:
            raise BankError(f"{self.path} is open for reading.", "Open it without read_only to write.")
        with self._catalogue.guard:
            with translated(self.path):
                self._writer.open()
            yield

    def _block_id(self, chunk: Chunk) -> bytes:
        return hashlib.sha256((self._salt + chunk.text).encode("utf-8", "surrogatepass")).digest()[:16]

    def _unknown(self, doc_id: str) -> InputError:
        return InputError(f"There is no document {doc_id!r} in {self.path}.", "See inspect for the ids.")


def _make_directory(path: Path, files: segment.FileLayer) -> None:
    if path.exists() and not path.is_dir():
        raise BankFormatError(f"{path} is a file, a bank is a directory.", "Give an empty or a new directory.")
    with translated(path):
        if not path.exists():
            path.mkdir(parents=True)
            files.sync(path.parent)
        if not (path / NAME).exists() and any(path.iterdir()):
            raise BankFormatError(f"{path} holds other files and no {NAME}.", "Give an empty or a new directory.")


def _compare(path: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> None:
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


def _check_block(chunk: Chunk, block: MemoryBlock) -> None:
    shape, positions = tuple(block.keys.shape), tuple(block.positions.shape)
    if len(shape) != 4 or 0 in shape or tuple(block.values.shape) != shape:
        raise InputError(
            f"The block of chunk {chunk.id} has keys {shape} and values {tuple(block.values.shape)}.",
            "Both must be [L, K, M, D] with at least one memory token.",
        )
    if positions not in ((1, 1, shape[2]), shape[:3]):
        raise InputError(
            f"The block of chunk {chunk.id} has positions {positions}.",
            f"Expected (1, 1, {shape[2]}) or {shape[:3]}.",
        )
    counts = block.counts
    if counts is not None and (
        tuple(counts.shape) != shape[:2] or not 1 <= int(counts.min()) <= int(counts.max()) <= shape[2]
    ):
        raise InputError(
            f"The block of chunk {chunk.id} has counts of shape {tuple(counts.shape)}.",
            f"Expected {shape[:2]}, each in [1, {shape[2]}].",
        )
    if not (bool(block.keys.isfinite().all()) and bool(block.values.isfinite().all())):
        raise InputError(
            f"The block of chunk {chunk.id} holds NaN or infinity.", "Check the backbone's weights and dtype."
        )


def _check_chunks(document: Document, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        if chunk.doc_id != document.id or chunk.text != document.text[chunk.start : chunk.end]:
            raise InputError(
                f"Chunk {chunk.id} is not the span [{chunk.start}, {chunk.end}) of document {document.id!r}.",
                "Pass the chunks that were cut from this very text.",
            )
    if len({chunk.index for chunk in chunks}) != len(chunks):
        raise InputError(f"Two chunks of document {document.id!r} have the same index.", "Number them 0, 1, 2, ...")

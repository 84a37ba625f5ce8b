"""The bank's SQLite catalogue: which documents and chunks there are, and where their blocks lie."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from memrecall_kv.bank import derived, digest
from memrecall_kv.bank.digest import Cut
from memrecall_kv.bank.failures import damaged
from memrecall_kv.bank.heading import packed, unpacked
from memrecall_kv.bank.index import Changes
from memrecall_kv.bank.metadata import to_json
from memrecall_kv.bank.openings import OpenedBlocks
from memrecall_kv.bank.schema import FORMAT_VERSION
from memrecall_kv.bank.segment import Place
from memrecall_kv.errors import BankFormatError
from memrecall_kv.types import BankStats, Chunk, Document, Heading, Metadata, Outline

_LARGEST = 2**62
"""No number of ours comes near; sums of two are still numbers of SQLite's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored of a document, as it is stored.

    Attributes:
        place: Its number in the bank's order.
        id: Its id.
        text: Its text.
        metadata: Its metadata as JSON.
        heading: Its heading.
        chunk_heading: That of its chunks.
        cuts: The rows of its chunks.
        is_whole: Whether all this is as it was entered; always in a bank of format 1, which cannot know.
    """

    place: int
    id: str
    text: str
    metadata: str
    heading: Heading
    chunk_heading: Heading
    cuts: tuple[Cut, ...]
    is_whole: bool

    @property
    def chunks(self) -> list[Chunk]:
        """Return its chunks."""
        return [
            Chunk(self.id, n, start, stop, self.text[start:stop], tokens, self.chunk_heading)
            for n, start, stop, tokens, _ in self.cuts
        ]

    def document(self, metadata: Metadata) -> Document:
        """Return it with its metadata read."""
        return Document(self.id, self.text, metadata, self.heading)


class Catalogue(OpenedBlocks):
    """An open catalogue: what is asked of it and entered into it."""

    _derived: tuple[object, ...] | None = None
    """The state of an old catalogue from which index and counts were made; one of today keeps them."""

    # -- reading ------------------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str]:
        """Return what the blocks are made with."""
        found = self._json(self._meta().get("fingerprint"))
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise BankFormatError(f"{self.path} has no fingerprint.", "Give a directory made by ingest.")
        return found

    def entries(
        self, doc_id: str | None = None, *, places: Sequence[int] | None = None, check: bool = True
    ) -> Iterator[Entry]:
        """Yield what is stored of all documents, in order, or of some.

        Args:
            doc_id: One of them.
            places: Those at these places, if there are any.
            check: Raise `BankFormatError` at the first that is not as it was entered.
        """
        asked: tuple[str, str, tuple[Any, ...]] = (_DOCUMENTS, _CUTS, ())
        if doc_id is not None:
            asked = (_DOCUMENT, _CUTS_OF_ONE, (doc_id,))
        elif places is not None:
            asked = (_DOCUMENTS_AT, _CUTS_AT, (json.dumps([int(place) for place in places]),))
        documents, chunks, values = asked
        cuts: dict[int, list[Cut]] = {}
        with self._snapshot():
            rows = self._rows(documents, values)
            for place, *cut in self._rows(chunks, values):
                cuts.setdefault(place, []).append(tuple(cut))
            if check and not values and self._rows(_COUNT_OF_IDS) != [(len(rows),)]:
                raise damaged(self.path, "there are more ids than documents, or fewer")
        for place, found_id, text, metadata, heading, num_chunks, *stored in rows:
            its = tuple(cuts.get(place, ()))
            made = self._made(found_id, place, text, metadata, heading, its)
            is_whole = self._is_same(tuple(stored), made) and num_chunks == len(its)
            entry = Entry(place, found_id, text, metadata, *self._headings(found_id, heading), its, is_whole)
            if check and not entry.is_whole:
                raise self.changed(f"document {found_id!r}")
            yield entry

    def documents(self) -> list[Document]:
        """Return all documents in the order they were added."""
        return [entry.document(self.parsed(entry.metadata)) for entry in self.entries()]

    def document(self, doc_id: str) -> Document | None:
        """Return a document, or `None`."""
        for entry in self.entries(doc_id):
            return entry.document(self.parsed(entry.metadata))
        return None

    def metadata(self, doc_id: str) -> dict[str, Any] | None:
        """Return a document's metadata, or `None`."""
        rows = self._rows(f"{_HEADS} WHERE id = ?", (doc_id,))
        return self.confirmed(*rows[0]) if rows else None

    def heads(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield id and metadata of all documents in the order they were added; no text is read."""
        for doc_id, *row in self._rows(f"{_HEADS} ORDER BY place"):
            yield doc_id, self.confirmed(doc_id, *row)

    def outlines(self, limit: int) -> list[Outline]:
        """Return what there is to say of the first so many documents without their texts.

        Raises:
            BankFormatError: If a document's metadata or the numbers of its chunks cannot be right.
        """
        with self._snapshot():
            heads = self._rows(f"{_HEADS} ORDER BY place LIMIT ?", (limit,))
            places = (json.dumps([place for _, place, *_ in heads]),)
            sizes, absent = self._rows(_SIZES_AT, places), self._rows(_ABSENT_AT, places)
        if not all(_is_count(number) for row in (*sizes, *absent) for number in row):
            raise damaged(self.path, "a chunk's place is no number")
        size_of = {place: size for place, *size in sizes}
        lost: dict[tuple[int, int], list[int]] = {}
        for place, number, was_evicted in absent:
            lost.setdefault((place, was_evicted), []).append(number)
        return [
            Outline(
                doc_id,
                self.confirmed(doc_id, place, *head),
                *size_of.get(place, (0, 0)),
                *(tuple(lost.get((place, state), ())) for state in (0, 1)),
            )
            for doc_id, place, *head in heads
        ]

    def confirmed(self, doc_id: str, place: int, metadata: str, head: bytes | None) -> dict[str, Any]:
        """Return a row's metadata; raises `BankFormatError` if it is not as it was entered."""
        if not self._is_same((head,), self._made(doc_id, place, "", metadata, "", ())[:1]):
            raise self.changed(f"document {doc_id!r}")
        return self.parsed(metadata)

    def parsed(self, metadata: str) -> dict[str, Any]:
        """Return metadata from their JSON; raises `BankFormatError` if it is none."""
        found = self._json(metadata)
        if not isinstance(found, dict):
            raise damaged(self.path, "metadata are no mapping")
        return found

    def changed(self, what: str) -> BankFormatError:
        """Return the error for a row that is not as it was entered."""
        return BankFormatError(
            f"The catalogue of {self.path} is damaged: {what} is not as it was stored.",
            "Delete the document and ingest it again, or restore the directory from a backup.",
        )

    def has(self, doc_id: str) -> bool:
        """Return whether there is a document, damaged or not."""
        return bool(self._rows("SELECT 1 FROM documents WHERE id = ?", (doc_id,)))

    def count_chunks(self) -> int:
        """Return the number of chunks."""
        return self._counts()[1]

    def place(self, block_id: bytes) -> Place | None:
        """Return where a block's record lies, or `None`."""
        for _, *row, stored in self._rows(_BLOCK, (block_id,)):
            return self._confirm_block(block_id, row, stored)[0]
        return None

    def confirm_blocks(self, segment: int | None = None) -> dict[bytes, int]:
        """Return the memory tokens of all blocks, or of a segment's.

        Raises:
            BankFormatError: If a row is not as it was entered.
        """
        asked = (_BLOCKS, ()) if segment is None else (_BLOCKS_OF_SEGMENT, (segment,))
        rows = self._rows(*asked)
        return {block_id: self._confirm_block(block_id, row, stored)[1] for block_id, *row, stored in rows}

    def live(self) -> list[tuple[bytes, Place]]:
        """Return the blocks in use, in the order of their records."""
        rows = self._rows(_LIVE_BLOCKS)
        return [(block_id, self._confirm_block(block_id, row, stored)[0]) for block_id, *row, stored in rows]

    def inside(self, segment: int) -> list[tuple[bytes, Place]]:
        """Return the blocks of a segment, in use or not, in the order of their records."""
        rows = self._rows(f"{_BLOCKS_OF_SEGMENT} ORDER BY start", (segment,))
        return [(block_id, self._confirm_block(block_id, row, stored)[0]) for block_id, *row, stored in rows]

    def names(self) -> dict[bytes, str]:
        """Return the name of a chunk of every block, for messages."""
        rows = self._rows("SELECT block, id, min(number) FROM chunks JOIN documents ON place = document GROUP BY block")
        return {block_id: f"{doc_id}#{number}" for block_id, doc_id, number in rows}

    def deferred(self) -> list[tuple[str, bytes]]:
        """Return document and block id of every chunk whose block is not there."""
        return self._rows(_DEFERRED)

    def is_deferred(self, doc_id: str) -> bool:
        """Return whether some block of a document is not there."""
        return bool(self._rows(f"{_DEFERRED} AND id = ? LIMIT 1", (doc_id,)))

    def is_used(self, block_id: bytes) -> bool:
        """Return whether a chunk has this block, whether it is there or not."""
        return bool(self._rows("SELECT 1 FROM chunks WHERE block = ? LIMIT 1", (block_id,)))

    def ends(self) -> dict[int, int]:
        """Return where the last acknowledged record of each segment ends."""
        rows = self._rows("SELECT segment, max(start + length) FROM blocks GROUP BY segment")
        if not all(_is_count(number) for row in rows for number in row):
            raise damaged(self.path, "a block's place is no number")
        return dict(rows)

    def stats(self, file_bytes: int) -> BankStats:
        """Return counts; `file_bytes` is passed through."""
        documents, chunks, source_tokens, blocks, memory_tokens, live_bytes, *absent, _ = self._counts()
        return BankStats(documents, chunks, blocks, source_tokens, memory_tokens, live_bytes, file_bytes, *absent)

    def bytes_per_source_token(self) -> float:
        """Return the bytes of the blocks in use by tokens of the chunks; 0.0 without any."""
        _, _, source_tokens, _, _, live_bytes, *_ = self._counts()
        return live_bytes / source_tokens if source_tokens else 0.0

    def damage(self) -> str | None:
        """Return what SQLite's own checks find wrong, or `None`."""
        state = self._rows("PRAGMA integrity_check")[0][0]
        if state != "ok":
            return str(state)
        if self._rows("PRAGMA foreign_key_check"):
            return "it has chunks of no document"
        return None

    def disagreement(self) -> str | None:
        """Return what of index and counts is not as the other tables say, or `None`."""
        with self._derived_snapshot():
            return derived.problem(self._database)

    # -- writing ------------------------------------------------------------------------------------------

    def enter_blocks(self, blocks: Iterable[tuple[bytes, Place, int]]) -> None:
        """Enter ids, places and memory tokens of blocks whose records are on the disk."""
        rows = [(block_id, p.segment, p.start, p.length, tokens) for block_id, p, tokens in blocks]
        with self.transaction(), derived.kept_up(self._database, (), [row[0] for row in rows]):
            self._database.executemany(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", [(*row, digest.of_block(*row)) for row in rows]
            )
            self._database.executemany("DELETE FROM openings WHERE block = ?", [row[:1] for row in rows])

    def enter_documents(self, items: Sequence[tuple[Document, Sequence[tuple[Chunk, bytes]]]]) -> None:
        """Add documents with their chunks and their blocks' ids, or replace those of the same ids in their places."""
        blocks = [block_id for _, chunks in items for _, block_id in chunks]
        with self.transaction():
            places = self._places_for([document.id for document, _ in items])
            with self._changing(places, blocks) as changes:
                for document, chunks in items:
                    place = places[document.id]
                    self._enter(place, document, chunks)
                    changes.add(place, [(c.index, c.num_tokens, c.judged_text) for c, _ in chunks])

    def remove_documents(self, doc_ids: Collection[str]) -> None:
        """Remove documents, their chunks, and the blocks that only they used; what is not there is no mistake."""
        with self.transaction():
            found = [(doc_id, self._rows(_PLACE, (doc_id,))) for doc_id in doc_ids]
            places = {doc_id: rows[0][0] for doc_id, rows in found if rows}
            blocks = [row for doc_id in places for row in self._rows(_BLOCKS_OF_ONE, (doc_id,))]
            with self._changing(places):
                self._database.executemany("DELETE FROM documents WHERE id = ?", [(doc_id,) for doc_id in places])
                self._database.executemany(
                    "DELETE FROM blocks WHERE id = ? AND id NOT IN (SELECT block FROM chunks)", blocks
                )
                self._database.executemany(
                    "DELETE FROM openings WHERE block = ? AND block NOT IN (SELECT block FROM chunks)", blocks
                )

    def forget_unused(self) -> None:
        """Forget the blocks that no chunk uses, and make anew what is derived from the rest if it is damaged."""
        with self.transaction():
            self._database.execute("DELETE FROM blocks WHERE id NOT IN (SELECT block FROM chunks)")
            self._database.execute("DELETE FROM openings WHERE block NOT IN (SELECT block FROM chunks)")
            derived.mend(self._database)

    def evict(self, block_ids: Collection[bytes]) -> None:
        """Remove blocks; see `OpenedBlocks`."""
        with self.transaction(), derived.kept_up(self._database, (), block_ids):
            super().evict(block_ids)

    def renew(self) -> None:
        """Make index and counts anew if another release counted words otherwise; needs the writer's lock."""
        with self.transaction():
            if not derived.is_of_today(self._database):
                derived.build(self._database)
                derived.sign(self._database)

    @property
    def is_of_today(self) -> bool:
        """Return whether this release counts words as the index does."""
        with self._snapshot():
            return derived.is_of_today(self._database)

    def relocate(self, blocks: Iterable[tuple[bytes, Place]]) -> None:
        """Enter new places of blocks."""
        moved = list(blocks)
        with self.transaction(), derived.kept_up(self._database, (), [block_id for block_id, _ in moved]):
            for block_id, p in moved:
                ((tokens,),) = self._rows("SELECT memory_tokens FROM blocks WHERE id = ?", (block_id,))
                row = (p.segment, p.start, p.length)
                self._database.execute(
                    "UPDATE blocks SET segment = ?, start = ?, length = ?, digest = ? WHERE id = ?",
                    (*row, digest.of_block(block_id, *row, tokens), block_id),
                )

    # -- inside -------------------------------------------------------------------------------------------

    def _places_for(self, doc_ids: Iterable[str]) -> dict[str, int]:
        """Return the places of documents that are there, and places behind all others for the rest."""
        ((last,),) = self._rows("SELECT coalesce(max(place), 0) FROM documents")
        places: dict[str, int] = {}
        for doc_id in doc_ids:
            if doc_id not in places:
                rows = self._rows(_PLACE, (doc_id,))
                last += not rows
                places[doc_id] = rows[0][0] if rows else last
        if last >= 2**63:
            raise damaged(self.path, "a document has the last place there is")
        return places

    def _enter(self, place: int, document: Document, chunks: Sequence[tuple[Chunk, bytes]]) -> None:
        metadata = to_json(document)
        heading = packed(document.heading, chunks[0][0].heading if chunks else document.heading)
        cuts = [(c.index, c.start, c.end, c.num_tokens, block_id) for c, block_id in chunks]
        head = digest.of_head(place, document.id, metadata)
        body = _body(place, document, heading, sorted(cuts))
        row = (document.text, metadata, heading, len(cuts), head, body)
        columns = "text = ?, metadata = ?, heading = ?, num_chunks = ?, head = ?, body = ?"
        change = f"UPDATE documents SET {columns} WHERE place = ?"
        if self._database.execute(change, (*row, place)).rowcount == 0:
            new = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            self._database.execute(new, (place, document.id, *row))
        self._database.execute("DELETE FROM chunks WHERE document = ?", (place,))
        self._database.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)", [(place, *cut) for cut in cuts])

    @contextmanager
    def _changing(self, places: Mapping[str, int], blocks: Iterable[bytes] = ()) -> Iterator[Changes]:
        """Take what documents said, if they are there, out of what is derived, and what the block changes into it."""
        old: list[Entry] = []
        unknown: list[int] = []
        for doc_id, place in places.items():
            try:
                old += self.entries(doc_id)
            except BankFormatError:  # a damaged document can be deleted too
                unknown.append(place)
        its = [block_id for entry in old for *_, block_id in entry.cuts]
        with derived.kept_up(self._database, places.values(), [*its, *blocks]) as changes:
            for entry in old:
                texts = [(chunk.index, chunk.num_tokens, chunk.judged_text) for chunk in entry.chunks]
                changes.remove(entry.place, texts)
            for place in unknown:
                changes.sweep(place)
            yield changes

    def _counts(self) -> derived.Counts:
        with self._derived_snapshot():
            counts = derived.read(self._database)
        if counts is None:
            raise damaged(self.path, "its counts are not as they were stored; `compact` counts again")
        return counts

    @contextmanager
    def _derived_snapshot(self) -> Iterator[None]:
        """Let several reads see the same state, and what is derived from it."""
        with self._snapshot():
            if self.version < FORMAT_VERSION:
                # the connection too: one that was opened again counts from the start
                state = (self._database, self._rows("PRAGMA data_version")[0][0])
                if self._derived != state:
                    derived.build(self._database)
                    self._derived = state
            yield

    def _confirm_block(self, block_id: bytes, row: Sequence[int], stored: bytes | None) -> tuple[Place, int]:
        try:
            segment, start, length, tokens = row
            made = digest.of_block(block_id, segment, start, length, tokens)
        except ValueError as error:
            raise damaged(self.path, f"a block's row holds other things ({error})") from error
        if not all(_is_count(number) for number in row) or not self._is_same((stored,), (made,)):
            raise self.changed("a block's row")
        return Place(segment, start, length), tokens

    def _made(
        self, doc_id: str, place: int, text: str, metadata: str, heading: str, cuts: Sequence[Cut]
    ) -> tuple[bytes, bytes]:
        """Return the digests of head and body; raises if a value is not of its column's kind."""
        try:
            return digest.of_head(place, doc_id, metadata), digest.of_body(place, doc_id, text, heading, cuts)
        except ValueError as error:
            raise damaged(self.path, f"document {doc_id!r} holds other things ({error})") from error

    def _headings(self, doc_id: str, stored: str) -> tuple[Heading, Heading]:
        try:
            return unpacked(stored)
        except (ValueError, RecursionError) as error:
            raise damaged(self.path, f"document {doc_id!r} holds other things ({error})") from error

    def _json(self, text: object) -> Any:
        try:
            return json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError) as error:
            raise damaged(self.path, f"something is no JSON ({error})") from error

    def _is_same(self, stored: tuple[bytes | None, ...], made: tuple[bytes, ...]) -> bool:
        return stored == made or (self.version == 1 and not any(stored))


_HEADS = "SELECT id, place, metadata, head FROM documents"
AT = "(SELECT value FROM json_each(?))"
"""The places in a JSON list."""
_ENTRY = "SELECT place, id, text, metadata, heading, num_chunks, head, body FROM documents"
_DOCUMENTS = f"{_ENTRY} ORDER BY place"
_DOCUMENT = f"{_ENTRY} WHERE id = ?"
_DOCUMENTS_AT = f"{_ENTRY} WHERE place IN {AT} ORDER BY place"
_COUNT_OF_IDS = "SELECT count(*) FROM main.documents INDEXED BY sqlite_autoindex_documents_1"
_CUTS = "SELECT document, number, start, stop, num_tokens, block FROM chunks ORDER BY document, number"
_CUTS_AT = (
    "SELECT document, number, start, stop, num_tokens, block FROM chunks "
    f"WHERE document IN {AT} ORDER BY document, number"
)
_CUTS_OF_ONE = (
    "SELECT document, number, start, stop, num_tokens, block FROM chunks "
    "WHERE document = (SELECT place FROM documents WHERE id = ?) ORDER BY number"
)
_BLOCKS = "SELECT id, segment, start, length, memory_tokens, digest FROM blocks"
_BLOCKS_OF_SEGMENT = "SELECT id, segment, start, length, memory_tokens, digest FROM blocks WHERE segment = ?"
_BLOCK = "SELECT id, segment, start, length, memory_tokens, digest FROM blocks WHERE id = ?"
_LIVE_BLOCKS = (
    "SELECT id, segment, start, length, memory_tokens, digest FROM blocks "
    "WHERE id IN (SELECT block FROM chunks) ORDER BY segment, start"
)
_DEFERRED = "SELECT id, block FROM chunks JOIN documents ON place = document WHERE block NOT IN (SELECT id FROM blocks)"
_SIZES_AT = f"SELECT document, max(stop), count(*) FROM chunks WHERE document IN {AT} GROUP BY document"
_ABSENT_AT = (
    "SELECT document, number, EXISTS (SELECT 1 FROM openings WHERE block = chunks.block AND turn = 0) FROM chunks "
    f"WHERE document IN {AT} AND NOT EXISTS (SELECT 1 FROM blocks WHERE id = chunks.block) ORDER BY document, number"
)
_PLACE = "SELECT place FROM documents WHERE id = ?"
_BLOCKS_OF_ONE = "SELECT DISTINCT block FROM chunks JOIN documents ON place = document WHERE id = ?"


def _body(place: int, document: Document, heading: str, cuts: Sequence[Cut]) -> bytes:
    try:
        return digest.of_body(place, document.id, document.text, heading, cuts)
    except ValueError as error:
        raise OverflowError(str(error)) from error  # numbers that are none of SQLite's


def _is_count(number: object) -> bool:
    return isinstance(number, int) and 0 <= number <= _LARGEST

"""Several banks that are asked as one; each document is in one of them, and whoever writes opens that one.

The bank's order is that of the shards, and inside each its own. What a question opens is what it would open in one bank
to which the same documents were added in this order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NoReturn

import xxhash

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.candidates import Part, candidates
from memrecall_kv.bank.checks import compare_fingerprints
from memrecall_kv.bank.directory import CATALOGUE, resolved
from memrecall_kv.bank.finder import Scope
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BankFormatError, InputError
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock, Metadata, Outline, Where

_NAME = re.compile(r"shard-([0-9]{5})-of-([0-9]{5})")


def shard_name(number: int, count: int) -> str:
    """Return the name of a shard's directory, counted from 0."""
    return f"shard-{number:05}-of-{count:05}"


def shard_of(doc_id: str, count: int) -> int:
    """Return the number of the shard that a document belongs to, in [0, count), by its id alone."""
    return xxhash.xxh3_64_intdigest(doc_id.encode("utf-8", "surrogatepass")) % count


def shard_count(names: Iterable[str], place: object) -> int | None:
    """Return of how many shards those are that have these names, among others; `None` if there is none.

    Raises:
        BankFormatError: If they are of several banks; it names the place.
    """
    counts = sorted({int(found[2]) for found in map(_NAME.fullmatch, names) if found})
    if len(counts) > 1:
        raise BankFormatError(
            f"{place} holds shards of several banks, of {' and of '.join(map(str, counts))} shards.",
            "Move those of each bank to a directory of their own.",
        )
    return counts[0] if counts else None


def shards_in(path: Path) -> list[Path]:
    """Return the shards that a directory holds, in order; none if it is a bank itself, or something else.

    Raises:
        BankFormatError: If one is missing, or they are not of one bank.
    """
    if not path.is_dir() or (path / CATALOGUE).exists():
        return []
    found = {each.name for each in path.iterdir() if _NAME.fullmatch(each.name)}
    count = shard_count(found, path) or 0
    wanted = [shard_name(number, count) for number in range(count)]
    missing = [name for name in wanted if name not in found]
    if missing or len(found) > len(wanted):
        raise BankFormatError(
            f"Expected {len(wanted)} shards in {path}, got {len(found)}; {', '.join(missing[:3])} missing.",
            "Ingest again into the same directory, which adds what is missing, or copy it there.",
        )
    return [path / name for name in wanted]


def open_bank(
    path: str | Path | Sequence[str | Path],
    *,
    fingerprint: Mapping[str, str] | None = None,
    config: BankConfig | None = None,
    read_only: bool = False,
) -> MemoryBank:
    """Open a bank, or several as one: those that are listed, or the shards in a directory.

    Args:
        path: One directory or several.
        fingerprint: As for `MemoryBank.open`, as are the other arguments and errors.
        config: As there.
        read_only: Must be true of several.

    Raises:
        BankError: If several are to be written.
        BankFormatError: If a shard is missing.
        FingerprintMismatchError: If shards were made with different things.
        InputError: If none is listed, or one twice.
    """
    if not isinstance(path, list | tuple):
        place = resolved(path)  # type: ignore[arg-type]  # it says what is no path
        paths = shards_in(place)
        if not paths:
            return MemoryBank.open(place, fingerprint=fingerprint, config=config, read_only=read_only)
    else:
        paths = [resolved(each) for each in path]
        if not paths or len({*paths}) < len(paths):
            raise InputError(f"Expected different banks, got {[str(each) for each in paths]}.", "List each one once.")
        place = Path(os.path.commonpath([each.parent for each in paths]))
    if not read_only:
        raise _written_one_by_one(place, f"Open one of them, such as {paths[0]}, or all with read_only=True to ask.")
    with ExitStack() as undo:
        shards = [
            undo.enter_context(MemoryBank.open(each, fingerprint=fingerprint, config=config, read_only=True))
            for each in paths
        ]
        for shard in shards[1:]:
            compare_fingerprints(shard.path, shard.fingerprint, shards[0].fingerprint)
            compare_fingerprints(shards[0].path, shards[0].fingerprint, shard.fingerprint)
        undo.pop_all()
    return ShardedBank(place, shards)


@dataclass(frozen=True, slots=True, eq=False)
class ShardedScope(Scope):
    """What a filter lets through of several banks.

    Attributes:
        parts: Of each; `places` says nothing.
    """

    parts: tuple[Scope, ...] = ()


class ShardedBank(MemoryBank):
    """Several banks, open for reading, as one; made by `open_bank`.

    Args:
        path: The directory that all of them are in.
        shards: The banks, in order; they are closed with this one.
    """

    def __init__(self, path: Path, shards: Sequence[MemoryBank]) -> None:
        self.path = path
        self.fingerprint = shards[0].fingerprint
        self.budget = shards[0].budget  # nothing is evicted from what is open for reading
        self.shards = tuple(shards)

    @property
    def read_only(self) -> bool:
        """Return True."""
        return True

    def __len__(self) -> int:
        """Return the number of chunks."""
        return sum(map(len, self.shards))

    def __contains__(self, doc_id: object) -> bool:
        """Return whether there is a document of this id."""
        return any(doc_id in shard for shard in self.shards)

    def close(self) -> None:
        """Close all of them."""
        for shard in self.shards:
            shard.close()

    # -- writing ------------------------------------------------------------------------------------------

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Refuse: this is asked by who is about to write."""
        self._refuse(chunk.doc_id for chunk in chunks)

    def put_blocks(self, items: Sequence[tuple[Chunk, MemoryBlock]]) -> None:
        """Refuse."""
        self._refuse(chunk.doc_id for chunk, _ in items)

    def put_documents(self, items: Iterable[tuple[Document, Sequence[Chunk]]], *, defer: bool = False) -> None:
        """Refuse."""
        self._refuse(document.id for document, _ in items)

    def delete_many(self, doc_ids: Iterable[str]) -> None:
        """Refuse."""
        self._refuse(doc_ids)

    def compact(self) -> int:
        """Refuse."""
        self._refuse(())

    def copy_to(self, folder: Path) -> None:
        """Refuse."""
        self._refuse(())

    # -- reading ------------------------------------------------------------------------------------------

    def holds(self, document: Document) -> bool:
        """Return whether this very text, heading and metadata are stored under the id."""
        return any(shard.holds(document) for shard in self.shards)

    def deferred_documents(self) -> set[str]:
        """Return the ids of documents some of whose chunks are still to be compressed."""
        return set[str]().union(*(shard.deferred_documents() for shard in self.shards))

    def is_deferred(self, doc_id: str) -> bool:
        """Return whether some chunks of a document are still to be compressed."""
        return any(shard.is_deferred(doc_id) for shard in self.shards)

    def deferred(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return nothing, as every bank does that is open for reading."""
        return []

    def documents(self) -> list[Document]:
        """Return all documents in the bank's order."""
        return [document for shard in self.shards for document in shard.documents()]

    def document(self, doc_id: str) -> Document:
        """Return a document; raises `InputError` if there is none."""
        return self.shard(doc_id).document(doc_id)

    def metadata(self, doc_id: str) -> Metadata:
        """Return a document's metadata; raises like `document`."""
        return self.shard(doc_id).metadata(doc_id)

    def ids(self, where: Where | None = None) -> list[str]:
        """Return the ids of all documents, or of those a filter lets through, in order."""
        return [doc_id for shard in self.shards for doc_id in shard.ids(where)]

    def outlines(self, limit: int) -> list[Outline]:
        """Return what there is to say of the first so many documents without reading texts."""
        found: list[Outline] = []
        for shard in self.shards:
            found += shard.outlines(limit - len(found))
        return found

    def chunks(self, where: Where | None = None) -> list[Chunk]:
        """Return the chunks of all documents, or of those a filter lets through, in order."""
        return [chunk for shard in self.shards for chunk in shard.chunks(where)]

    def scope(self, where: Where | None = None) -> ShardedScope:
        """Return what a filter lets through."""
        parts = tuple(shard.scope(where) for shard in self.shards)
        return ShardedScope(where, None, sum(part.chunks for part in parts), parts)

    def candidates(self, text: str, limit: int | None, scope: Scope) -> list[tuple[Chunk, float]]:
        """Return the chunks that a question may need, as one bank of all documents would; see `MemoryBank`."""
        scopes = (scope if isinstance(scope, ShardedScope) else self.scope(scope.where)).parts
        parts = [Part(shard._catalogue, its) for shard, its in zip(self.shards, scopes, strict=True)]
        return candidates(parts, text, limit)

    def largest(self, count: int, where: Where | None = None) -> int:
        """Return how many chunks those documents that have most have together."""
        sizes = [size for shard in self.shards for size in shard._catalogue.largest(count, where)]
        return sum(sorted(sizes, reverse=True)[:count])

    def blocks(self, chunks: Sequence[Chunk], *, shape: tuple[int, int, int] | None = None) -> list[MemoryBlock]:
        """Return the blocks of chunks, in order; raises as `MemoryBank.blocks`."""
        return [block for chunk in chunks for block in self.shard(chunk.doc_id).blocks([chunk], shape=shape)]

    def uses(self, chunk: Chunk) -> bool:
        """Return whether some document has a chunk of this text and heading."""
        return any(shard.uses(chunk) for shard in self.shards)

    @property
    def revision(self) -> object:
        """Return what is another one after every change of any of them."""
        return tuple(shard.revision for shard in self.shards)

    @property
    def bytes_per_source_token(self) -> float:
        """Return the bytes of the blocks in use by tokens of the chunks; 0.0 without any."""
        stats = self.stats()
        return stats.live_bytes / stats.source_tokens if stats.source_tokens else 0.0

    def stats(self) -> BankStats:
        """Return the sums of all banks; a block that two of them hold counts twice."""
        return BankStats(*map(sum, zip(*(astuple(shard.stats()) for shard in self.shards), strict=True)))

    def verify(self) -> int:
        """Check all banks; return the number of their blocks. Raises as `MemoryBank.verify`."""
        return sum(shard.verify() for shard in self.shards)

    def shard(self, doc_id: str) -> MemoryBank:
        """Return the bank that holds a document.

        Raises:
            BankFormatError: If two hold it: nobody could tell which of the two is meant.
            InputError: If none does.
        """
        found = [shard for shard in self.shards if doc_id in shard]
        if len(found) > 1:
            raise BankFormatError(
                f"Document {doc_id!r} is in {found[0].path} and in {found[1].path}.", "Delete it in one of them."
            )
        if not found:
            raise self._unknown(doc_id)
        return found[0]

    # -- inside -------------------------------------------------------------------------------------------

    def _refuse(self, doc_ids: Iterable[str]) -> NoReturn:
        """Raise, and say which bank the first document belongs to."""
        count = len(self.shards)
        is_placed = [shard.path.name for shard in self.shards] == [shard_name(number, count) for number in range(count)]
        hint = f"Open one of them to write: {', '.join(str(shard.path) for shard in self.shards)}."
        for doc_id in doc_ids:
            if doc_id in self or is_placed:
                shard = self.shard(doc_id) if doc_id in self else self.shards[shard_of(doc_id, count)]
                hint = f"Open {shard.path} to write: document {doc_id!r} belongs there."
            break
        raise _written_one_by_one(self.path, hint)


def _written_one_by_one(path: Path, hint: str) -> BankError:
    return BankError(f"Expected one bank to write to, got the shards in {path}.", hint)

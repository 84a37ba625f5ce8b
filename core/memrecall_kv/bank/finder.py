"""What of a bank a filter lets through, and which chunks of that a question may need, without reading the rest."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrecall_kv.bank import index
from memrecall_kv.bank.catalogue import AT, Catalogue, Entry
from memrecall_kv.bank.failures import damaged
from memrecall_kv.bank.where import UNKNOWN, Condition, key_of
from memrecall_kv.errors import BankFormatError
from memrecall_kv.types import Chunk, Where

_SCOPES = 4
"""Scopes that are kept; one of a million documents takes eight megabytes."""
_ZEROS = 6
"""Of the counts, how many documents' metadata hold a zero byte."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """The documents that a filter lets through, looked up once; those without chunks are left out.

    Attributes:
        where: The filter; `None` lets all through.
        places: Where they are in the bank's order, sorted; `None` for all.
        chunks: How many chunks they have together.
    """

    where: Where | None
    places: NDArray[np.int64] | None
    chunks: int


class Finder(Catalogue):
    """An open catalogue that is asked questions; it keeps the last scopes, as long as nothing is written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._scopes: deque[tuple[tuple[object, ...], Scope]] = deque(maxlen=_SCOPES)
        super().__init__(*args, **options)

    def scope(self, where: Where | None) -> Scope:
        """Return what a filter lets through."""
        if where is None:
            return Scope(None, None, self.count_chunks())
        # what a transaction sees may never come true
        key = None if self._database.in_transaction else key_of(where)
        with self._derived_snapshot():
            seen = (key, *self._state_of_rows())
            kept = None if key is None else next((scope for known, scope in self._scopes if known == seen), None)
            if kept is not None:
                return replace(kept, where=where)
            scope = Scope(where, *self._inside_of(where))
            if key is not None:
                self._scopes.appendleft((seen, scope))
        return scope

    def ids(self, where: Where | None) -> list[str]:
        """Return the ids of all documents, or of those that a filter lets through, in the bank's order."""
        if where is None:
            return [doc_id for doc_id, _ in self.heads()]
        return [doc_id for _, doc_id in sorted(self._matches(where, "id"))]

    def largest(self, count: int, where: Where | None) -> int:
        """Return how many chunks those documents that have most have together.

        Args:
            count: How many documents.
            where: Lets them through.
        """
        if where is not None:
            return int(np.sort(self._sizes(where)[1])[::-1][:count].sum())
        rows = self._rows("SELECT place, num_chunks FROM documents ORDER BY num_chunks DESC LIMIT ?", (count,))
        return int(self._confirmed_sizes(rows)[1].sum())

    def chunks(self, scope: Scope) -> list[Chunk]:
        """Return all chunks in a scope, in the bank's order."""
        return [chunk for entry in self._inside(scope, scope.places) for chunk in entry.chunks]

    def candidates(self, text: str, limit: int | None, scope: Scope) -> list[tuple[Chunk, float]]:
        """Return the chunks that a question may need, in the bank's order, each with its share of words.

        The share is BM25's score over the best one's. Those that share most words with the text come first; where
        they are fewer than the limit, others that hold other forms of its words, and then in turn the first chunks
        and the latest ones.

        Args:
            text: What is asked.
            limit: Most chunks; `None` for all in the scope.
            scope: Which chunks may be recalled.

        Raises:
            BankFormatError: If the index, or a document that it leads to, is not as it was stored.
        """
        with self._derived_snapshot():
            shares = self._shares(text, limit, scope)
            places = None if limit is None else np.unique(np.array(list(shares), np.int64) // index.CHUNKS)
            entries = list(self._inside(scope, scope.places if places is None else places))
        found: list[tuple[Chunk, float]] = []
        for entry in entries:
            for chunk in entry.chunks:
                share = shares.pop(entry.place * index.CHUNKS + chunk.index, None)
                if share is not None or limit is None:
                    found.append((chunk, share or 0.0))
        return found

    # -- inside ------------------------------------------------------------------------------------------

    def _shares(self, text: str, limit: int | None, scope: Scope) -> dict[int, float]:
        """Return the share of words of what the index proposes, by key."""
        _, size, tokens, *_ = self._counts()
        try:
            keys, scores = index.rank(self._rows, text, size, tokens / max(size, 1) or 1.0, scope.places)
            best = max(scores[:1], default=0.0) or 1.0  # no score at all is that of a made up index
            shares = dict(zip(keys[:limit].tolist(), (scores[:limit] / best).tolist(), strict=True))
            if limit is not None and len(shares) < min(limit, scope.chunks):
                others = index.variants(self._rows, text, size, scope.places).tolist()
                for key in chain(others, self._ends(limit, scope)):
                    if len(shares) < limit:
                        shares.setdefault(key, 0.0)
        except ValueError as error:
            raise damaged(self.path, f"{error}; `compact` makes the index anew") from error
        return shares

    def _ends(self, count: int, scope: Scope) -> Iterator[int]:
        """Yield the keys of the first and the latest chunks of a scope, in turn."""
        first, last = (self._end(count, order, scope) for order in ("ASC", "DESC"))
        return (key for pair in zip_longest(first, last) for key in pair if key is not None)

    def _end(self, count: int, order: str, scope: Scope) -> list[int]:
        """Return the keys of a scope's first chunks, or of its last ones, the last first."""
        inside, values = "", tuple[Any, ...]()
        if scope.places is not None:
            places = scope.places[:count] if order == "ASC" else scope.places[-count:]
            inside, values = f"WHERE document IN {AT}", (json.dumps(places.tolist()),)
        query = f"SELECT document, number FROM chunks {inside} ORDER BY document {order}, number {order} LIMIT ?"
        rows = self._rows(query, (*values, count))
        return [place * index.CHUNKS + number for place, number in rows]

    def _inside(self, scope: Scope, places: NDArray[np.int64] | None) -> Iterator[Entry]:
        """Yield the documents at these places, as far as they are still in the scope."""
        for entry in self.entries(places=None if places is None else places.tolist()):
            if scope.where is None or scope.where(entry.id, self.parsed(entry.metadata)):
                yield entry

    def _state_of_rows(self) -> tuple[object, ...]:
        """Return what is another one after every write, to be asked for inside a snapshot."""
        ((version,),) = self._rows("PRAGMA data_version")  # of others' writes
        return self._database, version, self._database.total_changes

    def _inside_of(self, where: Where) -> tuple[NDArray[np.int64], int]:
        """Return where the documents with chunks are that a filter lets through, sorted, and how many chunks they have.

        As one text, since as many rows as documents would be as many objects, which Python's garbage collector visits.
        """
        asked = self._condition(where)
        if not asked.is_decided:
            places, sizes = self._sizes(where)
            return np.sort(places[sizes > 0]), int(sizes.sum())
        ((listed, total, empty, others),) = self._rows(f"SELECT {_PACKED} {_from(asked)}", asked.values)
        if others:
            raise self._no_size()
        self._confirm_empty(_numbers(empty).tolist())
        return np.sort(_numbers(listed)), total

    def _condition(self, where: Where) -> Condition:
        return Condition(where, has_zeros=self._counts()[_ZEROS] > 0)

    def _sizes(self, where: Where) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return place and number of chunks of the documents that a filter lets through."""
        return self._confirmed_sizes(self._matches(where, "num_chunks"))

    def _confirmed_sizes(self, rows: list[tuple[int, Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places, sizes = zip(*rows, strict=True) if rows else ((), ())
        if {*map(type, sizes)} - {int} or min(sizes, default=0) < 0 or max(sizes, default=0) > index.CHUNKS:
            raise self._no_size()
        where, counts = np.array(places, np.int64), np.array(sizes, np.int64)
        self._confirm_empty(where[counts == 0].tolist())
        return where, counts

    def _confirm_empty(self, places: list[int]) -> None:
        """Raise unless documents that say that they have no chunks have none: nothing else would notice."""
        if self._rows(f"SELECT 1 FROM chunks WHERE document IN {AT} LIMIT 1", (json.dumps(places),)):
            raise damaged(self.path, "a document has chunks and says that it has none")

    def _no_size(self) -> BankFormatError:
        return damaged(self.path, "a document has no number of chunks")

    def _matches(self, where: Where, column: str) -> list[tuple[int, Any]]:
        """Return the places of the documents that a filter lets through, each with another column of its row."""
        asked = self._condition(where)
        if asked.sql == UNKNOWN and not asked.ids:
            return list(self._matches_one_by_one(where, column, None))
        if asked.is_decided:
            return self._rows(f"SELECT place, {column} {_from(asked)}", asked.values)
        with self._snapshot():
            among = f"{asked.ids} AND " if asked.ids else ""
            rows = self._rows(
                f"SELECT place, {column}, {asked.sql} FROM documents WHERE {among}({asked.sql}) IS NOT 0", asked.values
            )
            unsure = [place for place, _, verdict in rows if verdict is None]
            seen = list(self._matches_one_by_one(where, column, unsure)) if unsure else []
        return [(place, value) for place, value, verdict in rows if verdict is not None] + seen

    def _matches_one_by_one(self, where: Where, column: str, places: Sequence[int] | None) -> Iterator[tuple[int, Any]]:
        """Yield the same of some documents, or of all, asking the filter itself."""
        query, values = f"SELECT place, {column}, id, metadata, head FROM documents", tuple[Any, ...]()
        if places is not None:
            query, values = f"{query} WHERE place IN {AT}", (json.dumps(places),)
        rows = self._rows(query, values)
        if places is None and len(rows) != self._counts()[0]:
            raise damaged(self.path, "there are more documents than it counted, or fewer")
        for place, value, doc_id, metadata, head in rows:
            if where(doc_id, self.confirmed(doc_id, place, metadata, head)):
                yield place, value


_PACKED = (
    "group_concat(CASE WHEN num_chunks > 0 THEN place END), coalesce(sum(num_chunks), 0), "
    "group_concat(CASE WHEN num_chunks = 0 THEN place END), "
    f"count(*) FILTER (WHERE typeof(num_chunks) <> 'integer' OR num_chunks NOT BETWEEN 0 AND {index.CHUNKS})"
)
"""Places of documents with chunks, how many chunks, places of documents without, and rows that are none of ours."""


def _from(asked: Condition) -> str:
    """Return where the documents are that a condition lets through, of which it is never unsure."""
    return f"FROM documents WHERE {f'{asked.ids} AND ' if asked.ids else ''}{asked.sql}"


def _numbers(listed: str | None) -> NDArray[np.int64]:
    return np.fromstring(listed, np.int64, sep=",") if listed else np.zeros(0, np.int64)

"""What of a bank a filter lets through, and which chunks of that a question may need, without reading the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrecall_kv.bank import index
from memrecall_kv.bank.catalogue import AT, Catalogue, Entry
from memrecall_kv.bank.failures import damaged
from memrecall_kv.bank.where import UNKNOWN, Condition
from memrecall_kv.types import Chunk, Where


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
    """An open catalogue that is asked questions."""

    def scope(self, where: Where | None) -> Scope:
        """Return what a filter lets through."""
        if where is None:
            return Scope(None, None, self.count_chunks())
        found = np.array(self._sizes(where), np.int64).reshape(-1, 2)
        return Scope(where, np.sort(found[found[:, 1] > 0, 0]), int(found[:, 1].sum()))

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
            return sum(sorted((size for _, size in self._sizes(where)), reverse=True)[:count])
        rows = self._rows("SELECT place, num_chunks FROM documents ORDER BY num_chunks DESC LIMIT ?", (count,))
        return sum(size for _, size in self._confirmed_sizes(rows))

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

    def _sizes(self, where: Where) -> list[tuple[int, int]]:
        """Return place and number of chunks of the documents that a filter lets through."""
        return self._confirmed_sizes(self._matches(where, "num_chunks"))

    def _confirmed_sizes(self, rows: list[tuple[int, Any]]) -> list[tuple[int, int]]:
        if not all(isinstance(size, int) and 0 <= size <= index.CHUNKS for _, size in rows):
            raise damaged(self.path, "a document has no number of chunks")
        empty = json.dumps([place for place, size in rows if size == 0])
        # they are left out, so that nothing else would notice
        if self._rows(f"SELECT 1 FROM chunks WHERE document IN {AT} LIMIT 1", (empty,)):
            raise damaged(self.path, "a document has chunks and says that it has none")
        return rows

    def _matches(self, where: Where, column: str) -> list[tuple[int, Any]]:
        """Return the places of the documents that a filter lets through, each with another column of its row."""
        asked = Condition(where)
        if asked.sql == UNKNOWN and not asked.ids:
            return list(self._matches_one_by_one(where, column, None))
        with self._snapshot():
            # LIMIT keeps SQLite from working the condition out twice
            rows = self._rows(
                f"SELECT place, {column}, verdict FROM (SELECT place, id, num_chunks, {asked.sql} AS verdict "
                f"FROM documents{f' WHERE {asked.ids}' if asked.ids else ''} LIMIT -1) WHERE verdict IS NOT 0",
                asked.values,
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

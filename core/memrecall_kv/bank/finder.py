"""What of a bank a filter lets through, and which chunks of that a question may need, without reading the rest."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrecall_kv.bank import index
from memrecall_kv.bank.catalogue import AT, Catalogue, Entry
from memrecall_kv.bank.failures import damaged
from memrecall_kv.bank.fields import Fields, Mask
from memrecall_kv.bank.where import key_of, let_through
from memrecall_kv.errors import BankFormatError
from memrecall_kv.types import Chunk, Where

_SCOPES = 4
"""Scopes that are kept; one of a million documents takes eight megabytes."""


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
            fields, found = self._matches(where)
            scope = Scope(where, fields.places(found, with_chunks=True), int(fields.sizes(found).sum()))
            if key is not None:
                self._scopes.appendleft((seen, scope))
        return scope

    def ids(self, where: Where | None) -> list[str]:
        """Return the ids of all documents, or of those that a filter lets through, in the bank's order."""
        if where is None:
            return [doc_id for doc_id, _ in self.heads()]
        with self._derived_snapshot():
            fields, found = self._matches(where)
            rows = self._rows(_IDS_AT, (_listed(fields.places(found)),))
        if len(rows) != np.count_nonzero(found):
            raise self._lost()
        return [doc_id for (doc_id,) in rows]

    def largest(self, count: int, where: Where | None) -> int:
        """Return how many chunks those documents that have most have together.

        Args:
            count: How many documents.
            where: Lets them through.
        """
        with self._derived_snapshot():
            fields, found = self._matches(where)
            return int(np.sort(fields.sizes(found))[::-1][:count].sum())

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

    def _matches(self, where: Where | None) -> tuple[Fields, Mask]:
        """Return what is known of the documents' metadata, and which documents a filter lets through."""
        try:
            fields = Fields(self._rows)
            if np.count_nonzero(fields.everything) != self._counts()[0]:
                raise ValueError("its fields are of more documents than it counted, or fewer")
            if where is None:
                return fields, fields.everything
            sure, possible = let_through(where, fields)
        except ValueError as error:
            raise damaged(self.path, f"{error}; `compact` makes them anew") from error
        return fields, sure | fields.at(list(self._asked(where, fields.places(possible & ~sure))))

    def _asked(self, where: Where, places: NDArray[np.int64]) -> Iterator[int]:
        """Yield the places of those documents that a filter lets through, asking it of each."""
        rows = self._rows(_HEADS_AT, (_listed(places),)) if len(places) else []
        if len(rows) != len(places):
            raise self._lost()
        for doc_id, place, metadata, head in rows:
            if where(doc_id, self.confirmed(doc_id, place, metadata, head)):
                yield place

    def _lost(self) -> BankFormatError:
        return damaged(self.path, "there are more documents than it counted, or fewer")


_IDS_AT = f"SELECT id FROM documents WHERE place IN {AT} ORDER BY place"
_HEADS_AT = f"SELECT id, place, metadata, head FROM documents WHERE place IN {AT} ORDER BY place"


def _listed(places: NDArray[np.int64]) -> str:
    return json.dumps(places.tolist())

"""What of a bank a filter lets through, and which chunks of that a question may need, without reading the rest."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
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

    def largest(self, count: int, where: Where | None) -> list[int]:
        """Return how many chunks those documents have that have most, the most first.

        Args:
            count: How many documents, at most.
            where: Lets them through.
        """
        with self._derived_snapshot():
            fields, found = self._matches(where)
            return [int(size) for size in np.sort(fields.sizes(found))[::-1][:count]]

    def chunks(self, scope: Scope) -> list[Chunk]:
        """Return all chunks in a scope, in the bank's order."""
        return [chunk for entry in self.entries_in(scope, scope.places) for chunk in entry.chunks]

    def reading(self) -> AbstractContextManager[None]:
        """Let several reads see the same state of the documents and of their index."""
        return self._derived_snapshot()

    @contextmanager
    def postings(self, scope: Scope) -> Iterator[index.Postings]:
        """Give the index of a scope; what is not as it was stored raises `BankFormatError`."""
        with self._derived_snapshot():
            try:
                yield index.Postings(self._rows, scope.places)
            except ValueError as error:
                raise damaged(self.path, f"{error}; `compact` makes the index anew") from error

    def revision(self) -> tuple[object, ...]:
        """Return what is another one after every write."""
        with self._snapshot():
            return self._state_of_rows()

    def size(self) -> tuple[int, int]:
        """Return how many chunks there are, and their tokens."""
        _, chunks, tokens, *_ = self._counts()
        return chunks, tokens

    def end(self, count: int, scope: Scope, *, last: bool) -> list[int]:
        """Return the keys of a scope's first chunks, or of its last ones, the last first."""
        inside, values, order = "", tuple[Any, ...](), "DESC" if last else "ASC"
        if scope.places is not None:
            places = scope.places[-count:] if last else scope.places[:count]
            inside, values = f"WHERE document IN {AT}", (json.dumps(places.tolist()),)
        query = f"SELECT document, number FROM chunks {inside} ORDER BY document {order}, number {order} LIMIT ?"
        rows = self._rows(query, (*values, count))
        if not all(isinstance(each, int) for row in rows for each in row):
            raise damaged(self.path, "a chunk's place is no number")
        return [place * index.CHUNKS + number for place, number in rows]

    def entries_in(self, scope: Scope, places: NDArray[np.int64] | None) -> list[Entry]:
        """Return the documents at these places, as far as they are still in the scope.

        Raises:
            BankFormatError: If one is not as it was entered, or is there and cannot be read.
        """
        with self._derived_snapshot():
            found = list(self.entries(places=None if places is None else places.tolist()))
            if places is not None and len(found) != len(places):
                gone = np.setdiff1d(places, [entry.place for entry in found])
                if self._fields().at(gone.tolist()).any():
                    raise self._lost()
        return [entry for entry in found if scope.where is None or scope.where(entry.id, self.parsed(entry.metadata))]

    # -- inside ------------------------------------------------------------------------------------------

    def _state_of_rows(self) -> tuple[object, ...]:
        """Return what is another one after every write, to be asked for inside a snapshot."""
        ((version,),) = self._rows("PRAGMA data_version")  # of others' writes
        return self._database, version, self._database.total_changes

    def _matches(self, where: Where | None) -> tuple[Fields, Mask]:
        """Return what is known of the documents' metadata, and which documents a filter lets through."""
        fields = self._fields()
        if where is None:
            return fields, fields.everything
        try:
            sure, possible = let_through(where, fields)
        except ValueError as error:
            raise self._damaged_fields(error) from error
        return fields, sure | fields.at(list(self._asked(where, fields.places(possible & ~sure))))

    def _asked(self, where: Where, places: NDArray[np.int64]) -> Iterator[int]:
        """Yield the places of those documents that a filter lets through, asking it of each."""
        rows = self._rows(_HEADS_AT, (_listed(places),)) if len(places) else []
        if len(rows) != len(places):
            raise self._lost()
        for doc_id, place, metadata, head in rows:
            if where(doc_id, self.confirmed(doc_id, place, metadata, head)):
                yield place

    def _fields(self) -> Fields:
        """Return what is known of the documents' metadata."""
        try:
            fields = Fields(self._rows)
            if np.count_nonzero(fields.everything) != self._counts()[0]:
                raise ValueError("its fields are of more documents than it counted, or fewer")
        except ValueError as error:
            raise self._damaged_fields(error) from error
        return fields

    def _damaged_fields(self, error: ValueError) -> BankFormatError:
        return damaged(self.path, f"{error}; `compact` makes them anew")

    def _lost(self) -> BankFormatError:
        return damaged(self.path, "there are more documents than it counted, or fewer")


_IDS_AT = f"SELECT id FROM documents WHERE place IN {AT} ORDER BY place"
_HEADS_AT = f"SELECT id, place, metadata, head FROM documents WHERE place IN {AT} ORDER BY place"


def _listed(places: NDArray[np.int64]) -> str:
    return json.dumps(places.tolist())

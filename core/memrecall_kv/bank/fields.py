"""The values of the documents' metadata, field by field, in the catalogue's own transactions.

A row holds one field of up to `_SPAN` documents that follow each other, a part of the bank: each value once, and which
documents have it. A filter reads the fields that it names and no metadata; it is asked once for each value of a row, of
numbers for all of them at once. The row without a field says how many chunks each document of a part has, and of which
fields there are rows: that one is lost does not go unnoticed. Ids stand there as a field does, each as a number: a row
that is damaged says so, where the table's own index of ids would find nothing.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from memrecall_kv.bank import digest
from memrecall_kv.bank.index import CHUNKS, Read

_BITS = 10
_SPAN = 2**_BITS
"""Places of a part."""
_SIZES = ""
"""In the place of a field, which are JSON and never empty: the number of chunks."""
_IDS = "id"
"""The same, for the numbers that stand for ids."""
_NOWHERE = -(2**62)
"""No part."""
_INTEGER, _FLOAT, _TEXT, _OTHER = range(4)
_LENGTHS = struct.Struct("<7q")

Value: TypeAlias = tuple[int, Any]
"""A value and its kind; of another kind than numbers and texts its JSON."""
Mask: TypeAlias = NDArray[np.bool_]
"""For each slot of all parts whether its document is meant."""
Row: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""Integers as int64, other numbers as float64, texts and the JSON of other values as JSON lists; how many documents
have each, and their slots in the part, as uint16."""
_Document: TypeAlias = tuple[int, bytes, Any, bytes]
"""Place, id, number of chunks and metadata."""


class Column(NamedTuple):
    """A field of all documents: its rows, and what they hold together.

    Attributes:
        rows: Those of parts that have it.
        integers: Those of all rows.
        floats: The other numbers.
        counts: How many documents have each value.
        slots: The documents of each value.
    """

    rows: Sequence[Row]
    integers: NDArray[np.int64]
    floats: NDArray[np.float64]
    counts: NDArray[np.uint16]
    slots: NDArray[np.int64]


class Fields:
    """What filters ask of all documents, read from one snapshot.

    Args:
        read: Asks the catalogue.

    Attributes:
        everything: The documents there are.

    Raises:
        ValueError: If a row is not as it was written, here and in each method that reads.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._columns: dict[str, Column] = {}
        rows = read(_OF_FIELD, (_SIZES,))
        if not all(isinstance(part, int) for _, part, *_ in rows):
            raise ValueError("a row of its fields is of no part")
        self._parts = np.array([part for _, part, *_ in rows], np.int64)
        column = self._joined(_SIZES, rows)
        listed = {raw: frozenset(texts_of(raw)) for raw in {row[_TEXT] for row in column.rows}}  # mostly one
        self._named = [listed[row[_TEXT]] for row in column.rows]
        self._sizes, self._slots = np.repeat(_numbers_of_chunks(column), column.counts), column.slots
        self.everything = self.nothing()
        self.everything[self._slots] = True

    def nothing(self) -> Mask:
        """Return a mask of no documents."""
        return np.zeros(len(self._parts) << _BITS, np.bool_)

    def column(self, key: object) -> Column:
        """Return a field; raises `TypeError` if no document can have one of this name."""
        return self._column(json.dumps(key))

    def with_ids(self, ids: Collection[str]) -> Mask:
        """Return a mask of the documents with these ids."""
        raw = [each.encode("utf-8", "surrogatepass") for each in ids if isinstance(each, str)]
        if not all(_IDS in names for names in self._named):
            # an older release wrote it, and who may only read cannot make it anew
            return self.at([place for each in raw for (place,) in self._read(_OF_ID, (each,))])
        mask, column = self.nothing(), self._column(_IDS)
        wanted = np.array([*map(_number_of, raw)], np.int64)
        if len(column.integers) != len(column.counts):
            raise ValueError("a row of its ids holds other things")
        mask[column.slots[np.repeat(np.isin(column.integers, wanted), column.counts)]] = True
        return mask

    def at(self, places: Sequence[int]) -> Mask:
        """Return a mask of the documents at these places, as far as there are any."""
        mask, listed = self.nothing(), np.array(places, np.int64)
        rows = np.searchsorted(self._parts, listed >> _BITS)
        is_known = np.append(self._parts, _NOWHERE)[rows] == listed >> _BITS
        mask[(rows << _BITS | listed & _SPAN - 1)[is_known]] = True
        return mask & self.everything

    def places(self, mask: Mask, *, with_chunks: bool = False) -> NDArray[np.int64]:
        """Return the places of documents, sorted; of those alone that have chunks if asked."""
        if with_chunks and len(empty := self._slots[self._sizes == 0]):
            mask = mask.copy()
            mask[empty] = False
        slots = np.flatnonzero(mask)
        places: NDArray[np.int64] = (self._parts << _BITS)[slots >> _BITS] | slots & _SPAN - 1
        return places

    def sizes(self, mask: Mask) -> NDArray[np.int64]:
        """Return how many chunks documents have, in no order."""
        return self._sizes[mask[self._slots]]

    def _column(self, field: str) -> Column:
        if field not in self._columns:
            rows = self._read(_OF_FIELD, (field,))
            listed = [part for part, names in zip(self._parts.tolist(), self._named, strict=True) if field in names]
            if [part for _, part, *_ in rows] != listed:
                raise ValueError("rows of its fields are gone")
            self._columns[field] = self._joined(field, rows)
        return self._columns[field]

    def _joined(self, field: str, listed: Sequence[Any]) -> Column:
        """Return rows of one field, in the order of their parts, as one column."""
        rows = [_confirmed(field, row) for row in listed]
        integers, floats, _, _, counts, slots = zip(*rows, strict=True) if rows else ((),) * 6
        found = np.frombuffer(b"".join(slots), "<u2")
        held = np.frombuffer(b"".join(counts), "<u2")
        if found.max(initial=0) >= _SPAN or held.sum(dtype=np.int64) != len(found):
            raise ValueError("a row of its fields is of other documents")
        starts = np.searchsorted(self._parts, [part for _, part, *_ in listed]) << _BITS
        all_slots = np.repeat(starts, [len(each) // 2 for each in slots])
        all_slots += found
        return Column(
            rows,
            np.frombuffer(b"".join(integers), "<i8"),
            np.frombuffer(b"".join(floats), "<f8"),
            held,
            all_slots,
        )


_OF_FIELD = "SELECT * FROM fields WHERE field = ? ORDER BY part"
_ONE = "SELECT * FROM fields WHERE field = ? AND part = ?"
_ENTER = "INSERT OR REPLACE INTO fields VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DOCUMENTS = "SELECT place, CAST(id AS BLOB), num_chunks, CAST(metadata AS BLOB) FROM documents"
_HEAD = "SELECT CAST(id AS BLOB), CAST(metadata AS BLOB), head FROM documents WHERE place = ?"
_OF_ID = "SELECT place FROM documents WHERE id = CAST(? AS TEXT)"


def named(database: sqlite3.Connection, places: Iterable[int]) -> dict[int, frozenset[str] | None]:
    """Return of documents of which fields they are in; `None` of one that is not as it was stored."""
    found: dict[int, frozenset[str] | None] = {}
    for place in places:
        found[place] = frozenset()
        for doc_id, metadata, head in database.execute(_HEAD, (place,)):
            try:
                is_same = digest.of_head(place, doc_id.decode(), metadata.decode()) == head
            except ValueError:
                is_same = False
            found[place] = frozenset([_IDS, *_values(metadata)]) if is_same else None
    return found


def update(database: sqlite3.Connection, before: Mapping[int, frozenset[str] | None]) -> None:
    """Write anew, inside a transaction, what is said of documents that changed.

    Args:
        database: The catalogue.
        before: What `named` returned of them before.

    Raises:
        ValueError: If a row that is to be changed is not as it was written.
    """
    for part, its in groupby(sorted(before), lambda place: place >> _BITS):
        places = list(its)
        sizes, names = _row_of(database, _SIZES, part)
        now = [row for place in places for row in database.execute(f"{_DOCUMENTS} WHERE place = ?", (place,))]
        new = _by_field(now)
        gone = [names if before[place] is None else before[place] or () for place in places]
        for field in sorted({*new, *(field for each in gone for field in each)} - {_SIZES}):
            values, _ = _row_of(database, field, part)
            _change(values, places, new.get(field, {}))
            _write(database, field, part, values)
            names = names | {field} if values else names - {field}
        _change(sizes, places, new.get(_SIZES, {}))
        _write(database, _SIZES, part, sizes, names)


def build(database: sqlite3.Connection) -> None:
    """Make all rows anew, inside a transaction."""
    database.execute("DELETE FROM fields")
    database.executemany(_ENTER, _rows(database))


def has_ids(database: sqlite3.Connection) -> bool:
    """Return whether any row is of ids: those that older releases made have none."""
    return bool(database.execute("SELECT EXISTS (SELECT 1 FROM fields WHERE field = ?)", (_IDS,)).fetchone()[0])


def is_whole(database: sqlite3.Connection, *, with_ids: bool = True) -> bool:
    """Return whether the rows are what the documents say, with or without their ids, and there are no others."""
    number = 0
    for row in _rows(database, with_ids=with_ids):
        number += 1
        if database.execute(_ONE, row[:2]).fetchall() != [row]:
            return False
    return database.execute("SELECT count(*) FROM fields").fetchall() == [(number,)]


def texts_of(raw: bytes) -> list[str]:
    """Return the texts of a row, or the JSON of its other values; raises `ValueError` if they are none."""
    found = read_json(raw.decode("utf-8", "surrogatepass")) if raw else []
    if not isinstance(found, list) or {*map(type, found)} - {str}:
        raise ValueError("a row of its fields holds other things")
    return found


def read_json(text: str) -> Any:
    """Return what JSON says; raises `ValueError` if it is none, or too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("a row of its fields is nested") from error


def raw_of(texts: Collection[str]) -> bytes:
    """Return texts as a row holds them."""
    return json.dumps([*texts], ensure_ascii=False).encode("utf-8", "surrogatepass") if texts else b""


def _rows(database: sqlite3.Connection, *, with_ids: bool = True) -> Iterator[tuple[Any, ...]]:
    """Yield every row as the documents say."""
    for part, documents in groupby(database.execute(f"{_DOCUMENTS} ORDER BY place"), lambda row: row[0] >> _BITS):
        fields = _by_field(documents)
        if not with_ids:
            del fields[_IDS]
        yield _signed(_SIZES, part, _packed(fields.pop(_SIZES), fields))
        for field, values in fields.items():
            yield _signed(field, part, _packed(values))


def _by_field(documents: Iterable[_Document]) -> dict[str, dict[int, Value]]:
    """Return the values of documents of one part, by their slots in it, for each field."""
    fields: dict[str, dict[int, Value]] = defaultdict(dict)
    for place, doc_id, num_chunks, metadata in documents:
        fields[_SIZES][place & _SPAN - 1] = _value(num_chunks)
        fields[_IDS][place & _SPAN - 1] = _INTEGER, _number_of(doc_id)
        for field, value in _values(metadata).items():
            fields[field][place & _SPAN - 1] = value
    return fields


def _values(metadata: bytes) -> dict[str, Value]:
    """Return what metadata hold; nothing if they are damaged."""
    try:
        found = json.loads(metadata.decode())
        return {json.dumps(key): _value(value) for key, value in found.items()} if isinstance(found, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _number_of(doc_id: bytes) -> int:
    """Return what stands for an id."""
    return int.from_bytes(xxhash.xxh3_64_digest(doc_id), "little", signed=True)


def _value(value: object) -> Value:
    """Return a value with its kind; numbers that are equal are the same."""
    if isinstance(value, str):
        return _TEXT, value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return _INTEGER, int(value)
    if isinstance(value, float) and math.isfinite(value):
        return _FLOAT, value + 0.0
    return _OTHER, json.dumps(None if isinstance(value, bytes) else value)


def _numbers_of_chunks(column: Column) -> NDArray[np.int64]:
    """Return the values of the rows without a field; raises `ValueError` if a document has another one."""
    pieces, start = [np.zeros(0, np.int64)], 0
    for integers, _, _, _, counts, _ in column.rows:
        end = start + len(integers) // 8
        pieces += [column.integers[start:end], np.full(len(counts) // 2 - len(integers) // 8, -1)]
        start = end
    sizes = np.concatenate(pieces)
    of_documents = sizes[column.counts > 0]
    if len(of_documents) and not 0 <= of_documents.min() <= of_documents.max() <= CHUNKS:
        raise ValueError("a document has no number of chunks")
    return sizes


def _change(values: dict[int, Value], places: Iterable[int], new: Mapping[int, Value]) -> None:
    for place in places:
        values.pop(place & _SPAN - 1, None)
    values.update(new)


def _row_of(database: sqlite3.Connection, field: str, part: int) -> tuple[dict[int, Value], frozenset[str]]:
    """Return the values of a row by the slots of their documents, and texts that no document has."""
    values: dict[int, Value] = {}
    alone: set[str] = set()
    for row in database.execute(_ONE, (field, part)):
        integers, floats, texts, others, counts, slots = _confirmed(field, row)
        listed = [
            *((_INTEGER, number) for number in np.frombuffer(integers, "<i8").tolist()),
            *((_FLOAT, number) for number in np.frombuffer(floats, "<f8").tolist()),
            *((_TEXT, text) for text in texts_of(texts)),
            *((_OTHER, text) for text in texts_of(others)),
        ]
        rest = iter(np.frombuffer(slots, "<u2").tolist())
        for value, count in zip(listed, np.frombuffer(counts, "<u2").tolist(), strict=True):
            values.update(dict.fromkeys(islice(rest, count), value))
            if not count and value[0] == _TEXT:
                alone.add(value[1])
    return values, frozenset(alone)


def _write(
    database: sqlite3.Connection, field: str, part: int, values: Mapping[int, Value], alone: Iterable[str] = ()
) -> None:
    """Write a row, or remove it if there is nothing to say."""
    if values:
        database.execute(_ENTER, _signed(field, part, _packed(values, alone)))
    else:
        database.execute("DELETE FROM fields WHERE field = ? AND part = ?", (field, part))


def _packed(values: Mapping[int, Value], alone: Iterable[str] = ()) -> Row:
    """Return a row: values in the order of the first document that has each, behind texts of none."""
    groups: tuple[dict[Any, list[int]], ...] = {}, {}, {text: [] for text in sorted(alone)}, {}
    for slot in sorted(values):
        kind, value = values[slot]
        groups[kind].setdefault(value, []).append(slot)
    listed = [slots for group in groups for slots in group.values()]
    return (
        np.array([*groups[_INTEGER]], "<i8").tobytes(),
        np.array([*groups[_FLOAT]], "<f8").tobytes(),
        raw_of(groups[_TEXT]),
        raw_of(groups[_OTHER]),
        np.array([*map(len, listed)], "<u2").tobytes(),
        np.array([*chain.from_iterable(listed)], "<u2").tobytes(),
    )


def _confirmed(field: str, row: Any) -> Row:
    """Return what is in a row of a field; raises `ValueError` if it is not as it was written."""
    _, part, *pieces, proof = row
    if not isinstance(part, int) or {*map(type, pieces)} - {bytes} or proof != _digest(field, part, pieces):
        raise ValueError("a row of its fields is not as it was written")
    integers, floats, texts, others, counts, slots = pieces
    if len(integers) % 8 or len(floats) % 8 or len(counts) % 2 or len(slots) % 2:
        raise ValueError("a row of its fields holds half a number")
    return integers, floats, texts, others, counts, slots


def _signed(field: str, part: int, row: Row) -> tuple[Any, ...]:
    return field, part, *row, _digest(field, part, row)


def _digest(field: str, part: int, row: Sequence[bytes]) -> bytes:
    head = field.encode("utf-8", "surrogatepass") + _LENGTHS.pack(part, *map(len, row))
    return xxhash.xxh3_64_digest(b"".join([head, *row]))

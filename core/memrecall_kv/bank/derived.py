"""What a catalogue keeps besides what it was given, and could make again: index, fields, and how much there is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from memrecall_kv.bank import digest, fields, index, tokens
from memrecall_kv.bank.heading import unpacked

Counts: TypeAlias = tuple[int, ...]
"""Nine: documents, chunks and their tokens; blocks in use, their memory tokens and bytes; chunks that wait for their
first block, and those that lost theirs to the budget; postings of the index.
"""

_VERSION = 2
"""Of what is made, besides that of the words; what was made by another one is made anew."""
_LARGEST = 2**62
"""No number of ours comes near."""


def build(database: sqlite3.Connection) -> None:
    """Make all of it anew, inside a transaction."""
    index.build(database, _documents(database))
    fields.build(database)
    _enter(database, count(database))


def mend(database: sqlite3.Connection) -> None:
    """Make anew, inside a transaction, what is not as it was written."""
    written = read(database)
    is_whole = written is not None and written == count(database) and fields.is_whole(database)
    if not is_whole or not index.is_readable(database.execute(index.EVERYTHING)):
        build(database)


def is_of_today(database: sqlite3.Connection) -> bool:
    """Return whether it was made as this release makes it."""
    return database.execute("SELECT value FROM meta WHERE key = 'tokens'").fetchall() == [(_written_by(),)]


def sign(database: sqlite3.Connection) -> None:
    """Enter as what it was made."""
    database.execute("INSERT OR REPLACE INTO meta VALUES ('tokens', ?)", (_written_by(),))


def _written_by() -> str:
    return f"{_VERSION} {tokens.VERSION}"


def problem(database: sqlite3.Connection) -> str | None:
    """Return what is not as the other tables say, or `None`."""
    if read(database) != count(database):
        return "its counts are not those of its rows"
    if not index.is_whole(database.execute(index.EVERYTHING), _documents(database)):
        return "its index does not hold what its texts say"
    if not fields.is_whole(database, with_ids=is_of_today(database) or fields.has_ids(database)):
        return "its fields do not hold what its metadata say"
    return None


def read(database: sqlite3.Connection) -> Counts | None:
    """Return how much there is, as it is written down; `None` if that is damaged."""
    rows = database.execute("SELECT * FROM counts").fetchmany(2)
    if len(rows) != 1:
        return None
    *counts, proof = rows[0]
    try:
        is_same = proof == digest.of_counts(counts)
    except ValueError:
        return None
    return tuple(counts) if is_same and all(0 <= each <= _LARGEST for each in counts) else None


def count(database: sqlite3.Connection) -> Counts:
    """Return how much there is, from the rows themselves; what is no number counts as nothing."""
    queries = (_DOCUMENTS, _CHUNKS, _BLOCKS, _ABSENT, index.COUNT)
    return tuple(number for query in queries for number in _row(database, query))


@contextmanager
def kept_up(database: sqlite3.Connection, places: Iterable[int], blocks: Iterable[bytes]) -> Iterator[index.Changes]:
    """Keep counts, index and fields up with what happens in the block, inside a transaction.

    Args:
        database: The catalogue.
        places: The documents that may change.
        blocks: The ids of blocks that may come into use, fall out of it, or change.
    """
    documents, listed, before, changes = set(places), set(blocks), read(database), index.Changes()
    names = fields.named(database, documents)
    old, absent = _share(database, documents, listed), _absent(database, listed)
    yield changes
    new, moved = _share(database, documents, listed), _moved(database, documents, absent, _absent(database, listed))
    try:
        postings = changes.write(database)
        fields.update(database, names)
    except ValueError:  # they are damaged, and nothing is lost with them
        build(database)
        return
    if before is None or changes.sweeps:
        _enter(database, count(database))
        return
    *rest, deferred, evicted = (b - a for a, b in zip(old, new, strict=True))
    added = (*rest, deferred + moved[0], evicted + moved[1], postings)
    if any(added):
        _enter(database, tuple(a + b for a, b in zip(before, added, strict=True)))


def _share(database: sqlite3.Connection, places: Iterable[int], blocks: Iterable[bytes]) -> tuple[int, ...]:
    """Return what documents and blocks add to the counts, all but the postings."""
    absent = [_row(database, f"{_ABSENT} AND document = ?", (place,)) for place in places]
    documents = [_row(database, f"{_DOCUMENTS} WHERE place = ?", (place,)) for place in places]
    chunks = [_row(database, f"{_CHUNKS} WHERE document = ?", (place,)) for place in places]
    used = [_row(database, f"{_BLOCKS} AND id = ?", (block_id,)) for block_id in blocks]
    return (*_sums(documents, 1), *_sums(chunks, 2), *_sums(used, 3), *_sums(absent, 2))


def _absent(database: sqlite3.Connection, blocks: Iterable[bytes]) -> dict[bytes, tuple[int, ...]]:
    """Return of each block whether it is still to come, and whether it was evicted, as numbers."""
    return {block_id: _row(database, _STATE, (block_id, block_id)) for block_id in blocks}


def _moved(
    database: sqlite3.Connection,
    places: Iterable[int],
    old: Mapping[bytes, tuple[int, ...]],
    new: Mapping[bytes, tuple[int, ...]],
) -> tuple[int, ...]:
    """Return what blocks that came or went add to the counts of chunks without one, in all other documents."""
    listed, changed = json.dumps(list(places)), [block_id for block_id in old if old[block_id] != new[block_id]]
    uses = {block_id: _row(database, _USES, (block_id, listed))[0] for block_id in changed}
    return tuple(sum(uses[each] * (new[each][state] - old[each][state]) for each in changed) for state in (0, 1))


def _sums(rows: Sequence[tuple[int, ...]], columns: int) -> tuple[int, ...]:
    return tuple(sum(row[column] for row in rows) for column in range(columns))


def _enter(database: sqlite3.Connection, counts: Counts) -> None:
    database.execute("DELETE FROM counts")
    marks = ", ".join("?" * (len(counts) + 1))
    database.execute(f"INSERT INTO counts VALUES ({marks})", (*counts, digest.of_counts(counts)))


def _row(database: sqlite3.Connection, query: str, values: tuple[Any, ...] = ()) -> tuple[int, ...]:
    return tuple(database.execute(query, values).fetchall()[0])


def _documents(database: sqlite3.Connection) -> Iterator[tuple[int, list[index.Text]]]:
    """Yield place and chunks of every document, in order, as far as they are any."""
    for place, text, packed in database.execute("SELECT place, text, heading FROM documents ORDER BY place"):
        cuts = database.execute("SELECT number, start, stop, num_tokens FROM chunks WHERE document = ?", (place,))
        try:
            heading = unpacked(packed)[1].judged
        except (TypeError, ValueError, RecursionError):
            heading = ""
        yield (
            place,
            [
                (number, length, heading + text[start:stop])
                for number, start, stop, length in cuts
                if isinstance(text, str) and all(isinstance(each, int) for each in (number, start, stop, length))
            ],
        )


def _total(column: str) -> str:
    is_number = f"typeof({column}) = 'integer' AND {column} BETWEEN 0 AND {2**40}"
    return f"coalesce(sum(CASE WHEN {is_number} THEN {column} END), 0)"


_DOCUMENTS = "SELECT count(*) FROM documents"
_CHUNKS = f"SELECT count(*), {_total('num_tokens')} FROM chunks"
_BLOCKS = (
    f"SELECT count(*), {_total('memory_tokens')}, {_total('length')} FROM blocks "
    "WHERE EXISTS (SELECT 1 FROM chunks WHERE block = blocks.id)"
)
_EVICTED = "EXISTS (SELECT 1 FROM openings WHERE block = {} AND turn = 0)"
_LOST = _EVICTED.format("chunks.block")
_ABSENT = (
    f"SELECT coalesce(sum(NOT {_LOST}), 0), coalesce(sum({_LOST}), 0) FROM chunks "
    "WHERE NOT EXISTS (SELECT 1 FROM blocks WHERE id = chunks.block)"
)
_STATE = (
    "SELECT NOT is_there AND NOT was_evicted, NOT is_there AND was_evicted FROM "
    f"(SELECT EXISTS (SELECT 1 FROM blocks WHERE id = ?) AS is_there, {_EVICTED.format('?')} AS was_evicted)"
)
_USES = "SELECT count(*) FROM chunks WHERE block = ? AND document NOT IN (SELECT value FROM json_each(?))"

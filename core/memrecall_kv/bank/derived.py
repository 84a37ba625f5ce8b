"""What a catalogue keeps besides what it was given, and could make again: the index, and how much there is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from memrecall_kv.bank import digest, index, tokens
from memrecall_kv.bank.heading import unpacked

Counts: TypeAlias = tuple[int, ...]
"""Seven: documents, chunks and their tokens; blocks in use, their memory tokens and bytes; postings of the index."""

_LARGEST = 2**62
"""No number of ours comes near."""


def build(database: sqlite3.Connection) -> None:
    """Make all of it anew, inside a transaction."""
    index.build(database, _documents(database))
    _enter(database, count(database))


def mend(database: sqlite3.Connection) -> None:
    """Make anew, inside a transaction, what is not as it was written."""
    written = read(database)
    if written is None or written != count(database) or not index.is_readable(database.execute(index.EVERYTHING)):
        build(database)


def is_of_today(database: sqlite3.Connection) -> bool:
    """Return whether the index counts words as this release does."""
    return database.execute("SELECT value FROM meta WHERE key = 'tokens'").fetchall() == [(tokens.VERSION,)]


def sign(database: sqlite3.Connection) -> None:
    """Enter how the index counts words."""
    database.execute("INSERT OR REPLACE INTO meta VALUES ('tokens', ?)", (tokens.VERSION,))


def problem(database: sqlite3.Connection) -> str | None:
    """Return what is not as the other tables say, or `None`."""
    if read(database) != count(database):
        return "its counts are not those of its rows"
    if not index.is_whole(database.execute(index.EVERYTHING), _documents(database)):
        return "its index does not hold what its texts say"
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
    return tuple(number for query in (_DOCUMENTS, _CHUNKS, _BLOCKS, index.COUNT) for number in _row(database, query))


@contextmanager
def kept_up(database: sqlite3.Connection, places: Iterable[int], blocks: Iterable[bytes]) -> Iterator[index.Changes]:
    """Keep the counts and the index up with what happens in the block, inside a transaction.

    Args:
        database: The catalogue.
        places: The documents that may change.
        blocks: The ids of blocks that may come into use, fall out of it, or change.
    """
    documents, listed, before, changes = set(places), set(blocks), read(database), index.Changes()
    old = _share(database, documents, listed)
    yield changes
    new = _share(database, documents, listed)
    try:
        postings = changes.write(database)
    except ValueError:  # the index is damaged, and nothing is lost with it
        index.build(database, _documents(database))
        before = None
    if before is None or changes.sweeps:
        _enter(database, count(database))
    elif new != old or postings:
        _enter(database, tuple(a + b - c for a, b, c in zip(before, (*new, postings), (*old, 0), strict=True)))


def _share(database: sqlite3.Connection, places: Iterable[int], blocks: Iterable[bytes]) -> tuple[int, ...]:
    """Return what documents and blocks add to the counts."""
    documents = [_row(database, f"{_DOCUMENTS} WHERE place = ?", (place,)) for place in places]
    chunks = [_row(database, f"{_CHUNKS} WHERE document = ?", (place,)) for place in places]
    used = [_row(database, f"{_BLOCKS} AND id = ?", (block_id,)) for block_id in blocks]
    return (*_sums(documents, 1), *_sums(chunks, 2), *_sums(used, 3))


def _sums(rows: Sequence[tuple[int, ...]], columns: int) -> tuple[int, ...]:
    return tuple(sum(row[column] for row in rows) for column in range(columns))


def _enter(database: sqlite3.Connection, counts: Counts) -> None:
    database.execute("DELETE FROM counts")
    database.execute("INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*counts, digest.of_counts(counts)))


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

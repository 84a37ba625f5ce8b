"""The candidate index: which chunks hold which words, in the catalogue's own transactions.

A posting says that a chunk holds a word, how often, and how long the chunk is: enough for BM25. Documents that follow
each other are a part, named by the place of its first one. The postings of a word in a part are one row, and the rows
of a part stand together: a question reads few rows, and what a document changes is small and near each other, however
large the bank is.

Source: BM25 as in "Lucene" of bm25s, arXiv:2407.03618. Deviations: a word's rarity counts twice, for the question and
for the text, as in the vector space model, so that function words weigh next to nothing; a word of a question counts
once, however often it is said; a chunk is as long as it has tokens of the backbone; of a question's words the commonest
are left out once the others have `_MOST_POSTINGS`.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from memrecall_kv.bank.tokens import tokens

CHUNKS = 2**22
"""Chunks that a document may have."""
_MOST_DOCUMENTS = 1024
_MOST_CHUNKS = 2048
"""Documents and chunks in a part; of long documents it may have more."""
_PLACES = 2**40
"""No place comes near; one beyond has no postings."""
_MOST_POSTINGS = 100_000
"""Postings that are read of a question's words before the commonest are left out."""
MOST_FORMS = 256
"""Rows that are read for the other forms of one word."""
_K1, _B = 1.5, 0.75

_POSTING = np.dtype([("chunk", "<u4"), ("count", "u1"), ("length", "<u2")])
_PACKED = struct.Struct("<IBH")

Keys: TypeAlias = NDArray[np.int64]
"""Chunks, each as its document's place times `CHUNKS` and its number in the document."""
Read: TypeAlias = Callable[[str, tuple[Any, ...]], Sequence[Any]]
"""Runs a query and returns its rows."""
Ranked: TypeAlias = tuple[Keys, Any]
"""Chunks, the best first and of equals the first ones, and their scores."""
Text: TypeAlias = tuple[int, int, str]
"""A chunk's number, tokens and text."""


class Changes:
    """What a transaction takes out of the index and puts into it; nothing is written before `write`."""

    def __init__(self) -> None:
        self._gone: dict[int, set[str]] = defaultdict(set)
        self._new: dict[int, list[tuple[int, int, str]]] = {}
        self._swept: set[int] = set()

    @property
    def sweeps(self) -> bool:
        """Return whether a document is taken out of which nobody knows what it said."""
        return bool(self._swept)

    def remove(self, place: int, chunks: Iterable[Text]) -> None:
        """Take out a document with these chunks."""
        self._gone[place].update(word for _, _, text in chunks for word in tokens(text))

    def sweep(self, place: int) -> None:
        """Take out a document of which nobody knows any more what it said."""
        self._swept.add(place)

    def add(self, place: int, chunks: Iterable[Text]) -> None:
        """Put in a document with these chunks."""
        if 0 <= place < _PLACES:
            self._new[place] = [chunk for chunk in chunks if 0 <= chunk[0] < CHUNKS]

    def write(self, database: sqlite3.Connection, *, behind: int | None = None) -> int:
        """Write all of it, inside a transaction; return how many postings there are more.

        Args:
            database: The catalogue.
            behind: The last place that is in the index already; asked of the catalogue if it is not given.

        Raises:
            ValueError: If a row that is to be changed is not as it was written.
        """
        gone: dict[tuple[int, str], set[int]] = defaultdict(set)
        for place in sorted(self._gone.keys() | self._swept):
            part = _part_of(database, place)
            words = self._gone[place] if place not in self._swept else _words_of(database, part)
            for word in words:
                gone[part, word].add(place - part)
        new: dict[tuple[int, str], list[bytes]] = defaultdict(list)
        part, size = -1, 0
        behind = _last_but(database, self._new) if behind is None else behind
        for place in sorted(self._new):
            if part < 0 or place - part >= _MOST_DOCUMENTS or size >= _MOST_CHUNKS:
                part, size = _part_for(database, place, may_begin=place > behind)
            size += len(self._new[place])
            for word, posting in _postings(place - part, self._new[place]):
                new[part, word].append(posting)
        return _rewrite(database, gone, new)


def build(database: sqlite3.Connection, documents: Iterable[tuple[int, Sequence[Text]]]) -> None:
    """Make the index anew from place and chunks of every document, in order, inside a transaction."""
    database.execute("DELETE FROM postings")
    changes, size = Changes(), 0
    for place, chunks in documents:
        changes.add(place, chunks)
        size += len(chunks)
        if size >= _MOST_CHUNKS:
            changes.write(database, behind=-1)
            changes, size = Changes(), 0
    changes.write(database, behind=-1)


def is_readable(rows: Iterable[Any]) -> bool:
    """Return whether all rows of `EVERYTHING` are as they were written."""
    try:
        return all(_confirmed(row) for row in rows)
    except ValueError:
        return False


def is_whole(rows: Iterable[Any], documents: Iterable[tuple[int, Sequence[Text]]]) -> bool:
    """Return whether the index, all rows of `EVERYTHING`, holds what the documents say and nothing else."""
    total = 0
    try:
        for part, word, entries in map(_confirmed, rows):
            total += _sum(part, word, np.frombuffer(entries, _POSTING))
    except ValueError:
        return False
    for place, chunks in documents:
        made: dict[str, list[bytes]] = defaultdict(list)
        if 0 <= place < _PLACES:
            for word, posting in _postings(0, chunks):
                made[word].append(posting)
        for word, postings in made.items():
            total -= _sum(place, word, np.frombuffer(b"".join(postings), _POSTING))
    return total % 2**64 == 0


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a text is asked of: how much there is, and how common the text's words are in it.

    Attributes:
        chunks: How many there are.
        tokens: Of all of them.
        holding: How many chunks hold each word of the text.
    """

    chunks: int
    tokens: int
    holding: Mapping[str, int]


class Postings:
    """The postings of a bank at one moment, as far as their documents may be recalled.

    Methods raise `ValueError` if a row is not as it was written.

    Args:
        read: Asks the catalogue.
        places: Documents that may be recalled, sorted; `None` for all.
    """

    def __init__(self, read: Read, places: NDArray[np.int64] | None) -> None:
        self._read, self._places, self._parts = read, places, _parts(read)

    def holding(self, text: str) -> dict[str, int]:
        """Return how many chunks hold each word of a text, whether they may be recalled or not."""
        return {word: self._count(word) for word in dict.fromkeys(tokens(text))}

    def ranked(self, text: str, corpus: Corpus) -> Ranked:
        """Return the chunks that share a word with a text, and their scores.

        Args:
            text: What is asked.
            corpus: What it is asked of: the bank, or several of which it is one.
        """
        words, sizes = dict.fromkeys(tokens(text)), corpus.holding
        length = corpus.tokens / max(corpus.chunks, 1) or 1.0
        keys, scores, total = list[Keys](), list[Any](), 0
        for word in sorted((word for word in words if sizes[word]), key=lambda word: (sizes[word], word)):
            total += sizes[word]
            if total > _MOST_POSTINGS and keys:
                break
            weight = rarity(sizes[word], corpus.chunks) ** 2
            found, postings = self._allowed(self._read(f"{_ROWS}{_OF_WORD}", (self._parts, word)))
            count = postings["count"].astype(np.float64)
            keys.append(found)
            scores.append(weight * count / (count + _K1 * (1 - _B + _B * postings["length"] / length)))
        return best(keys, scores)

    def other_forms(self, start: str, limit: int) -> tuple[Keys, int]:
        """Return the chunks that hold a word with a stump, in order, and how many rows were read for it, at most."""
        rows = self._read(f"{_ROWS}{_OF_WORDS} LIMIT {limit}", (self._parts, start, start + "\U0010ffff"))
        return np.unique(self._allowed(rows)[0]), len(rows)

    def _count(self, word: str) -> int:
        query = f"SELECT coalesce(sum(length(entries)), 0) FROM postings{_OF_WORD}"
        ((length,),) = self._read(query, (self._parts, word))
        return int(length) // _PACKED.size

    def _allowed(self, rows: Sequence[Any]) -> tuple[Keys, Any]:
        """Return the keys of the postings in rows and the postings, as far as their documents may be recalled."""
        entries = [_confirmed(row)[2] for row in rows]
        postings = np.frombuffer(b"".join(entries), _POSTING)
        parts = np.array([row[0] for row in rows], np.int64)
        sizes = [len(each) // _PACKED.size for each in entries]
        keys, places = np.repeat(parts, sizes) * CHUNKS + postings["chunk"], self._places
        if places is None:
            return keys, postings
        kept = np.append(places, -1)[np.searchsorted(places, keys // CHUNKS)] == keys // CHUNKS
        return keys[kept], postings[kept]


def rarity(holding: int, chunks: int) -> float:
    """Return the weight of a word that so many of all chunks hold."""
    return math.log1p(max(0.0, chunks - holding + 0.5) / (holding + 0.5))


def best(keys: Sequence[Keys], scores: Sequence[Any]) -> Ranked:
    """Add up the scores of each key; return both, the best first and of equals the first ones."""
    found, which = np.unique(np.concatenate([_NONE, *keys]), return_inverse=True)
    added = np.bincount(which, np.concatenate([np.zeros(0), *scores]), len(found))
    order = np.lexsort((found, -added))
    return found[order], added[order]


_ROWS = "SELECT part, term, entries, digest FROM postings"
EVERYTHING = _ROWS
"""Reads all rows."""
COUNT = f"SELECT coalesce(sum(length(entries)), 0) / {_PACKED.size} FROM postings"
"""Counts all postings."""
_OF_WORD = " JOIN json_each(?) AS p ON part = p.value AND term = ?"
_OF_WORDS = " JOIN json_each(?) AS p ON part = p.value AND term >= ? AND term < ?"
_PARTS = """WITH RECURSIVE p(part) AS (SELECT min(part) FROM postings UNION ALL
    SELECT (SELECT min(part) FROM postings WHERE part > p.part) FROM p WHERE part IS NOT NULL)
    SELECT part FROM p WHERE part IS NOT NULL"""
_NONE: Keys = np.zeros(0, np.int64)


def _postings(document: int, chunks: Iterable[Text]) -> Iterator[tuple[str, bytes]]:
    """Yield the words of a document, given by its number in its part, each with a posting."""
    for number, length, text in chunks:
        for word, count in Counter(tokens(text)).items():
            yield word, _PACKED.pack(document * CHUNKS + number, min(count, 255), min(max(length, 1), 65535))


def _rewrite(
    database: sqlite3.Connection, gone: Mapping[tuple[int, str], set[int]], new: Mapping[tuple[int, str], list[bytes]]
) -> int:
    """Take the postings of documents out of rows, and put others in; return how many there are more."""
    rows, empty, more = [], [], 0
    for part, word in {*gone, *new}:
        found = database.execute(f"{_ROWS} WHERE part = ? AND term = ?", (part, word)).fetchall()
        old = b"".join(_confirmed(row)[2] for row in found)
        if old and (part, word) in gone:
            kept = np.frombuffer(old, _POSTING)
            old = kept[~np.isin(kept["chunk"] // CHUNKS, list(gone[part, word]))].tobytes()
        entries = b"".join([old, *new.get((part, word), ())])
        more += (len(entries) - sum(len(row[2]) for row in found)) // _PACKED.size
        if entries:
            rows.append((part, word, entries, _digest(part, word, entries)))
        elif found:
            empty.append((part, word))
    database.executemany("DELETE FROM postings WHERE part = ? AND term = ?", empty)
    database.executemany("INSERT OR REPLACE INTO postings VALUES (?, ?, ?, ?)", rows)
    return more


def _part_of(database: sqlite3.Connection, place: int) -> int:
    """Return the part that a document is in; its own place if there is none."""
    ((part,),) = database.execute("SELECT max(part) FROM postings WHERE part <= ?", (place,))
    return part if isinstance(part, int) and place - part < _MOST_DOCUMENTS else place


def _part_for(database: sqlite3.Connection, place: int, *, may_begin: bool) -> tuple[int, int]:
    """Return the part that a document is to be put in, and how many chunks are there; a new one behind a full one."""
    part = _part_of(database, place)
    ((size,),) = database.execute("SELECT count(*) FROM chunks WHERE document >= ? AND document < ?", (part, place))
    return (place, 0) if may_begin and size >= _MOST_CHUNKS else (part, size)


def _last_but(database: sqlite3.Connection, places: Iterable[int]) -> int:
    """Return the last place of a document, these apart; -1 without any."""
    query = (
        "SELECT place FROM documents WHERE place NOT IN (SELECT value FROM json_each(?)) ORDER BY place DESC LIMIT 1"
    )
    rows = database.execute(query, (json.dumps(list(places)),)).fetchall()
    return rows[0][0] if rows and isinstance(rows[0][0], int) else -1


def _words_of(database: sqlite3.Connection, part: int) -> list[str]:
    return [word for (word,) in database.execute("SELECT term FROM postings WHERE part = ?", (part,))]


def _parts(read: Read) -> str:
    """Return the parts there are, as a JSON list."""
    return json.dumps([part for (part,) in read(_PARTS, ()) if isinstance(part, int)])


def _confirmed(row: Any) -> tuple[int, str, bytes]:
    """Return part, word and postings of a row; raises `ValueError` if it is not as it was written."""
    part, word, entries, proof = row
    if not (isinstance(word, str) and isinstance(part, int) and isinstance(entries, bytes)):
        raise ValueError("a row of its index holds other things")
    if not 0 <= part < _PLACES or len(entries) % _PACKED.size or proof != _digest(part, word, entries):
        raise ValueError("a row of its index is not as it was written")
    return part, word, entries


def _digest(part: int, word: str, entries: bytes) -> bytes:
    return xxhash.xxh3_64_digest(entries, seed=xxhash.xxh3_64_intdigest(word.encode(), seed=part))


def _sum(part: int, word: str, postings: Any) -> int:
    """Return a number of postings that does not depend on their order or on how they are cut in parts."""
    seed = np.uint64(xxhash.xxh3_64_intdigest(word.encode()) | 1)
    mixed = (postings["chunk"].astype(np.uint64) + np.uint64(part * CHUNKS)) * seed
    mixed ^= postings["length"].astype(np.uint64) << np.uint64(8) | postings["count"]
    mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15)
    return int((mixed ^ mixed >> np.uint64(32)).sum(dtype=np.uint64))

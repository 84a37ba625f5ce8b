"""The catalogue's tables, one set per format version, and the numbered steps from each to the next."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from functools import cache

from memrecall_kv.bank import derived, digest

FORMAT_VERSION = 2

DERIVED = (
    """CREATE TABLE postings (
    part INTEGER NOT NULL, term TEXT NOT NULL, entries BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (part, term)) WITHOUT ROWID""",
    """CREATE TABLE counts (
    documents INTEGER NOT NULL, chunks INTEGER NOT NULL, source_tokens INTEGER NOT NULL, blocks INTEGER NOT NULL,
    memory_tokens INTEGER NOT NULL, live_bytes INTEGER NOT NULL, chunks_deferred INTEGER NOT NULL,
    chunks_evicted INTEGER NOT NULL, postings INTEGER NOT NULL, digest BLOB NOT NULL)""",
    """CREATE TABLE fields (
    field TEXT NOT NULL, part INTEGER NOT NULL, integers BLOB NOT NULL, floats BLOB NOT NULL, texts BLOB NOT NULL,
    others BLOB NOT NULL, counts BLOB NOT NULL, slots BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (field, part)) WITHOUT ROWID""",
)
"""What is made from the other tables: the candidate index, how much there is, and what the metadata hold."""

_SCHEMAS: dict[int, tuple[str, ...]] = {
    1: (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE documents (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL)""",
        """CREATE TABLE blocks (
    id BLOB PRIMARY KEY, segment INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    memory_tokens INTEGER NOT NULL)""",
        """CREATE TABLE chunks (
    document INTEGER NOT NULL REFERENCES documents(place) ON DELETE CASCADE, number INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, num_tokens INTEGER NOT NULL, block BLOB NOT NULL,
    PRIMARY KEY (document, number))""",
        "CREATE INDEX chunks_by_block ON chunks(block)",
    ),
    2: (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE documents (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL,
    heading TEXT NOT NULL, num_chunks INTEGER NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL)""",
        """CREATE TABLE blocks (
    id BLOB PRIMARY KEY, segment INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    memory_tokens INTEGER NOT NULL, digest BLOB NOT NULL)""",
        """CREATE TABLE chunks (
    document INTEGER NOT NULL REFERENCES documents(place) ON DELETE CASCADE, number INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, num_tokens INTEGER NOT NULL, block BLOB NOT NULL,
    PRIMARY KEY (document, number))""",
        "CREATE INDEX chunks_by_block ON chunks(block)",
        *DERIVED,
        "CREATE INDEX blocks_by_place ON blocks(segment, start, length)",
        "CREATE TABLE openings (block BLOB PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX openings_by_turn ON openings(turn)",
    ),
}

_VIEWS: dict[int, tuple[str, ...]] = {
    1: (
        """CREATE TEMP VIEW documents AS SELECT *, '' AS heading, NULL AS head, NULL AS body,
    (SELECT count(*) FROM chunks WHERE document = place) AS num_chunks FROM main.documents""",
        "CREATE TEMP VIEW blocks AS SELECT *, NULL AS digest FROM main.blocks",
        *(statement.replace("CREATE", "CREATE TEMP", 1) for statement in DERIVED),
        "CREATE TEMP VIEW openings AS SELECT NULL AS block, NULL AS turn WHERE 0",
    ),
}
"""What lets a reader, who may not migrate, ask an old catalogue as if it were of today."""

_SEQUENCE = ("table", "sqlite_sequence", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)")
"""What AUTOINCREMENT of format 1 leaves behind, and SQLite does not let go."""


def version_of(database: sqlite3.Connection) -> int:
    """Return a catalogue's format version; 0 if it is still empty."""
    ((version,),) = database.execute("PRAGMA user_version")
    return int(version)


def is_known(version: int) -> bool:
    """Return whether this release reads a format."""
    return version in _SCHEMAS


def is_as_made(database: sqlite3.Connection, version: int) -> bool:
    """Return whether a catalogue has the tables of its version and nothing else: no trigger, view or other column."""
    found = _objects(database)
    return found == _expected(version) or found - {_SEQUENCE} == _expected(version)


def is_empty(database: sqlite3.Connection) -> bool:
    """Return whether nothing is in a catalogue."""
    return version_of(database) == 0 and not _objects(database)


def is_unclaimed(database: sqlite3.Connection) -> bool:
    """Return whether a catalogue of format 1 was left before it said what its blocks are made with."""
    if version_of(database) != 1 or not is_as_made(database, 1):
        return False
    return not database.execute("SELECT 1 FROM meta WHERE key = 'fingerprint'").fetchall()


def claim(database: sqlite3.Connection, fingerprint: str) -> None:
    """Enter it, inside a transaction."""
    database.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint', ?)", (fingerprint,))


def create(database: sqlite3.Connection, fingerprint: str) -> None:
    """Make the tables, inside a transaction, and enter what the bank is."""
    for statement in _SCHEMAS[FORMAT_VERSION]:
        database.execute(statement)
    claim(database, fingerprint)
    identify(database, fingerprint)
    derived.build(database)
    derived.sign(database)
    database.execute(f"PRAGMA user_version={FORMAT_VERSION}")


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Take a catalogue from a version to today's, inside a transaction.

    Raises:
        ValueError: If a row does not hold what its columns say.
    """
    for step in range(version, FORMAT_VERSION):
        _MIGRATIONS[step](database)
        database.execute(f"PRAGMA user_version={step + 1}")


def add_views(database: sqlite3.Connection, version: int) -> None:
    """Let a connection ask a catalogue of an older version as if it were of today's."""
    for statement in _VIEWS.get(version, ()):
        database.execute(statement)


def drop_views(database: sqlite3.Connection) -> None:
    """Take back what `add_views` did, inside a transaction."""
    for kind, name in database.execute("SELECT type, name FROM sqlite_temp_master WHERE sql IS NOT NULL").fetchall():
        database.execute(f"DROP {kind} temp.{name}")


def _objects(database: sqlite3.Connection) -> frozenset[tuple[str, str, str, str | None]]:
    return frozenset(database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


@cache
def _expected(version: int) -> frozenset[tuple[str, str, str, str | None]]:
    database = sqlite3.connect(":memory:")
    try:
        for statement in _SCHEMAS[version]:
            database.execute(statement)
        return _objects(database)
    finally:
        database.close()


def identify(database: sqlite3.Connection, fingerprint: str) -> None:
    """Give a bank an id, inside a transaction, in the place of one it may have."""
    bank_id = uuid.uuid4().hex
    proof = digest.of_bank(bank_id, fingerprint).hex()
    database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("bank", bank_id), ("digest", proof)])


def _add_digests(database: sqlite3.Connection) -> None:
    """1 to 2: a digest to every row, no heading to any document, an id to the bank, and an index."""
    database.execute("DROP INDEX chunks_by_block")
    for table in ("chunks", "documents", "blocks"):
        database.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in _SCHEMAS[2][1:]:
        database.execute(statement)
    database.execute("PRAGMA defer_foreign_keys=ON")
    database.execute("INSERT INTO chunks SELECT * FROM old_chunks")
    for row in database.execute("SELECT place, id, text, metadata FROM old_documents"):
        place, doc_id, text, metadata = row
        query = "SELECT number, start, stop, num_tokens, block FROM chunks WHERE document = ? ORDER BY number"
        cuts = database.execute(query, (place,)).fetchall()
        digests = digest.of_head(place, doc_id, metadata), digest.of_body(place, doc_id, text, "", cuts)
        database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, '', ?, ?, ?)", (*row, len(cuts), *digests))
    for block in database.execute("SELECT * FROM old_blocks"):
        database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (*block, digest.of_block(*block)))
    for table in ("chunks", "documents", "blocks"):
        database.execute(f"DROP TABLE old_{table}")
    ((fingerprint,),) = database.execute("SELECT value FROM meta WHERE key = 'fingerprint'")
    identify(database, fingerprint)
    derived.build(database)
    derived.sign(database)


_MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _add_digests}
"""By the version they start from."""

"""A bank that somebody else made to do harm: nothing is followed, believed or allocated, and every error is ours."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from memrecall_kv.bank import MemoryBank, derived, digest, fields, index, segment
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.quantize import quantize
from memrecall_kv.errors import BankError, BankFormatError, BlockCorruptError, MemRecallError
from memrecall_kv.filters import AmongIds, Compare, Not, Operator
from memrecall_kv.types import Document, MemoryBlock
from storage_trace import FINGERPRINT, NATIVE, chunks_of, open_bank, put

DOCUMENT = Document("d", "some text", {"page": 1})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "good"
    with open_bank(path) as bank:
        put(bank, DOCUMENT)
        put(bank, Document("e", "another text", {}))
    return path


@pytest.fixture
def bank(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "bank")


def exercise(path: Path) -> list[MemRecallError]:
    """Do all that can be done with a bank; return the errors, which are all of this library's."""
    errors: list[MemRecallError] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except MemRecallError as error:
            errors.append(error)

    for read_only in (True, False):
        try:
            opened = MemoryBank.open(path, fingerprint=FINGERPRINT, config=NATIVE, read_only=read_only)
        except MemRecallError as error:
            errors.append(error)
            continue
        with opened as bank:
            for read in (bank.stats, bank.documents, bank.chunks, bank.verify, bank.deferred_documents):
                attempt(read)
            for read in (bank.document, bank.metadata):
                attempt(lambda read=read: read("d"))
            attempt(lambda: bank.chunks(lambda _, metadata: bool(metadata)))
            attempt(lambda: [bank.blocks([chunk]) for chunk in bank.chunks()])
            attempt(lambda: bank.blocks(chunks_of(DOCUMENT)))
            attempt(lambda: asked(bank))
            attempt(lambda: (len(bank), "d" in bank, bank.holds(DOCUMENT), bank.deferred(chunks_of(DOCUMENT))))
            if not read_only:
                attempt(lambda: put(bank, Document("new", "new text", {})))
                attempt(lambda: put(bank, Document("d", "changed text", {})))
                attempt(bank.compact)
                attempt(lambda: bank.delete("d"))
                attempt(bank.compact)
                attempt(bank.verify)
    return errors


def asked(bank: MemoryBank) -> None:
    """Ask for candidates in every way; all that are found are there and may be recalled."""
    listed = Compare("page", Operator.ALL, ["a"])
    is_one = Compare("page", Operator.EQ, 1)
    for where in (None, is_one, Not(Compare("page", Operator.GT, 1)), Not(listed), lambda *_: True):
        for limit in (1, 9, None):
            for chunk, share in bank.candidates("some text about anothr", limit, bank.scope(where)):
                document = bank.document(chunk.doc_id)
                assert chunk.text == document.text[chunk.start : chunk.end]
                assert 0.0 <= share <= 1.0
                assert where is None or where(document.id, document.metadata)
        bank.ids(where or AmongIds(frozenset("d")))
        bank.largest(2, where)
        bank.is_deferred("d")


def change(path: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        for statement in statements:
            database.execute(statement, values if "?" in statement else ())


def forge(path: Path) -> None:
    """Make the digests right, as somebody who can write the file can, as far as the values have digests."""
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        database.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        for place, doc_id, text, metadata, heading in database.execute(
            "SELECT place, id, text, metadata, heading FROM documents"
        ).fetchall():
            query = "SELECT number, start, stop, num_tokens, block FROM chunks WHERE document = ? ORDER BY number"
            cuts = database.execute(query, (place,)).fetchall()
            try:
                made = digest.of_head(place, doc_id, metadata), digest.of_body(place, doc_id, text, heading, cuts)
            except ValueError:
                continue
            database.execute("UPDATE documents SET head = ?, body = ? WHERE place = ?", (*made, place))
        for row in database.execute("SELECT id, segment, start, length, memory_tokens FROM blocks").fetchall():
            try:
                database.execute("UPDATE blocks SET digest = ? WHERE id IS ?", (digest.of_block(*row), row[0]))
            except ValueError:
                continue
        derived._enter(database, derived.count(database))
        meta = dict(database.execute("SELECT key, value FROM meta"))
        try:
            made_of_bank = digest.of_bank(meta["bank"], meta["fingerprint"]).hex()
        except (KeyError, ValueError):
            return
        database.execute("UPDATE meta SET value = ? WHERE key = 'digest'", (made_of_bank,))


TABLES = {
    "a trigger on insert": "CREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END",
    "a trigger on delete": "CREATE TRIGGER t BEFORE DELETE ON documents BEGIN SELECT RAISE(IGNORE); END",
    "a trigger that never ends": (
        "CREATE TRIGGER t AFTER UPDATE ON documents BEGIN INSERT INTO meta WITH RECURSIVE c(x) AS "
        "(SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, x FROM c; END"
    ),
    "a view": "CREATE VIEW v AS SELECT * FROM documents",
    "a table": "CREATE TABLE other (x)",
    "a virtual table": "CREATE VIRTUAL TABLE v USING fts5(x)",
    "an index": "CREATE INDEX i ON documents(metadata)",
    "an index on an expression": "CREATE INDEX i ON documents(abs(place))",
    "a partial index": "CREATE INDEX i ON documents(id) WHERE text LIKE '%a%'",
    "a column": "ALTER TABLE documents ADD COLUMN more TEXT",
    "a generated column": "ALTER TABLE documents ADD COLUMN more GENERATED ALWAYS AS (zeroblob(1000000000)) VIRTUAL",
    "a column with a default": "ALTER TABLE blocks ADD COLUMN more DEFAULT 7",
    "another name": "ALTER TABLE documents RENAME COLUMN text TO words",
    "no index": "DROP INDEX chunks_by_block",
    "no table": "DROP TABLE chunks",
}


@pytest.mark.parametrize("statement", TABLES.values(), ids=TABLES)
def test_other_tables_than_a_banks_are_refused(bank: Path, statement: str) -> None:
    change(bank, statement)
    errors = exercise(bank)
    assert [type(error) for error in errors] == [BankFormatError] * 2
    assert "other tables" in str(errors[0])


@pytest.mark.parametrize(
    ("name", "definition"),
    {
        "a view in the place of a table": ("documents", "CREATE VIEW documents AS SELECT 1 AS place, 'd' AS id"),
        "a table that checks": (
            "meta",
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (length(randomblob(1e9)) > 0))",
        ),
        "a table that collates": (
            "meta",
            "CREATE TABLE meta (key TEXT PRIMARY KEY COLLATE NOCASE, value TEXT NOT NULL)",
        ),
        "a table without row ids": (
            "meta",
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        ),
    }.values(),
)
def test_tables_made_otherwise_are_refused(bank: Path, name: str, definition: str) -> None:
    with closing(sqlite3.connect(bank / CATALOGUE)) as database, database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute(f"DROP TABLE {name}")
        database.execute(definition)
    assert [type(error) for error in exercise(bank)] == [BankFormatError] * 2


VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a text that is bytes": ("UPDATE documents SET text = x'ff00'", ()),
    "a text that is no UTF-8": ("UPDATE documents SET text = CAST(x'ff41' AS TEXT)", ()),
    "an id that is bytes": ("UPDATE documents SET id = x'64' WHERE id = 'd'", ()),
    "metadata that are a number": ("UPDATE documents SET metadata = '7'", ()),
    "metadata that are a list": ("UPDATE documents SET metadata = '[1]'", ()),
    "metadata that are no JSON": ("UPDATE documents SET metadata = '{''a'': 1}'", ()),
    "metadata that are half JSON": ("UPDATE documents SET metadata = '{\"a\": [1, '", ()),
    "metadata that are deep": ("UPDATE documents SET metadata = ?", ("[" * 100_000 + "]" * 100_000,)),
    "metadata that are a deep mapping": ("UPDATE documents SET metadata = ?", ('{"a":' * 50_000 + "1" + "}" * 50_000,)),
    "metadata with a long number": ("UPDATE documents SET metadata = ?", ('{"a":' + "9" * 10_000 + "}",)),
    "metadata with half a surrogate": ("UPDATE documents SET metadata = ?", ('{"a":"\\ud800"}',)),
    "metadata that are bytes": ("UPDATE documents SET metadata = x'7b7d'", ()),
    "a place that is the last": ("UPDATE documents SET place = 9223372036854775807 WHERE id = 'e'", ()),
    "a place that is negative": ("UPDATE documents SET place = -9223372036854775808 WHERE id = 'e'", ()),
    "a chunk far away": ("UPDATE chunks SET start = 9223372036854775807, stop = 9223372036854775807", ()),
    "a chunk before the start": ("UPDATE chunks SET start = -9223372036854775808", ()),
    "a chunk that ends before it starts": ("UPDATE chunks SET start = 8, stop = 2", ()),
    "a chunk with a text as its start": ("UPDATE chunks SET start = 'first'", ()),
    "a chunk with half a character": ("UPDATE chunks SET stop = 2.5", ()),
    "tokens that are a text": ("UPDATE chunks SET num_tokens = 'many'", ()),
    "tokens beyond counting": ("UPDATE chunks SET num_tokens = 9223372036854775807", ()),
    "tokens that are infinite": ("UPDATE chunks SET num_tokens = 1e999", ()),
    "a chunk's number that is a text": ("UPDATE chunks SET number = 'one' WHERE number = 1", ()),
    "a block id that is a text": ("UPDATE chunks SET block = 'block'", ()),
    "a block id of a million bytes": ("UPDATE chunks SET block = zeroblob(1000000)", ()),
    "chunks of nobody": ("UPDATE chunks SET document = 99 WHERE document = 1", ()),
    "a segment that is a text": ("UPDATE blocks SET segment = '../../etc/passwd'", ()),
    "a segment below zero": ("UPDATE blocks SET segment = -1", ()),
    "a segment beyond names": ("UPDATE blocks SET segment = 9223372036854775807", ()),
    "a start below zero": ("UPDATE blocks SET start = -1", ()),
    "a start beyond the file": ("UPDATE blocks SET start = 4611686018427387904", ()),
    "a start that is a number with a point": ("UPDATE blocks SET start = 0.5", ()),
    "a length beyond memory": ("UPDATE blocks SET length = 1000000000000000", ()),
    "a length that overflows": ("UPDATE blocks SET start = 9223372036854775807, length = 9223372036854775807", ()),
    "a length of nothing": ("UPDATE blocks SET length = 0", ()),
    "memory tokens that are bytes": ("UPDATE blocks SET memory_tokens = x'00'", ()),
    "memory tokens that are wrong": ("UPDATE blocks SET memory_tokens = 1000000", ()),
    "a fingerprint that is no JSON": ("UPDATE meta SET value = '{' WHERE key = 'fingerprint'", ()),
    "a fingerprint that is a list": ("UPDATE meta SET value = '[]' WHERE key = 'fingerprint'", ()),
    "a fingerprint of numbers": ("UPDATE meta SET value = '{\"backbone\": 1}' WHERE key = 'fingerprint'", ()),
    "a fingerprint that is bytes": ("UPDATE meta SET value = x'7b7d' WHERE key = 'fingerprint'", ()),
    "no fingerprint": ("DELETE FROM meta WHERE key = 'fingerprint'", ()),
    "no id": ("DELETE FROM meta WHERE key = 'bank'", ()),
    "a short id": ("UPDATE meta SET value = 'ab' WHERE key = 'bank'", ()),
    "an id that is none": ("UPDATE meta SET value = 'the bank' WHERE key = 'bank'", ()),
    "no format": ("PRAGMA user_version=0", ()),
    "a format below zero": ("PRAGMA user_version=-1", ()),
    "a format of tomorrow": ("PRAGMA user_version=2147483647", ()),
    "the old format": ("PRAGMA user_version=1", ()),
}
POSTING = struct.pack("<IBH", 0, 1, 1)
INDEX: dict[str, tuple[str, tuple[Any, ...]]] = {
    "postings of no document": ("UPDATE postings SET entries = ?", (struct.pack("<IBH", 900 * 2**22, 1, 1),)),
    "postings of no chunk": ("UPDATE postings SET entries = ?", (struct.pack("<IBH", 2**22 - 1, 1, 1),)),
    "a posting a million times": ("UPDATE postings SET entries = ?", (POSTING * 10**6,)),
    "postings of nothing": ("UPDATE postings SET entries = x''", ()),
    "half a posting": ("UPDATE postings SET entries = x'000000'", ()),
    "counts of nothing": ("UPDATE postings SET entries = ?", (bytes(7),)),
    "counts beyond others": ("UPDATE postings SET entries = ?", (struct.pack("<IBH", 0, 255, 65535),)),
    "postings that are a text": ("UPDATE postings SET entries = 'postings'", ()),
    "a part that is a text": ("UPDATE OR REPLACE postings SET part = 'first'", ()),
    "a part below zero": ("UPDATE postings SET part = -9223372036854775808", ()),
    "a part beyond places": ("UPDATE postings SET part = 9223372036854775807", ()),
    "a part in the middle": ("UPDATE postings SET part = 2", ()),
    "a word that is bytes": ("UPDATE OR REPLACE postings SET term = x'ff'", ()),
    "a word that is no UTF-8": ("UPDATE OR REPLACE postings SET term = CAST(x'736f6dff' AS TEXT)", ()),
    "a word of a million letters": ("UPDATE OR REPLACE postings SET term = ?", ("some" + "x" * 10**6,)),
    "digests that are a number": ("UPDATE postings SET digest = 7", ()),
    "a hundred thousand parts": (
        "INSERT INTO postings WITH RECURSIVE c(n) AS (SELECT 5 UNION ALL SELECT n + 1 FROM c LIMIT 100000) "
        "SELECT n, 'text', ?, x'' FROM c",
        (POSTING,),
    ),
    "fields of no document": ("UPDATE fields SET slots = ?", (struct.pack("<HH", 900, 901),)),
    "fields of no part": ("UPDATE fields SET slots = ?", (struct.pack("<HH", 1024, 65535),)),
    "fields of half a document": ("UPDATE fields SET slots = x'00'", ()),
    "fields of one document": ("UPDATE fields SET slots = x'0000'", ()),
    "a value a million times": ("UPDATE fields SET slots = zeroblob(2000000)", ()),
    "more values than documents": ("UPDATE fields SET counts = zeroblob(2000)", ()),
    "values that count too much": ("UPDATE fields SET counts = x'ffff'", ()),
    "half a number": ("UPDATE fields SET integers = x'0000', floats = x'00'", ()),
    "numbers that are none": ("UPDATE fields SET floats = ?, integers = x''", (struct.pack("<d", float("nan")),)),
    "numbers that are texts": ("UPDATE fields SET integers = 'many'", ()),
    "numbers of chunks below zero": ("UPDATE fields SET integers = ?", (struct.pack("<qq", -1, -(2**63)),)),
    "texts that are a mapping": ("UPDATE fields SET texts = CAST('{\"a\": 1}' AS BLOB)", ()),
    "texts that are numbers": ("UPDATE fields SET texts = CAST('[1, 2]' AS BLOB)", ()),
    "texts that are nested": ("UPDATE fields SET texts = ?", (b"[" * 10**6,)),
    "texts that are no UTF-8": ("UPDATE fields SET texts = x'5b22ff225d'", ()),
    "others that are no JSON": ("UPDATE fields SET others = CAST('[\"{\"]' AS BLOB)", ()),
    "others that are nested": ("UPDATE fields SET others = ?", (json.dumps(["[" * 10**6]).encode(),)),
    "a field that is bytes": ("UPDATE OR REPLACE fields SET field = x'ff'", ()),
    "a field that is no UTF-8": ("UPDATE OR REPLACE fields SET field = CAST(x'22ff22' AS TEXT)", ()),
    "a part of fields that is a text": ("UPDATE OR REPLACE fields SET part = 'first'", ()),
    "a part of fields below zero": ("UPDATE fields SET part = -9223372036854775808", ()),
    "a part of fields beyond places": ("UPDATE fields SET part = 9223372036854775807", ()),
    "a field less": ("DELETE FROM fields WHERE field <> ''", ()),
    "fields alone": ("DELETE FROM fields WHERE field = ''", ()),
    "no fields": ("DELETE FROM fields", ()),
    "counts that are texts": ("UPDATE counts SET chunks = 'many', documents = 'few'", ()),
    "counts below zero": ("UPDATE counts SET chunks = -1, source_tokens = -1", ()),
    "counts of no tokens": ("UPDATE counts SET source_tokens = 0", ()),
    "counts beyond counting": ("UPDATE counts SET chunks = 9223372036854775807, source_tokens = 1", ()),
    "no counts": ("DELETE FROM counts", ()),
    "counts twice": ("INSERT INTO counts SELECT * FROM counts", ()),
    "sizes that are wrong": ("UPDATE documents SET num_chunks = 9223372036854775807", ()),
    "sizes that are texts": ("UPDATE documents SET num_chunks = 'large'", ()),
    "sizes below zero": ("UPDATE documents SET num_chunks = -5", ()),
    "an index of another release": ("UPDATE meta SET value = 'of tomorrow' WHERE key = 'tokens'", ()),
    "an index of no release": ("DELETE FROM meta WHERE key = 'tokens'", ()),
}


@pytest.mark.parametrize("digests", ["old digests", "forged digests"])
@pytest.mark.parametrize("name", INDEX)
def test_an_index_that_no_bank_holds_leads_to_no_chunk_that_is_not_there(bank: Path, name: str, digests: str) -> None:
    change(bank, INDEX[name][0], values=INDEX[name][1])
    if digests == "forged digests":
        forge_index(bank)
    errors = exercise(bank)
    assert all(error.hint for error in errors)
    with open_bank(bank) as opened:
        opened.compact()
        if digests == "old digests" and not name.startswith("sizes"):
            opened.verify()


def forge_index(path: Path) -> None:
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        database.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        for part, word, entries in database.execute("SELECT part, term, entries FROM postings LIMIT 99").fetchall():
            try:
                made = index._digest(part, word, entries)
            except (TypeError, ValueError, OverflowError, AttributeError):
                continue
            database.execute("UPDATE postings SET digest = ? WHERE part = ? AND term = ?", (made, part, word))
        for field, part, *pieces, _ in database.execute("SELECT * FROM fields").fetchall():
            try:
                made = fields._digest(field, part, pieces)
                database.execute("UPDATE fields SET digest = ? WHERE part = ? AND field = ?", (made, part, field))
            except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
                continue
        for row in database.execute("SELECT * FROM counts").fetchall():
            try:
                database.execute("UPDATE counts SET digest = ?", (digest.of_counts(row[:-1]),))
            except ValueError:
                continue


HARMLESS = {"a place that is negative", "a place that is the last"}
"""Places say the order and nothing else; those whose digests are right are as good as others."""


@pytest.mark.parametrize("digests", ["old digests", "forged digests"])
@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_bank_holds_are_told_by_our_errors(bank: Path, name: str, digests: str) -> None:
    statement, values = VALUES[name]
    change(bank, "PRAGMA foreign_keys=OFF", statement, values=values)
    if digests == "forged digests":
        forge(bank)
    errors = exercise(bank)
    assert all(error.hint for error in errors)
    if digests == "old digests" or name not in HARMLESS:
        assert errors or name == "metadata with half a surrogate"


def made(**facts: Any) -> dict[str, Any]:
    return {"storage": "native", "dtype": "float32", "shape": [1, 2, 3, 8], "extent": 6, "source_tokens": 6, **facts}


def tensors(**changes: Any) -> list[Any]:
    table = {
        "positions": ["positions", "int16", [1, 1, 3], 0, 6],
        "keys": ["keys", "float32", [1, 2, 3, 8], 64, 192],
        "values": ["values", "float32", [1, 2, 3, 8], 256, 192],
    }
    return [row for row in {**table, **changes}.values() if row is not None]


def packed(**changes: Any) -> list[Any]:
    table = {
        "positions": ["positions", "int16", [1, 1, 3], 0, 6],
        "keys": ["keys", "uint8", [4, 6], 64, 24],
        "keys.scale": ["keys.scale", "uint8", [1, 2, 1, 8], 128, 16],
        "keys.zero": ["keys.zero", "int8", [1, 2, 1, 8], 192, 16],
        "values": ["values", "uint8", [3, 6], 256, 18],
        "values.scale": ["values.scale", "uint8", [1, 2, 3, 1], 320, 6],
        "values.zero": ["values.zero", "int8", [1, 2, 3, 1], 384, 6],
    }
    changed = {name.replace("_", "."): row for name, row in changes.items()}
    return [row for row in {**table, **changed}.values() if row is not None]


SMALL = made(storage="k4v3", group=64)
TABLES_OF_RECORDS: dict[str, Any] = {
    "codes of more bits": {"facts": SMALL, "tensors": packed(values=["values", "uint8", [4, 6], 256, 24])},
    "codes of fewer bits": {"facts": SMALL, "tensors": packed(keys=["keys", "uint8", [3, 6], 64, 18])},
    "codes in one row": {"facts": SMALL, "tensors": packed(keys=["keys", "uint8", [24], 64, 24])},
    "codes beyond memory": {"facts": made(storage="k4v3", group=64, shape=[30, 3, 2**30, 64]), "tensors": packed()},
    "scales that may be negative": {
        "facts": SMALL,
        "tensors": packed(keys_scale=["keys.scale", "int8", [1, 2, 1, 8], 128, 16]),
    },
    "scales of two bytes": {
        "facts": SMALL,
        "tensors": packed(values_scale=["values.scale", "float16", [1, 2, 3, 1], 320, 12]),
    },
    "scales without zero points": {"facts": SMALL, "tensors": packed(keys_zero=None)},
    "an offset in the place of a zero point": {
        "facts": SMALL,
        "tensors": packed(keys_zero=["keys.offset", "int8", [1, 2, 1, 8], 192, 16]),
    },
    "more groups than tokens": {
        "facts": SMALL,
        "tensors": packed(keys_scale=["keys.scale", "uint8", [1, 2, 2, 8], 128, 32]),
    },
    "groups of nothing": {"facts": made(storage="k4v3", group=0), "tensors": packed()},
    "groups of fewer than there are": {"facts": made(storage="k4v3", group=2), "tensors": packed()},
    "groups beyond numbers": {"facts": made(storage="k4v3", group=2**40), "tensors": packed()},
    "groups that are a list": {"facts": made(storage="k4v3", group=[64]), "tensors": packed()},
    "groups that are true": {"facts": made(storage="k4v3", group=True), "tensors": packed()},
    "another form's codes": {"facts": made(storage="k4v4", group=64), "tensors": packed()},
    "codes of a storage without any": {"facts": made(group=64), "tensors": packed()},
    "a shape beyond memory": {"facts": made(shape=[1, 2, 2**30, 8]), "tensors": tensors()},
    "a tensor beyond memory": {"facts": made(), "tensors": tensors(keys=["keys", "float32", [2**31 - 1] * 4, 64, 192])},
    "a shape of nothing": {"facts": made(shape=[0, 2, 3, 8]), "tensors": tensors()},
    "a negative shape": {
        "facts": made(shape=[-1, -2, 3, 8]),
        "tensors": tensors(keys=["keys", "float32", [-1, -2, 3, 8], 64, 192]),
    },
    "a shape that is a text": {"facts": made(shape="1238"), "tensors": tensors()},
    "a shape of truths": {"facts": made(shape=[True, 2, 3, 8]), "tensors": tensors()},
    "a shape of numbers with points": {"facts": made(shape=[1.0, 2, 3, 8]), "tensors": tensors()},
    "five dimensions": {"facts": made(shape=[1, 1, 2, 3, 8]), "tensors": tensors()},
    "a dtype that is none": {"facts": made(dtype="Tensor"), "tensors": tensors()},
    "a dtype that torch has and a bank has not": {"facts": made(dtype="complex64"), "tensors": tensors()},
    "a tensor of another dtype": {"facts": made(), "tensors": tensors(keys=["keys", "quint8", [1, 2, 3, 8], 64, 48])},
    "a tensor of objects": {"facts": made(), "tensors": tensors(keys=["keys", "object", [1, 2, 3, 8], 64, 192])},
    "an unknown storage": {"facts": made(storage="int2"), "tensors": tensors()},
    "a storage whose tensors are not there": {"facts": made(storage="int4"), "tensors": tensors()},
    "no keys": {"facts": made(), "tensors": tensors(keys=None)},
    "a tensor too many": {"facts": made(), "tensors": tensors(more=["more", "uint8", [1], 448, 1])},
    "a tensor twice": {"facts": made(), "tensors": [*tensors(), tensors()[0]]},
    "a tensor behind the end": {
        "facts": made(),
        "tensors": tensors(values=["values", "float32", [1, 2, 3, 8], 6400, 192]),
    },
    "a tensor before the start": {
        "facts": made(),
        "tensors": tensors(values=["values", "float32", [1, 2, 3, 8], -64, 192]),
    },
    "a tensor between": {"facts": made(), "tensors": tensors(values=["values", "float32", [1, 2, 3, 8], 257, 192])},
    "a length that is wrong": {"facts": made(), "tensors": tensors(values=["values", "float32", [1, 2, 3, 8], 256, 8])},
    "an extent below the positions": {"facts": made(extent=1), "tensors": tensors()},
    "an extent beyond numbers": {"facts": made(extent=2**40), "tensors": tensors()},
    "a row that is short": {"facts": made(), "tensors": [["keys"]]},
    "a row that is a number": {"facts": made(), "tensors": [7]},
    "tensors that are a number": {"facts": made(), "tensors": 7},
    "no tensors": {"facts": made()},
    "facts that are a list": {"facts": [], "tensors": tensors()},
    "a list": [],
    "nothing": None,
    "counts beyond the rows": {"facts": made(), "tensors": tensors(counts=["counts", "int16", [1, 2], 448, 4])},
    "a table beyond reason": {"facts": made(more="x" * 100_000), "tensors": tensors()},
}


def replace_records(path: Path, record: Callable[[bytes, bytes], bytes]) -> None:
    """Put another record in the place of every block's, and let the catalogue point there."""
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        bank_id = bytes.fromhex(dict(database.execute("SELECT key, value FROM meta"))["bank"])
        data = b""
        for (block_id,) in database.execute("SELECT id FROM blocks").fetchall():
            made_up = record(block_id, bank_id)
            row = (0, len(data), len(made_up), block_id)
            database.execute("UPDATE blocks SET segment = ?, start = ?, length = ? WHERE id = ?", row)
            data += made_up
    for file in path.glob("seg-*"):
        file.unlink()
    (path / segment.segment_name(0)).write_bytes(data)
    forge(path)


def native_tensors(keys: float = 1.0) -> bytes:
    positions = struct.pack("<3h", 0, 1, 2).ljust(64, b"\0")
    return positions + struct.pack("<48f", *[keys] * 48) + struct.pack("<48f", *[1.0] * 48) + bytes(64)


@pytest.mark.parametrize(
    "content",
    [{"facts": made(), "tensors": tensors()}, {"facts": SMALL, "tensors": packed()}],
    ids=["native", "packed"],
)
def test_a_record_that_is_made_up_rightly_is_read(bank: Path, content: dict[str, Any]) -> None:
    table = json.dumps(content).encode()
    replace_records(bank, lambda block_id, bank_id: segment._sealed(table, native_tensors(), block_id, bank_id))
    assert exercise(bank) == []


@pytest.mark.parametrize("byte", [0xF8, 0xFF], ids=["infinite", "no numbers"])
def test_packed_records_whose_scales_are_no_numbers_are_refused(bank: Path, byte: int) -> None:
    table = json.dumps({"facts": SMALL, "tensors": packed()}).encode()
    tensors = bytearray(native_tensors())
    tensors[128:144], tensors[192:208] = bytes([byte] * 16), bytes([1] * 16)
    replace_records(bank, lambda block_id, bank_id: segment._sealed(table, bytes(tensors), block_id, bank_id))
    with (
        MemoryBank.open(bank, read_only=True) as reader,
        pytest.raises(BlockCorruptError, match="numbers that no block"),
    ):
        reader.blocks(chunks_of(DOCUMENT))


@pytest.mark.parametrize("name", TABLES_OF_RECORDS)
def test_records_that_promise_what_is_not_there_are_refused(bank: Path, name: str) -> None:
    table = json.dumps(TABLES_OF_RECORDS[name]).encode()
    replace_records(bank, lambda block_id, bank_id: segment._sealed(table, native_tensors(), block_id, bank_id))
    with MemoryBank.open(bank, read_only=True) as reader, pytest.raises(BlockCorruptError, match="d#0"):
        reader.blocks(chunks_of(DOCUMENT))
    assert any(isinstance(error, BlockCorruptError) for error in exercise(bank))


@pytest.mark.parametrize("table", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b"9" * 9000, b"NaN", b'"text"'])
def test_records_whose_table_is_no_json_are_refused(bank: Path, table: bytes) -> None:
    replace_records(bank, lambda block_id, bank_id: segment._sealed(table, native_tensors(), block_id, bank_id))
    assert any(isinstance(error, BlockCorruptError) for error in exercise(bank))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_keys_that_are_no_numbers_are_refused_when_they_are_read(bank: Path, number: float) -> None:
    table = json.dumps({"facts": made(), "tensors": tensors()}).encode()
    replace_records(bank, lambda block_id, bank_id: segment._sealed(table, native_tensors(number), block_id, bank_id))
    with MemoryBank.open(bank, read_only=True) as reader, pytest.raises(BlockCorruptError, match="no block has"):
        reader.blocks(chunks_of(DOCUMENT))


def test_positions_outside_the_block_are_refused(bank: Path) -> None:
    block = MemoryBlock(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8), torch.tensor([[[0, 1, 900]]]), 6, 6)
    replace_records(bank, lambda block_id, bank_id: segment.pack(block_id, quantize(block, "native"), bank_id))
    with MemoryBank.open(bank, read_only=True) as reader, pytest.raises(BlockCorruptError, match="no block has"):
        reader.blocks(chunks_of(DOCUMENT))


NAMES = [CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}-journal", "writer.lock", "seg-00000000.kvs"]


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
@pytest.mark.parametrize("name", [*NAMES, "seg-00000007.kvs"])
def test_links_are_not_followed(bank: Path, tmp_path: Path, name: str) -> None:
    for victim in ("there", "nowhere"):
        target = tmp_path / victim
        if victim == "there":
            target.write_bytes(b"precious" * 100)
        (bank / name).unlink(missing_ok=True)
        (bank / name).symlink_to(target)
        assert exercise(bank)
    assert (tmp_path / "there").read_bytes() == b"precious" * 100
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", [*NAMES, "seg-00000007.kvs"])
def test_pipes_are_not_waited_for(bank: Path, name: str) -> None:
    (bank / name).unlink(missing_ok=True)
    os.mkfifo(bank / name)
    assert exercise(bank)


@pytest.mark.parametrize("name", [*NAMES, "seg-00000007.kvs"])
def test_folders_in_the_place_of_files_are_refused(bank: Path, name: str) -> None:
    (bank / name).unlink(missing_ok=True)
    (bank / name).mkdir()
    (bank / name / "file").write_text("kept")
    assert exercise(bank)
    assert (bank / name / "file").read_text() == "kept"


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
def test_a_reserve_that_is_a_link_is_not_written_through(bank: Path, tmp_path: Path) -> None:
    (bank / "catalogue.sqlite-reserve").unlink(missing_ok=True)
    (bank / "catalogue.sqlite-reserve").symlink_to(tmp_path / "victim")
    assert exercise(bank) == []
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["seg-00000000.kvs", "seg-00000007.kvs", "writer.lock"])
def test_a_file_of_two_names_is_neither_cut_nor_written_to(bank: Path, tmp_path: Path, name: str) -> None:
    segment_and_tail = (bank / "seg-00000000.kvs").read_bytes() + b"a tail"
    content = segment_and_tail if name == "seg-00000000.kvs" else b"precious" * 100
    (tmp_path / "victim").write_bytes(content)
    (bank / name).unlink(missing_ok=True)
    os.link(tmp_path / "victim", bank / name)
    assert exercise(bank) == []
    assert (tmp_path / "victim").read_bytes() == content


def test_a_lock_that_is_somebodys_file_is_left_as_it_is(bank: Path) -> None:
    (bank / "writer.lock").write_bytes(b"notes of a user, longer than any process id\n")
    assert exercise(bank) == []
    assert (bank / "writer.lock").read_bytes() == b"notes of a user, longer than any process id\n"


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84), b"text" * 9999, bytes(100_000)]
)
def test_catalogues_that_are_none_are_refused(bank: Path, content: bytes) -> None:
    (bank / CATALOGUE).write_bytes(content)
    errors = exercise(bank)
    assert isinstance(errors[0], BankError)


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize(
    "content", [b"\xff" * 40_000, b"\x37\x7f\x06\x82" + bytes(4000), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 999]
)
def test_logs_that_are_none_are_harmless_or_refused(bank: Path, ending: str, content: bytes) -> None:
    (bank / f"{CATALOGUE}{ending}").write_bytes(content)
    exercise(bank)


def test_a_log_that_names_another_file_leaves_that_file_alone(bank: Path, tmp_path: Path) -> None:
    """SQLite's rollback journal may name a super-journal, which is deleted when the transaction is rolled back."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    name = str(victim).encode()
    tail = struct.pack(">I", 1) + name + struct.pack(">II", len(name), sum(name)) + b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    (bank / f"{CATALOGUE}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504) + tail)
    exercise(bank)
    assert victim.read_bytes() == b"precious"


def test_segments_of_another_bank_are_refused_before_anything_is_cut(bank: Path, tmp_path: Path) -> None:
    with open_bank(tmp_path / "other") as other:
        for number in range(9):
            put(other, Document(f"o{number}", f"other text {number}"))
    (mine,) = bank.glob("seg-*")
    mine.unlink()
    copied = {file.name: file.read_bytes() for file in (tmp_path / "other").glob("seg-*")}
    for name, content in copied.items():
        (bank / name).write_bytes(content)
    assert any("another bank" in str(error) for error in exercise(bank))
    assert {file.name: file.read_bytes() for file in bank.glob("seg-*")} == copied


def test_a_sparse_segment_costs_neither_memory_nor_time(bank: Path) -> None:
    (bank / "seg-00000005.kvs").touch()
    os.truncate(bank / "seg-00000005.kvs", 2**40)
    assert exercise(bank) == []

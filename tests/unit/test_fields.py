"""What a bank knows of its documents' metadata follows each write, is checked, and is all that a filter reads."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bank_samples import FINGERPRINT, chunks_of
from memrecall_kv.bank import MemoryBank, fields
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.where import key_of
from memrecall_kv.errors import BankFormatError
from memrecall_kv.filters import AmongIds, And, Compare, Filter, Not, Operator, Or
from memrecall_kv.types import Document, Where

VALUES: list[Any] = [
    0,
    1,
    True,
    2**53 + 1,
    2**64,
    1.0,
    -0.0,
    1e300,
    "",
    "a",
    "b\0",
    "日",
    '"',
    None,
    [],
    ["a", 1],
    {"a": 1},
]
KEYS = ["kind", "size", "", "日\0", '"']
FILTERS: list[Filter] = [
    *(Compare(key, Operator.EQ, value) for key in KEYS for value in VALUES),
    *(Compare("size", operator, value) for operator in (Operator.LT, Operator.GTE) for value in VALUES),
    Compare("kind", Operator.IN, VALUES),
    Compare("kind", Operator.NIN, ["a", 1]),
    Not(Compare("kind", Operator.CONTAINS, "a")),
    Compare("kind", Operator.ALL, []),
    Compare("nothing", Operator.NE, 1),
    Compare("size", Operator.EMPTY),
    And((Compare("size", Operator.GT, 0), Not(AmongIds(frozenset({"d1", "d\0", "none"}))))),
    Or((AmongIds(frozenset({"d3", "d\0"})), Compare("size", Operator.LT, 0.5))),
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_BITS", 2)
    monkeypatch.setattr(fields, "_SPAN", 4)


@pytest.fixture
def bank(tmp_path: Path, small_parts: None) -> Iterator[MemoryBank]:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as opened:
        yield opened


def put(bank: MemoryBank, *documents: Document) -> None:
    bank.put_documents([(document, chunks_of(document)) for document in documents], defer=True)


def change(bank: MemoryBank, statement: str) -> None:
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database, database:
        database.execute(statement)


def right(bank: MemoryBank, where: Where) -> list[str]:
    return [document.id for document in bank.documents() if where(document.id, document.metadata)]


def test_fields_follow_every_write_and_hold_what_metadata_say(bank: MemoryBank) -> None:
    source = random.Random(7)
    ids = [*(f"d{number}" for number in range(11)), "d\0"]
    for _ in range(60):
        made = [
            Document(
                source.choice(ids),
                "text " * source.randint(0, 9),
                {key: source.choice(VALUES) for key in source.sample(KEYS, source.randint(0, 5))},
            )
            for _ in range(source.choice([1, 1, 5]))
        ]
        put(bank, *{document.id: document for document in made}.values())
        if source.random() < 0.4:
            bank.delete_many({source.choice(bank.ids()) for _ in range(source.choice([1, 4]))})
        bank.verify()
        for where in source.sample(FILTERS, 12):
            assert bank.ids(where) == right(bank, where)
    for where in FILTERS:
        assert bank.ids(where) == right(bank, where)
        scope = bank.scope(where)
        assert scope.chunks == len(bank.chunks(where))
        assert len(scope.places) == sum(bool(bank.document(doc_id).text) for doc_id in right(bank, where))
    bank.delete_many(bank.ids())
    assert bank._catalogue._rows("SELECT count(*) FROM fields") == [(0,)]
    bank.verify()


class Kind(StrEnum):
    GOOD = "good"


@pytest.mark.parametrize(
    ("operand", "found"),
    [(Kind.GOOD, ["a"]), (np.str_("good"), ["a"]), (np.int64(3), ["b"]), (np.float64(3), ["b"]), (10**400, [])],
)
def test_operands_that_stand_for_texts_and_numbers_are_those(
    bank: MemoryBank, operand: Any, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bank, Document("a", "text", {"kind": "good"}), Document("b", "text", {"kind": 3}))
    asked: list[str] = []
    monkeypatch.setattr(bank._catalogue, "confirmed", lambda doc_id, *_: asked.append(doc_id) or {})
    assert bank.ids(Compare("kind", Operator.EQ, operand)) == found
    assert bank.ids(Compare("kind", Operator.IN, ["none", operand])) == found
    assert asked == []


def test_what_no_json_holds_is_compared_by_the_filter_itself_where_it_matters(bank: MemoryBank) -> None:
    put(bank, *(Document(f"d{number}", "text", {"kind": number, "odd": number % 2}) for number in range(12)))
    asked: list[str] = []

    class Odd:
        def __eq__(self, other: object) -> bool:
            return other in (3, 4)

        __hash__ = None

    assert bank.ids(Compare("kind", Operator.EQ, Odd())) == ["d3", "d4"]

    def called(doc_id: str, metadata: Any) -> bool:
        asked.append(doc_id)
        return metadata["kind"] == 5

    assert bank.ids(And((Compare("odd", Operator.EQ, 1), called))) == ["d5"]
    assert asked == [f"d{number}" for number in (1, 3, 5, 7, 9, 11)]


def test_a_filter_reads_no_document(bank: MemoryBank) -> None:
    put(bank, *(Document(f"d{number}", "text", {"kind": number}) for number in range(9)))
    change(bank, "UPDATE documents SET metadata = '{\"kind\": 1}'")
    assert bank.scope(Compare("kind", Operator.GT, 6)).chunks == 2


DAMAGE = {
    "a value": "UPDATE fields SET integers = zeroblob(length(integers)) WHERE field = '\"kind\"'",
    "a slot": "UPDATE fields SET slots = zeroblob(length(slots))",
    "a name": "UPDATE fields SET field = '\"kinds\"' WHERE field = '\"kind\"'",
    "a part": "UPDATE fields SET part = 7 WHERE field = '\"kind\"' AND part = 1",
    "a row": "DELETE FROM fields WHERE field = '\"kind\"' AND part = 1",
    "a row of sizes": "DELETE FROM fields WHERE field = '' AND part = 1",
    "all rows": "DELETE FROM fields",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_damaged_fields_are_found_by_filters_and_verify_and_made_anew(bank: MemoryBank, statement: str) -> None:
    where = Compare("kind", Operator.GT, 3)
    put(bank, *(Document(f"d{number}", "text", {"kind": number, "more": ""}) for number in range(9)))
    change(bank, statement)
    reads: list[Callable[[], object]] = [
        lambda: bank.scope(where),
        lambda: bank.ids(where),
        lambda: bank.largest(2, where),
    ]
    for read in reads:
        with pytest.raises(BankFormatError, match=r"compact"):
            read()
    with pytest.raises(BankFormatError, match=r"its fields do not hold .* Call compact"):
        bank.verify()
    put(bank, Document("new", "text", {"kind": 9}))
    bank.delete("d4")
    bank.compact()
    bank.verify()
    assert bank.ids(where) == ["d5", "d6", "d7", "d8", "new"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE fields SET integers = zeroblob(length(integers)) WHERE field = 'id'",
        "UPDATE fields SET slots = zeroblob(length(slots)) WHERE field = 'id'",
        "DELETE FROM fields WHERE field = 'id' AND part = 1",
    ],
)
def test_ids_that_are_damaged_are_not_taken_for_none(bank: MemoryBank, statement: str) -> None:
    put(bank, *(Document(f"d{number}", "text", {}) for number in range(9)))
    assert bank.ids(AmongIds(frozenset({"d5", "other"}))) == ["d5"]
    change(bank, statement)
    with pytest.raises(BankFormatError, match=r"compact"):
        bank.ids(AmongIds(frozenset({"d5", "other"})))
    bank.compact()
    bank.verify()
    assert bank.ids(AmongIds(frozenset({"d5", "other"}))) == ["d5"]


def test_ids_of_a_bank_of_an_older_release_are_looked_up(bank: MemoryBank) -> None:
    put(bank, *(Document(doc_id, "text", {}) for doc_id in ("a", "b\0")))
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database, database:
        row = database.execute("SELECT * FROM fields WHERE field = ''").fetchone()
        names = fields.raw_of([name for name in fields.texts_of(row[4]) if name != "id"])
        counts = row[6][: len(row[6]) - 2 * (len(fields.texts_of(row[4])) - len(fields.texts_of(names)))]
        old = (*row[2:4], names, row[5], counts, row[7])
        database.execute("DELETE FROM fields")
        database.execute("INSERT INTO fields VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", fields._signed("", row[1], old))
        database.execute("UPDATE meta SET value = 'old' WHERE key = 'tokens'")
    bank.verify()
    for doc_id in ("a", "b\0"):
        assert bank.ids(AmongIds(frozenset({doc_id, "c"}))) == [doc_id]
    bank.close()
    with MemoryBank.open(bank.path, fingerprint=FINGERPRINT) as again:
        again.verify()
        assert again.ids(AmongIds(frozenset({"b\0"}))) == ["b\0"]


@pytest.mark.parametrize("where", [Compare("kind", Operator.GT, 0), Not(AmongIds(frozenset({"none"})))])
def test_a_document_that_is_there_and_cannot_be_read_is_no_document_less(bank: MemoryBank, where: Where) -> None:
    put(bank, *(Document(f"d{number}", f"text {number}", {"kind": 1}) for number in range(3)))
    scope, query = bank.scope(where), "text 1"
    bank.delete("d2")
    # deleted since the filter was asked
    assert [chunk.doc_id for chunk, _ in bank.candidates(query, 8, scope)] == ["d0", "d1"]
    change(bank, "DELETE FROM documents WHERE id = 'd1'")
    for read in (lambda: bank.chunks(where), lambda: bank.candidates(query, 8, bank.scope(where))):
        with pytest.raises(BankFormatError):
            read()


def test_a_row_of_no_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="of no part"):
        fields.Fields(lambda query, values: [("", None, b"", b"", b"", b"", b"", b"", b"")])


def test_of_a_damaged_document_nothing_is_left_in_the_fields(bank: MemoryBank) -> None:
    put(bank, *(Document(f"d{number}", "text", {f"kind{number}": f"value{number}"}) for number in range(6)))
    change(bank, "UPDATE documents SET metadata = '{}' WHERE id = 'd2'")
    put(bank, Document("d2", "text", {"kind": "new"}))
    bank.verify()
    change(bank, "UPDATE documents SET metadata = CAST(x'ff' AS TEXT) WHERE id = 'd3'")
    bank.delete("d3")
    bank.verify()
    held = bank._catalogue._rows("SELECT field, CAST(texts AS TEXT) FROM fields")
    assert "kind2" not in str(held)
    assert "kind3" not in str(held)
    assert "value3" not in str(held)
    assert "value4" in str(held)


def test_filters_have_something_in_common_if_they_let_the_same_documents_through() -> None:
    told = [each for each in FILTERS if key_of(each) is not None]
    assert len({key_of(each) for each in told}) == len(told), "1, 1.0 and True are equal, and not the same"
    for where in (
        Compare("kind", Operator.EQ, "a"),
        Compare("kind", Operator.IN, ["a", 1]),
        AmongIds(frozenset({"d1", "d2"})),
        Not(AmongIds(frozenset({"d1"}))),
        And((Compare("size", Operator.GT, 0), Or((AmongIds(frozenset()), Compare("size", Operator.LT, 1.5))))),
    ):
        assert key_of(where) is not None
    for where in (
        Compare("kind", Operator.EQ, ["a", ["b"]]),
        Compare("kind", Operator.EQ, {"a": 1}),
        Not(Compare("kind", Operator.EQ, {"a": 1})),
        Or((AmongIds(frozenset()), Compare("kind", Operator.EQ, {"a": 1}))),
        lambda doc_id, metadata: True,
    ):
        assert key_of(where) is None
    wanted = ["a"]
    before = key_of(Compare("kind", Operator.IN, wanted))
    wanted.append("b")
    assert key_of(Compare("kind", Operator.IN, wanted)) != before

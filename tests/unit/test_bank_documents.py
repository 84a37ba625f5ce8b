"""What a document may hold: everything that has a JSON form, and the rest is refused before any work begins."""

from __future__ import annotations

import enum
import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from bank_samples import FINGERPRINT, block, put
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.metadata import storable
from memrecall_kv.errors import BankError, BankFormatError, InputError
from memrecall_kv.ingest import Ingestion
from memrecall_kv.types import Chunk, Document, MemoryBlock


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as opened:
        yield opened


FORMS: list[tuple[Any, Any]] = [
    (date(2026, 1, 2), "2026-01-02"),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
    (time(3, 4), "03:04:00"),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Decimal("1.10"), "1.10"),
    (PurePosixPath("a/b"), "a/b"),
    (Colour.RED, "red"),
    (Size.LARGE, 3),
    ((1, (2,)), [1, [2]]),
    ({"b", "a"}, ["a", "b"]),
    (frozenset({3, 1, 2}), [1, 2, 3]),
    (Fraction(1, 2), 0.5),
    (np.int64(7), 7),
    (np.float32(0.5), 0.5),
    ("half \ud83d", "half \ufffd"),
    ("\ud83d\ude00", "😀"),
    ({"k\udfff": None}, {"k\ufffd": None}),
    ({"deep": [{"a": (date(2026, 1, 2),)}]}, {"deep": [{"a": ["2026-01-02"]}]}),
    (True, True),
    (10**400, 10**400),
]


@pytest.mark.parametrize(
    ("given", "form"), FORMS, ids=[type(given).__name__ + str(n) for n, (given, _) in enumerate(FORMS)]
)
def test_what_has_a_json_form_is_stored_in_it(bank: MemoryBank, given: Any, form: Any) -> None:
    document = Document("d", "text", {"x": given})
    bank.put_document(document, [])
    assert bank.metadata("d") == {"x": form}
    assert type(bank.metadata("d")["x"]) is type(form)
    assert bank.holds(document)
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database:
        assert database.execute("SELECT json_valid(metadata) FROM documents").fetchall() == [(1,)]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


circular: dict[str, Any] = {}
circular["again"] = circular

REFUSED: list[tuple[Any, str]] = [
    (float("nan"), r"\.x is nan"),
    ([0, float("-inf")], r"\.x\[1\] is -inf"),
    (np.float32("nan"), "is nan"),
    (Fraction(10**400), "is inf"),
    (10**5000, "digits"),
    (b"bytes", "of type bytes"),
    (object(), "of type object"),
    (1j, "of type complex"),
    ({1: 2}, "a key is no text"),
    ({(1, 2): 3}, "a key is no text"),
    (deep(100), "levels deep"),
    (deep(100_000), "levels deep"),
    (circular, "levels deep"),
]


@pytest.mark.parametrize(("given", "problem"), REFUSED, ids=[f"{n}" for n in range(len(REFUSED))])
def test_what_has_none_is_refused_and_named(bank: MemoryBank, given: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"metadata of 'd' is not JSON.*{problem}"):
        bank.put_document(Document("d", "text", {"x": given}), [])
    assert bank.documents() == []


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (Document(5, "text"), "text as the id"),  # type: ignore[arg-type]
        (Document(b"d", "text"), "text as the id"),  # type: ignore[arg-type]
        (Document("d", None), "text as the text"),  # type: ignore[arg-type]
        (Document("d", b"text"), "text as the text"),  # type: ignore[arg-type]
        (Document("d", "text", None), "expected a mapping"),  # type: ignore[arg-type]
        (Document("d", "text", [("a", 1)]), "expected a mapping"),  # type: ignore[arg-type]
        (Document("d\ud800", "text"), "half a surrogate pair"),
        ("text", "Expected a Document"),
    ],
)
def test_what_is_no_document_is_refused(bank: MemoryBank, document: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        storable(document)
    with pytest.raises(InputError, match=problem):
        ingest(bank, [Document("good", "text"), document])
    assert bank.documents() == []


@pytest.mark.parametrize("text", [None, b"text", 7])
def test_a_bank_takes_no_other_text_than_a_text(bank: MemoryBank, text: Any) -> None:
    with pytest.raises(InputError, match="text as the text"):
        bank.put_document(Document("d", text), [])


def test_numbers_and_texts_beyond_sqlite_are_refused_as_the_callers(bank: MemoryBank) -> None:
    chunk = Chunk("d", 0, 0, 4, "text", 2**70)
    with pytest.raises(InputError, match="too large"):
        bank.put_document(Document("d", "text"), [chunk], defer=True)
    assert bank.documents() == []


# -- ingest ---------------------------------------------------------------------------------------------------


class Compressor:
    """Counts what it compresses."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        self.seen += [chunk.text for chunk in chunks]
        return [block(len(chunk.text)) for chunk in chunks]


def whole(document: Document) -> list[Chunk]:
    return [Chunk(document.id, 0, 0, len(document.text), document.text, 1)]


def ingest(bank: MemoryBank, documents: Any) -> Compressor:
    compressor = Compressor()
    Ingestion(bank, whole, compressor).run(documents)
    return compressor


def test_all_documents_of_a_call_are_looked_at_before_any_work_begins(bank: MemoryBank) -> None:
    documents = [Document(f"d{number}", f"text {number}") for number in range(200)]
    bad = Document("d200", "text 200", {"of": object()})
    compressor = Compressor()
    with pytest.raises(InputError, match="metadata of 'd200'"):
        Ingestion(bank, whole, compressor).run([*documents, bad])
    assert (compressor.seen, bank.documents()) == ([], [])


def test_documents_that_come_one_by_one_are_looked_at_as_they_come(bank: MemoryBank) -> None:
    def coming() -> Iterator[Document]:
        for number in range(40):
            yield Document(f"d{number}", f"text {number}")
        yield Document("bad", "text", {"of": object()})

    with pytest.raises(InputError, match="metadata of 'bad'"):
        ingest(bank, coming())
    assert len(bank.documents()) == 32


def test_half_a_surrogate_pair_in_a_text_is_repaired_as_a_pdfs_is(bank: MemoryBank) -> None:
    document = Document("d", "half \ud800 of a pair, and a whole one: \ud83d\ude00")
    ingest(bank, [document])
    assert bank.document("d").text == "half \ufffd of a pair, and a whole one: 😀"
    assert ingest(bank, [document]).seen == []


def test_a_date_is_found_unchanged_when_it_is_ingested_again(bank: MemoryBank) -> None:
    document = Document("d", "text", {"on": date(2026, 1, 2), "of": {"b", "a"}})
    ingest(bank, [document])
    assert Ingestion(bank, whole, Compressor()).run([document]).documents_unchanged == 1


# -- what is stored is what was stored ------------------------------------------------------------------------

CHANGES = {
    "a digit of metadata": "UPDATE documents SET metadata = replace(metadata, '7', '8')",
    "metadata that are no JSON": "UPDATE documents SET metadata = '{\"page\": '",
    "a word of the text": "UPDATE documents SET text = replace(text, 'no chunk', 'a chunk')",
    "an id": "UPDATE documents SET id = 'another'",
    "a place": "UPDATE documents SET place = place + 1",
    "a span": "UPDATE chunks SET stop = stop - 1 WHERE number = 0",
    "the tokens of a chunk": "UPDATE chunks SET num_tokens = num_tokens + 1",
    "a chunk that is gone": "DELETE FROM chunks WHERE number = 0",
    "a chunk of nobody": "INSERT INTO chunks SELECT 99, number, start, stop, num_tokens, block FROM chunks",
    "the place of a block": "UPDATE blocks SET start = start + 1",
    "the memory tokens of a block": "UPDATE blocks SET memory_tokens = memory_tokens + 1",
    "the bank's id": "UPDATE meta SET value = substr(value, 2) || substr(value, 1, 1) WHERE key = 'bank'",
    "the fingerprint": "UPDATE meta SET value = replace(value, 'tiny', 'huge') WHERE key = 'fingerprint'",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_is_changed_in_the_catalogue_is_found(bank: MemoryBank, change: str) -> None:
    text = "a chunk in front, and no chunk behind"
    chunk = Chunk("d", 0, 0, 16, text[:16], 3)
    bank.put_blocks([(chunk, block(1))])
    bank.put_document(Document("d", text, {"page": 7}), [chunk])
    bank.close()
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database, database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute(change)
    with pytest.raises(BankError, match=r"damaged|is not the one"), MemoryBank.open(bank.path) as opened:
        opened.verify()


def test_a_damaged_document_is_named_where_it_is_read_and_can_be_deleted(bank: MemoryBank) -> None:
    put(bank, Document("good", "good text"))
    put(bank, Document("bad", "bad text", {"page": 7}))
    bank.close()
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database, database:
        database.execute("UPDATE documents SET metadata = '[[[' WHERE id = 'bad'")
    with MemoryBank.open(bank.path, fingerprint=FINGERPRINT) as opened:
        for read in (opened.documents, opened.chunks, lambda: opened.document("bad"), lambda: opened.metadata("bad")):
            with pytest.raises(BankFormatError, match="document 'bad' is not as it was stored"):
                read()
        assert opened.metadata("good") == {}
        opened.delete("bad")
        assert [document.id for document in opened.documents()] == ["good"]
        assert opened.verify() == 1


def test_metadata_are_valid_json_for_other_readers(bank: MemoryBank) -> None:
    bank.put_document(Document("d", "", {"a": "ü\0\n", "b": [1.5, None]}), [])
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database:
        ((stored,),) = database.execute("SELECT metadata FROM documents")
    assert json.loads(stored) == {"a": "ü\0\n", "b": [1.5, None]}


def test_ids_come_in_order_and_read_no_text(bank: MemoryBank) -> None:
    for name in ("b", "a", "c"):
        put(bank, Document(name, name * 20, {"kind": name}))
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as damaged, damaged:
        damaged.execute("UPDATE documents SET text = 'other'")
    assert bank.ids() == ["b", "a", "c"]
    assert bank.ids(lambda doc_id, metadata: metadata["kind"] != "a") == ["b", "c"]
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as damaged, damaged:
        damaged.execute("UPDATE documents SET metadata = '{}' WHERE id = 'a'")
    with pytest.raises(BankFormatError, match="document 'a'"):
        bank.ids()

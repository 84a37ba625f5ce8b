"""What a bank says of its size, and of what a filter lets through, follows each write and reads nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from bank_samples import FINGERPRINT, block, chunks_of
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.filters import And, Compare, Filter, Not, Operator
from memrecall_kv.types import Document

WORDS = ("shared text", "other text", "third text", "a fourth one", "more of it")


def absent(bank: MemoryBank) -> int:
    """Return how many chunks have no block, looked up one by one."""
    return sum(bool(bank.missing([chunk])) for chunk in bank.chunks())


def some_write(bank: MemoryBank, source: random.Random, document: Document) -> None:
    """Do one of the things that change how many chunks have no block."""
    chunks = chunks_of(document)
    match source.choice(["put", "defer", "defer", "compress", "delete", "compact"]):
        case "put":
            bank.put_blocks([(chunk, block(sum(chunk.text.encode()))) for chunk in bank.missing(chunks)])
            bank.put_documents([(document, chunks)])
        case "defer":
            twin = Document("twin", document.text)
            bank.put_documents([(document, chunks), (twin, chunks_of(twin)[1:])], defer=True)
        case "compress":
            missing = bank.missing(bank.chunks())[:2]
            bank.put_blocks([(chunk, block(sum(chunk.text.encode()))) for chunk in missing])
        case "delete":
            bank.delete_many({document.id, "twin"} & set(bank.ids()))
        case "compact":
            bank.compact()


def test_chunks_without_a_block_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    budget = BankConfig(storage="native", max_bytes=20_000)  # some ten blocks
    source, kinds = random.Random(5), set()
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT, config=budget) as bank:
        for _ in range(150):
            text = " ".join(source.choices(WORDS, k=source.randint(1, 5)))
            metadata = {"said": source.choice(["a", "a\0b"])}
            some_write(bank, source, Document(f"d{source.randint(0, 5)}", text, metadata))
            stats = bank.stats()
            assert stats.chunks_deferred + stats.chunks_evicted == absent(bank)
            kinds |= {(stats.chunks_deferred > 0, stats.chunks_evicted > 0)}
            bank.verify()  # counts all of it again
        assert kinds >= {(True, True), (True, False)}


def steps(bank: MemoryBank, call: Callable[[], object]) -> int:
    """Return how many instructions SQLite takes for a call."""
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    database = bank._catalogue._database
    database.set_progress_handler(count, 1)
    try:
        call()
    finally:
        database.set_progress_handler(None, 1)
    return taken


def test_asking_how_large_a_bank_is_costs_the_same_however_large_it_is(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        documents = [Document(f"d{number}", f"text of the document number {number}") for number in range(200)]
        bank.put_documents([(document, chunks_of(document)) for document in documents[:2]], defer=True)
        small = steps(bank, bank.stats)
        bank.put_documents([(document, chunks_of(document)) for document in documents], defer=True)
        assert bank.stats().chunks_deferred == len(bank) > 500
        assert steps(bank, bank.stats) == small > 0


IS_GOOD = Compare("kind", Operator.EQ, "good")
FILTERS: list[Filter] = [
    IS_GOOD,
    Not(IS_GOOD),
    Compare("kind", Operator.IN, ["good", "odd"]),
    Compare("size", Operator.GTE, 1),
    And((IS_GOOD, Compare("size", Operator.LT, 2.5))),
]


def let_through(bank: MemoryBank, where: Filter) -> int:
    return sum(len(chunks_of(each)) for each in bank.documents() if where(each.id, each.metadata))


def test_a_filter_that_is_asked_again_is_answered_anew_after_every_write(tmp_path: Path) -> None:
    source = random.Random(3)
    with (
        MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank,
        MemoryBank.open(tmp_path / "bank", read_only=True) as reader,
    ):
        for _ in range(30):
            metadata = {"kind": source.choice(["good", "bad", "odd\0", "odd"]), "size": source.choice([1, 2.5, 0])}
            document = Document(f"d{source.randint(0, 6)}", "a text of it", metadata)
            bank.put_documents([(document, chunks_of(document))], defer=True)
            if source.random() < 0.3:
                bank.delete(source.choice(bank.ids()))
            for where in FILTERS:
                right = let_through(bank, where)
                assert [each.scope(where).chunks for each in (bank, reader, bank, reader)] == [right] * 4


def test_a_filter_looks_at_no_document_and_asked_again_at_nothing(tmp_path: Path) -> None:
    documents = [Document(f"d{number}", "text", {"kind": "good"}) for number in range(300)]
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        bank.put_documents([(document, chunks_of(document)) for document in documents], defer=True)
        first = steps(bank, lambda: bank.scope(IS_GOOD))
        again = steps(bank, lambda: bank.scope(Compare("kind", Operator.EQ, "good")))
        assert again < first < 300
        assert 10 * again < 300


def test_filters_that_only_look_alike_are_not_taken_for_each_other(tmp_path: Path) -> None:
    listed = ["good"]
    where, called = Compare("kind", Operator.IN, listed), list[str]()
    documents = [Document("a", "text", {"kind": "good", "size": 1}), Document("b", "text", {"kind": "bad"})]
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        bank.put_documents([(document, chunks_of(document)) for document in documents], defer=True)
        assert bank.scope(where).chunks == 1
        listed.append("bad")
        assert bank.scope(where).chunks == 2
        assert len(bank.chunks(where)) == 2
        assert len(bank.chunks(Compare("kind", Operator.IN, ["good"]))) == 1
        for _ in range(2):
            bank.scope(lambda doc_id, _: not called.append(doc_id))
        assert called == ["a", "b", "a", "b"]
        texts = [Compare("size", Operator.EQ, 1), Compare("size", Operator.EQ, "1"), Compare("size", Operator.EQ, [1])]
        assert [bank.scope(each).chunks for each in texts] == [1, 0, 0]

"""What a bank says of its size is kept up in each write, and asking for it reads nothing else."""

from __future__ import annotations

import random
from pathlib import Path

from bank_samples import FINGERPRINT, block, chunks_of
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
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
            some_write(bank, source, Document(f"d{source.randint(0, 5)}", text))
            stats = bank.stats()
            assert stats.chunks_deferred + stats.chunks_evicted == absent(bank)
            kinds |= {(stats.chunks_deferred > 0, stats.chunks_evicted > 0)}
            bank.verify()  # counts all of it again
        assert kinds >= {(True, True), (True, False)}


def steps(bank: MemoryBank) -> int:
    """Return how many instructions SQLite takes to say how large a bank is."""
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    database = bank._catalogue._database
    database.set_progress_handler(count, 1)
    try:
        bank.stats()
    finally:
        database.set_progress_handler(None, 1)
    return taken


def test_asking_how_large_a_bank_is_costs_the_same_however_large_it_is(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        documents = [Document(f"d{number}", f"text of the document number {number}") for number in range(200)]
        bank.put_documents([(document, chunks_of(document)) for document in documents[:2]], defer=True)
        small = steps(bank)
        bank.put_documents([(document, chunks_of(document)) for document in documents], defer=True)
        assert bank.stats().chunks_deferred == len(bank) > 500
        assert steps(bank) == small > 0

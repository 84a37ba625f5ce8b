"""A bank that keeps to a number of bytes: which blocks go, what comes back, and what the disk holds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, block, same
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.config import BankConfig, ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig
from memrecall_kv.errors import BankFormatError, ConfigError, InputError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Chunk, Document

COLOURS = ("red", "green", "blue", "black", "white", "amber", "violet", "grey")
DOCUMENTS = [Document(colour, f"The {colour} house has a {colour} door.") for colour in COLOURS]


def chunk_of(number: int) -> Chunk:
    text = f"text {number:03d}"
    return Chunk(f"d{number}", 0, 0, len(text), text, 3)


def store(bank: MemoryBank, *numbers: int) -> None:
    chunks = [chunk_of(number) for number in numbers]
    bank.put_blocks([(chunk, block(number)) for chunk, number in zip(chunks, numbers, strict=True)])
    bank.put_documents([(Document(chunk.doc_id, chunk.text), [chunk]) for chunk in chunks])


def held(bank: MemoryBank, numbers: range = range(100)) -> list[int]:
    """Return the numbers of the blocks that are there, after comparing them."""
    missing = {chunk.doc_id for chunk in bank.missing([chunk_of(number) for number in numbers])}
    found = [number for number in numbers if f"d{number}" not in missing]
    for number, read in zip(found, bank.blocks([chunk_of(number) for number in found]), strict=True):
        assert same(read, block(number))
    return found


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return the bytes of one block."""
    with MemoryBank.open(tmp_path_factory.mktemp("size") / "bank", fingerprint=FINGERPRINT, config=kept(10**6)) as bank:
        store(bank, 0)
        return bank.stats().live_bytes


class Filling(FileLayer):
    """A disk that is full as long as somebody says so."""

    is_full = False

    def append(self, path: Path, data: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(path, data)


def kept(max_bytes: int | None) -> BankConfig:
    return BankConfig(storage="native", max_bytes=max_bytes, wait_seconds=0.3)


def opened(path: Path, max_bytes: int | None) -> MemoryBank:
    return MemoryBank.open(path, fingerprint=FINGERPRINT, config=kept(max_bytes))


@pytest.fixture
def bank(tmp_path: Path, size: int) -> Iterator[MemoryBank]:
    """Return a bank for three blocks."""
    with opened(tmp_path / "bank", 3 * size) as found:
        yield found


def test_the_oldest_block_that_was_never_opened_goes_first(bank: MemoryBank) -> None:
    store(bank, 0, 1, 2)
    bank.budget.mark_opened([chunk_of(0)])
    store(bank, 3)
    assert held(bank) == [0, 2, 3]
    bank.budget.mark_opened([chunk_of(2), chunk_of(3), chunk_of(2)])
    store(bank, 4)
    assert held(bank) == [2, 3, 4]
    store(bank, 5)
    store(bank, 6)
    assert held(bank) == [2, 3, 6]  # 4 and 5 were never opened
    assert [document.id for document in bank.documents()] == [f"d{number}" for number in range(7)]
    assert (bank.stats().chunks_evicted, bank.stats().chunks_deferred) == (4, 0)
    assert bank.verify() == 3


def test_a_write_keeps_what_it_stores_and_not_what_does_not_fit(bank: MemoryBank) -> None:
    store(bank, 0, 1, 2)
    bank.budget.mark_opened([chunk_of(number) for number in range(3)])
    store(bank, 3, 4)
    assert held(bank) == [2, 3, 4]
    store(bank, *range(10, 15))
    assert held(bank) == [12, 13, 14]
    assert bank.deferred([chunk_of(10)]) == [chunk_of(10)]


def test_what_was_opened_is_remembered_by_the_next_process(tmp_path: Path, size: int) -> None:
    with opened(tmp_path / "bank", 3 * size) as bank:
        store(bank, 0, 1, 2)
    with opened(tmp_path / "bank", 3 * size) as bank:
        bank.budget.mark_opened([chunk_of(0)])
    with opened(tmp_path / "bank", 2 * size) as bank:
        store(bank, 3)
        assert held(bank) == [0, 3]


def test_a_reader_writes_nothing_of_what_it_opens(bank: MemoryBank) -> None:
    store(bank, 0, 1, 2)
    bank.close()
    before = {file.name: file.read_bytes() for file in bank.path.iterdir()}
    with MemoryBank.open(bank.path, read_only=True, config=kept(1)) as reader:
        reader.budget.mark_opened([chunk_of(0)])
        assert held(reader) == [0, 1, 2]
    assert {file.name: file.read_bytes() for file in bank.path.iterdir() if file.name in before} == before


def test_what_is_held_stays_until_it_is_let_go(bank: MemoryBank, size: int) -> None:
    store(bank, 0, 1, 2)
    everything = [chunk_of(number) for number in range(5)]
    with bank.budget.holding(everything):
        store(bank, 3)
        store(bank, 4)
        assert held(bank) == [0, 1, 2, 3, 4]
    assert len(held(bank)) == 3
    assert bank.stats().live_bytes == 3 * size


def test_a_budget_smaller_than_a_block_is_refused(tmp_path: Path, size: int) -> None:
    with opened(tmp_path / "bank", size - 1) as bank:
        with pytest.raises(ConfigError, match="several blocks at least"):
            store(bank, 0)
        assert (bank.stats().file_bytes, bank.documents()) == (0, [])
    with opened(tmp_path / "bank", size) as bank:
        store(bank, 0, 1)
        assert held(bank) == [1]
    with pytest.raises(ConfigError, match="max_bytes"):
        BankConfig(max_bytes=0)


def test_evicting_is_no_excuse_for_a_block_that_was_never_stored(bank: MemoryBank) -> None:
    store(bank, 0, 1, 2, 3)
    bank.put_document(Document("copy", chunk_of(0).text), [Chunk("copy", 0, 0, 8, chunk_of(0).text, 3)])
    with pytest.raises(InputError, match="no stored block"):
        bank.put_document(Document("d9", chunk_of(9).text), [chunk_of(9)])


def test_deleting_leaves_nothing_of_what_was_opened_or_evicted(bank: MemoryBank) -> None:
    store(bank, *range(6))
    bank.budget.mark_opened([chunk_of(4)])
    bank.delete_many(["d0", "d4"])
    bank._catalogue.enter_openings([bank._block_id(chunk_of(4))])
    rows = {block_id for (block_id,) in bank._catalogue._rows("SELECT block FROM openings")}
    assert rows == {bank._block_id(chunk_of(number)) for number in (1, 2)}
    store(bank, 1)
    assert bank.stats().chunks_evicted == 1


def test_the_disk_follows(tmp_path: Path, size: int) -> None:
    path, budget = tmp_path / "bank", 32 * size
    with opened(path, None) as bank:
        for first in range(0, 200, 20):
            store(bank, *range(first, first + 20))
    with opened(path, budget) as bank:
        kept_numbers = list(range(0, 200, 13))
        bank.budget.mark_opened([chunk_of(number) for number in kept_numbers])
        store(bank, 500)
        assert set(held(bank, range(600))) >= {*kept_numbers, 500}
        assert bank.stats().live_bytes <= budget
        assert bank.stats().file_bytes <= 1.6 * budget
        for number in range(600, 700):
            bank.budget.mark_opened([chunk_of(number - 1)] if number % 3 else [])
            store(bank, number)
            assert bank.stats().live_bytes <= budget
            assert bank.stats().file_bytes <= 1.6 * budget
        assert bank.verify() == 32
        assert len(held(bank, range(700))) == 32


def test_the_limit_may_be_lifted_and_lowered(tmp_path: Path, size: int) -> None:
    path = tmp_path / "bank"
    with opened(path, None) as bank:
        store(bank, *range(6))
    with opened(path, 3 * size) as bank:
        assert held(bank) == list(range(6))  # nothing was written yet
        bank.delete("d0")
        assert held(bank) == [3, 4, 5]
    with opened(path, None) as bank:
        store(bank, 1, 2, 7)
        assert (held(bank), bank.stats().chunks_evicted) == ([1, 2, 3, 4, 5, 7], 0)


def test_a_damaged_block_keeps_no_other_from_being_stored(tmp_path: Path, size: int) -> None:
    with opened(tmp_path / "bank", None) as bank:
        store(bank, *range(20))
    (segment,) = bank.path.glob("seg-*")
    data = bytearray(segment.read_bytes())
    data[19 * size + 200] ^= 1
    segment.write_bytes(data)
    with opened(bank.path, 4 * size) as bank:
        store(bank, 30)
        store(bank, 31)
        assert held(bank, range(20, 40)) == [30, 31]
        assert [document.id for document in bank.documents()] == [f"d{n}" for n in (*range(20), 30, 31)]


def test_a_full_disk_only_postpones_moving(tmp_path: Path, size: int) -> None:
    files = Filling()
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT, config=kept(None), files=files) as bank:
        store(bank, *range(20))
    with MemoryBank.open(bank.path, fingerprint=FINGERPRINT, config=kept(4 * size), files=files) as bank:
        files.is_full = True
        bank.delete("d0")
        assert held(bank) == [16, 17, 18, 19]
        files.is_full = False
        bank.delete("d1")
        assert bank.stats().file_bytes == bank.stats().live_bytes


@pytest.fixture
def memory() -> MemRecall:
    """A pipeline that judges three candidates."""
    return tiny_memory(
        MemRecallConfig(
            chunking=ChunkingConfig(chunk_tokens=64),
            gate=GateConfig(threshold=0.0, lexical_weight=1.0),
            scan=ScanConfig(candidates=3, max_open=2, schedule="best_first"),
            reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
        )
    )


def with_budget(memory: MemRecall, max_bytes: int) -> MemRecall:
    bank = memory.config.bank.model_copy(update={"max_bytes": max_bytes})
    config = memory.config.model_copy(update={"bank": bank})
    return MemRecall(replace(memory.parts, config=config))


def test_an_ingest_larger_than_the_budget_answers_as_one_without(memory: MemRecall, tmp_path: Path) -> None:
    with memory.open_bank(tmp_path / "whole") as whole:
        memory.ingest(whole, DOCUMENTS)
        right = {colour: memory.ask(whole, f"Which door has the {colour} house?") for colour in COLOURS}
        budget = whole.stats().live_bytes // 2 + 10
    small = with_budget(memory, budget)
    with small.open_bank(tmp_path / "small") as bank:
        report = small.ingest(bank, DOCUMENTS)
        assert (report.chunks_compressed, report.chunks_deferred) == (4, 4)
        again = small.ingest(bank, DOCUMENTS)
        assert (again.documents_unchanged, again.chunks_compressed, again.chunks_deferred) == (8, 0, 0)
        for colour, answer in right.items():
            got = small.ask(bank, f"Which door has the {colour} house?")
            assert (got.text, got.trace, got.evidence) == (answer.text, answer.trace, answer.evidence)
            assert bank.stats().live_bytes <= budget
        stats = bank.stats()
        assert stats.chunks_evicted + stats.chunks_deferred == len(DOCUMENTS) - stats.blocks > 0
        assert stats.chunks_evicted > 0
        bank.verify()


def test_what_a_question_opened_outlives_what_it_only_judged(memory: MemRecall, tmp_path: Path) -> None:
    with memory.open_bank(tmp_path / "bank") as whole:
        memory.ingest(whole, DOCUMENTS)
        one = whole.stats().live_bytes // len(DOCUMENTS)
    small = with_budget(memory, 8 * one)
    with small.open_bank(tmp_path / "bank") as bank:
        opened = [recall.chunk for recall in small.ask(bank, "Which door has the amber house?").evidence]
    smaller = with_budget(memory, (len(opened) + 1) * one)
    with smaller.open_bank(tmp_path / "bank") as bank:
        bank.delete(next(doc.id for doc in DOCUMENTS if doc.id not in {chunk.doc_id for chunk in opened}))
        assert bank.missing(opened) == []
        assert bank.stats().blocks <= len(opened) + 1


def test_a_question_with_more_candidates_than_the_budget_holds_is_answered(memory: MemRecall, tmp_path: Path) -> None:
    with memory.open_bank(tmp_path / "whole") as whole:
        memory.ingest(whole, DOCUMENTS)
        right = memory.ask(whole, "Which door has the blue house?")
        one = whole.stats().live_bytes // len(DOCUMENTS)
    small = with_budget(memory, one + 200)
    with small.open_bank(tmp_path / "small") as bank:
        small.ingest(bank, DOCUMENTS, defer=True)
        got = small.ask(bank, "Which door has the blue house?")
        assert (got.text, got.trace) == (right.text, right.trace)
        assert bank.stats().blocks == 1


@pytest.mark.parametrize("turn", ["'text'", "x'00ff'", "-7", "9223372036854775807", "1.5"])
def test_turns_that_nobody_wrote_do_no_harm(bank: MemoryBank, turn: str) -> None:
    store(bank, 0, 1, 2)
    bank._catalogue._database.execute(f"INSERT INTO openings SELECT id, {turn} FROM blocks")  # noqa: S608
    bank.budget.mark_opened([chunk_of(0)])
    try:
        store(bank, 3)
    except BankFormatError:
        return
    assert bank.stats().live_bytes <= (bank.budget.max_bytes or 0)
    assert [document.id for document in bank.documents()] == ["d0", "d1", "d2", "d3"]

"""Ingesting now and compressing later: the same answers, and no block that no question came near."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE as NAME
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig
from memrecall_kv.errors import BankFormatError, BlockCorruptError, InputError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Chunk, Document, MemoryBlock

COLOURS = ("red", "green", "blue", "black", "white", "amber", "violet", "grey")
DOCUMENTS = [Document(colour, f"The {colour} house has a {colour} door.") for colour in COLOURS]
QUESTION = "Which door has the violet house?"


class Counting:
    """A compressor that remembers what it compressed."""

    def __init__(self, memory: MemRecall) -> None:
        self._compressor = memory.parts.compressor
        self.digest, self.unrotated = self._compressor.digest, self._compressor.unrotated
        self.seen: list[str] = []

    def compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        self.seen += [chunk.doc_id for chunk in chunks]
        return self._compressor.compress(chunks)


@pytest.fixture
def memory() -> MemRecall:
    """A pipeline that judges three candidates and counts what it compresses."""
    plain = tiny_memory(
        MemRecallConfig(
            chunking=ChunkingConfig(chunk_tokens=64),
            gate=GateConfig(threshold=0.0, lexical_weight=1.0),
            scan=ScanConfig(candidates=3, max_open=2, schedule="best_first"),
            reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
        )
    )
    return MemRecall(replace(plain.parts, compressor=Counting(plain)))


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "deferred") as opened:
        report = memory.ingest(opened, DOCUMENTS, defer=True)
        assert (report.documents_added, report.chunks_deferred, report.chunks_compressed) == (len(DOCUMENTS),) * 2 + (
            0,
        )
        yield opened


def test_a_deferred_bank_answers_as_a_full_one(memory: MemRecall, bank: MemoryBank, tmp_path: Path) -> None:
    assert memory.parts.compressor.seen == []
    deferred = memory.ask(bank, QUESTION)
    with memory.open_bank(tmp_path / "full") as full:
        memory.ingest(full, DOCUMENTS)
        whole = memory.ask(full, QUESTION)
    assert whole.evidence
    assert (deferred.text, deferred.trace, deferred.working_memory) == (whole.text, whole.trace, whole.working_memory)


def test_a_chunk_is_compressed_once_and_only_when_it_is_a_candidate(memory: MemRecall, bank: MemoryBank) -> None:
    compressor = memory.parts.compressor
    answer = memory.ask(bank, QUESTION)
    judged = {step.chunk_id.rpartition("#")[0] for step in answer.trace.steps if step.gate_probability > 0}
    assert judged <= set(compressor.seen)  # each note has candidates of its own
    assert 3 <= len(compressor.seen) < len(DOCUMENTS)
    memory.ask(bank, QUESTION)
    assert len(compressor.seen) == len(set(compressor.seen)) == bank.verify() == bank.stats().blocks


def test_the_rest_is_compressed_by_ingesting_again(memory: MemRecall, bank: MemoryBank) -> None:
    memory.ask(bank, QUESTION)
    before = len(memory.parts.compressor.seen)
    report = memory.ingest(bank, DOCUMENTS)
    assert (report.documents_unchanged, report.documents_updated) == (len(DOCUMENTS), 0)
    assert report.chunks_compressed == len(DOCUMENTS) - before == bank.stats().blocks - before
    assert bank.deferred_documents() == set()
    assert memory.ingest(bank, DOCUMENTS).chunks_reused == 0  # all skipped


def test_deferring_leaves_blocks_that_are_there(memory: MemRecall, bank: MemoryBank) -> None:
    memory.ingest(bank, DOCUMENTS)
    report = memory.ingest(bank, [*DOCUMENTS, Document("copy", DOCUMENTS[0].text)], defer=True)
    assert (report.documents_unchanged, report.chunks_reused, report.chunks_deferred) == (len(DOCUMENTS), 1, 0)
    assert bank.deferred_documents() == set()


def test_a_bank_open_for_reading_says_what_to_do(memory: MemRecall, bank: MemoryBank) -> None:
    with (
        memory.open_bank(bank.path, read_only=True) as reader,
        pytest.raises(InputError, match="open it for writing") as raised,
    ):
        memory.ask(reader, QUESTION)
    assert "#0 has no block" in str(raised.value)
    memory.ask(bank, QUESTION)
    with memory.open_bank(bank.path, read_only=True) as reader:
        assert memory.ask(reader, QUESTION).evidence


def test_a_deferred_text_that_changed_on_disk_is_found_and_never_compressed(
    memory: MemRecall, bank: MemoryBank
) -> None:
    bank.close()
    with sqlite3.connect(bank.path / NAME) as database:
        database.execute("UPDATE documents SET text = replace(text, 'violet', 'vi0let')")
    database.close()
    with memory.open_bank(bank.path) as opened:
        with pytest.raises(BlockCorruptError, match="text of chunk violet#0"):
            opened.verify()
        with pytest.raises(BankFormatError, match="document 'violet' is not as it was stored"):
            memory.ask(opened, "Which door has the violet house?")
    assert "violet" not in memory.parts.compressor.seen


def test_deferred_documents_are_deleted_replaced_and_compacted(memory: MemRecall, bank: MemoryBank) -> None:
    memory.ask(bank, QUESTION)
    for document in DOCUMENTS[:4]:
        bank.delete(document.id)
    memory.ingest(bank, [Document("white", "The white house has no door.")], defer=True)
    bank.compact()
    assert bank.verify() == bank.stats().blocks
    memory.ingest(bank, bank.documents())
    assert bank.verify() == len(DOCUMENTS) - 4

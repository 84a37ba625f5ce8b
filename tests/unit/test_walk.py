"""A walk that is begun, walked and concluded apart: what is counted, what is searched by, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from memrecall_kv import GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import ChunkingConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document, Done, Recall

QUESTION = "Who approves trips?"
DOCUMENTS = [
    Document("long", "Trips are approved by Dana. " * 12),
    Document("short", "Lunch is at noon."),
    Document("lift", "The lift is broken."),
    Document("park", "Parking costs 3 euros. " * 12),
]


def by_document(recall: Recall) -> str:
    return recall.chunk.doc_id


def make(candidates: int | None) -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(threshold=0.5, lexical_weight=12.0),
        scan=ScanConfig(candidates=candidates),
    )
    gate = ScriptedGate(lambda question, notes, block: 0.0025)
    return tiny_memory(config, gate=gate, reasoner=ScriptedReasoner({}, lambda question, notes: question))


@pytest.fixture(params=[None, 1, 3])
def memory(request: pytest.FixtureRequest) -> MemRecall:
    return make(request.param)


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "bank") as opened:
        memory.ingest(opened, DOCUMENTS)
        yield opened


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 9])
def test_blocks_are_opened_until_there_are_as_many_units(memory: MemRecall, bank: MemoryBank, top_k: int) -> None:
    walk = memory.begin(bank, QUESTION, top_k=top_k, unit=by_document)
    list(walk.events())
    units = [recall.chunk.doc_id for recall in walk.recalls]
    assert len(set(units)) == min(top_k, len(DOCUMENTS))
    assert units[0] == "long"
    ids = [recall.chunk.id for recall in walk.recalls]
    assert len(ids) == len(set(ids)) < 2 * top_k or top_k > len(DOCUMENTS)
    assert [recall.step for recall in walk.recalls] == list(range(len(ids)))


def test_the_best_blocks_are_open_in_either_way_of_counting(memory: MemRecall, bank: MemoryBank) -> None:
    blocks = [recall.chunk.id for recall in memory.recall(bank, QUESTION, top_k=3)]
    walk = memory.begin(bank, QUESTION, top_k=3, unit=by_document)
    list(walk.events())
    assert [recall.chunk.id for recall in walk.recalls][:3] == blocks


def test_a_filter_holds_for_further_units_too(memory: MemRecall, bank: MemoryBank) -> None:
    walk = memory.begin(bank, QUESTION, top_k=4, unit=by_document, where=lambda doc_id, _: doc_id != "lift")
    list(walk.events())
    assert {recall.chunk.doc_id for recall in walk.recalls} == {"long", "short", "park"}


def test_what_is_searched_by_decides_what_is_opened_and_the_question_what_is_answered(
    memory: MemRecall, bank: MemoryBank
) -> None:
    walk = memory.begin(bank, "Elevator?", top_k=1, search="The lift is out of order.")
    list(walk.events())
    assert [recall.chunk.doc_id for recall in walk.recalls] == ["lift"]
    *_, last = memory.conclude(walk)
    assert isinstance(last, Done)
    assert last.answer.text == "Elevator?"


def test_a_walk_that_is_concluded_apart_gives_what_a_stream_gives(memory: MemRecall, bank: MemoryBank) -> None:
    walk = memory.begin(bank, QUESTION, top_k=2)
    events = [*walk.events(), *memory.conclude(walk)]
    *whole, last = memory.stream(bank, QUESTION, top_k=2)
    assert events[:-1] == whole
    assert isinstance(events[-1], Done)
    assert isinstance(last, Done)
    assert (events[-1].answer.text, events[-1].answer.trace) == (last.answer.text, last.answer.trace)

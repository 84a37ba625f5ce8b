"""Choosing among documents, and what adapters share: one loaded model, one compressed copy of a text."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from memrecall_kv import GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import InputError
from memrecall_kv.filters import Compare, Operator
from memrecall_kv.hosts.documents import TextCache, walk_documents
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import ScriptedReasoner, tiny_backbone, tiny_memory
from memrecall_kv.types import Document, Opened, Scored

QUESTION = "Who approves trips?"
DOCUMENTS = [
    Document("long", "Trips are approved by Dana. " * 12, {"team": "finance"}),
    Document("short", "Lunch is at noon.", {"team": "kitchen"}),
    Document("lift", "The lift is broken.", {"team": "facilities"}),
]


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: ""))


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "bank") as opened:
        memory.ingest(opened, DOCUMENTS)
        yield opened


@pytest.mark.parametrize("top_n", [1, 2, 3, 50])
def test_exactly_as_many_documents_are_opened_as_asked_for_each_once(
    memory: MemRecall, bank: MemoryBank, top_n: int
) -> None:
    events = list(walk_documents(memory, bank, QUESTION, top_n=top_n))
    opened = [event.recall.chunk.doc_id for event in events if isinstance(event, Opened)]
    assert len(bank) > 3
    assert len(opened) == len(set(opened)) == min(top_n, 3)
    assert any(isinstance(event, Scored) for event in events)


def test_a_filter_and_the_settings_hold_for_documents_too(memory: MemRecall, bank: MemoryBank) -> None:
    found = walk_documents(memory, bank, QUESTION, top_n=9, where=lambda _, metadata: metadata["team"] != "finance")
    assert {event.recall.chunk.doc_id for event in found if isinstance(event, Opened)} == {"short", "lift"}
    config = MemRecallConfig(**{**dict(memory.config), "scan": ScanConfig(top_k=1)})
    one = tiny_memory(config, backbone=memory.backbone)
    assert sum(isinstance(event, Opened) for event in walk_documents(one, bank, QUESTION)) == 1


@pytest.mark.parametrize("top_n", [0, -1])
def test_fewer_than_one_document_is_refused(memory: MemRecall, bank: MemoryBank, top_n: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        list(walk_documents(memory, bank, QUESTION, top_n=top_n))


def test_a_cache_compresses_a_text_once_and_filters_for_those_of_the_moment(
    memory: MemRecall, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[str] = []
    original = memory._compress

    def compress(chunks):
        compressed.extend(chunk.text for chunk in chunks)
        return original(chunks)

    monkeypatch.setattr(memory, "_compress", compress)
    cache = TextCache(None, LazyMemory(memory, None, "auto"))
    cache.keep(map(TextCache.entry, ["one", "two"]))
    bank, where = cache.keep(map(TextCache.entry, ["two", "three", "three"]))
    assert {chunk.text for chunk in bank.chunks(where)} == {"two", "three"}
    assert compressed == ["one", "two", "three"]
    path = bank.path
    cache.close()
    assert not path.exists()
    assert cache.keep([])[0].path != path  # used again after all
    cache.close()


def test_a_cleared_cache_holds_no_text_and_can_be_filled_again(memory: MemRecall, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "cache", LazyMemory(memory, None, "auto"))
    cache.keep(map(TextCache.entry, ["Dana approves trips."]))
    cache.clear()
    assert b"Dana" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    bank, where = cache.keep(map(TextCache.entry, ["Dana approves trips."]))
    assert [chunk.text for chunk in bank.chunks(where)] == ["Dana approves trips."]
    cache.close()


def test_an_empty_cache_lets_nothing_through(memory: MemRecall) -> None:
    cache = TextCache(None, LazyMemory(memory, None, "auto"))
    cache.keep(map(TextCache.entry, ["one"]))
    bank, where = cache.keep([])
    assert bank.chunks(where) == []
    cache.close()


def test_a_model_loaded_by_name_is_shared_while_it_is_used(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    first, second = (LazyMemory(None, str(tmp_path), "auto") for _ in range(2))
    assert first.get() is second.get()
    assert LazyMemory(None, str(tmp_path), "cpu").get() is not first.get()
    number = id(first.get())
    kept = first.get()
    del first, second
    gc.collect()
    assert id(LazyMemory(None, str(tmp_path), "auto").get()) == number == id(kept)


def test_a_bank_that_was_opened_for_reading_is_closed_with_what_opened_it(memory: MemRecall, bank: MemoryBank) -> None:
    lazy = LazyBank(bank.path, LazyMemory(memory, None, "auto"))
    assert len(lazy.get()) == len(bank)
    opened = lazy._reading
    assert len(opened) == 1
    del lazy
    gc.collect()
    assert opened == []


def test_a_bank_of_an_adapter_takes_documents_and_forgets_those_that_match(memory: MemRecall, tmp_path: Path) -> None:
    lazy = LazyBank(tmp_path / "bank", LazyMemory(memory, None, "auto"))
    lazy.ingest(DOCUMENTS)
    assert lazy.forget(Compare("team", Operator.NE, "finance")) == 2
    assert [stored.id for stored in lazy.get().documents()] == ["long"]
    assert lazy.forget(Compare("team", Operator.EQ, "kitchen")) == 0
    lazy.close()


def test_what_is_no_memory_is_refused_before_it_is_used() -> None:
    with pytest.raises(InputError, match="Expected memory to be a MemRecall, got str"):
        LazyMemory("a model", None, "auto")


def test_a_replaced_text_is_judged_by_its_new_words(tmp_path: Path) -> None:
    gate = GateConfig(threshold=0.0, lexical_weight=20.0)
    memory = tiny_memory(MemRecallConfig(gate=gate, scan=ScanConfig(top_k=1)))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("a", "apples"), Document("b", "pears")])
        assert [recall.chunk.doc_id for recall in memory.recall(bank, "apples")] == ["a"]
        memory.ingest(bank, [Document("a", "pears"), Document("b", "apples")])
        assert [recall.chunk.doc_id for recall in memory.recall(bank, "apples")] == ["b"]

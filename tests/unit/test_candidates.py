"""Each bank has its own candidates: whoever asks, in which order, through which filter."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall import candidates
from memrecall_kv.recall.candidates import EveryChunk, SharedWords
from memrecall_kv.recall.characters import SharedCharacters, pieces
from memrecall_kv.recall.lexical import LexicalIndex
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document, Note, WorkingMemory
from patience import PATIENCE

QUESTION = "Who keeps the key?"
TEXTS = {"ann": "Ann keeps the key.", "bob": "Bob keeps the key and the ladder.", "boat": "The boat is blue."}


@pytest.fixture
def memory() -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(lexical_weight=1.0),
        scan=ScanConfig(top_k=1, candidates=2),
    )
    gate = ScriptedGate(lambda *_: 0.6)
    return tiny_memory(config, gate=gate, reasoner=ScriptedReasoner({}, lambda *_: "the key"))


def filled(memory: MemRecall, path, texts: dict[str, str]) -> MemoryBank:
    bank = memory.open_bank(path)
    memory.ingest(bank, [Document(id=key, text=text, metadata={"of": key}) for key, text in texts.items()])
    return bank


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return the texts of every index that is made."""
    made: list[tuple[str, ...]] = []

    def counted(texts, split):
        made.append(tuple(texts))
        return LexicalIndex(texts, split)

    monkeypatch.setattr(candidates, "LexicalIndex", counted)
    return made


def opened(memory: MemRecall, bank: MemoryBank, where=None) -> list[str]:
    return [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION, where=where)]


def test_two_banks_in_turn_are_indexed_once_each(memory, indexed, tmp_path) -> None:
    first = filled(memory, tmp_path / "first", {"ann": TEXTS["ann"]})
    second = filled(memory, tmp_path / "second", {"bob": TEXTS["bob"], "boat": TEXTS["boat"]})
    with first, second:
        for _ in range(3):
            assert opened(memory, first) == ["ann"]
            assert opened(memory, second) == ["bob"]
    assert sorted(indexed) == sorted([(TEXTS["ann"],), (TEXTS["bob"], TEXTS["boat"])])


def test_two_filters_in_turn_share_the_index_of_their_bank(memory, indexed, tmp_path) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        for _ in range(2):
            for tenant in TEXTS:
                assert opened(memory, bank, lambda _, metadata, tenant=tenant: metadata["of"] == tenant) == [tenant]
        assert len(indexed) == 1
        memory.ingest(bank, [Document(id="cat", text="The cat keeps the key too.")])
        assert opened(memory, bank, lambda doc_id, _: doc_id == "cat") == ["cat"]
    assert len(indexed) == 2


def test_threads_of_two_tenants_never_see_each_others_texts(memory, tmp_path, monkeypatch) -> None:
    """Both threads are held where the index has been looked up and not been asked yet."""
    banks = {key: filled(memory, tmp_path / key, {key: TEXTS[key]}) for key in ("ann", "bob")}
    both, scores = threading.Barrier(2), LexicalIndex.scores

    def held(self, query):
        both.wait(PATIENCE)
        return scores(self, query)

    monkeypatch.setattr(LexicalIndex, "scores", held)
    with ThreadPoolExecutor(2) as pool:
        futures = {key: pool.submit(opened, memory, bank) for key, bank in banks.items()}
        assert {key: future.result() for key, future in futures.items()} == {"ann": ["ann"], "bob": ["bob"]}
    for bank in banks.values():
        bank.close()


def test_a_source_proposes_at_most_the_limit_in_the_banks_order(memory, tmp_path) -> None:
    notes = WorkingMemory((Note("It is under the blue boat.", "x#0"),))
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        words, every = SharedWords(bank), EveryChunk(bank)
        assert [c.chunk.doc_id for c in words.propose(QUESTION, WorkingMemory(), 2, None)] == ["ann", "bob"]
        assert "boat" in [c.chunk.doc_id for c in words.propose("Where?", notes, 1, None)]
        assert [c.chunk.doc_id for c in words.propose(QUESTION, notes, None, None)] == list(TEXTS)
        assert [c.chunk.doc_id for c in every.propose(QUESTION, notes, 2, None)] == ["ann", "bob"]
        assert max(c.words for c in words.propose(QUESTION, notes, None, lambda doc_id, _: doc_id == "boat")) == 1.0
        assert words.propose(QUESTION, notes, 2, lambda *_: False) == []


def test_as_many_are_proposed_as_are_to_be_opened(memory, tmp_path) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        assert len(memory.recall(bank, QUESTION, top_k=3)) == 3


FILLER = {f"filler {number}": f"Nothing of interest happened on day {number}." for number in range(6)}


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (
            "大阪的市长是横山英幸。",
            "大阪市长是谁？",
        ),
        ("Der Genehmigungsantrag liegt beim Vorstand.", "Wer bearbeitet Genehmigungsanträge?"),
        ("La Re\u0301gion paie l'e\u0301cole.", "Qui finance les écoles régionales ?"),
        (
            "Московский завод",
            "где заводы Москвы?",
        ),
        ("ＰＲ３ pumps water.", "What does PR3 pump?"),
    ],
    ids=["chinese", "compound", "decomposed", "cyrillic", "wide letters"],
)
def test_characters_find_what_has_no_spaces_or_another_form(memory, tmp_path, text: str, question: str) -> None:
    with filled(memory, tmp_path / "bank", {**FILLER, "found": text}) as bank:
        proposed = SharedCharacters(bank).propose(question, WorkingMemory(), 1, None)
    assert [candidate.chunk.doc_id for candidate in proposed] == ["found"]


def test_the_source_is_a_setting(memory, tmp_path) -> None:
    scan = ScanConfig(top_k=1, candidates=1, source="characters")
    config = MemRecallConfig(**{**memory.config.model_dump(), "scan": scan.model_dump()})
    other = tiny_memory(config, gate=memory.parts.gate, reasoner=memory.parts.reasoner)
    text = "大阪的市长是横山英幸。"
    with filled(memory, tmp_path / "bank", {**FILLER, "found": text}) as bank:
        found = [[r.chunk.doc_id for r in m.recall(bank, "大阪市长是谁")] for m in (memory, other)]
    assert found == [["filler 0"], ["found"]]


@pytest.mark.parametrize(("text", "runs"), [("", []), ("a", ["^a$"]), ("Café", ["^ca", "caf", "afe", "fe$"])])
def test_pieces_are_runs_of_letters(text: str, runs: list[str]) -> None:
    assert pieces(text) == runs


@pytest.mark.parametrize("limit", [None, 2])
def test_a_pipeline_forgets_a_bank_that_nobody_holds(memory, tmp_path, limit: int | None) -> None:
    scan = ScanConfig(top_k=1, candidates=limit)
    config = MemRecallConfig(**{**memory.config.model_dump(), "scan": scan.model_dump(), "gate": GateConfig()})
    asked = tiny_memory(config, gate=memory.parts.gate, reasoner=memory.parts.reasoner)
    bank = filled(asked, tmp_path / "bank", TEXTS)
    assert opened(asked, bank)
    bank.close()
    seen = weakref.ref(bank)
    del bank
    gc.collect()
    assert seen() is None

"""A document's heading is judged and read, and stands in no citation."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, block, chunks_of
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig
from memrecall_kv.errors import BankFormatError, InputError
from memrecall_kv.ingest.heading import shortened
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import BackboneReasoner, Tally, TunedReasoner
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory
from memrecall_kv.types import Chunk, Document, Heading, Recall, WorkingMemory

TEXT = "Revenue was nine million. It rains."
QUESTION = "What was the revenue of Contoso?"


def company(name: str) -> Heading:
    return Heading(f"company: {name}\n\n", f"company: {name}\n\n")


@pytest.fixture
def memory() -> MemRecall:
    """A pipeline over bytes whose words decide: the gate believes in whatever it is shown."""
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(lexical_weight=1.0),
        scan=ScanConfig(top_k=1, candidates=1),
    )
    reasoner = ScriptedReasoner({}, lambda *_: "Contoso")
    return tiny_memory(config, gate=ScriptedGate(lambda *_: 0.6), reasoner=reasoner)


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "bank") as opened:
        yield opened


def block_ids(bank: MemoryBank) -> dict[str, bytes]:
    query = "SELECT id, block FROM chunks JOIN documents ON place = document"
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database:
        return dict(database.execute(query).fetchall())


# -- storing ----------------------------------------------------------------------------------------------


def test_without_a_heading_a_block_is_known_by_its_text_as_ever(memory: MemRecall, bank: MemoryBank) -> None:
    memory.ingest(bank, [Document("a", TEXT)])
    named = json.dumps(dict(sorted(memory.fingerprint.items()))) + "\0" + TEXT
    assert block_ids(bank) == {"a": hashlib.sha256(named.encode()).digest()[:16]}


def test_a_block_is_made_of_the_judged_heading_and_the_text(memory: MemRecall, bank: MemoryBank) -> None:
    documents = [
        Document("a", TEXT),
        Document("b", TEXT, heading=company("Contoso")),
        Document("c", TEXT, heading=company("Fabrikam")),
        Document("d", TEXT, heading=Heading(read="company: Contoso\n\n")),
        Document("e", f"company: Contoso\n\n{TEXT}"),
    ]
    assert memory.ingest(bank, documents).chunks_compressed == 3
    found = block_ids(bank)
    assert found["a"] == found["d"]
    assert found["b"] == found["e"]
    assert len(set(found.values())) == 3
    sizes = [made.num_source_tokens for made in bank.blocks(bank.chunks())]
    assert sizes == [len(chunk.judged_text) for chunk in bank.chunks()]
    assert bank.verify() == 3


@pytest.mark.parametrize(
    ("heading", "compressed"),
    [(company("Fabrikam"), 1), (Heading(), 1), (Heading(company("Contoso").judged, "Contoso: "), 0)],
)
def test_another_heading_is_another_document(
    memory: MemRecall, bank: MemoryBank, heading: Heading, compressed: int
) -> None:
    memory.ingest(bank, [Document("a", TEXT, heading=company("Contoso"))])
    assert memory.ingest(bank, [Document("a", TEXT, heading=company("Contoso"))]).documents_unchanged == 1
    report = memory.ingest(bank, [Document("a", TEXT, heading=heading)])
    assert (report.documents_updated, report.chunks_compressed) == (1, compressed)
    assert [chunk.heading for chunk in bank.chunks()] == [heading]


@pytest.mark.parametrize("heading", [company("Contoso"), Heading("Ünï\n", "x" * 500), Heading(read=" "), Heading()])
def test_a_document_comes_back_with_its_heading(memory: MemRecall, tmp_path: Path, heading: Heading) -> None:
    document = Document("a", TEXT * 4, {"year": 2024}, heading)
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, [document])
        chunks = bank.chunks()
        assert chunks == memory.chunk(document)
    with memory.open_bank(tmp_path / "b", read_only=True) as bank:
        assert bank.document("a") == document
        assert bank.documents() == [document]
        assert bank.chunks() == chunks
        assert bank.metadata("a") == {"year": 2024}
        assert bank.holds(document)
        assert not bank.holds(replace(document, heading=Heading("another", heading.read)))


def test_half_a_surrogate_pair_in_a_heading_is_replaced(memory: MemRecall, bank: MemoryBank) -> None:
    document = Document("a", TEXT, heading=Heading("a\ud800\n", "b\udfff\n"))
    memory.ingest(bank, [document])
    assert bank.document("a").heading == Heading("a\ufffd\n", "b\ufffd\n")
    assert memory.ingest(bank, [document]).documents_unchanged == 1
    with pytest.raises(InputError, match="surrogate"):
        memory.chunk(document)


@pytest.mark.parametrize("heading", ["Contoso", None, Heading("a", 3), Heading(None, "b")])
def test_what_is_no_heading_is_refused(memory: MemRecall, bank: MemoryBank, heading: object) -> None:
    with pytest.raises(InputError, match=r"[hH]eading"):
        memory.ingest(bank, [Document("a", TEXT, heading=heading)])
    assert len(bank) == 0


def test_chunks_are_those_of_their_document(tmp_path: Path) -> None:
    plain, headed = Document("a", "some text"), Document("a", "some text", heading=company("Contoso"))
    with MemoryBank.open(tmp_path / "b", fingerprint=FINGERPRINT) as bank:
        (chunk,) = chunks_of(plain)
        strange = replace(chunk, heading=headed.heading)
        bank.put_blocks([(chunk, block(1)), (strange, block(2))])
        with pytest.raises(InputError, match="another heading"):
            bank.put_document(plain, [strange])
        with pytest.raises(InputError, match="another heading"):
            bank.put_document(headed, [strange, replace(chunk, index=1)])
        bank.put_document(headed, [strange])
        assert bank.chunks() == [strange]


@pytest.mark.parametrize("stored", ['["company: C0ntoso\\n\\n", ""]', "", "[1, 2]", '["a"]', "{", "[" * 9999])
def test_a_changed_heading_is_found(memory: MemRecall, tmp_path: Path, stored: str) -> None:
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, [Document("a", TEXT, heading=company("Contoso"))])
    with closing(sqlite3.connect(tmp_path / "b" / CATALOGUE)) as database, database:
        database.execute("UPDATE documents SET heading = ?", (stored,))
    with memory.open_bank(tmp_path / "b", read_only=True) as bank, pytest.raises(BankFormatError, match="'a'"):
        bank.documents()


def test_a_deferred_chunk_is_compressed_with_its_heading(memory: MemRecall, bank: MemoryBank) -> None:
    document = Document("a", TEXT, heading=company("Contoso"))
    assert memory.ingest(bank, [document], defer=True).chunks_deferred == 1
    assert [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION)] == ["a"]
    (made,) = bank.blocks(bank.chunks())
    assert made.num_source_tokens == len(document.heading.judged + TEXT)


# -- its share of a chunk ---------------------------------------------------------------------------------


def test_every_chunk_has_the_heading_and_fits_its_budget(memory: MemRecall) -> None:
    document = Document("a", TEXT * 9, heading=Heading("title: Otters\n\n", "file: otters.txt\n\n"))
    chunks = memory.chunk(document)
    assert "".join(chunk.text for chunk in chunks) == document.text
    assert {chunk.heading for chunk in chunks} == {document.heading}
    assert [chunk.num_tokens for chunk in chunks] == [len(chunk.read_text) for chunk in chunks]
    assert max(chunk.num_tokens for chunk in chunks) <= 64


def test_an_overlap_moves_on_under_a_heading() -> None:
    config = MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64, overlap_tokens=32))
    memory = tiny_memory(config)
    plain, headed = (len(memory.chunk(Document("a", "word " * 200, heading=heading))) for heading in (Heading(), LONG))
    assert plain < headed < 3 * plain


LONG = Heading("title: Otters\nsummary: " + "they swim " * 40 + "\nyear: 2024\n\n", "x")


def test_a_long_heading_loses_the_ends_of_its_longest_lines(memory: MemRecall) -> None:
    (chunk, *_) = memory.chunk(Document("a", TEXT, heading=LONG))
    assert chunk.heading == Heading("title: Ot\nsummary:\nyear: 202\n\n", "x")
    spans = memory.backbone.token_spans
    assert shortened(LONG, spans, 48) == Heading("title: Otters\nsummary: they swim th\nyear: 2024\n\n", "x")
    assert shortened(LONG, spans, 10_000) == LONG


def test_a_heading_of_more_lines_than_tokens_keeps_the_first(memory: MemRecall) -> None:
    heading = Heading("\n" * 40 + "a", "b\n" * 40)
    assert shortened(heading, memory.backbone.token_spans, 8) == Heading("\n" * 8, "b\nb\nb\nb\n")


# -- judging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["words", "characters"])
def test_candidates_are_found_by_a_word_of_the_heading(tmp_path: Path, source: str) -> None:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64), scan=ScanConfig(top_k=1, candidates=1, source=source)
    )
    memory = tiny_memory(config, gate=ScriptedGate(lambda *_: 0.6))
    names = ["Northwind", "Contoso", "Fabrikam"]
    with memory.open_bank(tmp_path / "b") as bank:
        for turned in (names, names[::-1]):  # swapped headings: what was true of one text is true of another
            documents = [Document(str(place), TEXT, heading=company(name)) for place, name in enumerate(turned)]
            memory.ingest(bank, documents)
            for place, name in enumerate(turned):
                (found,) = memory.recall(bank, f"What was the revenue of {name}?")
                assert found.chunk.doc_id == str(place)


def test_what_only_the_read_heading_says_is_not_searched(memory: MemRecall, bank: MemoryBank) -> None:
    documents = [
        Document("a", TEXT, heading=Heading(read="Contoso: ")),
        Document("b", TEXT, heading=company("Contoso")),
    ]
    memory.ingest(bank, documents)
    assert [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION)] == ["b"]


# -- reading ----------------------------------------------------------------------------------------------


def test_what_is_recalled_is_the_span_of_the_original_text(memory: MemRecall, bank: MemoryBank) -> None:
    document = Document("a", TEXT, {"company": "Contoso"}, company("Contoso"))
    memory.ingest(bank, [document])
    (recall,) = memory.ask(bank, QUESTION).evidence
    assert recall.text == recall.chunk.text == document.text[recall.chunk.start : recall.chunk.end] == TEXT
    assert recall.metadata == {"company": "Contoso"}


@pytest.mark.parametrize(
    ("heading", "grounded"),
    [(company("Contoso"), True), (Heading(read="Contoso: "), True), (Heading("Contoso: "), False), (Heading(), False)],
)
def test_an_answer_may_stand_in_the_heading_that_was_read(
    memory: MemRecall, bank: MemoryBank, heading: Heading, grounded: bool
) -> None:
    memory.ingest(bank, [Document("a", TEXT, heading=heading)])
    assert memory.ask(bank, "Whose revenue was nine million?").grounded is grounded


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def seen(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the backbone is given to read."""
    texts: list[str] = []

    def spied(name: str) -> None:
        original = getattr(Backbone, name)

        def call(self: Backbone, text: str) -> list[int]:
            texts.append(text)
            return original(self, text)

        monkeypatch.setattr(Backbone, name, call)

    spied("encode")
    spied("chat")
    return texts


def reasoners(backbone: Backbone, readback: str) -> list[BackboneReasoner]:
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "v_proj"), rank=2, alpha=4)
    plain, tuned = (
        ReasonerConfig(kind=kind, readback=readback, max_note_tokens=4, max_answer_tokens=4)
        for kind in ("zero_shot", "tuned")
    )
    return [BackboneReasoner(backbone, plain), TunedReasoner(backbone, tuned, adapter)]


def chunk_of(heading: Heading) -> Chunk:
    longest = max(len(heading.judged), len(heading.read))
    return Chunk("d", 0, 0, len(TEXT), TEXT, longest + len(TEXT), heading)


def answer(reasoner: BackboneReasoner, chunks: Sequence[Chunk]) -> str:
    evidence = [Recall(chunk, 0.9, place) for place, chunk in enumerate(chunks)]
    return "".join(reasoner.answer(QUESTION, WorkingMemory(), evidence, [], Tally()))


@pytest.mark.parametrize("kind", [0, 1])
def test_the_answer_is_written_from_the_text_behind_the_read_heading(
    backbone: Backbone, seen: list[str], kind: int
) -> None:
    answer(reasoners(backbone, "answer")[kind], [chunk_of(Heading("judged: x\n\n", "company: Contoso\n\n"))])
    prompt = " ".join("\n".join(seen).split())
    assert f"company: Contoso {TEXT}" in prompt
    assert "judged" not in prompt


@pytest.mark.parametrize("kind", [0, 1])
def test_without_a_heading_the_prompts_are_as_ever(backbone: Backbone, seen: list[str], kind: int) -> None:
    answer(reasoners(backbone, "answer")[kind], [chunk_of(Heading())])
    expected = [
        [f"Answer the question in one short sentence, using this text:\n\n{TEXT}\n\nQuestion: {QUESTION}"],
        [TEXT, f"\n\nQuestion: {QUESTION}\nAnswer:"],
    ]
    assert seen[: len(expected[kind])] == expected[kind]


def test_a_heading_counts_against_what_may_be_read_back(backbone: Backbone, seen: list[str]) -> None:
    config = ReasonerConfig(max_readback_tokens=len(TEXT) + 4, max_answer_tokens=1)
    reasoner = BackboneReasoner(backbone, config)
    answer(reasoner, [chunk_of(Heading())])
    assert TEXT in seen[0]
    seen.clear()
    answer(reasoner, [chunk_of(company("Contoso"))])
    assert TEXT not in seen[0]


def noted(backbone: Backbone, heading: Heading, question: str = QUESTION) -> str:
    chunk = chunk_of(heading)
    _, tuned = reasoners(backbone, "answer")
    notes = tuned.update(question, WorkingMemory(), chunk, block(1), Tally())
    return notes.text


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (company("Contoso"), f"company: Contoso {TEXT}"),
        (Heading(read="company:  Contoso\nyear: 2024\n\n"), f"company: Contoso {TEXT}"),
        (Heading(read="year: 2024\n\n"), TEXT),
        (Heading(judged="company: Contoso\n\n"), TEXT),
        (Heading(), TEXT),
    ],
)
def test_a_note_begins_with_what_of_the_heading_is_asked_about(
    backbone: Backbone, heading: Heading, expected: str
) -> None:
    assert noted(backbone, heading) == expected


def test_what_two_equal_texts_say_of_different_companies_are_two_notes(backbone: Backbone) -> None:
    _, tuned = reasoners(backbone, "answer")
    notes = WorkingMemory()
    for place, name in enumerate(["Contoso", "Fabrikam", "Fabrikam"]):
        chunk = replace(chunk_of(company(name)), index=place)
        notes = tuned.update("Which company had more revenue?", notes, chunk, block(1), Tally())
    assert [note.text.split()[1] for note in notes.notes] == ["Contoso", "Fabrikam"]

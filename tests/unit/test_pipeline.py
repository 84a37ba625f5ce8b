"""The pipeline: what it opens, learns, cites and refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import (
    ChunkingConfig,
    CompressorConfig,
    GateConfig,
    MemRecallConfig,
    ReasonerConfig,
    ScanConfig,
)
from memrecall_kv.errors import ConfigError, ContextOverflowError, FingerprintMismatchError, InputError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.gate import ClassifierGate
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, byte_tokenizer, tiny_backbone, tiny_memory
from memrecall_kv.types import Document, Done, Noted, Opened, Recall, Scored, Token, WorkingMemory, Writer

FACTS = [
    Document("film", "Kiss and Tell, a film, starred Shirley Temple.", {"kind": "film"}),
    Document("woman", "Shirley Temple was chief of protocol.", {"kind": "person"}),
    Document("noise", "Bananas are yellow when they are ripe.", {"kind": "fruit"}),
]
QUESTION = "What office was held by the star of Kiss and Tell?"


def settings(**scan: object) -> MemRecallConfig:
    return MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        compressor=CompressorConfig(compression_ratio=2),
        scan=ScanConfig(**scan),
    )


def bridge(config: MemRecallConfig) -> MemRecall:
    """A pipeline whose gate finds the woman only once the film is known; blocks are told apart by their length."""

    def script(question: str, memory: str, block: object) -> float:
        size = block.num_source_tokens
        if size == len(FACTS[1].text):
            return 0.9 if "Shirley" in memory else 0.2
        return 0.8 if size == len(FACTS[0].text) else 0.1

    notes = {FACTS[0].text: "The star was Shirley Temple.", FACTS[1].text: "She was chief of protocol."}
    scripted = ScriptedReasoner(notes, lambda question, memory: "chief of protocol" if "chief" in memory else "unknown")
    return tiny_memory(config, gate=ScriptedGate(script), reasoner=scripted)


def filled(stack: ExitStack, memory: MemRecall, folder: Path, documents: Sequence[Document]) -> MemoryBank:
    """A bank that holds the documents."""
    bank = stack.enter_context(memory.open_bank(folder / "b"))
    memory.ingest(bank, documents)
    return bank


def writing(reply: str, asked: list[list[str]]) -> Writer:
    """A writer that says one thing, and keeps of which documents it was asked."""

    def write(question: str, known: WorkingMemory, recalls: Sequence[Recall]) -> Iterator[str]:
        asked.append([recall.chunk.doc_id for recall in recalls])
        yield reply

    return write


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test enters."""
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def order() -> list[Document]:
    # the person comes before the film: one pass in this order cannot find both
    return [FACTS[1], FACTS[0], FACTS[2]]


def test_rescan_answers_a_question_whose_second_hop_comes_first(
    stack: ExitStack, tmp_path: Path, order: list[Document]
) -> None:
    memory = bridge(settings(top_k=None, schedule="rescan"))
    bank = filled(stack, memory, tmp_path, order)
    answer = memory.ask(bank, QUESTION)
    assert (answer.text, answer.found, answer.grounded) == ("chief of protocol", True, True)
    assert [recall.chunk.doc_id for recall in answer.evidence] == ["film", "woman"]
    assert [recall.metadata["kind"] for recall in answer.evidence] == ["film", "person"]
    assert [(s.round, s.chunk_id, s.opened) for s in answer.trace.steps] == [
        (0, "woman#0", False),
        (0, "film#0", True),
        (0, "noise#0", False),
        (1, "woman#0", True),
        (1, "noise#0", False),
        (2, "noise#0", False),
    ]


@pytest.mark.parametrize("schedule", ["sequential", "lookahead"])
def test_one_pass_misses_it_and_says_so(stack: ExitStack, tmp_path: Path, order: list[Document], schedule: str) -> None:
    memory = bridge(settings(top_k=None, schedule=schedule))
    bank = filled(stack, memory, tmp_path, order)
    answer = memory.ask(bank, QUESTION)
    assert [recall.chunk.doc_id for recall in answer.evidence] == ["film"]
    assert (answer.text, answer.found) == ("Not found in the documents.", False)


def test_a_refusal_opens_one_block_more_and_answers_again(
    stack: ExitStack, tmp_path: Path, order: list[Document]
) -> None:
    memory = bridge(settings(top_k=None, schedule="sequential", second_look=0.15))
    bank = filled(stack, memory, tmp_path, order)
    events = list(memory.stream(bank, QUESTION))
    answer = events[-1].answer
    assert (answer.text, answer.found, answer.grounded) == ("chief of protocol", True, True)
    assert [recall.chunk.doc_id for recall in answer.evidence] == ["film", "woman"]
    assert [note.chunk_id for note in answer.working_memory.notes] == ["film#0", "woman#0"]
    last = answer.trace.steps[-1]
    assert (last.round, last.chunk_id, last.opened, last.note) == (1, "woman#0", True, "She was chief of protocol.")
    assert "".join(event.text for event in events if isinstance(event, Token)) == answer.text
    # retrieval has no answer that could be refused
    assert [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION)] == ["film"]


def test_an_answer_reads_the_most_probable_blocks_left_and_a_search_does_not(
    stack: ExitStack, tmp_path: Path, order: list[Document]
) -> None:
    memory = bridge(settings(top_k=None, schedule="sequential", fill_tokens=200))
    bank = filled(stack, memory, tmp_path, order)
    read: list[list[str]] = []
    answer = memory.ask(bank, QUESTION, write=writing("chief of protocol", read))
    assert read == [["film", "woman", "noise"]]
    assert (answer.text, answer.found, answer.grounded) == ("chief of protocol", True, True)
    assert [recall.chunk.doc_id for recall in answer.evidence] == ["film", "woman", "noise"]
    # what was opened only to fill up was noted by no one, and led nowhere
    assert [note.chunk_id for note in answer.working_memory.notes] == ["film#0"]
    assert [(s.chunk_id, s.opened) for s in answer.trace.steps if s.opened] == [
        ("film#0", True),
        ("woman#0", True),
        ("noise#0", True),
    ]
    assert [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION)] == ["film"]


def test_looks_are_limited_for_an_answer_and_not_for_a_search(
    stack: ExitStack, tmp_path: Path, order: list[Document]
) -> None:
    memory = bridge(settings(top_k=None, schedule="best_first", max_looks=1))
    bank = filled(stack, memory, tmp_path, order)
    assert [recall.chunk.doc_id for recall in memory.ask(bank, QUESTION).evidence] == ["film"]
    assert [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION)] == ["film", "woman"]


def test_nothing_is_filled_up_where_nothing_was_found(stack: ExitStack, tmp_path: Path, order: list[Document]) -> None:
    memory = bridge(settings(top_k=None, schedule="best_first", fill_tokens=200))
    bank = filled(stack, memory, tmp_path, [order[0], order[2]])
    answer = memory.ask(bank, QUESTION)
    assert (answer.evidence, answer.found) == ((), False)


@pytest.mark.parametrize(
    "scan",
    [
        {"top_k": None, "schedule": "sequential", "second_look": 0.95},
        {"top_k": None, "schedule": "sequential", "second_look": 0.15, "max_open": 1},
        {"top_k": 1, "second_look": 0.15},
    ],
    ids=["nothing is probable enough", "no more may be open", "the number is exact"],
)
def test_there_is_no_second_look_where(stack: ExitStack, tmp_path: Path, order: list[Document], scan: dict) -> None:
    memory = bridge(settings(**scan))
    bank = filled(stack, memory, tmp_path, order)
    answer = memory.ask(bank, QUESTION)
    assert ([recall.chunk.doc_id for recall in answer.evidence], answer.found) == (["film"], False)


def test_whoever_writes_is_asked_again_after_the_second_look_and_never_more(
    stack: ExitStack, tmp_path: Path, order: list[Document]
) -> None:
    memory = bridge(settings(top_k=None, schedule="sequential", second_look=0.05))
    bank = filled(stack, memory, tmp_path, order)
    asked: list[list[str]] = []
    answer = memory.ask(bank, QUESTION, write=writing("not found", asked))
    assert (answer.text, answer.found) == ("Not found in the documents.", False)
    assert asked == [["film"], ["film", "woman"]]


def test_exactly_k_is_multi_hop_aware(stack: ExitStack, tmp_path: Path, order: list[Document]) -> None:
    memory = bridge(settings())
    bank = filled(stack, memory, tmp_path, order)
    assert [r.chunk.doc_id for r in memory.recall(bank, QUESTION, top_k=2)] == ["film", "woman"]
    assert len(memory.recall(bank, QUESTION, top_k=7)) == 3


def test_events_come_in_order_and_end_with_done(stack: ExitStack, tmp_path: Path, order: list[Document]) -> None:
    memory = bridge(settings(top_k=None))
    bank = filled(stack, memory, tmp_path, order)
    events = list(memory.stream(bank, QUESTION))
    kinds = [type(event) for event in events]
    assert kinds.index(Opened) < kinds.index(Noted) < kinds.index(Token)
    assert kinds.count(Done) == 1
    assert kinds[-1] is Done
    assert kinds[0] is Scored
    answer = events[-1].answer
    assert "".join(event.text for event in events if isinstance(event, Token)) == answer.text
    assert answer.usage.blocks_opened == 2
    assert answer.usage.blocks_total == 3
    assert answer.usage.seconds > 0
    assert answer.usage.bytes_per_source_token > 0
    assert [note.chunk_id for note in answer.working_memory.notes] == ["film#0", "woman#0"]


def test_filters_and_an_empty_bank_give_not_found(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory()
    bank = stack.enter_context(memory.open_bank(tmp_path / "b"))
    assert not memory.ask(bank, "anything?").found
    memory.ingest(bank, FACTS)
    answer = memory.ask(bank, "anything?", where=lambda doc_id, metadata: metadata["kind"] == "nothing")
    assert (answer.found, answer.evidence, answer.usage.blocks_scored) == (False, (), 0)
    (recall,) = memory.recall(bank, "anything?", where=lambda doc_id, metadata: doc_id == "woman")
    assert recall.text == FACTS[1].text


def test_verify_turns_an_ungrounded_answer_into_not_found(stack: ExitStack, tmp_path: Path) -> None:
    for readback, found in (("answer", True), ("verify", False)):
        config = settings().model_dump()
        config["reasoner"]["readback"] = readback
        config["gate"]["threshold"] = 0.0
        reasoner = ScriptedReasoner({}, lambda question, memory: "purple elephants")
        memory = tiny_memory(MemRecallConfig(**config), reasoner=reasoner)
        bank = stack.enter_context(memory.open_bank(tmp_path / readback))
        memory.ingest(bank, FACTS)
        answer = memory.ask(bank, "what?")
        assert (answer.found, answer.grounded) == (found, False)


def test_exactly_k_blocks_that_the_gate_does_not_believe_in_are_no_answer(stack: ExitStack, tmp_path: Path) -> None:
    notes = {document.text: document.id for document in FACTS}
    reasoner = ScriptedReasoner(notes, lambda question, memory: "something")
    for probability, found in ((0.4, False), (0.6, True)):
        gate = ScriptedGate(lambda question, memory, block, probability=probability: probability)
        memory = tiny_memory(settings(top_k=2), gate=gate, reasoner=reasoner)
        bank = stack.enter_context(memory.open_bank(tmp_path / str(found)))
        memory.ingest(bank, FACTS)
        answer = memory.ask(bank, "what?")
        assert (len(answer.evidence), answer.found) == (2, found)
        assert bool(answer.working_memory.notes) == found


def test_ingest_skips_what_is_there_and_replaces_what_changed(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory()
    bank = stack.enter_context(memory.open_bank(tmp_path / "b"))
    first = memory.ingest(bank, FACTS)
    assert (first.documents_added, first.chunks_compressed) == (3, 3)
    again = memory.ingest(bank, FACTS)
    assert (again.documents_unchanged, again.chunks_compressed) == (3, 0)
    changed = memory.ingest(bank, [Document("noise", "Bananas are green.", {})])
    assert (changed.documents_updated, changed.chunks_compressed) == (1, 1)
    assert [document.id for document in bank.documents()] == ["film", "woman", "noise"]


def test_an_interrupted_ingest_goes_on_where_it_stopped(stack: ExitStack, tmp_path: Path) -> None:
    text = " ".join(f"sentence number {number}." for number in range(400))
    memory = tiny_memory()
    bank = stack.enter_context(memory.open_bank(tmp_path / "b"))
    seen = []

    def interrupt(stage: str, done: int, total: int) -> None:
        seen.append(done)
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.ingest(bank, [Document("long", text)], progress=interrupt)
    assert len(bank) == 0
    bank.close()
    bank = stack.enter_context(memory.open_bank(tmp_path / "b"))
    report = memory.ingest(bank, [Document("long", text)])
    assert report.chunks_reused == 32
    assert report.chunks_reused + report.chunks_compressed == len(bank)
    assert "".join(chunk.text for chunk in bank.chunks()) == text
    assert (len(seen), seen[0]) == (2, 0)


def test_the_answer_from_disk_is_the_answer_from_memory(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory()
    bank = filled(stack, memory, tmp_path, FACTS)
    first = memory.ask(bank, "who?")
    bank.close()
    second = memory.ask(stack.enter_context(memory.open_bank(tmp_path / "b", read_only=True)), "who?")
    assert (first.text, first.trace, first.working_memory) == (second.text, second.trace, second.working_memory)


def test_mistakes_are_refused(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory(backbone=tiny_backbone(window=256))
    bank = filled(stack, memory, tmp_path, FACTS)
    with pytest.raises(InputError, match="empty"):
        memory.ask(bank, "  ")
    with pytest.raises(InputError, match="top_k"):
        memory.recall(bank, "who?", top_k=0)
    with pytest.raises(ContextOverflowError, match="256"):
        memory.ask(bank, "long " * 100)
    with pytest.raises(InputError):
        memory.ingest(bank, [Document("empty", " \n ")])
    assert len(bank.documents()) == 3
    other = tiny_memory(settings(), backbone=tiny_backbone(seed=5))
    with pytest.raises(FingerprintMismatchError, match="backbone"):
        other.open_bank(tmp_path / "b")
    with pytest.raises(ConfigError, match="bare backbone"):
        tiny_memory(MemRecallConfig(gate=GateConfig(kind="classifier")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_pipeline_refuses_another_backbone_in_the_place_of_its_own(tmp_path: Path, dtype: str) -> None:
    for seed in (3, 5):
        backbone = tiny_backbone(seed=seed)
        backbone.model.save_pretrained(tmp_path / "backbone")
        backbone.tokenizer.save_pretrained(tmp_path / "backbone")
        if seed == 3:
            MemRecall.from_pretrained(tmp_path / "backbone", config=settings()).save_pretrained(tmp_path / "saved")
            assert (
                MemRecall.from_pretrained(tmp_path / "saved", dtype=dtype).fingerprint["backbone"]
                == backbone.fingerprint
            )
    with pytest.raises(FingerprintMismatchError, match="was made for backbone"):
        MemRecall.from_pretrained(tmp_path / "saved", dtype=dtype)


def test_a_saved_pipeline_loads_and_scores_the_same(stack: ExitStack, tmp_path: Path) -> None:
    backbone = tiny_backbone(seed=3)
    backbone.model.save_pretrained(tmp_path / "backbone")
    backbone.tokenizer.save_pretrained(tmp_path / "backbone")
    plain = MemRecall.from_pretrained(tmp_path / "backbone", dtype="float32", config=settings(top_k=2))
    assert plain.fingerprint["backbone"] == backbone.fingerprint
    backbone = plain.parts.backbone
    adapter = LoraAdapter.create(plain.parts.backbone.model, ("q_proj",), rank=2, alpha=4)
    for _, second in adapter.deltas.values():
        torch.nn.init.normal_(second, generator=torch.Generator().manual_seed(0))
    gate = ClassifierGate(backbone, GateConfig(kind="classifier"), adapter, torch.ones(32), torch.tensor(0.1))
    config = settings(top_k=2).model_dump()
    config["gate"]["kind"] = "classifier"
    trained = tiny_memory(MemRecallConfig(**config | {"gate": GateConfig()}), gate=gate, backbone=plain.parts.backbone)
    trained.config = MemRecallConfig(**config)
    object.__setattr__(trained.parts, "config", trained.config)
    trained.save_pretrained(tmp_path / "saved")
    loaded = MemRecall.from_pretrained(tmp_path / "saved", dtype="float32")
    assert loaded.config == trained.config
    assert loaded.fingerprint == trained.fingerprint
    bank = stack.enter_context(trained.open_bank(tmp_path / "b"))
    trained.ingest(bank, FACTS)
    expected = [recall.gate_probability for recall in trained.recall(bank, "who?")]
    assert [recall.gate_probability for recall in loaded.recall(bank, "who?")] == expected
    (tmp_path / "saved" / "memrecall_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no saved pipeline"):
        MemRecall.from_pretrained(tmp_path / "saved")


def test_threads_share_one_backbone(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory()
    bank = filled(stack, memory, tmp_path, FACTS)
    expected = memory.ask(bank, "who?").text
    replies: list[str] = []
    threads = [threading.Thread(target=lambda: replies.append(memory.ask(bank, "who?").text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [expected] * 4


def test_a_bank_opens_without_a_model_for_inspection(stack: ExitStack, tmp_path: Path) -> None:
    memory = tiny_memory()
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, FACTS)
    with MemoryBank.open(tmp_path / "b") as opened:
        assert opened.fingerprint == memory.fingerprint
        opened.delete("noise")
        assert opened.verify() == 2


def test_a_published_checkpoint_loads_ingests_and_answers(stack: ExitStack, tmp_path: Path, shared: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((shared / "golden" / file).read_bytes())
    byte_tokenizer().save_pretrained(tmp_path)
    settings = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        compressor=CompressorConfig(kind="memory_tokens", layout="reference", compression_ratio=4, window=32),
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=4),
        gate=GateConfig(threshold=0.0),
    )
    memory = MemRecall.from_pretrained(tmp_path, dtype="float32", config=settings)
    assert memory.fingerprint["placement"] == "unrotated"
    bank = stack.enter_context(memory.open_bank(tmp_path / "b"))
    memory.ingest(bank, [Document("d", "text " * 30)])
    assert [block.extent for block in bank.blocks(bank.chunks())] == [16] * len(bank)
    answer = memory.ask(bank, "what?")
    assert len(answer.evidence) == len(bank)
    assert answer.usage.memory_tokens_read == sum(block.num_memory_tokens for block in bank.blocks(bank.chunks()))
    default = MemRecall.from_pretrained(tmp_path, dtype="float32")
    assert default.config.compressor == settings.compressor
    assert default.config.chunking.chunk_tokens == 64
    memory.save_pretrained(tmp_path / "saved")


def test_a_walk_is_a_stream_without_its_answer(stack: ExitStack, tmp_path: Path, order: list[Document]) -> None:
    memory = bridge(settings(top_k=None))
    bank = stack.enter_context(memory.open_bank(tmp_path / "bank"))
    memory.ingest(bank, order)
    *events, done = memory.walk(bank, QUESTION)
    whole = list(memory.stream(bank, QUESTION))
    assert events == whole[: len(events)]
    assert isinstance(whole[len(events)], Token)
    assert (done.answer.text, done.answer.found) == ("", True)
    assert done.answer.evidence == whole[-1].answer.evidence
    *_, nothing = memory.walk(bank, QUESTION, where=lambda *_: False)
    assert not nothing.answer.found


def test_another_model_may_write_the_answer(stack: ExitStack, tmp_path: Path, order: list[Document]) -> None:
    memory = bridge(settings(top_k=None))
    bank = stack.enter_context(memory.open_bank(tmp_path / "bank"))
    memory.ingest(bank, order)
    asked: list[tuple[str, str, list[str]]] = []

    def write(question: str, notes: WorkingMemory, recalls: Sequence[Recall]) -> Iterator[str]:
        asked.append((question, notes.text, [recall.chunk.doc_id for recall in recalls]))
        # a host's model may use the same backbone: it must not be locked meanwhile
        with ThreadPoolExecutor() as pool:
            pool.submit(memory.backbone.scheduler.call, lambda: None).result()
        yield from (" It", " was", " Somebody.")

    answer = memory.ask(bank, QUESTION, write=write)
    assert answer.text == "It was Somebody."
    assert answer.found
    assert not answer.grounded
    assert asked == [(QUESTION, answer.working_memory.text, [recall.chunk.doc_id for recall in answer.evidence])]
    nothing = memory.ask(bank, QUESTION, where=lambda *_: False, write=write)
    assert not nothing.found
    assert len(asked) == 1

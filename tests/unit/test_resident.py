"""Blocks that stay in memory: nothing is read twice that fits, nothing stays of what was deleted."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memrecall_kv import MemRecall
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.shards import open_bank
from memrecall_kv.config import ChunkingConfig, CompressorConfig, GateConfig, MemRecallConfig, ReasonerConfig
from memrecall_kv.errors import InputError
from memrecall_kv.recall.gate import AtRest, ClassifierGate
from memrecall_kv.recall.resident import ResidentBlocks
from memrecall_kv.testing import tiny_backbone, tiny_memory
from memrecall_kv.types import Chunk, Document

TEXTS = {"ada": "Ada lives in Oslo.", "ben": "Ben lives in Riga.", "cem": "Cem lives in Bonn."}
QUESTION = "who lives in Riga?"


def documents(*names: str) -> list[Document]:
    return [Document(name, TEXTS[name]) for name in names or TEXTS]


def judging(resident_bytes: int = 2**20, *, is_windowed: bool = True) -> MemRecall:
    """Return a pipeline with an untrained classifier, of a window of layers or of all."""
    settings = {"kind": "classifier", "threshold": 0.0, "resident_bytes": resident_bytes}
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        compressor=CompressorConfig(compression_ratio=2, importance="key_diff", budget="adaptive"),
        gate=GateConfig(**settings, layers=(1, 2) if is_windowed else None),
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
    )
    backbone = tiny_backbone()
    deltas = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=4)
    weight = torch.randn(backbone.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    window = LayerWindow(backbone.kv, 1, 2, start=65) if is_windowed else None
    gate = ClassifierGate(backbone, config.gate, deltas, weight, torch.tensor(0.1), window=window)
    plain = tiny_memory(config.model_copy(update={"gate": GateConfig()}), backbone=backbone)
    return MemRecall(replace(plain.parts, gate=gate, config=config))


def kept(memory: MemRecall) -> list[str]:
    """Return the first words of the texts whose blocks are in memory."""
    banks = memory._resident._banks.values()
    return sorted(text.split()[0] for own in banks for text in own.blocks)


def asked(memory: MemRecall, bank: MemoryBank, question: str = QUESTION) -> tuple[list[tuple[str, float]], int]:
    """Return what was opened with which probability, and the bytes that were read to judge."""
    walk = memory.begin(bank, question, top_k=1)
    next(walk.events())
    (first,) = walk.relevance.looks
    (read,) = (stage.bytes for stage in walk.stages.taken if stage.name == "judge")
    return sorted(first.items()), read


@pytest.mark.parametrize("is_windowed", [True, False])
def test_a_second_question_reads_no_block_again_and_judges_the_same(tmp_path: Path, is_windowed: bool) -> None:
    memory, forgetful = judging(is_windowed=is_windowed), judging(0, is_windowed=is_windowed)
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, documents())
        expected, read = asked(forgetful, bank)
        assert asked(forgetful, bank) == (expected, read)
        assert asked(memory, bank) == (expected, read)
        assert asked(memory, bank) == (expected, 0)
        other, none_read = asked(memory, bank, "where is Bonn?")
        assert none_read == 0
        assert other == asked(forgetful, bank, "where is Bonn?")[0] != expected


def test_what_was_deleted_leaves_memory_with_the_next_question(tmp_path: Path) -> None:
    memory = judging()
    with memory.open_bank(tmp_path / "bank") as bank, memory.open_bank(tmp_path / "other") as other:
        memory.ingest(bank, documents())
        memory.ingest(other, documents("ada"))
        for each in (bank, other):
            asked(memory, each)
        assert kept(memory) == ["Ada", "Ada", "Ben", "Cem"]
        bank.delete("ada")
        found, read = asked(memory, bank)
        assert ([chunk_id for chunk_id, _ in found], read) == (["ben#0", "cem#0"], 0)
        assert kept(memory) == ["Ada", "Ben", "Cem"]
        memory.ingest(bank, [Document("ben", TEXTS["cem"])])
        assert [probability for _, probability in asked(memory, bank)[0]] == pytest.approx([found[1][1]] * 2)
        assert kept(memory) == ["Ada", "Cem"]


def test_what_another_process_deleted_leaves_memory_too(tmp_path: Path) -> None:
    memory = judging()
    with memory.open_bank(tmp_path / "bank") as writer:
        memory.ingest(writer, documents())
        with memory.open_bank(tmp_path / "bank", read_only=True) as reader:
            asked(memory, reader)
            writer.delete("cem")
            assert len(asked(memory, reader)[0]) == 2
            assert kept(memory) == ["Ada", "Ben"]


def test_a_bank_that_is_let_go_leaves_nothing(tmp_path: Path) -> None:
    memory = judging()
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, documents())
        asked(memory, bank)
        assert memory._resident.nbytes > 0
    del bank
    gc.collect()
    assert memory._resident.nbytes == 0


def test_several_banks_as_one_are_kept_and_forgotten_alike(tmp_path: Path) -> None:
    memory = judging()
    for place, names in (("a", ("ada", "ben")), ("b", ("cem",))):
        with memory.open_bank(tmp_path / place) as bank:
            memory.ingest(bank, documents(*names))
    with open_bank([tmp_path / "a", tmp_path / "b"], read_only=True) as both:
        expected, _ = asked(memory, both)
        assert asked(memory, both) == (expected, 0)
        with memory.open_bank(tmp_path / "b") as bank:
            bank.delete("cem")
        assert asked(memory, both) == (expected[:2], 0)


class Making:
    """Makes blocks of chunks and counts."""

    def __init__(self, memory: MemRecall) -> None:
        self.memory, self.made = memory, list[str]()

    def __call__(self, chunks: Sequence[Chunk]) -> list[AtRest]:
        self.made += [chunk.doc_id for chunk in chunks]
        return list(self.memory.parts.compressor.compress(chunks))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    making = Making(tiny_memory())
    with making.memory.open_bank(tmp_path / "bank") as bank:
        making.memory.ingest(bank, documents())
        chunks = {chunk.doc_id: chunk for chunk in bank.chunks()}
        size = max(block.nbytes for block in bank.blocks(list(chunks.values())))
        resident = ResidentBlocks(2 * size)
        for name in ("ada", "ben", "ada", "cem", "ada", "ben"):
            (block,) = resident.of(bank, [chunks[name]], making)
            (expected,) = making.memory.parts.compressor.compress([chunks[name]])
            torch.testing.assert_close(block.keys, expected.keys)
            assert resident.nbytes <= 2 * size
        assert making.made == ["ada", "ben", "cem", "ben"]
        # more than fits is given all the same, and equal texts are made once
        found = resident.of(bank, [*chunks.values(), chunks["ada"]], making)
        assert found[0] is found[3]
        assert resident.nbytes <= 2 * size


def test_what_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    memory = judging()
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, documents())
        (gone,) = (chunk for chunk in bank.chunks() if chunk.doc_id == "ada")
        walk = memory.begin(bank, QUESTION)
        bank.delete("ada")
        with pytest.raises(InputError, match="ada"):
            walk.relevance.judge(QUESTION, walk.notes, [gone])
        assert memory._resident.nbytes == 0

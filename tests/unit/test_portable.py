"""A bank made in one float type is asked in another; what must match still must; foreign blocks are refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.bank import MemoryBank, digest
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.compress.compressor import Compressor
from memrecall_kv.compress.frozen_raw import FrozenRawLayout, MemoryTokenCompressor
from memrecall_kv.config import (
    BankConfig,
    ChunkingConfig,
    CompressorConfig,
    GateConfig,
    MemRecallConfig,
    ReasonerConfig,
    ScanConfig,
)
from memrecall_kv.errors import BlockCorruptError, FingerprintMismatchError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_backbone, tiny_memory
from memrecall_kv.types import Document, MemoryBlock

DTYPES = (torch.float32, torch.bfloat16)
BOTH_WAYS = [DTYPES, DTYPES[::-1]]
DOCUMENTS = [
    Document(name, f"The {name} house has a {name} door.") for name in ("red", "green", "blue", "amber", "violet")
]
QUESTION = "Which door has the violet house?"


def memory_in(
    dtype: torch.dtype, *, storage: str = "int8", ratio: int = 4, seed: int = 0, kind: str = "stride"
) -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        compressor=CompressorConfig(kind=kind, compression_ratio=ratio),
        bank=BankConfig(storage=storage),
        gate=GateConfig(threshold=0.0, lexical_weight=1.0),
        scan=ScanConfig(top_k=1),  # the house that is named; among the others a tiny model's odds are a tie
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
    )
    return tiny_memory(config, backbone=tiny_backbone(dtype=dtype, seed=seed))


def as_before(path: Path, **more: str) -> None:
    """Write into a bank's fingerprint what earlier releases wrote, before anything is ingested."""
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        meta = dict(database.execute("SELECT key, value FROM meta"))
        fingerprint = json.dumps({**json.loads(meta["fingerprint"]), **more})
        database.execute("UPDATE meta SET value = ? WHERE key = 'fingerprint'", (fingerprint,))
        proof = digest.of_bank(meta["bank"], fingerprint).hex()
        database.execute("UPDATE meta SET value = ? WHERE key = 'digest'", (proof,))


@pytest.mark.parametrize("is_old", [False, True], ids=["made today", "made by an earlier release"])
@pytest.mark.parametrize("storage", ["native", "int8", "int4", "k4v4", "k4v3"])
@pytest.mark.parametrize(("made", "asked"), BOTH_WAYS)
def test_a_bank_is_asked_in_another_float_type(
    tmp_path: Path, made: torch.dtype, asked: torch.dtype, storage: str, is_old: bool
) -> None:
    maker, asker = memory_in(made, storage=storage), memory_in(asked)
    maker.open_bank(tmp_path / "b").close()
    if is_old:
        as_before(tmp_path / "b", dtype=str(made).removeprefix("torch."), storage=storage)
    with maker.open_bank(tmp_path / "b") as bank:
        maker.ingest(bank, DOCUMENTS)
        expected = maker.recall(bank, QUESTION)
        blocks = bank.stats().blocks
    with asker.open_bank(tmp_path / "b") as bank:
        found = asker.recall(bank, QUESTION)
        assert [recall.chunk for recall in found] == [recall.chunk for recall in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.gate_probability == pytest.approx(other.gate_probability, abs=0.05)
        assert [recall.chunk for recall in asker.ask(bank, QUESTION).evidence] == [one.chunk for one in expected]
        # the texts' blocks are found: nothing is compressed again, and what is new is stored beside them
        report = asker.ingest(bank, DOCUMENTS)
        assert (report.documents_unchanged, report.chunks_compressed) == (len(DOCUMENTS), 0)
        asker.ingest(bank, [Document("copy", DOCUMENTS[0].text), Document("new", "A white house.")])
        assert bank.verify() == blocks + 1
    with maker.open_bank(tmp_path / "b") as bank:
        assert maker.recall(bank, "A white house?")[0].chunk.doc_id == "new"


@pytest.mark.parametrize(("made", "asked"), BOTH_WAYS)
def test_what_was_deferred_in_one_float_type_is_compressed_in_another(
    tmp_path: Path, made: torch.dtype, asked: torch.dtype
) -> None:
    maker, asker = memory_in(made), memory_in(asked)
    with maker.open_bank(tmp_path / "b") as bank:
        maker.ingest(bank, DOCUMENTS, defer=True)
    with asker.open_bank(tmp_path / "b") as bank:
        assert asker.recall(bank, QUESTION)[0].chunk.doc_id == "violet"
        assert not bank.deferred_documents()
    with maker.open_bank(tmp_path / "b") as bank:
        assert maker.ingest(bank, DOCUMENTS).chunks_compressed == 0


def learned(backbone: Backbone, seed: int = 0) -> Compressor:
    adapter = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=4)
    generator = torch.Generator().manual_seed(seed)
    # numbers that bfloat16 has to round
    deltas = {
        name: tuple(torch.randn(tensor.shape, generator=generator) for tensor in pair)
        for name, pair in sorted(adapter.deltas.items())
    }
    vector = torch.randn(32, generator=generator)
    layout = FrozenRawLayout(backbone, LoraAdapter(deltas, alpha=4), vector)
    return MemoryTokenCompressor(backbone, layout, CompressorConfig(kind="memory_tokens"))


@pytest.mark.parametrize(("made", "asked"), BOTH_WAYS)
def test_learned_weights_are_the_same_in_either_float_type_and_others_are_refused(
    tmp_path: Path, made: torch.dtype, asked: torch.dtype
) -> None:
    def with_lora(dtype: torch.dtype, seed: int = 0) -> MemRecall:
        parts = memory_in(dtype).parts
        return MemRecall(replace(parts, compressor=learned(parts.backbone, seed)))

    maker, asker, other = with_lora(made), with_lora(asked), with_lora(asked, seed=1)
    with maker.open_bank(tmp_path / "b") as bank:
        maker.ingest(bank, DOCUMENTS)
    with asker.open_bank(tmp_path / "b") as bank:
        assert len(asker.recall(bank, QUESTION)) == 1
    with pytest.raises(FingerprintMismatchError, match=r"compressor: bank .memory_tokens:\S+, yours .memory_tokens:"):
        other.open_bank(tmp_path / "b")


@pytest.mark.parametrize("is_old", [False, True], ids=["made today", "made by an earlier release"])
@pytest.mark.parametrize("asked", DTYPES)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "backbone: bank 'Llama.*', yours 'Llama"),
        ({"ratio": 8}, "compression_ratio: bank '4', yours '8'"),
        ({"kind": "pool"}, "compressor: bank 'stride', yours 'pool'"),
    ],
)
def test_what_matters_is_still_refused(
    tmp_path: Path, asked: torch.dtype, changed: dict, message: str, is_old: bool
) -> None:
    memory_in(torch.float32).open_bank(tmp_path / "b").close()
    if is_old:
        as_before(tmp_path / "b", dtype="float32", storage="int8")
    with pytest.raises(FingerprintMismatchError, match=message) as refused:
        memory_in(asked, **changed).open_bank(tmp_path / "b")
    assert "dtype" not in str(refused.value)


def foreign(keys: torch.Tensor, extent: int = 64) -> Callable[[object], list[MemoryBlock]]:
    positions = torch.arange(keys.shape[2], dtype=torch.int32)[None, None]
    return lambda chunks: [MemoryBlock(keys, keys, positions, extent, extent) for _ in chunks]


@pytest.mark.parametrize("storage", ["native", "int8", "k4v3"])
@pytest.mark.parametrize(
    "shape", [(3, 2, 4, 8), (1, 2, 4, 8), (2, 1, 4, 8), (2, 4, 4, 8), (2, 2, 4, 4), (2, 2, 4, 16), (90, 1, 4, 1)]
)
def test_a_block_of_another_shape_is_refused_before_it_is_read(
    tmp_path: Path, shape: tuple[int, ...], storage: str
) -> None:
    memory = memory_in(torch.float32, storage=storage)
    with memory.open_bank(tmp_path / "b") as bank:
        for document in DOCUMENTS:
            chunks = memory.chunk(document)
            blocks = foreign(torch.randn(shape))(chunks)
            bank.put_blocks(list(zip(chunks, blocks, strict=True)))
            bank.put_document(document, chunks)
        for ask in (memory.recall, memory.ask):
            with pytest.raises(BlockCorruptError, match="expected 2 layers of 2 heads of 8 numbers, got"):
                ask(bank, QUESTION)
        assert bank.verify() == len(DOCUMENTS)


def test_a_block_that_takes_more_positions_than_the_backbone_has_is_refused(tmp_path: Path) -> None:
    memory = memory_in(torch.float32)
    with memory.open_bank(tmp_path / "b") as bank:
        (chunk,) = memory.chunk(DOCUMENTS[0])
        block = MemoryBlock(*[torch.randn(2, 2, 1, 8)] * 2, torch.tensor([[[2**30]]], dtype=torch.int32), 2**30 + 1, 8)
        bank.put_blocks([(chunk, block)])
        bank.put_document(DOCUMENTS[0], [chunk])
        with pytest.raises(BlockCorruptError, match="takes 1073741825 positions, but the backbone has 4096"):
            memory.recall(bank, QUESTION)


def test_native_numbers_that_the_askers_float_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    memory = memory_in(torch.bfloat16, storage="native")
    with memory.open_bank(tmp_path / "b") as bank:
        (chunk,) = memory.chunk(DOCUMENTS[0])
        (block,) = foreign(torch.full((2, 2, 4, 8), torch.finfo(torch.float32).max))([chunk])
        bank.put_blocks([(chunk, block)])
        bank.put_document(DOCUMENTS[0], [chunk])
        with pytest.raises(BlockCorruptError, match="holds numbers that the backbone's bfloat16 cannot"):
            memory.recall(bank, QUESTION)


def test_stored_blocks_come_in_the_askers_float_type(tmp_path: Path) -> None:
    memory = memory_in(torch.bfloat16)
    seen: list[torch.dtype] = []

    class Watching:
        def score(self, question: str, notes: object, blocks: list[MemoryBlock]) -> list[float]:
            seen.extend(block.keys.dtype for block in blocks)
            return [0.5] * len(blocks)

    with memory_in(torch.float32).open_bank(tmp_path / "b") as bank:
        memory_in(torch.float32).ingest(bank, DOCUMENTS)
    watched = MemRecall(replace(memory.parts, gate=Watching()))
    with MemoryBank.open(tmp_path / "b", fingerprint=memory.fingerprint, read_only=True) as bank:
        watched.recall(bank, QUESTION)
    assert set(seen) == {torch.bfloat16}

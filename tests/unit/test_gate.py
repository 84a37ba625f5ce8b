"""Gates: probabilities, the working memory's part in them, and weights that come back from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, GateConfig
from memrecall_kv.errors import ContextOverflowError, InputError
from memrecall_kv.recall import gate as gates
from memrecall_kv.recall.gate import ClassifierGate, Gate, LikelihoodGate
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, MemoryBlock, Note, WorkingMemory


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("mistral")


@pytest.fixture(scope="module")
def blocks(backbone: Backbone) -> list[MemoryBlock]:
    chunks = [Chunk("d", index, 0, 1, "some text " * (index + 1), 1) for index in range(5)]
    return OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress(chunks)


def classifier(backbone: Backbone, config: GateConfig | None = None) -> ClassifierGate:
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "o_proj"), rank=2, alpha=4)
    generator = torch.Generator().manual_seed(0)
    for _, second in adapter.deltas.values():
        torch.nn.init.normal_(second, generator=generator)
    return ClassifierGate(
        backbone, config or GateConfig(), adapter, torch.randn(32, generator=generator), torch.tensor(0.5)
    )


@pytest.fixture(scope="module", params=["likelihood", "classifier"])
def gate(request: pytest.FixtureRequest, backbone: Backbone) -> Gate:
    config = GateConfig(batch_size=3, bias=0.0)
    return LikelihoodGate(backbone, config) if request.param == "likelihood" else classifier(backbone, config)


def test_scores_are_probabilities_one_per_block(gate: Gate, blocks: list[MemoryBlock]) -> None:
    scores = gate.score("which?", WorkingMemory(), blocks)
    assert len(scores) == 5
    assert all(0.0 < score < 1.0 for score in scores)
    assert len(set(scores)) == 5
    assert gate.score("which?", WorkingMemory(), []) == []


def test_the_order_of_blocks_is_the_order_of_scores(gate: Gate, blocks: list[MemoryBlock]) -> None:
    forward = gate.score("which?", WorkingMemory(), blocks)
    backward = gate.score("which?", WorkingMemory(), blocks[::-1])
    assert forward == pytest.approx(backward[::-1], abs=1e-6)


def test_question_and_memory_both_change_the_score(gate: Gate, blocks: list[MemoryBlock]) -> None:
    plain = gate.score("which?", WorkingMemory(), blocks)
    assert gate.score("who?", WorkingMemory(), blocks) != pytest.approx(plain, abs=1e-4)
    learned = WorkingMemory((Note("some text", "d#0"),))
    assert gate.score("which?", learned, blocks) != pytest.approx(plain, abs=1e-4)


def test_a_block_of_zeros_scores_differently(gate: Gate, blocks: list[MemoryBlock]) -> None:
    block = blocks[2]
    empty = MemoryBlock(block.keys * 0, block.values * 0, block.positions, block.extent, block.num_source_tokens)
    scores = gate.score("which?", WorkingMemory(), [block, empty])
    assert abs(scores[0] - scores[1]) > 1e-3


def test_reading_a_question_in_pieces_changes_no_score(
    gate: Gate, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [Chunk("d", index, 0, 1, "some text " * (index + 1), 1) for index in range(4)]
    by_head = CompressorConfig(compression_ratio=2, budget="adaptive")
    for config in (CompressorConfig(compression_ratio=2), by_head):
        blocks = OperatorCompressor(backbone, config).compress(chunks)
        notes = WorkingMemory((Note("text", "d#0"),))
        whole = gate.score("which of them all?", notes, blocks)
        with monkeypatch.context() as patch:
            patch.setattr(gates, "_AT_ONCE", 7)
            patch.setattr(gates, "_PIECE", 7)
            assert gate.score("which of them all?", notes, blocks) == pytest.approx(whole, abs=1e-5)


def test_a_question_longer_than_the_window_is_refused(gate: Gate, blocks: list[MemoryBlock]) -> None:
    with pytest.raises(ContextOverflowError, match="4096"):
        gate.score("x" * 5000, WorkingMemory(), blocks[:1])


def test_the_backbone_is_untouched_after_scoring(backbone: Backbone, blocks: list[MemoryBlock]) -> None:
    ids = torch.tensor([backbone.encode("the same?")])
    before = backbone.model(input_ids=ids).logits
    classifier(backbone).score("which?", WorkingMemory(), blocks)
    assert torch.equal(before, backbone.model(input_ids=ids).logits)


def test_a_saved_gate_scores_the_same(backbone: Backbone, blocks: list[MemoryBlock], tmp_path: Path) -> None:
    gate = classifier(backbone)
    gate.save(tmp_path)
    loaded = ClassifierGate.from_directory(backbone, GateConfig(), tmp_path)
    assert loaded.score("which?", WorkingMemory(), blocks) == gate.score("which?", WorkingMemory(), blocks)
    with pytest.raises(InputError, match="holds no gate"):
        ClassifierGate.from_directory(backbone, GateConfig(), tmp_path / "nothing")


def test_an_adapter_of_another_backbone_is_refused(backbone: Backbone, blocks: list[MemoryBlock]) -> None:
    adapter = LoraAdapter({"model.layers.9.self_attn.q_proj": (torch.ones(2, 32), torch.ones(32, 2))}, alpha=2)
    gate = ClassifierGate(backbone, GateConfig(), adapter, torch.ones(32), torch.tensor(0.0))
    with pytest.raises(InputError, match=r"layers\.9"):
        gate.score("which?", WorkingMemory(), blocks)


def test_the_mean_of_adapters_is_the_mean_of_their_weights(backbone: Backbone) -> None:
    one, other = (
        LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=6.0, seed=seed).half() for seed in (1, 2)
    )
    mean = LoraAdapter.mean([one, one, other])
    for name, pair in mean.deltas.items():
        for place, tensor in enumerate(pair):
            wanted = (2 * one.deltas[name][place].float() + other.deltas[name][place].float()) / 3
            torch.testing.assert_close(tensor, wanted)
    assert mean.alpha == one.alpha


@pytest.mark.parametrize("changes", [{"rank": 4}, {"alpha": 2.0}, {"targets": ("k_proj",)}])
def test_adapters_that_do_not_match_have_no_mean(backbone: Backbone, changes: dict) -> None:
    settings = {"targets": ("q_proj",), "rank": 2, "alpha": 6.0}
    pair = [LoraAdapter.create(backbone.model, **{**settings, **change}) for change in ({}, changes)]
    with pytest.raises(InputError, match="same layers, rank and scale"):
        LoraAdapter.mean(pair)
    with pytest.raises(InputError, match="got none"):
        LoraAdapter.mean([])


def test_a_lora_adapter_is_merging_into_the_weight(backbone: Backbone, tmp_path: Path) -> None:
    """Hooks give what PEFT's merged weight gives: W + alpha/r * B A."""
    name = "model.layers.0.self_attn.q_proj"
    adapter = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=6.0, seed=1)
    first, _ = adapter.deltas[name]
    second = torch.randn(32, 2, generator=torch.Generator().manual_seed(2))
    adapter.deltas[name] = (first, second)
    module = backbone.model.get_submodule(name)
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(3))
    with adapter.active(backbone.model):
        hooked = module(x)
    merged = torch.nn.functional.linear(x, module.weight + 3.0 * second @ first)
    torch.testing.assert_close(hooked, merged)
    assert torch.equal(module(x), torch.nn.functional.linear(x, module.weight))
    adapter.save(tmp_path, base_model="tiny")
    assert LoraAdapter.from_directory(tmp_path).digest == adapter.digest
    with pytest.raises(InputError, match="no LoRA adapter"):
        LoraAdapter.from_directory(tmp_path / "nothing")

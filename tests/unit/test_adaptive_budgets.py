"""Heads may keep different numbers of memory tokens; what is padding is never read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.compress.importance import reconstruction
from memrecall_kv.compress.operators import operate
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import ConfigError, InputError
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, Document, MemoryBlock

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
ROWS = [[*range(40, 80)], [*range(90, 117)], [7]]
QUESTION = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


def adaptive(backbone: Backbone, ratio: int, importance: str = "reconstruction", **options: float) -> list[MemoryBlock]:
    config = CompressorConfig(importance=importance, budget="adaptive", compression_ratio=ratio, **options)
    with torch.inference_mode():
        return operate(backbone, backbone.kv.prefill(ROWS), ROWS, config)


def read(backbone: Backbone, *blocks: MemoryBlock) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.kv.forward(backbone.kv.place([list(blocks)]), ids=QUESTION)[0]


@pytest.mark.parametrize("importance", ["reconstruction", "key_diff", "key_norm"])
@pytest.mark.parametrize("ratio", [2, 4])
def test_a_block_is_as_large_as_with_uniform_budgets(backbone: Backbone, importance: str, ratio: int) -> None:
    for row, block in zip(ROWS, adaptive(backbone, ratio, importance, budget_floor=0.2), strict=True):
        kept = math.ceil(len(row) / ratio)
        assert int(block.counts.sum()) == kept * 2 * 2
        assert int(block.counts.min()) >= max(1, round(0.2 * kept))
        assert int(block.counts.max()) == block.width
        assert block.num_memory_tokens == kept
    assert len(adaptive(backbone, ratio, importance)[0].counts.unique()) > 1


def test_ratio_one_is_the_text_itself(backbone: Backbone) -> None:
    with torch.inference_mode():
        whole = operate(backbone, backbone.kv.prefill(ROWS), ROWS, CompressorConfig(compression_ratio=1))
    for one, other in zip(adaptive(backbone, 1), whole, strict=True):
        torch.testing.assert_close(read(backbone, one), read(backbone, other), atol=1e-5, rtol=0)


def test_padding_is_never_read(backbone: Backbone) -> None:
    block = adaptive(backbone, 4)[0]
    padding = torch.arange(block.width) >= block.counts[..., None]
    assert bool(padding.any())
    noisy = replace(
        block,
        keys=block.keys.masked_fill(padding[..., None], 9.0),
        values=block.values.masked_fill(padding[..., None], 9.0),
    )
    assert torch.equal(read(backbone, noisy), read(backbone, block))
    changed = replace(block, values=block.values.masked_fill(~padding[..., None], 9.0))
    assert (read(backbone, changed) - read(backbone, block)).norm() > 0.1


def test_each_head_reads_exactly_what_it_kept(backbone: Backbone) -> None:
    block = adaptive(backbone, 4)[0]
    width = int(block.counts.min())
    uniform = MemoryBlock(
        block.keys[:, :, :width], block.values[:, :, :width], block.positions[:, :, :width], block.extent, 40
    )
    counted = replace(block, counts=torch.full_like(block.counts, width))
    torch.testing.assert_close(read(backbone, counted), read(backbone, uniform), atol=1e-5, rtol=0)


def test_adaptive_blocks_compose_in_a_batch_with_others(backbone: Backbone) -> None:
    one, other, _ = adaptive(backbone, 2)
    with torch.inference_mode():
        whole = operate(backbone, backbone.kv.prefill(ROWS), ROWS, CompressorConfig(compression_ratio=1))[0]
        rows = [[one, other], [whole], []]
        together = backbone.kv.forward(backbone.kv.place(rows), ids=QUESTION.expand(3, -1))
        for row, hidden in zip(rows, together, strict=True):
            torch.testing.assert_close(hidden, read(backbone, *row), atol=1e-5, rtol=0)


def test_reading_on_token_by_token_is_reading_at_once(backbone: Backbone) -> None:
    block = adaptive(backbone, 4)[0]
    with torch.inference_mode():
        state = backbone.kv.place([[block]])
        steps = [backbone.kv.forward(state, ids=QUESTION[:, place : place + 1])[0, 0] for place in range(4)]
    torch.testing.assert_close(torch.stack(steps), read(backbone, block), atol=1e-5, rtol=0)


def test_reconstruction_scores_are_the_attention_of_a_plain_forward() -> None:
    backbone = tiny_backbone("llama", attention="eager")
    row = ROWS[0]
    with torch.inference_mode():
        scores = reconstruction(backbone, backbone.kv.prefill([row]), [row])
        lead = backbone.encode("\n\nRepeat the previous context:\n")
        ids = torch.tensor([[backbone.sink_id, *row, *lead, *row]])
        attentions = backbone.model(input_ids=ids, output_attentions=True).attentions
    after, size = 1 + len(row), len(row)
    weights = torch.stack([layer[0, :, after:, 1 : 1 + size].amax(dim=1) for layer in attentions])  # [L, H, T]
    expected = weights.view(2, 2, 2, size).amax(dim=2).log()
    torch.testing.assert_close(scores[:, 0], expected, atol=0.011, rtol=0)


def test_watching_leaves_the_backbone_as_it_was() -> None:
    backbone = tiny_backbone("llama")
    before = read(backbone, adaptive(backbone, 2)[0])
    assert backbone.model.config._attn_implementation == "sdpa"
    assert all(not layer.self_attn._forward_hooks for layer in backbone.model.model.layers)
    assert all(not layer.self_attn._forward_pre_hooks for layer in backbone.model.model.layers)
    assert torch.equal(before, read(backbone, adaptive(backbone, 2)[0]))


@st.composite
def ragged(draw: st.DrawFn) -> MemoryBlock:
    layers, heads, width, dim = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 70)), 5)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    keys, values = torch.randn(2, layers, heads, width, dim, generator=generator)
    counts = torch.randint(1, width + 1, (layers, heads), generator=generator, dtype=torch.int32)
    counts[0, 0] = width
    positions = torch.arange(width, dtype=torch.int32).expand(layers, heads, width)
    real = torch.arange(width) < counts[..., None]
    return MemoryBlock(keys * real[..., None], values * real[..., None], positions * real, width, width, counts=counts)


@pytest.mark.parametrize("storage", ["native", "int8", "int4", "k4v4", "k4v3"])
@settings(max_examples=40, deadline=None)
@given(made=ragged())
def test_only_real_memory_tokens_are_stored_and_they_come_back(storage: str, made: MemoryBlock) -> None:
    stored = quantize(made, storage)
    total = int(made.counts.sum())
    codes = stored.tensors["values"]
    packed = {
        "int4": math.ceil(total * 5 / 2),
        "k4v4": 4 * math.ceil(total * 5 / 8),
        "k4v3": 3 * math.ceil(total * 5 / 8),
    }
    assert codes.numel() == packed.get(storage, total * 5)
    got = dequantize(stored)
    assert torch.equal(got.counts, made.counts)
    assert torch.equal(got.positions, made.positions)
    bound = {"native": 0.0, "int8": 0.02, "int4": 0.3, "k4v4": 0.3, "k4v3": 0.5}[storage]
    real = torch.arange(made.width) < made.counts[..., None]
    for before, after in ((made.keys, got.keys), (made.values, got.values)):
        assert float((before - after)[real].abs().max()) <= bound
        assert before.shape == after.shape


def test_a_bank_gives_adaptive_blocks_back(backbone: Backbone, tmp_path: Path) -> None:
    text = "x" * 40
    chunk = Chunk("d", 0, 0, 40, text, 40)
    block = adaptive(backbone, 4)[0]
    with MemoryBank.open(tmp_path / "bank", fingerprint={"made": "by hand"}) as bank:
        bank.put_blocks([(chunk, block)])
        bank.put_document(Document(id="d", text=text), [chunk])
        (got,) = bank.blocks([chunk])
        assert bank.stats().memory_tokens == block.num_memory_tokens
        assert torch.equal(got.counts, block.counts)
        gap = (read(backbone, got) - read(backbone, block)).norm() / read(backbone, block).norm()
        assert gap < 0.05
        bad = replace(block, counts=torch.zeros_like(block.counts))
        with pytest.raises(InputError, match="counts"):
            bank.put_blocks([(Chunk("d", 1, 0, 40, text, 40), bad)])


def test_adaptive_needs_scores_that_differ_by_head() -> None:
    with pytest.raises(ConfigError, match="adaptive"):
        CompressorConfig(importance="surprisal", budget="adaptive")
    with pytest.raises(ConfigError, match="adaptive"):
        CompressorConfig(kind="stride", budget="adaptive")

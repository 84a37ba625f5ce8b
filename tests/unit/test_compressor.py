"""Every compressor keeps the same promises; each operator does what its name says."""

from __future__ import annotations

import math

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.compressor import Compressor
from memrecall_kv.compress.frozen_raw import FrozenRawLayout, MemoryTokenCompressor
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import ConfigError, ContextOverflowError, InputError
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, MemoryBlock

TEXTS = ["a", "two words", "A sentence of some length, with 12 numbers.", "日本語 and עברית", "x" * 63]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("qwen3")


def chunks(texts: list[str]) -> list[Chunk]:
    return [Chunk("d", index, 0, len(text), text, len(text.encode())) for index, text in enumerate(texts)]


def learned(backbone: Backbone, config: CompressorConfig) -> MemoryTokenCompressor:
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "v_proj"), rank=2, alpha=4)
    for _, second in adapter.deltas.values():
        torch.nn.init.normal_(second, generator=torch.Generator().manual_seed(1))
    return MemoryTokenCompressor(backbone, FrozenRawLayout(backbone, adapter, torch.zeros(32)), config)


TABLE = [
    ("stride", {}),
    ("pool", {}),
    ("select", {"importance": "key_norm"}),
    ("select", {"importance": "key_diff"}),
    ("select", {"importance": "surprisal"}),
    ("select", {"importance": "reconstruction"}),
    ("hybrid", {"importance": "key_diff"}),
    ("hybrid", {"importance": "surprisal"}),
    ("memory_tokens", {}),
]


def make(backbone: Backbone, kind: str, options: dict, ratio: int) -> Compressor:
    config = CompressorConfig(kind=kind, compression_ratio=ratio, **options)
    return learned(backbone, config) if kind == "memory_tokens" else OperatorCompressor(backbone, config)


def close(one: MemoryBlock, other: MemoryBlock) -> None:
    torch.testing.assert_close(one.keys, other.keys, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=0)
    assert torch.equal(one.positions, other.positions)
    assert (one.extent, one.num_source_tokens) == (other.extent, other.num_source_tokens)


@pytest.mark.parametrize(("kind", "options"), TABLE)
@pytest.mark.parametrize("ratio", [1, 2, 4, 1000])
def test_blocks_have_the_promised_shape_and_do_not_depend_on_the_batch(
    backbone: Backbone, kind: str, options: dict, ratio: int
) -> None:
    compressor = make(backbone, kind, options, ratio)
    together = compressor.compress(chunks(TEXTS))
    for text, block in zip(TEXTS, together, strict=True):
        size = len(text.encode())
        assert block.keys.shape == block.values.shape == (2, 2, math.ceil(size / ratio), 8)
        assert (block.extent, block.num_source_tokens) == (size, size)
        assert bool(((block.positions >= 0) & (block.positions < size)).all())
        assert bool(block.keys.isfinite().all())
        close(compressor.compress(chunks([text]))[0], block)


@pytest.mark.parametrize(("kind", "options"), TABLE[:-1])
def test_ratio_one_is_the_text_itself(backbone: Backbone, kind: str, options: dict) -> None:
    text = "the whole text"
    (block,) = make(backbone, kind, options, 1).compress(chunks([text]))
    question = backbone.encode(" and?")
    with torch.inference_mode():
        hidden = backbone.kv.forward(backbone.kv.place([[block]]), ids=torch.tensor([question]))
        ids = torch.tensor([[backbone.sink_id, *backbone.encode(text), *question]])
        expected = backbone.kv.forward(backbone.kv.start(1), ids=ids)[:, -len(question) :]
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)


def test_select_keeps_the_best_tokens_and_hybrid_keeps_half_of_them(backbone: Backbone) -> None:
    text = "some words that differ a lot"
    full = make(backbone, "select", {"importance": "key_norm"}, 1).compress(chunks([text]))[0]
    norms = full.keys.norm(dim=-1)
    (chosen,) = make(backbone, "select", {"importance": "key_norm"}, 4).compress(chunks([text]))
    kept = chosen.keys.norm(dim=-1)
    torch.testing.assert_close(kept.sort(dim=-1).values, norms.sort(dim=-1).values[..., : kept.shape[-1]])
    (mixed,) = make(backbone, "hybrid", {"importance": "key_norm"}, 4).compress(chunks([text]))
    half = (kept.shape[-1] + 1) // 2
    torch.testing.assert_close(
        mixed.keys[:, :, :half].norm(dim=-1).sort(dim=-1).values, kept.sort(dim=-1).values[..., :half]
    )


def test_pool_averages_groups_and_stride_takes_their_last_token(backbone: Backbone) -> None:
    text = "abcdefgh"
    full = make(backbone, "stride", {}, 1).compress(chunks([text]))[0]
    (pooled,) = make(backbone, "pool", {}, 4).compress(chunks([text]))
    torch.testing.assert_close(pooled.values[:, :, 0], full.values[:, :, :4].mean(dim=2))
    (strided,) = make(backbone, "stride", {}, 4).compress(chunks([text]))
    torch.testing.assert_close(strided.keys, full.keys[:, :, [3, 7]])
    assert strided.positions.flatten().tolist() == [3, 7]


def test_the_raw_pass_of_the_learned_compressor_is_the_untouched_backbone(backbone: Backbone) -> None:
    ids = torch.tensor([backbone.encode("is it still the same?")])
    before = backbone.model(input_ids=ids).logits
    compressor = make(backbone, "memory_tokens", {}, 2)
    compressor.compress(chunks(TEXTS))
    assert torch.equal(before, backbone.model(input_ids=ids).logits)


def test_gradient_reaches_the_learned_weights_through_the_block(backbone: Backbone) -> None:
    compressor = make(backbone, "memory_tokens", {}, 2)
    # the last layer's queries shape only its output, which no block holds: values are what every layer hands on
    deltas = compressor.layout.adapter.deltas.items()
    weights = [tensor.requires_grad_() for name, pair in deltas if name.endswith("v_proj") for tensor in pair]
    (block,) = compressor.layout.compress([backbone.encode("text to learn")], 2)
    hidden = backbone.kv.forward(backbone.kv.place([[block]]), ids=torch.tensor([backbone.encode("?")]))
    hidden.square().sum().backward()
    assert all(tensor.grad is not None and float(tensor.grad.abs().sum()) > 0 for tensor in weights)


def test_an_adapter_of_zeros_reads_like_the_backbone_at_the_same_places(backbone: Backbone) -> None:
    """With B zero, a memory token over one raw token is that token read once more."""
    adapter = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=4)
    layout = FrozenRawLayout(backbone, adapter, torch.zeros(32))
    ids = backbone.encode("abc")
    with torch.inference_mode():
        (block,) = layout.compress([ids], 1)
        raw = backbone.kv.prefill([ids])
    # layer 0 sees only embedding and position; deeper layers also see the token twice
    torch.testing.assert_close(block.values[0], raw.values[0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(block.keys[0], raw.keys[0, 0], atol=1e-4, rtol=0)


def test_mistakes_are_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="no tokens"):
        OperatorCompressor(backbone, CompressorConfig()).compress(chunks([""]))
    with pytest.raises(InputError, match="memory_tokens"):
        OperatorCompressor(backbone, CompressorConfig(kind="memory_tokens"))
    with pytest.raises(ConfigError, match="compression_ratio"):
        CompressorConfig(compression_ratio=0)
    short = tiny_backbone(window=16)
    with pytest.raises(ContextOverflowError, match="16"):
        OperatorCompressor(short, CompressorConfig()).compress(chunks(["x" * 40]))

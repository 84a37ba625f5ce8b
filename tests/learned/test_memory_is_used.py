"""The memory is used: right blocks answer, and swapped, zeroed or ignored ones fall to chance."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import generate
from memrecall_kv.backbone.loading import wrap_backbone
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, GateConfig
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, MemoryBlock, WorkingMemory

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZE = 12
CHANCE = 1 / len(LETTERS)


def word(generator: random.Random) -> str:
    return "".join(generator.choice(LETTERS) for _ in range(SIZE))


@pytest.fixture(scope="module")
def copier() -> Backbone:
    """A tiny backbone that has learned to repeat what stands before the bar."""
    backbone = tiny_backbone(hidden_size=64, intermediate_size=128, initializer_range=0.02, seed=1)
    train(backbone, steps=400)
    # anew: what a backbone keeps, the sink for one, is of the weights it was wrapped with
    return wrap_backbone(backbone.model, backbone.tokenizer, backbone.name)


def train(backbone: Backbone, steps: int) -> None:
    generator = random.Random(0)
    model = backbone.model.requires_grad_(requires_grad=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for _ in range(steps):
        rows = [[backbone.sink_id, *backbone.encode(f"{text}|{text}")] for text in (word(generator) for _ in range(32))]
        ids = torch.tensor(rows)
        logits = model(input_ids=ids).logits[:, SIZE + 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, SIZE + 2 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(requires_grad=False)


def blocks_of(backbone: Backbone, texts: list[str], ratio: int = 1) -> list[MemoryBlock]:
    chunks = [Chunk("d", index, 0, SIZE, text, SIZE) for index, text in enumerate(texts)]
    return OperatorCompressor(backbone, CompressorConfig(compression_ratio=ratio, importance="key_norm")).compress(
        chunks
    )


def accuracy(backbone: Backbone, rows: list[list[MemoryBlock]], texts: list[str]) -> float:
    """Share of letters repeated right after reading only the blocks and a bar."""
    with torch.inference_mode():
        state = backbone.kv.place(rows)
    steps = list(generate(backbone, state, [backbone.encode("|")] * len(texts), SIZE))
    said = [
        "".join(backbone.decode([step[row]]) for step in steps if step[row] is not None) for row in range(len(texts))
    ]
    right = sum(a == b for text, reply in zip(texts, said, strict=True) for a, b in zip(text, reply, strict=False))
    return right / (SIZE * len(texts))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = random.Random(99)
    return [word(generator) for _ in range(24)]


def test_the_right_block_is_read(copier: Backbone, texts: list[str]) -> None:
    assert accuracy(copier, [[block] for block in blocks_of(copier, texts)], texts) > 0.95


def test_another_documents_block_answers_no_better_than_chance(copier: Backbone, texts: list[str]) -> None:
    swapped = blocks_of(copier, [*texts[1:], texts[0]])
    assert accuracy(copier, [[block] for block in swapped], texts) < 3 * CHANCE


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_zeroed_block_answers_no_better_than_chance(copier: Backbone, texts: list[str], part: str) -> None:
    zeroed = [replace(block, **{part: torch.zeros_like(getattr(block, part))}) for block in blocks_of(copier, texts)]
    assert accuracy(copier, [[block] for block in zeroed], texts) < 3 * CHANCE


def test_without_a_block_there_is_only_chance(copier: Backbone, texts: list[str]) -> None:
    assert accuracy(copier, [[] for _ in texts], texts) < 3 * CHANCE


def test_half_the_memory_tokens_still_tell_more_than_another_documents_block(
    copier: Backbone, texts: list[str]
) -> None:
    half = [[block] for block in blocks_of(copier, texts, ratio=2)]
    swapped = [half[-1], *half[:-1]]
    assert accuracy(copier, half, texts) > accuracy(copier, swapped, texts) + 0.1


def test_permuting_memory_tokens_with_their_positions_changes_nothing(copier: Backbone, texts: list[str]) -> None:
    block = blocks_of(copier, texts[:1])[0]
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))
    positions = block.positions.expand(*block.keys.shape[:3])
    permuted = replace(
        block, keys=block.keys[:, :, order], values=block.values[:, :, order], positions=positions[:, :, order]
    )
    ids = torch.tensor([copier.encode("|abc")])
    with torch.inference_mode():
        hidden = [copier.kv.forward(copier.kv.place([[one]]), ids=ids) for one in (block, permuted)]
    torch.testing.assert_close(hidden[0], hidden[1], atol=1e-5, rtol=0)
    # the order matters only through positions: permuting the tokens and not their places is another text
    moved = replace(block, keys=block.keys[:, :, order], values=block.values[:, :, order])
    with torch.inference_mode():
        other = copier.kv.forward(copier.kv.place([[moved]]), ids=ids)
    assert float((other - hidden[0]).abs().max()) > 0.1


def test_the_likelihood_gate_finds_the_block_and_needs_its_content(copier: Backbone, texts: list[str]) -> None:
    """The copier's bar stands in for the gate's lead: what the block says becomes likely after it."""
    gate = LikelihoodGate(copier, GateConfig())
    blocks = blocks_of(copier, texts[:8])
    with torch.inference_mode():
        likelihoods = gate._likelihoods(copier.encode("|"), copier.encode(texts[3]), [[block] for block in blocks])
        nothing = gate._likelihoods(copier.encode("|"), copier.encode(texts[3]), [[]])
        zeroed = replace(blocks[3], values=torch.zeros_like(blocks[3].values))
        emptied = gate._likelihoods(copier.encode("|"), copier.encode(texts[3]), [[zeroed]])
    assert int(likelihoods.argmax()) == 3
    assert float(likelihoods[3] - nothing[0]) > 2.0
    assert float(likelihoods[3] - emptied[0]) > 2.0
    assert len(gate.score("x", WorkingMemory(), blocks)) == 8

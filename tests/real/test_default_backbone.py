"""The default backbone from end to end: SmolLM2-135M-Instruct out of its wheel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.bank import MemoryBank
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, GateConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.types import Chunk, Document, WorkingMemory

pytestmark = pytest.mark.real

PARAGRAPHS = {
    "panthers": "The Panthers defense gave up just 308 points, ranking sixth in the league. Kawann Short led the "
    "team in sacks with 11, while also forcing three fumbles and recovering two.",
    "tesla": "Nikola Tesla was born in the village of Smiljan in 1856. His father Milutin was an Orthodox priest.",
    "bananas": "Bananas grow in the tropics and are picked while they are green. They ripen in warm rooms on the way.",
    "warsaw": "The Saxon Garden in Warsaw covers the area of 15.5 hectares and was formally a royal garden.",
    "oxygen": "Joseph Priestley focused sunlight on mercuric oxide inside a glass tube, which gave a gas he named "
    "dephlogisticated air.",
}
QUESTIONS = {
    "panthers": "How many sacks did Kawann Short have?",
    "tesla": "In which village was Nikola Tesla born?",
    "bananas": "What colour are bananas when they are picked?",
    "warsaw": "How many hectares does the Saxon Garden cover?",
    "oxygen": "What did Priestley name the gas from mercuric oxide?",
}


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return MemRecall.from_pretrained()


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "b") as opened:
        memory.ingest(opened, [Document(name, text) for name, text in PARAGRAPHS.items()])
        yield opened


LOADING = """
import sys
opened = []
sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "open" else None)
from memrecall_kv.backbone.loading import load_backbone
print(load_backbone().fingerprint)
print(sum(path.endswith("tokenizer.json") for path in opened), sum(path.endswith(".gguf") for path in opened))
"""


def test_a_later_load_in_a_new_process_reads_what_was_prepared(memory: MemRecall) -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    fingerprint, prepared, quantised = done.stdout.split()
    assert fingerprint == memory.backbone.fingerprint
    assert int(prepared) > 0
    assert int(quantised) == 0  # nothing is de-quantised again: that is what takes long; benchmarks/loading_speed.py
    assert sum(weight.numel() for weight in memory.backbone.model.parameters()) == 134_515_008


def test_the_backbone_is_shared_in_a_process(memory: MemRecall) -> None:
    assert load_backbone(memory.backbone.name) is memory.backbone


def test_the_gate_recalls_the_right_paragraph_first(memory: MemRecall, bank: MemoryBank) -> None:
    found = [memory.recall(bank, question, top_k=1)[0].chunk.doc_id == name for name, question in QUESTIONS.items()]
    assert sum(found) >= 4


def test_swapped_or_zeroed_blocks_lose_the_evidence(memory: MemRecall) -> None:
    """What makes the question likely is in the block: another document's block, or zeros, do not have it."""
    backbone = memory.backbone
    gate = LikelihoodGate(backbone, GateConfig())
    names = list(PARAGRAPHS)
    chunks = [Chunk(name, 0, 0, 1, PARAGRAPHS[name], 1) for name in names]
    blocks = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress(chunks)
    right, swapped, zeroed = [], [], []
    for number, name in enumerate(names):
        block = blocks[number]
        empty = replace(block, keys=torch.zeros_like(block.keys), values=torch.zeros_like(block.values))
        other = blocks[(number + 1) % len(blocks)]
        scores = gate.score(QUESTIONS[name], WorkingMemory(), [block, other, empty])
        for group, score in zip((right, swapped, zeroed), scores, strict=True):
            group.append(score)
    assert sum(right) > sum(swapped) + 1.0
    assert sum(right) > sum(zeroed) + 1.0


def test_an_answer_cites_the_paragraph_it_rests_on(memory: MemRecall, bank: MemoryBank) -> None:
    answer = memory.ask(bank, QUESTIONS["tesla"], top_k=1)
    assert answer.found
    assert answer.evidence[0].chunk.doc_id == "tesla"
    assert "Smiljan" in answer.text
    assert answer.usage.seconds > 0
    assert 1000 < answer.usage.bytes_per_source_token < 8000


def test_a_question_that_no_document_answers_is_not_found(memory: MemRecall, bank: MemoryBank) -> None:
    answer = memory.ask(bank, "Which orchestra played at the opening of the Sydney Opera House?")
    assert (answer.found, answer.text) == (False, "Not found in the documents.")


def test_bfloat16_blocks_agree_with_float32_blocks() -> None:
    """The same text compressed in both dtypes gives the same question likelihoods to rounding."""
    gains = []
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(dtype=dtype)
        chunks = [Chunk("d", 0, 0, 1, PARAGRAPHS["tesla"], 1), Chunk("d", 1, 0, 1, PARAGRAPHS["bananas"], 1)]
        blocks = OperatorCompressor(backbone, CompressorConfig(kind="stride", compression_ratio=2)).compress(chunks)
        gains.append(LikelihoodGate(backbone, GateConfig()).score(QUESTIONS["tesla"], WorkingMemory(), blocks))
    assert gains[0] == pytest.approx(gains[1], abs=0.15)
    assert (gains[0][0] > gains[0][1]) == (gains[1][0] > gains[1][1])

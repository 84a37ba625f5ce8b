"""The packaged default does on an accelerator what it does on the processor, where this is a rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from memrecall_kv import Document, MemoryBank, MemRecall
from memrecall_kv.cli.demo import book
from memrecall_kv.types import MemoryBlock, WorkingMemory

pytestmark = pytest.mark.real

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
QUESTIONS = ["Who fell down a rabbit hole?", "What did the Rabbit take out of its waistcoat-pocket?"]


@pytest.fixture(scope="module")
def processor() -> MemRecall:
    return MemRecall.from_pretrained(dtype="float32")


@pytest.fixture(scope="module", params=DEVICES)
def memory(request: pytest.FixtureRequest) -> MemRecall:
    return MemRecall.from_pretrained(device=request.param, dtype="float32")


@pytest.fixture(scope="module")
def bank(processor: MemRecall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryBank]:
    """Made on the processor, whoever asks it."""
    with processor.open_bank(tmp_path_factory.mktemp("devices") / "b") as opened:
        processor.ingest(opened, [Document("alice", book().text[:2400])])
        yield opened


def kept(block: MemoryBlock) -> set[tuple[int, int, int]]:
    """Layer, head and place of every token that a block keeps."""
    layers, heads, width = block.keys.shape[:3]
    counts = torch.full((layers, heads), width) if block.counts is None else block.counts.cpu()
    places = block.positions.cpu().expand(layers, heads, width)
    return {
        (layer, head, int(place))
        for layer in range(layers)
        for head in range(heads)
        for place in places[layer, head, : counts[layer, head]]
    }


def test_blocks_keep_what_the_processor_would_keep(processor: MemRecall, memory: MemRecall) -> None:
    chunks = processor.chunk(Document("alice", book().text[:2400]))
    made = memory.parts.compressor.compress(chunks)
    for block, expected in zip(made, processor.parts.compressor.compress(chunks), strict=True):
        assert block.keys.device.type == memory.backbone.device.type
        one, other = kept(block), kept(expected)
        assert len(one & other) > 0.98 * len(one | other)  # two tokens of nearly equal worth may change places


def test_a_bank_of_the_processor_is_judged_and_answered_alike(
    processor: MemRecall, memory: MemRecall, bank: MemoryBank
) -> None:
    for question in QUESTIONS:
        expected, found = processor.ask(bank, question), memory.ask(bank, question)
        assert found.text == expected.text
        assert [recall.chunk.id for recall in found.evidence] == [recall.chunk.id for recall in expected.evidence]
        for one, other in zip(found.evidence, expected.evidence, strict=True):
            assert one.gate_probability == pytest.approx(other.gate_probability, abs=1e-3)


def test_questions_at_once_are_answered_as_one_after_the_other(memory: MemRecall, bank: MemoryBank) -> None:
    alone = [memory.ask(bank, question).text for question in QUESTIONS]
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        assert list(pool.map(lambda question: memory.ask(bank, question).text, QUESTIONS)) == alone


def test_half_the_precision_keeps_the_order_of_blocks(memory: MemRecall, bank: MemoryBank) -> None:
    if memory.backbone.device.type == "cpu":
        pytest.skip("many processors have no arithmetic of half the precision, and are very slow at it")
    half = MemRecall.from_pretrained(device=memory.backbone.device.type, dtype="bfloat16")
    chunks = bank.chunks()
    for question in QUESTIONS:
        scores = [
            each.parts.gate.score(question, WorkingMemory(), each.parts.compressor.compress(chunks))
            for each in (memory, half)
        ]
        best = [max(range(len(chunks)), key=lambda place: each[place]) for each in scores]
        assert scores[1][best[0]] == pytest.approx(max(scores[1]), abs=0.05)
        assert scores[0][best[1]] == pytest.approx(max(scores[0]), abs=0.05)

"""`lookahead` decides what `sequential` decides, on a real gate and a real reasoner."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, GateConfig, ReasonerConfig, ScanConfig
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.recall.reasoner import BackboneReasoner, Tally
from memrecall_kv.recall.scan import (
    Decision,
    best_elsewhere,
    best_first,
    exact,
    filling,
    lookahead,
    rescan,
    scan,
    second_look,
    sequential,
)
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, MemoryBlock, Step, WorkingMemory

CASES = 200


@dataclass
class Loop:
    """The loop of the pipeline without a bank: what was opened, noted and answered."""

    gate: LikelihoodGate
    reasoner: BackboneReasoner
    chunks: list[Chunk]
    blocks: list[MemoryBlock]
    question: str
    memory: WorkingMemory = field(default_factory=WorkingMemory)
    opened: list[int] = field(default_factory=list)
    forwards: int = 0

    def closed(self, opened: Collection[int]) -> list[int]:
        return [index for index in range(len(self.chunks)) if index not in opened]

    def score(self, indices: Sequence[int]) -> list[float]:
        self.forwards += 1
        return self.gate.score(self.question, self.memory, [self.blocks[index] for index in indices])

    def weigh(self, indices: Sequence[int], wanted: int) -> dict[int, float]:
        return dict(zip(indices, self.score(indices), strict=True))

    def run(self, schedule, scan_config: ScanConfig, gate_config: GateConfig) -> tuple[list[int], str]:
        for decision in schedule(self, scan_config, gate_config):
            if decision.opened:
                index = decision.chunk_id
                self.opened.append(index)
                self.memory = self.reasoner.update(
                    self.question, self.memory, self.chunks[index], self.blocks[index], Tally()
                )
        return self.opened, self.memory.text


@dataclass
class Scripted:
    """A pool of numbered blocks whose probabilities a function gives."""

    count: int
    score: Callable[[Sequence[int]], list[float]]

    def closed(self, opened: Collection[int]) -> list[int]:
        return [index for index in range(self.count) if index not in opened]

    def weigh(self, indices: Sequence[int], wanted: int) -> dict[int, float]:
        return dict(zip(indices, self.score(indices), strict=True))


def random_text(generator: random.Random, size: int) -> str:
    return "".join(generator.choice("abcdefgh ") for _ in range(size)).strip() or "a"


@pytest.fixture(scope="module")
def accesses() -> list[Backbone]:
    return [tiny_backbone(family, seed=seed) for seed, family in enumerate(("llama", "qwen3"))]


@pytest.mark.parametrize("group", range(4))
def test_lookahead_opens_notes_and_answers_like_sequential(accesses: list[Backbone], group: int) -> None:
    openings = 0
    for case in range(group * CASES // 4, (group + 1) * CASES // 4):
        generator = random.Random(case)
        backbone = accesses[case % len(accesses)]
        chunks = [
            Chunk("d", index, 0, 1, random_text(generator, generator.randint(4, 24)), 1)
            for index in range(generator.randint(1, 9))
        ]
        blocks = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress(chunks)
        question = random_text(generator, 8)
        gate_config = GateConfig(batch_size=generator.choice((2, 3, 4)), bias=0.0, rescore_margin=1e-3)
        gate = LikelihoodGate(backbone, gate_config)
        # a threshold equal to a score of the first round is the hardest case there is
        first = gate.score(question, WorkingMemory(), blocks[:1])[0]
        threshold = generator.choice((first, generator.uniform(0.3, 0.7)))
        gate_config = GateConfig(**{**gate_config.model_dump(), "threshold": threshold})
        reasoner = BackboneReasoner(backbone, ReasonerConfig(max_note_tokens=4, max_answer_tokens=4))
        outcomes = []
        for schedule in (sequential, lookahead):
            loop = Loop(gate, reasoner, chunks, blocks, question)
            opened, memory = loop.run(schedule, ScanConfig(top_k=None), gate_config)
            answer = "".join(reasoner.answer(question, loop.memory, [], [], Tally()))
            outcomes.append((opened, memory, answer))
        assert outcomes[0] == outcomes[1], f"case {case}"
        openings += len(outcomes[0][0])
    assert openings > 0, "a test in which nothing opens proves nothing"


def test_lookahead_needs_fewer_forwards_than_sequential(accesses: list[Backbone]) -> None:
    backbone = accesses[0]
    chunks = [Chunk("d", index, 0, 1, f"text {index}", 1) for index in range(8)]
    blocks = OperatorCompressor(backbone, CompressorConfig()).compress(chunks)
    config = GateConfig(batch_size=8, threshold=1.0)
    counts = []
    for schedule in (sequential, lookahead):
        loop = Loop(
            LikelihoodGate(backbone, config), BackboneReasoner(backbone, ReasonerConfig()), chunks, blocks, "what?"
        )
        loop.run(schedule, ScanConfig(top_k=None), config)
        counts.append(loop.forwards)
    assert counts == [8, 1]


def test_a_higher_threshold_opens_no_block_that_a_lower_one_refused_while_nothing_is_learned() -> None:
    probabilities = [0.1, 0.9, 0.5, 0.7]

    def opened(threshold: float) -> set[int]:
        gate = GateConfig(threshold=threshold, rescore_margin=0.0)
        decisions = lookahead(Scripted(4, lambda indices: [probabilities[i] for i in indices]), ScanConfig(), gate)
        return {decision.chunk_id for decision in decisions if decision.opened}

    assert opened(0.6) < opened(0.4)
    assert opened(0.95) == set()


def test_rescan_opens_what_only_the_bridge_makes_relevant() -> None:
    learned: list[int] = []

    def score(indices: Sequence[int]) -> list[float]:
        # block 0 matters only once block 2 was read
        return [0.9 if index == 2 or (index == 0 and 2 in learned) else 0.1 for index in indices]

    def walk(schedule) -> list[Decision]:
        learned.clear()
        decisions = []
        for decision in schedule(Scripted(4, score), ScanConfig(), GateConfig()):
            decisions.append(decision)
            if decision.opened:
                learned.append(decision.chunk_id)
        return decisions

    assert [d.chunk_id for d in walk(lookahead) if d.opened] == [2]
    assert [(d.round, d.chunk_id) for d in walk(rescan) if d.opened] == [(0, 2), (1, 0)]


def test_exact_opens_k_and_looks_again_between_rounds() -> None:
    learned: list[int] = []

    def score(indices: Sequence[int]) -> list[float]:
        base = [0.2, 0.5, 0.4, 0.1]
        return [0.99 if learned and index == 3 else base[index] for index in indices]

    opened = []
    for decision in exact(Scripted(4, score), top_k=2, max_rounds=2):
        if decision.opened:
            opened.append(decision.chunk_id)
            learned.append(decision.chunk_id)
    assert opened == [1, 3]
    for k, count in ((3, 2), (2, 5), (7, 7)):
        made = list(exact(Scripted(count, lambda indices: [0.5] * len(indices)), top_k=k, max_rounds=3))
        assert sum(d.opened for d in made) == min(k, count)
        assert sorted(d.chunk_id for d in made) == list(range(count))


def test_best_first_prefers_the_best_and_lets_what_it_said_decide_the_next() -> None:
    learned: list[int] = []

    def score(indices: Sequence[int]) -> list[float]:
        # block 3 looks best, and having read it, 1 no longer matters and 0 does
        before, after = [0.1, 0.6, 0.2, 0.9], [0.8, 0.3, 0.2, 0.9]
        return [(after if learned else before)[index] for index in indices]

    decisions = []
    for decision in best_first(Scripted(4, score), ScanConfig(), GateConfig()):
        decisions.append(decision)
        if decision.opened:
            learned.append(decision.chunk_id)
    assert [(d.round, d.chunk_id) for d in decisions if d.opened] == [(0, 3), (1, 0)]
    assert [(d.round, d.chunk_id) for d in decisions if not d.opened] == [(2, 1), (2, 2)]
    ties = best_first(Scripted(3, lambda indices: [0.7] * len(indices)), ScanConfig(max_open=2), GateConfig())
    assert [d.chunk_id for d in ties if d.opened] == [0, 1, 2]
    assert list(best_first(Scripted(0, lambda indices: []), ScanConfig(), GateConfig())) == []


def test_scan_stops_when_enough_blocks_are_open() -> None:
    config = ScanConfig(top_k=None, max_open=2)
    decisions = list(scan(Scripted(10, lambda indices: [0.9] * len(indices)), config, GateConfig()))
    assert [decision.chunk_id for decision in decisions] == [0, 1]
    assert list(scan(Scripted(0, lambda indices: []), config, GateConfig())) == []


def test_a_probability_at_the_threshold_opens_nothing_and_one_at_the_margin_is_computed_alone() -> None:
    gate = GateConfig(threshold=0.5, rescore_margin=0.25, batch_size=4)
    asked: list[list[int]] = []

    def score(indices: Sequence[int]) -> list[float]:
        asked.append(list(indices))
        return [[0.5, 0.25, 0.125][index] for index in indices]

    for schedule in (sequential, lookahead, best_first):
        assert not any(decision.opened for decision in schedule(Scripted(3, score), ScanConfig(), gate))
    asked.clear()
    list(lookahead(Scripted(3, score), ScanConfig(), gate))
    assert asked == [[0, 1, 2], [0], [1]]
    asked.clear()
    list(sequential(Scripted(3, score), ScanConfig(), gate))
    assert asked == [[0], [1], [2]]


def test_a_scan_ends_best_first_where_no_more_may_be_open() -> None:
    pool, config = Scripted(5, lambda indices: [0.7] * len(indices)), ScanConfig(top_k=None, max_open=2)
    assert [d.chunk_id for d in best_first(pool, config, GateConfig()) if d.opened] == [0, 1, 2]
    ended = scan(pool, config.model_copy(update={"schedule": "best_first"}), GateConfig())
    assert [d.chunk_id for d in ended] == [0, 1]


def test_a_scan_that_opens_nothing_looks_once() -> None:
    pool = Scripted(3, lambda indices: [0.1] * len(indices))
    decisions = list(rescan(pool, ScanConfig(max_rounds=3), GateConfig()))
    assert [(d.round, d.chunk_id, d.opened) for d in decisions] == [(0, index, False) for index in range(3)]


def test_a_second_look_opens_the_first_of_the_best_if_it_may() -> None:
    pool = Scripted(3, lambda indices: [[0.1, 0.3, 0.3][index] for index in indices])
    config = ScanConfig(top_k=None, max_open=2, second_look=0.05)

    def look(opened: set[int], **changes: object) -> Decision | None:
        return second_look(pool, config.model_copy(update=changes), opened=opened, round=7)

    assert look(set()) == Decision(7, 1, 0.3, opened=True)
    assert look({1}) == Decision(7, 2, 0.3, opened=True)
    assert look({0, 1}) is None
    assert look({0, 1, 2}, max_open=9) is None
    for changes in ({"second_look": None}, {"top_k": 1}, {"second_look": 0.3}):
        assert look(set(), **changes) is None


def test_filling_opens_the_most_probable_as_far_as_tokens_and_blocks_reach() -> None:
    sizes = {"a": 5, "b": 4, "c": 6, "d": 3}
    steps = [
        Step(0, "b", 0.9, opened=False),
        Step(0, "a", 0.8, opened=True),
        *(Step(1, name, p, opened=False) for name, p in {"b": 0.4, "c": 0.2, "d": 0.3}.items()),
    ]
    config = ScanConfig(top_k=None, max_open=4, fill_tokens=14)

    def filled(**changes: object) -> list[Decision]:
        return list(filling(steps, sizes, config.model_copy(update=changes)))

    # by the latest look at each
    assert filled() == [Decision(1, "b", 0.4, opened=True), Decision(1, "d", 0.3, opened=True)]
    assert [decision.chunk_id for decision in filled(max_open=2)] == ["b"]
    assert [decision.chunk_id for decision in filled(fill_tokens=100)] == ["b", "d", "c"]
    assert [decision.chunk_id for decision in filled(fill_tokens=100, fill_above=0.2)] == ["b", "d"]
    # what is next does not fit: nothing less probable takes its place
    assert [decision.chunk_id for decision in filled(fill_tokens=8)] == []
    assert filled(max_open=1) == filled(fill_tokens=None) == filled(top_k=2) == []


def test_best_first_looks_so_many_times_and_tells_how_probable_what_is_left_was() -> None:
    pool = Scripted(3, lambda indices: [[0.6, 0.9, 0.1][index] for index in indices])
    decisions = list(best_first(pool, ScanConfig(top_k=None, max_looks=2), GateConfig()))
    assert decisions == [Decision(0, 1, 0.9, True), Decision(1, 0, 0.6, True), Decision(1, 2, 0.1, False)]
    assert [d.chunk_id for d in best_first(pool, ScanConfig(top_k=None, max_looks=1), GateConfig())] == [1, 0, 2]
    assert list(best_first(Scripted(0, lambda indices: []), ScanConfig(), GateConfig())) == []


def test_the_best_of_other_documents_is_opened_however_improbable() -> None:
    class Elsewhere(Scripted):
        def elsewhere(self, opened: Collection[int], doc_ids: Collection[str]) -> list[int]:
            return [index for index in self.closed(opened) if f"d{index}" not in doc_ids]

    pool = Elsewhere(3, lambda indices: [[0.3, 0.1, 0.0][index] for index in indices])
    assert best_elsewhere(pool, {1}, {"d0"}, round=4) == Decision(4, 2, 0.0, opened=True)
    assert best_elsewhere(pool, set(), {"d9"}, round=4) == Decision(4, 0, 0.3, opened=True)
    assert best_elsewhere(pool, {0}, {"d1", "d2"}, round=4) is None


def test_a_score_does_not_depend_on_its_neighbours(accesses: list[Backbone]) -> None:
    backbone = accesses[0]
    chunks = [Chunk("d", index, 0, 1, "word " * (index + 1), 1) for index in range(5)]
    blocks = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress(chunks)
    gate = LikelihoodGate(backbone, GateConfig(batch_size=4))
    together = gate.score("which word?", WorkingMemory(), blocks)
    alone = [gate.score("which word?", WorkingMemory(), [block])[0] for block in blocks]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), atol=1e-5, rtol=0)
    assert len(set(alone)) == len(alone)

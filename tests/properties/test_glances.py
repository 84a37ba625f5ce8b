"""What is opened was judged in full, whatever a glance said; the gate is a script, without a model."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.config import GateConfig, ScanConfig
from memrecall_kv.recall.candidates import Candidate
from memrecall_kv.recall.gate import shift_odds
from memrecall_kv.recall.relevance import Relevance
from memrecall_kv.recall.scan import best_first, exact
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Chunk, Note, WorkingMemory

CASES = 300
WEIGHT = 1.5


class Proposed:
    """Proposes the same candidates, whatever is known."""

    def __init__(self, words: dict[str, float]) -> None:
        self._words = words
        self.total = len(words)

    def propose(self, question, notes, limit, without=()) -> list[Candidate]:
        return [Candidate(Chunk(name, 0, 0, 1, "x", 1), share) for name, share in self._words.items()]


class Script:
    """A gate's probabilities by notes and block, at a glance and in full, and what it was asked."""

    def __init__(self, generator: random.Random, blocks: int, blur: float) -> None:
        self._generator, self._blur = generator, blur
        self.words = {f"d{number}": generator.random() for number in range(blocks)}
        self._full: dict[tuple[str, str], float] = {}
        self.asked: list[tuple[str, str, bool]] = []

    def full(self, known: str, chunk_id: str) -> float:
        return self._full.setdefault((known, chunk_id), self._generator.random())

    def __call__(self, question, notes, chunks: Sequence[Chunk], at_a_glance: bool = False) -> list[float]:
        self.asked += [(notes.text, chunk.id, at_a_glance) for chunk in chunks]
        full = [self.full(notes.text, chunk.id) for chunk in chunks]
        if not at_a_glance:
            return full
        return [min(1.0, max(0.0, each + self._blur * (self._generator.random() - 0.5))) for each in full]

    def expected(self, known: str, chunk_id: str) -> float:
        return shift_odds(self.full(known, chunk_id), WEIGHT * self.words[chunk_id.partition("#")[0]])


def relevance(script: Script, full_looks: int | None, again: int | None = None) -> Relevance:
    made = Relevance(
        "which?",
        Proposed(script.words),
        gate=None,
        blocks=None,
        scheduler=Scheduler(),
        stages=Stages(),
        limit=None,
        again=again,
        word_weight=WEIGHT,
        full_looks=full_looks,
    )
    made.judge = script
    return made


@pytest.mark.parametrize("case", range(CASES))
def test_the_most_probable_are_judged_in_full(case: int) -> None:
    generator = random.Random(case)
    script = Script(generator, generator.randint(1, 20), blur=generator.choice((0.0, 0.3, 2.0)))
    looks, wanted = generator.randint(1, 6), generator.randint(1, 4)
    pool = relevance(script, looks)
    ids = pool.closed([])
    found = pool.weigh(ids, wanted)
    assert list(found) == ids
    best = sorted(ids, key=found.__getitem__, reverse=True)[:wanted]
    assert [found[each] for each in best] == [script.expected("", each) for each in best]
    # asked again it knows, and more are judged only for what is wanted now
    before = list(script.asked)
    assert pool.weigh(ids, wanted) == found
    assert script.asked == before
    assert len({*before}) == len(before) == pool.scored
    assert all(found[each] <= min(found[one] for one in best) for each in ids if each not in best)
    more = pool.weigh(ids, len(ids))
    assert more == {each: script.expected("", each) for each in ids}
    assert len({*script.asked}) == len(script.asked)


def test_a_sharp_glance_saves_looks_and_changes_nothing() -> None:
    for case in range(50):
        walks = []
        for looks in (None, 3):
            script = Script(random.Random(case), 16, blur=0.0)
            pool = relevance(script, looks)
            opened = [each.chunk_id for each in exact(pool, top_k=3, max_rounds=1) if each.opened]
            walks.append((opened, sum(not at_a_glance for *_, at_a_glance in script.asked)))
        assert walks[0][0] == walks[1][0]
        assert [count for _, count in walks] == [16, 3]


@pytest.mark.parametrize("again", [None, 1, 3])
def test_what_is_opened_after_a_note_was_judged_in_full(again: int | None) -> None:
    opened = 0
    for case in range(60):
        script = Script(random.Random(case), 14, blur=0.5)
        pool = relevance(script, 3, again)
        for decision in best_first(pool, ScanConfig(top_k=None, max_open=4), GateConfig(threshold=0.4)):
            if not decision.opened:
                continue
            opened += 1
            in_full = {(known, each) for known, each, at_a_glance in script.asked if not at_a_glance}
            known = {known for known, each in in_full if each == decision.chunk_id}
            assert decision.gate_probability in {script.expected(each, decision.chunk_id) for each in known}
            if again is None:
                assert pool.notes.text in known
            pool.notes = WorkingMemory((*pool.notes.notes, Note(f"read {decision.chunk_id}", decision.chunk_id)))
    assert opened > 100

"""Words shared with the question raise a block's odds and choose who is judged at all."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.recall.gate import shift_odds
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document

TEXTS = ["The otter sleeps by the river.", "A boat on the lake.", "Rain fell on the otter.", "Nothing at all."]


def test_scores_are_shares_of_the_best() -> None:
    index = LexicalIndex(TEXTS)
    scores = index.scores("Where does the otter sleep by the river?")
    assert max(scores) == scores[0] == 1.0
    assert 0.0 < scores[2] < 1.0
    assert scores[1] == scores[3] == 0.0


@pytest.mark.parametrize(("texts", "query"), [(TEXTS, "zebra"), (TEXTS, ""), (["?", "!"], "otter")])
def test_no_shared_word_is_no_evidence(texts: list[str], query: str) -> None:
    assert LexicalIndex(texts).scores(query) == [0.0] * len(texts)


def test_jax_is_not_started_and_can_be_imported_later(tmp_path) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("print('started')")
    (tmp_path / "jax/lax.py").write_text("def top_k(scores, k): print('started')")
    script = "import memrecall_kv.evaluate.lexical; print('found', end=' '); import jax"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["found", "started"]


def test_odds_are_shifted_and_certainty_stays() -> None:
    assert shift_odds(0.5, math.log(3)) == pytest.approx(0.75)
    assert shift_odds(0.2, 0.0) == 0.2
    assert (shift_odds(0.0, 5.0), shift_odds(1.0, 5.0)) == (0.0, 1.0)


def recalled(tmp_path, gate: GateConfig, scan: ScanConfig) -> tuple[list[str], int]:
    config = MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64), gate=gate, scan=scan)
    judged = []

    def script(question: str, memory: str, block: object) -> float:
        judged.append(block)
        return 0.4

    notes = {TEXTS[0]: "It dreams of a boat.", TEXTS[1]: "The lake."}
    memory = tiny_memory(config, gate=ScriptedGate(script), reasoner=ScriptedReasoner(notes, lambda *_: "by the river"))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document(id=str(number), text=text) for number, text in enumerate(TEXTS)])
        answer = memory.ask(bank, "Where does the otter sleep by the river?")
    return [recall.text for recall in answer.evidence], len(judged)


def test_without_weight_the_gate_alone_decides(tmp_path) -> None:
    assert recalled(tmp_path, GateConfig(), ScanConfig(top_k=None)) == ([], 4)


def test_shared_words_open_a_block_and_what_it_says_opens_the_next(tmp_path) -> None:
    opened, _ = recalled(tmp_path, GateConfig(lexical_weight=1.0), ScanConfig(top_k=None))
    # the second shares no word with the question, but "boat" with the note of the first
    assert opened[0] == TEXTS[0]
    assert TEXTS[1] in opened
    assert TEXTS[3] not in opened


def test_only_candidates_are_judged(tmp_path) -> None:
    opened, judged = recalled(tmp_path, GateConfig(lexical_weight=1.0), ScanConfig(top_k=None, candidates=1))
    assert opened[0] == TEXTS[0]
    assert judged <= 4  # one at a time and alone again near the threshold, for each state of the memory
    assert TEXTS[3] not in opened

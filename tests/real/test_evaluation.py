"""The default pipeline goes through the evaluation, and finds what can be found."""

from __future__ import annotations

from pathlib import Path

import pytest
from memrecall_kv import MemRecall
from memrecall_kv.evaluate.run import Run
from memrecall_kv.evaluate.settings import RunConfig

pytestmark = pytest.mark.real


def test_the_default_and_bm25_find_needles_and_every_reader_answers(tmp_path: Path) -> None:
    config = RunConfig(
        tasks=("niah-single",),
        systems=("memrecall", "bm25:k=1", "chunk-reading:chunk_tokens=256", "memagent-reasoner:chunk_tokens=256"),
        lengths=((3, 1),),
    )
    ledger = Run(tmp_path, lambda settings: MemRecall.from_pretrained(config=settings), None, config).run()
    answers = [row for row in ledger if row["kind"] == "answer"]
    assert len(answers) == 4
    assert not any(row["failure"] for row in answers)
    recalls = {row["system"]: row["evidence"]["recall@2"] for row in answers if row["evidence"]}
    assert recalls == {"memrecall": 1.0, "bm25:k=1": 1.0}

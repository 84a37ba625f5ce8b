"""No row that evaluates the default may have trained it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from memrecall_kv.evaluate.rows import read_lines
from memrecall_kv.train.data import load_rows, read_examples
from memrecall_kv.train.settings import load_settings

SHARED = Path(os.environ.get("MEMRECALL_KV_SHARED", Path(__file__).parents[3] / "shared")) / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the training data is not on this machine")


def plain(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.lower()))


@pytest.fixture(scope="module")
def evaluated() -> tuple[set[str], set[str]]:
    ids, questions = set(), set()
    for path in [*SHARED.glob("qa/*_dev.jsonl.gz"), *SHARED.glob("stories/*_dev.jsonl.gz")]:
        if "squality" in path.name:
            continue  # its rows have no sections, and no stage trains on it
        for example in read_examples(path):
            ids.add(example.id)
            questions.add(plain(example.question))
    return ids, questions


@pytest.mark.parametrize("stage", ["scorer", "compressor", "reasoner", "gate", "rl"])
def test_presets_train_on_no_evaluation_row(stage: str, evaluated: tuple[set[str], set[str]]) -> None:
    settings = load_settings(stage)
    names = [file.path for file in settings.data.questions] + list(settings.data.texts)
    assert not [name for name in names if re.search(r"_dev|_test|wikipedia_pool|valid", name)]
    rows = load_rows(settings.data, SHARED)
    ids, questions = evaluated
    assert len(ids) > 3000
    examples = rows.train + rows.held_out
    assert not ids & {example.id for example in examples}
    assert not questions & {plain(example.question) for example in examples}
    official = {row for path in [SHARED / "qa" / "hotpotqa_official_dev_ids.json"] for row in _ids(path)}
    assert not official & {example.id for example in examples}


def _ids(path: Path) -> set[str]:

    found = json.loads(path.read_text(encoding="utf-8"))
    return set(found if isinstance(found, list) else found["ids"])


def test_the_files_that_evaluate_are_read_at_all() -> None:
    assert sum(1 for _ in read_lines(SHARED / "qa" / "hotpotqa_dev.jsonl.gz")) == 918

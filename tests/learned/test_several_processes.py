"""A run in two processes takes the same way as one process with as many draws in a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.train.scoring import train_scorer
from memrecall_kv.train.settings import DataConfig, LoopConfig, QuestionFile, ScorerTraining
from patience import PATIENCE
from safetensors.torch import load_file

STEPS = 4
PROGRAM = """
import os, sys
from pathlib import Path
import torch
from test_several_processes import train
torch.set_num_threads(1)
root, out = map(Path, sys.argv[1:])
# processes find each other by a file: no port that somebody else may have
torch.distributed.init_process_group("gloo", f"file://{root}/met", rank=int(os.environ["RANK"]), world_size=2)
train(root, out, draws=1)
torch.distributed.destroy_process_group()
"""


def settings(draws: int) -> ScorerTraining:
    return ScorerTraining(
        loop=LoopConfig(
            steps=STEPS, warmup_steps=1, gradient_accumulation_steps=draws, clip_norm=0.05, weight_decay=0.1
        ),
        data=DataConfig(questions=(QuestionFile(path="questions.jsonl"),), validation_rows=2),
        width=4,
        budget=300,
    )


def train(root: Path, out: Path, draws: int) -> None:
    train_scorer(tiny_backbone(), settings(draws), root, out)


def course(out: Path) -> list[tuple[float, ...]]:
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(one["loss"], one["gradient_norm"]) for one in records if one["step"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of questions whose paragraphs are of many lengths, so that no two draws are alike."""
    rows = [
        {
            "id": f"q{number}",
            "question": f"Where does ship {number} go?",
            "answers": [f"port {number}"],
            "paragraphs": [
                {
                    "title": f"Ship {number}",
                    "text": f"Ship {number} goes to port {number}. " * (2 + number % 9),
                    "supporting": True,
                }
            ],
        }
        for number in range(40)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_two_processes_take_the_way_of_one_with_as_many_draws(root: Path) -> None:
    train(root, root / "one", draws=2)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",  # accelerate wants one, and nobody asks there
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, str(root), str(root / "two")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=PATIENCE)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    one, two = course(root / "one"), course(root / "two")
    assert len(one) == STEPS
    assert [norm for _, norm in two] == pytest.approx([norm for _, norm in one], rel=1e-6)
    weights = [load_file(next((root / name / "compressor").glob("*.safetensors"))) for name in ("one", "two")]
    for name, tensor in weights[0].items():
        assert tensor.allclose(weights[1][name], rtol=1e-6, atol=1e-8), name


def test_more_draws_are_a_run_of_its_own(root: Path) -> None:
    train(root, root / "one", draws=1)
    train(root, root / "two", draws=2)
    assert course(root / "one") != course(root / "two")

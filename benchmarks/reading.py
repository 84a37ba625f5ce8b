"""How right a reader's answers are from the gold paragraphs alone: readers side by side, each as it was trained.

    python benchmarks/reading.py --data squad_xquad_dev --rows 200 --reader apart:FOLDER --reader together:FOLDER \
        --out RESULT.json

A reader is a folder of deltas behind the way it reads (`reasoner.reading`). Each is compared with the first, question
by question. `--beside 2` puts so many of a row's other paragraphs beside the gold ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from memrecall_kv import MemRecall
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.config import ReasonerConfig
from memrecall_kv.evaluate.measures.metrics import bootstrap_interval, exact_match, f1_score
from memrecall_kv.recall import prompts
from memrecall_kv.recall.reasoner import Tally, TunedReasoner
from memrecall_kv.types import Chunk, Recall, WorkingMemory
from rows import parser, sampled_rows, save, table, texts_of

BUDGET = 100_000
"""Tokens that may be read back: all."""


def read_texts(row: dict[str, Any], beside: int) -> list[str]:
    """Return a row's gold paragraphs and some others, in an order drawn for the row."""
    texts, draw = texts_of(row), random.Random(str(row["id"]))  # noqa: S311  # an order, not a secret
    gold = [text for text, p in zip(texts, row["paragraphs"], strict=True) if p["supporting"]]
    rest = [text for text in texts if text not in gold]
    read = [*gold, *rest[:beside]]
    draw.shuffle(read)
    return read


def answers(reasoner: TunedReasoner, memory: MemRecall, rows: list[dict[str, Any]], beside: int) -> Iterator[str]:
    """Yield a reader's answer to each row."""
    for row in rows:
        texts = read_texts(row, beside)
        evidence = [
            # the most probable stands last
            Recall(Chunk("row", place, 0, len(text), text, len(memory.backbone.encode(text))), 0.9, place)
            for place, text in enumerate(texts)
        ]
        yield "".join(reasoner.answer(row["question"], WorkingMemory(), evidence, [], Tally()))


def main() -> None:
    """Ask, compare, print."""
    options_parser = parser(__doc__, data="hotpotqa_dev", rows=160)
    options_parser.add_argument("--reader", action="append", required=True, help="apart:FOLDER or together:FOLDER")
    options_parser.add_argument("--beside", type=int, default=0)
    options = options_parser.parse_args()
    torch.set_num_threads(options.threads)
    memory, rows = MemRecall.from_pretrained(), sampled_rows(options)
    said: dict[str, list[str]] = {}
    for name in options.reader:
        reading, _, folder = name.partition(":")
        config = ReasonerConfig(kind="tuned", reading=reading, max_readback_tokens=BUDGET, max_answer_tokens=32)
        reasoner = TunedReasoner(memory.backbone, config, LoraAdapter.from_directory(Path(folder)))
        said[name] = list(answers(reasoner, memory, rows, options.beside))
        print(name, flush=True)
        print(table(scores_of(said[name], rows)), flush=True)
    first, *others = said
    for name in others:
        print(name, "less", first)
        for measure, values in scores_of(said[name], rows).items():
            gaps = [a - b for a, b in zip(values, scores_of(said[first], rows)[measure], strict=True)]
            low, high = bootstrap_interval(gaps)
            print(f"{measure} {100 * sum(gaps) / len(gaps):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    save(options, answers=said, rows=[{"id": row["id"], "answers": row["answers"]} for row in rows])


def scores_of(replies: list[str], rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return each measure of each reply."""
    pairs = list(zip(replies, rows, strict=True))
    return {
        "F1": [f1_score(reply, row["answers"]) for reply, row in pairs],
        "EM": [exact_match(reply, row["answers"]) for reply, row in pairs],
        "refused": [float(prompts.is_nothing(reply)) for reply, _ in pairs],
    }


if __name__ == "__main__":
    main()

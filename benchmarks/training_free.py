"""Baseline of the training-free operators on real questions: answers and evidence, per operator and ratio.

    python benchmarks/training_free.py --squad 200 --hotpot 100 --out RESULT.json

Data: the dev samples of `../shared/data/qa` (or `$MEMRECALL_KV_SHARED`). Nothing is tuned on them: prompts
were chosen on train rows. "full text" is the identity block (ratio 1), "no context" the empty one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bm25s
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import replies
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.compress.importance import SCORES
from memrecall_kv.compress.operators import operate
from memrecall_kv.config import CompressorConfig, GateConfig
from memrecall_kv.evaluate.measures.metrics import bootstrap_interval, exact_match, f1_score, recall_at_k
from memrecall_kv.recall import prompts
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.types import MemoryBlock, WorkingMemory

OPERATORS = [
    ("stride", "key_diff"),
    ("pool", "key_diff"),
    ("select", "key_norm"),
    ("select", "key_diff"),
    ("select", "surprisal"),
    ("hybrid", "surprisal"),
]
RATIOS = (2, 4, 8)
NEW_TOKENS = 14
ANSWER_BATCH = {True: 10, False: 20}


def configurations() -> Iterator[tuple[str, CompressorConfig]]:
    """Yield a name and settings: the full text first, then each operator at each ratio."""
    yield "full text", CompressorConfig(kind="select", importance="key_norm", compression_ratio=1)
    for kind, importance in OPERATORS:
        for ratio in RATIOS:
            name = f"{kind}/{importance}" if kind in ("select", "hybrid") else kind
            yield f"{name} x{ratio}", CompressorConfig(kind=kind, importance=importance, compression_ratio=ratio)


def rows_of(name: str, count: int, seed: int, skip: int = 0) -> list[dict[str, Any]]:
    """Return a seeded sample of a dev file."""
    shared = Path(os.environ.get("MEMRECALL_KV_SHARED", Path(__file__).parents[2] / "shared"))
    with gzip.open(shared / "data" / "qa" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(rows)  # noqa: S311  # a sample, not a secret
    return rows[skip : skip + count]


def paragraphs(row: dict[str, Any]) -> list[str]:
    """Return a row's paragraphs, each with its title in front."""
    return [f"{p['title']}: {p['text']}" if p["title"] else p["text"] for p in row["paragraphs"]]


def answers(backbone: Backbone, rows: list[list[MemoryBlock]], questions: list[str]) -> list[str]:
    """Answer questions greedily, each after its own blocks."""
    requests = [backbone.encode("\n\n" + prompts.answer_question(question)) for question in questions]
    with torch.inference_mode():
        state = backbone.kv.place(rows)
    written = replies(backbone, state, requests, NEW_TOKENS)
    return [backbone.decode(ids).lstrip().partition("\n")[0].strip() for ids in written]


def measure(backbone: Backbone, rows: list[dict[str, Any]], rank: bool) -> dict[str, dict[str, list[float]]]:
    """Return per configuration and measure one score per row."""
    gate = LikelihoodGate(backbone, GateConfig(batch_size=10))
    scores: dict[str, dict[str, list[float]]] = {}
    started = time.perf_counter()
    waiting: dict[str, list[tuple[dict[str, Any], list[MemoryBlock]]]] = {}
    for number, row in enumerate(rows):
        texts = paragraphs(row)
        ids = [backbone.encode(text) for text in texts]
        with torch.inference_mode():
            prefill = backbone.kv.prefill(ids)
            importance = {name: SCORES[name](backbone, prefill, ids) for _, name in OPERATORS}
        gold = [index for index, paragraph in enumerate(row["paragraphs"]) if paragraph["supporting"]]
        if rank:
            keep(scores, "BM25", "recall@2", recall_at_k(bm25(texts, row["question"]), gold, 2))
        waiting.setdefault("no context", []).append((row, []))
        for name, config in configurations():
            with torch.inference_mode():
                blocks = operate(backbone, prefill, ids, config, importance[config.importance])
            waiting.setdefault(name, []).append((row, blocks))
            if rank:
                gains = gate.score(row["question"], WorkingMemory(), blocks)
                ranked = sorted(range(len(gains)), key=lambda index: -gains[index])
                keep(scores, name, "recall@2", recall_at_k(ranked, gold, 2))
        # ten paragraphs a row are a large cache: answer them sooner
        if len(waiting["no context"]) == ANSWER_BATCH[rank] or number + 1 == len(rows):
            flush(backbone, waiting, scores)
            print(f"{number + 1}/{len(rows)} rows, {time.perf_counter() - started:.0f} s", flush=True)
    return scores


def flush(backbone: Backbone, waiting: dict[str, Any], scores: dict[str, dict[str, list[float]]]) -> None:
    """Answer what is waiting, configuration by configuration."""
    for name, items in waiting.items():
        replies = answers(backbone, [blocks for _, blocks in items], [row["question"] for row, _ in items])
        for (row, _), reply in zip(items, replies, strict=True):
            keep(scores, name, "F1", f1_score(reply, row["answers"]))
            keep(scores, name, "EM", exact_match(reply, row["answers"]))
    waiting.clear()


def keep(scores: dict[str, dict[str, list[float]]], name: str, measure_name: str, value: float) -> None:
    """Add one row's score."""
    scores.setdefault(name, {}).setdefault(measure_name, []).append(value)


def bm25(texts: list[str], question: str) -> list[int]:
    """Return paragraph indices, best first."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    order, _ = retriever.retrieve(bm25s.tokenize(question, show_progress=False), k=len(texts), show_progress=False)
    return [int(index) for index in order[0]]


def table(scores: dict[str, dict[str, list[float]]]) -> str:
    """Return the means with their 95 % intervals as a Markdown table."""
    columns = [column for column in ("F1", "EM", "recall@2") if any(column in row for row in scores.values())]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in scores.items():
        cells = []
        for column in columns:
            values = row.get(column, [])
            low, high = bootstrap_interval(values)
            mean = sum(values) / len(values) if values else 0.0
            cells.append(f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def join(parts: list[Path], out: Path) -> None:
    """Put the rows of several results together, print the tables, and write them."""
    joined: dict[str, Any] = {}
    for part in parts:
        result = json.loads(part.read_text(encoding="utf-8"))
        for data in ("squad_xquad_dev", "hotpotqa_dev"):
            for name, row in result.pop(data, {}).items():
                for measure_name, values in row.items():
                    joined.setdefault(data, {}).setdefault(name, {}).setdefault(measure_name, []).extend(values)
        joined.setdefault("parts", []).append(result)
    out.write_text(json.dumps(joined), encoding="utf-8")
    for data, scores in joined.items():
        if data != "parts":
            print(f"\n{data}, {len(scores['full text']['F1'])} rows\n\n{table(scores)}\n")


def main() -> None:
    """Measure, print the tables, and write every row's score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=int, default=200)
    parser.add_argument("--hotpot", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="leave out this many rows of the sample")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="join earlier results instead of measuring")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.join:
        join(options.join, options.out)
        return
    torch.set_num_threads(options.threads)
    backbone = load_backbone()
    result: dict[str, Any] = {
        "options": {key: str(value) for key, value in vars(options).items()},
        "backbone": backbone.fingerprint,
        "dtype": str(backbone.dtype),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    for name, count, rank in (("squad_xquad_dev", options.squad, False), ("hotpotqa_dev", options.hotpot, True)):
        if count:
            result[name] = measure(backbone, rows_of(name, count, options.seed, options.skip), rank)
            print(f"\n{name}, {count} rows\n\n{table(result[name])}\n", flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

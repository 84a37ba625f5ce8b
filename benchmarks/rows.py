"""Rows and baselines that the benchmarks share: dev samples, haystacks, BM25 and MiniLM rankings, tables."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import torch
from memrecall_kv.config import default_directory
from memrecall_kv.evaluate.encoder import TextEncoder
from memrecall_kv.evaluate.measures.metrics import bootstrap_interval
from memrecall_kv.evaluate.systems.rankers import best
from memrecall_kv.evaluate.tasks.haystack import words

SHARED = Path(os.environ.get("MEMRECALL_KV_SHARED", Path(__file__).parents[2] / "shared")) / "data"


def parser(about: str | None, *, data: str, rows: int) -> argparse.ArgumentParser:
    """Return the options that all have which ask rows."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--checkpoint", type=Path, default=default_directory(), help="the packaged default if left out")
    found.add_argument("--data", default=data, help="a dev file; held_out or held_out_squad for train rows")
    found.add_argument("--rows", type=int, default=rows)
    found.add_argument("--skip", type=int, default=0, help="leave out this many rows of the sample")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    found.add_argument("--out", type=Path, required=True)
    return found


def sampled_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows that were asked for."""
    take = (options.rows, options.seed, options.skip)
    if options.data.startswith("held_out"):
        return held_out_rows(*take, single=options.data == "held_out_squad")
    return dev_rows(options.data, *take)


def save(options: argparse.Namespace, **found: Any) -> None:
    """Write what was found with the options it was found with."""
    facts = {key: str(value) for key, value in vars(options).items()} | {"torch": torch.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"options": facts, **found}), encoding="utf-8")


def dev_rows(name: str, count: int, seed: int, skip: int = 0) -> list[dict[str, Any]]:
    """Return a seeded sample of a dev file."""
    rows = read(SHARED / "qa" / f"{name}.jsonl.gz")
    random.Random(seed).shuffle(rows)  # noqa: S311  # a sample, not a secret
    return rows[skip : skip + count]


def held_out_rows(count: int, seed: int, skip: int = 0, *, single: bool = False) -> list[dict[str, Any]]:
    """Return train rows that no stage trained on, multi-hop or SQuAD's; what is fitted or chosen is so on them."""
    from memrecall_kv.train.data import is_held_out

    names = ("squad_train_subset",) if single else ("hotpotqa_train", "2wikimultihopqa_train", "musique_train")
    rows = [row for name in names for row in read(SHARED / "qa" / f"{name}.jsonl.gz")]
    # all questions of an article are held out together
    rows = [row for row in rows if is_held_out(row["paragraphs"][0]["title"] if single else str(row["id"]))]
    random.Random(seed).shuffle(rows)  # noqa: S311  # a sample, not a secret
    return rows[skip : skip + count]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def texts_of(row: dict[str, Any]) -> list[str]:
    """Return a row's paragraphs, each with its title in front."""
    return [f"{p['title']}: {p['text']}" if p["title"] else p["text"] for p in row["paragraphs"]]


def haystack(row: dict[str, Any], pool: Sequence[str], size: int, seed: int) -> list[str]:
    """Return pool paragraphs that fill a row up to `size`, without its answers and without its own text."""
    own = [words(text) for text in texts_of(row)]
    runs = {tuple(text[start : start + 13]) for text in own for start in range(len(text) - 12)}
    answers = [re.compile(rf"\b{re.escape(answer.lower())}\b") for answer in row["answers"]]
    picked: list[str] = []
    for text in random.Random(f"{seed}:{row['id']}").sample(list(pool), len(pool)):  # noqa: S311
        if len(picked) == size - len(own):
            break
        lower = text.lower()
        if row["answers"][0] not in ("yes", "no") and any(answer.search(lower) for answer in answers):
            continue
        split = words(text)
        if not any(tuple(split[start : start + 13]) in runs for start in range(len(split) - 12)):
            picked.append(text)
    return picked


def bm25(texts: Sequence[str], question: str, k: int | None = None) -> list[int]:
    """Return text indices, best first."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(question, show_progress=False)
    order, _ = retriever.retrieve(tokens, k=min(k or len(texts), len(texts)), show_progress=False)
    return [int(index) for index in order[0]]


def minilm(encoder: TextEncoder, texts: Sequence[str], question: str) -> list[int]:
    """Return text indices, best first."""
    vectors = encoder.embed([question, *texts])
    return best((vectors[1:] @ vectors[0]).tolist(), len(texts))


def table(scores: dict[str, list[float]]) -> str:
    """Return means in percent with their 95 % intervals as a Markdown table."""
    lines = ["| | n | mean |", "|---|---|---|"]
    for name, values in scores.items():
        low, high = bootstrap_interval(values)
        lines.append(
            f"| {name} | {len(values)} | {100 * sum(values) / len(values):.1f} [{100 * low:.1f}, {100 * high:.1f}] |"
        )
    return "\n".join(lines)

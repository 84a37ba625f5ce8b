"""How much evidence is among the first candidates: a bank's index against bm25s with English stop words.

`python benchmarks/candidate_recall.py ../shared/data/qa/hotpotqa_dev.jsonl.gz [--pool 10000 --texts FILE]`

All paragraphs of the questions, and texts of another file up to `--pool`, are the chunks of one bank without blocks.
Prints the share of gold paragraphs among the first 4, 8, 16 and 32, in percent.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memrecall_kv.bank import MemoryBank
from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.types import Chunk, Document

DEPTHS = (4, 8, 16, 32)
PER_DOCUMENT = 50


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fill(bank: MemoryBank, texts: Sequence[str]) -> None:
    """Store texts as the chunks of documents named by the number of their first text."""
    for first in range(0, len(texts), PER_DOCUMENT):
        chunks: list[Chunk] = []
        start = 0
        for number, text in enumerate(texts[first : first + PER_DOCUMENT]):
            chunks.append(Chunk(str(first), number, start, start + len(text), text, max(1, len(text) // 4)))
            start += len(text)
        bank.put_document(Document(str(first), "".join(chunk.text for chunk in chunks)), chunks, defer=True)


def recall(rows: Sequence[dict[str, Any]], places: dict[str, int], best: Callable[[str], list[int]]) -> list[float]:
    """Return the share of gold paragraphs among the first candidates, in percent, at each depth."""
    found, wanted = [0] * len(DEPTHS), 0
    for row in rows:
        gold = {places[paragraph["text"]] for paragraph in row["paragraphs"] if paragraph["supporting"]}
        first = best(row["question"])
        wanted += len(gold)
        found = [sum_ + len(gold & set(first[:depth])) for sum_, depth in zip(found, DEPTHS, strict=True)]
    return [round(100 * each / wanted, 1) for each in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions_file", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--pool", type=int, default=0, help="chunks, filled up with --texts; only the questions' if 0")
    parser.add_argument("--texts", type=Path, help="rows with a text each")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = [row for row in read(given.questions_file) if any(p["supporting"] for p in row["paragraphs"])]
    random.Random(given.seed).shuffle(rows)  # noqa: S311  # sampling, not secrecy
    rows = rows[: given.questions]
    texts = list(dict.fromkeys(paragraph["text"] for row in rows for paragraph in row["paragraphs"]))
    if given.pool:
        texts = list(dict.fromkeys([*texts, *(row["text"] for row in read(given.texts))]))[: given.pool]
    places = {text: number for number, text in enumerate(texts)}
    words = LexicalIndex(texts)

    def by_bm25s(question: str) -> list[int]:
        scores = words.scores(question)
        return sorted(range(len(texts)), key=lambda place: (-scores[place], place))[: DEPTHS[-1]]

    with tempfile.TemporaryDirectory() as folder, MemoryBank.open(folder, fingerprint={"none": "made"}) as bank:
        fill(bank, texts)
        scope = bank.scope()

        def by_bank(question: str) -> list[int]:
            found = bank.candidates(question, DEPTHS[-1], scope)
            return [int(chunk.doc_id) + chunk.index for chunk, _ in sorted(found, key=lambda each: -each[1])]

        print(f"{len(texts)} texts, {len(rows)} questions; among the first {', '.join(map(str, DEPTHS))}")
        print("bm25s", *recall(rows, places, by_bm25s))
        print("bank ", *recall(rows, places, by_bank))


if __name__ == "__main__":
    main()

"""How much evidence is among the first candidates: of a bank's index, after a note too, and of bm25s.

`python benchmarks/candidate_recall.py ../shared/data/qa/hotpotqa_dev.jsonl.gz [--pool 10000 --texts FILE]`

All paragraphs of the questions, and texts of another file up to `--pool`, are the chunks of one bank without blocks.
Prints the share of gold paragraphs among the first 4, 8, 16 and 32, in percent. After a note: the gold paragraphs of a
question but the one that a note of two sentences was taken of, each in turn; looked for with the whole note, and with
its names as the pipeline does.
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
from memrecall_kv.bank.tokens import names
from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.recall.grounding import closest_sentences
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


Asked = tuple[str, set[int], int | None]
"""What is looked for, what is to be found, and which chunk is not counted."""


def recall(asked: Sequence[Asked], best: Callable[[str], list[int]]) -> list[float]:
    """Return the share of what is to be found among the first candidates, in percent, at each depth."""
    found, wanted = [0] * len(DEPTHS), 0
    for text, gold, known in asked:
        first = [place for place in best(text) if place != known]
        wanted += len(gold)
        found = [sum_ + len(gold & set(first[:depth])) for sum_, depth in zip(found, DEPTHS, strict=True)]
    return [round(100 * each / wanted, 1) for each in found]


def questions(rows: Sequence[dict[str, Any]], places: dict[str, int]) -> list[Asked]:
    """Return the questions alone."""
    return [(row["question"], set(gold_of(row, places)), None) for row in rows]


def after_notes(rows: Sequence[dict[str, Any]], places: dict[str, int], told: Callable[[str], str]) -> list[Asked]:
    """Return the questions with what is told by a note of one of their paragraphs."""
    asked: list[Asked] = []
    for row in rows:
        gold = gold_of(row, places)
        for place, text in gold.items():
            note = told(closest_sentences(text, row["question"], 2))
            asked.append((f"{row['question']} {note}", {*gold} - {place}, place))
    return asked


def gold_of(row: dict[str, Any], places: dict[str, int]) -> dict[int, str]:
    """Return a question's gold paragraphs by their places."""
    return {places[text]: text for text in (p["text"] for p in row["paragraphs"] if p["supporting"])}


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
            found = bank.candidates(question, DEPTHS[-1] + 1, scope)
            return [int(chunk.doc_id) + chunk.index for chunk, _ in sorted(found, key=lambda each: -each[1])]

        print(f"{len(texts)} texts, {len(rows)} questions; among the first {', '.join(map(str, DEPTHS))}")
        print("bm25s", *recall(questions(rows, places), by_bm25s))
        print("bank", *recall(questions(rows, places), by_bank))
        print("bank, after a note", *recall(after_notes(rows, places, str), by_bank))
        print("bank, after a note, by names", *recall(after_notes(rows, places, names), by_bank))


if __name__ == "__main__":
    main()

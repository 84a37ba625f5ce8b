"""Evidence and answers of the trained pipeline on multi-hop questions, against BM25 and MiniLM with the same reader.

    python benchmarks/multihop.py --checkpoint CHECKPOINT --data hotpotqa_dev --rows 150 --out RESULT.json

With `--pool 1000` every row is filled up with paragraphs of the haystack. Blocks are compressed and stored as a bank
stores them (int8). `hops` opens one block after the other, each time with the notes that the pipeline's reasoner
takes of those before; `one look` ranks all blocks by the question alone. Rows of dev files evaluate only; what is
fitted (the weight of words, the threshold) is fitted with `--data held_out`: train rows that no stage trained on.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import torch
from memrecall_kv import MemRecall
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.config import GateConfig, MemRecallConfig, ReasonerConfig
from memrecall_kv.evaluate.encoder import TextEncoder
from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.evaluate.measures.metrics import exact_match, f1_score, recall_at_k
from memrecall_kv.recall import prompts
from memrecall_kv.recall.gate import LikelihoodGate, shift_odds
from memrecall_kv.recall.reasoner import Tally, TunedReasoner
from memrecall_kv.types import Chunk, MemoryBlock, Note, Recall, WorkingMemory
from rows import SHARED, bm25, haystack, minilm, parser, read, sampled_rows, save, table, texts_of


class Question:
    """One row: its chunks, and their blocks, compressed when they are first needed."""

    def __init__(self, memory: MemRecall, row: dict[str, Any], extra: list[str]) -> None:
        self.row, self._memory = row, memory
        self.texts = [*texts_of(row), *extra]
        self.chunks = [
            Chunk(str(number), 0, 0, len(text), text, len(memory.backbone.encode(text)))
            for number, text in enumerate(self.texts)
        ]
        self.gold = [number for number, p in enumerate(row["paragraphs"]) if p["supporting"]]
        self._blocks: dict[int, MemoryBlock] = {}
        self._seen: dict[tuple[str, str], dict[int, float]] = {}
        self.words = LexicalIndex(self.texts)

    def blocks(self, numbers: list[int]) -> list[MemoryBlock]:
        """Return blocks as a bank would give them back."""
        missing = [number for number in numbers if number not in self._blocks]
        made = self._memory.parts.compressor.compress([self.chunks[number] for number in missing])
        storage = self._memory.config.bank.storage
        self._blocks |= {n: dequantize(quantize(block, storage)) for n, block in zip(missing, made, strict=True)}
        return [self._blocks[number] for number in numbers]

    def candidates(self, known: str, limit: int | None) -> list[int]:
        """Return what the gate is to judge: all, or those with most words of question and notes."""
        shares = self.words.scores(f"{self.row['question']} {known}")
        order = sorted(range(len(shares)), key=lambda number: (-shares[number], number))
        return order[:limit]

    def note(self, memory: WorkingMemory, number: int) -> WorkingMemory:
        """Return the memory after the pipeline's reasoner read a chunk."""
        reasoner, chunk = self._memory.parts.reasoner, self.chunks[number]
        return reasoner.update(self.row["question"], memory, chunk, self.blocks([number])[0], Tally())

    def judge(self, known: str, numbers: list[int], weight: float, asked: str | None = None) -> dict[int, float]:
        """Return the probabilities of blocks under notes, for the row's question or another."""
        asked = self.row["question"] if asked is None else asked
        notes = WorkingMemory((Note(known, "-"),) if known else ())
        seen = self._seen.setdefault((asked, known), {})
        fresh = [number for number in numbers if number not in seen]
        if fresh:
            scores = self._memory.parts.gate.score(asked, notes, self.blocks(fresh))
            seen.update(zip(fresh, scores, strict=True))
        shares = self.words.scores(f"{self.row['question']} {known}")
        return {n: shift_odds(seen[n], weight * shares[n]) for n in numbers}


def walk(question: Question, k: int, weight: float, limit: int | None) -> tuple[list[int], list[dict[int, float]]]:
    """Open k blocks one after the other; return them and the probabilities of each look."""
    opened: list[int] = []
    memory = WorkingMemory()
    looks = []
    while len(opened) < min(k, len(question.texts)):
        known = memory.text
        judged = question.judge(known, question.candidates(known, limit), weight)
        looks.append(judged)
        left = {number: p for number, p in judged.items() if number not in opened}
        opened.append(max(left, key=lambda number: left[number]))
        memory = question.note(memory, opened[-1])
    return opened, looks


def answer(memory: MemRecall, question: Question, numbers: list[int], readback: str) -> str:
    """Let the reader answer from chunks: their texts, or their blocks with readback off."""
    reasoner = memory.parts.reasoner
    assert isinstance(reasoner, TunedReasoner)
    settings = memory.config.reasoner.model_dump() | {"readback": readback, "max_readback_tokens": 10**6}
    settings |= {"max_answer_tokens": 16}
    reader = TunedReasoner(reasoner._backbone, ReasonerConfig(**settings), reasoner.adapter)
    # the first is nearest to the question, as the pipeline has it
    evidence = [Recall(question.chunks[number], 1.0 - 0.01 * place, place) for place, number in enumerate(numbers)]
    blocks = question.blocks(numbers)[::-1] if readback == "off" else []
    return "".join(reader.answer(question.row["question"], WorkingMemory(), evidence, blocks, Tally())).strip()


def measure(memory: MemRecall, options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per row."""
    # the dev haystack may not serve to fit anything
    source = "wikipedia_train" if options.data == "held_out" else "wikipedia_pool"
    lines = read(SHARED / "text" / f"{source}.jsonl.gz") if options.pool else []
    pool = [f"{line['title']}: {line['text']}" for line in lines]
    encoder = TextEncoder() if options.minilm else None
    likelihood = LikelihoodGate(memory.parts.reasoner._backbone, GateConfig(batch_size=10))
    records = []
    started = time.perf_counter()
    for row in rows:
        extra = haystack(row, pool, options.pool, options.seed) if options.pool else []
        question = Question(memory, row, extra)
        k = max(2, len(question.gold)) if options.data == "held_out" else options.k
        limit = options.candidates if options.pool else None
        ranked: dict[str, list[int]] = {"BM25": bm25(question.texts, row["question"], 200)}
        if encoder:
            ranked["MiniLM"] = minilm(encoder, question.texts, row["question"])
        first = question.judge("", question.candidates("", limit), 0.0)
        shares = question.words.scores(row["question"])
        ranked["gate, one look"] = sorted(first, key=lambda n: -first[n])
        if not options.pool:
            ranked["gate, hops"], _ = walk(question, k, 0.0, limit)
        opened, looks = walk(question, k, options.weight, limit)
        ranked["gate and words, one look"] = sorted(
            first, key=lambda n: -shift_odds(first[n], options.weight * shares[n])
        )
        ranked["gate and words, hops"] = opened
        if options.likelihood and not options.pool:
            gains = likelihood.score(
                row["question"], WorkingMemory(), question.blocks(list(range(len(question.texts))))
            )
            ranked["likelihood gate"] = sorted(range(len(gains)), key=lambda n: -gains[n])
        record: dict[str, Any] = {"id": row["id"], "type": row.get("type"), "gold": question.gold}
        record["ranked"] = {name: order[:20] for name, order in ranked.items()}
        record["first"] = {n: [first[n], shares[n]] for n in first}
        record["second"] = looks[1] if len(looks) > 1 else {}
        if len(question.gold) > 1 and not options.pool:
            record["known"] = known_hop(question, options.weight)
        if options.answers:
            record["answers"] = answers(memory, question, ranked, options)
        records.append(record)
        if len(records) % 10 == 0:
            print(f"{len(records)}/{len(rows)}, {time.perf_counter() - started:.0f} s", flush=True)
    return records


def answered(memory: MemRecall, options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that an earlier run has of these rows, with answers from what it found."""
    found = {record["id"]: record for record in json.loads(options.ranks.read_text(encoding="utf-8"))["rows"]}
    records = []
    for row in rows:
        ranked = found[row["id"]]["ranked"]
        records.append({**found[row["id"]], "answers": answers(memory, Question(memory, row, []), ranked, options)})
    return records


ABLATIONS = {
    "with": "gold with the other's note, reciprocal rank",
    "without": "memory removed",
    "no question": "question removed",
    "swapped": "blocks swapped",
}


def known_hop(question: Question, weight: float) -> dict[str, float]:
    """Return the mean reciprocal rank of gold paragraphs given the notes of the other gold ones, and ablations."""
    every = list(range(len(question.texts)))
    found = dict.fromkeys(ABLATIONS, 0.0)
    for last in question.gold:
        others = [number for number in question.gold if number != last]
        known = functools.reduce(question.note, others, WorkingMemory()).text
        judged = question.judge(known, every, weight)
        looks = {
            "with": judged,
            "without": question.judge("", every, weight),
            "no question": question.judge(known, every, 0.0, asked=""),
            # each paragraph is judged by the block of the next one
            "swapped": {n: judged[(n + 1) % len(every)] for n in every},
        }
        for name, look in looks.items():
            rivals = [p for number, p in look.items() if number not in question.gold and p >= look[last]]
            found[name] += 1 / (1 + len(rivals)) / len(question.gold)
    return found


def answers(
    memory: MemRecall, question: Question, ranked: dict[str, list[int]], options: argparse.Namespace
) -> dict[str, Any]:
    """Return the answers of each way to find texts, at the same number of texts, and of all texts."""
    k = options.k
    ways = {"ours": ranked["gate and words, hops"], "ours, blocks": ranked["gate and words, hops"]}
    ways |= {f"RAG {name}": ranked[name] for name in ("BM25", "MiniLM") if name in ranked}
    if not options.pool:
        ways |= {"all texts": list(range(len(question.texts))), "gold texts": question.gold}
    replies = {}
    for name, order in ways.items():
        if options.ways and name not in options.ways:
            continue
        numbers = order if name.startswith(("all", "gold")) else order[:k]
        replies[name] = answer(memory, question, numbers, "off" if name.endswith("blocks") else "answer")
    return {"replies": replies, "gold": question.row["answers"]}


def report(records: list[dict[str, Any]], k: int) -> str:
    """Return the tables of a run."""
    parts = []
    recalls: dict[str, list[float]] = {}
    for record in records:
        for name, order in record["ranked"].items():
            recalls.setdefault(f"{name}, recall@{k}", []).append(recall_at_k(order, record["gold"], k))
    parts.append(table(recalls))
    known = [record["known"] for record in records if "known" in record]
    if known:
        ranks = {label: [one[name] for one in known] for name, label in ABLATIONS.items()}
        ranks["difference that the memory makes"] = [one["with"] - one["without"] for one in known]
        parts.append(table(ranks))
    if "answers" in records[0]:
        scores: dict[str, list[float]] = {}
        for record in records:
            for name, reply in record["answers"]["replies"].items():
                scores.setdefault(f"{name}, F1", []).append(f1_score(reply, record["answers"]["gold"]))
                scores.setdefault(f"{name}, EM", []).append(exact_match(reply, record["answers"]["gold"]))
                scores.setdefault(f"{name}, said not found", []).append(float(prompts.is_nothing(reply)))
        parts.append(table(scores))
    return "\n\n".join(parts)


def main() -> None:
    """Measure, print the tables, and write every row's record."""
    arguments = parser(__doc__, data="hotpotqa_dev", rows=100)
    arguments.add_argument("--k", type=int, default=2)
    arguments.add_argument("--pool", type=int, default=0, help="fill up with paragraphs of the haystack to this many")
    arguments.add_argument("--candidates", type=int, default=32, help="blocks that are judged in a pool")
    arguments.add_argument("--weight", type=float, default=1.0, help="of shared words")
    arguments.add_argument("--ratio", type=int, help="compression ratio instead of the checkpoint's")
    arguments.add_argument("--answers", action="store_true")
    arguments.add_argument("--ways", nargs="+", help="to find the texts that are answered from; all if left out")
    arguments.add_argument("--ranks", type=Path, help="answer from what an earlier result found; without --pool")
    arguments.add_argument("--minilm", action="store_true")
    arguments.add_argument("--likelihood", action="store_true")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    memory = MemRecall.from_pretrained(options.checkpoint)
    if options.ratio:
        compressor = memory.config.compressor.model_dump() | {"compression_ratio": options.ratio}
        settings = memory.config.model_dump() | {"compressor": compressor}
        memory = MemRecall.from_pretrained(options.checkpoint, config=MemRecallConfig(**settings))
    rows = sampled_rows(options)
    records = (answered if options.ranks else measure)(memory, options, rows)
    print(f"\n{options.data}, {len(records)} rows\n\n{report(records, options.k)}\n")
    save(options, rows=records)


if __name__ == "__main__":
    main()

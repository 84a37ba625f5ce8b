"""The pipeline as a user runs it, by its threshold: answers, evidence, and whether it refuses what it cannot know.

    python benchmarks/refusals.py --data hotpotqa_dev --rows 100 --out RESULT.json

Every row's paragraphs become a bank of their own. The question is asked twice: of all paragraphs, and with the gold
ones filtered out, where the right reply is "not found". Where the answer stands in another paragraph too, or is yes or
no, a reply is no mistake for certain: the others are also counted alone.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from memrecall_kv import Document, MemRecall
from memrecall_kv.evaluate.measures.metrics import exact_match, f1_score
from rows import parser, sampled_rows, save, table, texts_of


def ask(memory: MemRecall, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return both replies to a row's question, and what was opened for them."""
    gold = {str(number) for number, p in enumerate(row["paragraphs"]) if p["supporting"]}
    record: dict[str, Any] = {"id": row["id"], "gold": sorted(gold), "answers": row["answers"]}
    bank = memory.open_bank(folder / "bank")
    memory.ingest(bank, [Document(str(number), text) for number, text in enumerate(texts_of(row))])
    for name, where in (("all", None), ("without gold", lambda doc_id, _: doc_id not in gold)):
        reply = memory.ask(bank, row["question"], where=where)
        opened = [recall.chunk.doc_id for recall in reply.evidence]
        record[name] = {"text": reply.text, "found": reply.found, "opened": opened, "seconds": reply.usage.seconds}
    rest = " ".join(text for number, text in enumerate(texts_of(row)) if str(number) not in gold).lower()
    record["given away"] = row["answers"][0].lower() in rest or row["answers"][0].lower() in ("yes", "no")
    return record


def report(records: list[dict[str, Any]]) -> str:
    """Return the table of a run."""
    scores: dict[str, list[float]] = {}
    for record in records:
        reply, blind = record["all"], record["without gold"]
        text = reply["text"] if reply["found"] else ""
        opened, gold = set(reply["opened"]), set(record["gold"])
        scores.setdefault("F1", []).append(f1_score(text, record["answers"]))
        scores.setdefault("EM", []).append(exact_match(text, record["answers"]))
        scores.setdefault("gold paragraphs opened", []).append(len(opened & gold) / len(gold))
        if opened:
            scores.setdefault("gold among the opened", []).append(len(opened & gold) / len(opened))
        scores.setdefault("false refusals", []).append(float(not reply["found"]))
        scores.setdefault("gold taken away: not found", []).append(float(not blind["found"]))
        if not record["given away"]:
            scores.setdefault("of these, answer nowhere else", []).append(float(not blind["found"]))
    return table(scores)


def main() -> None:
    """Ask, print the table, and write every row's record."""
    arguments = parser(__doc__, data="hotpotqa_dev", rows=100)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    memory = MemRecall.from_pretrained(options.checkpoint)
    rows = sampled_rows(options)
    records = []
    started = time.perf_counter()
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            records.append(ask(memory, row, Path(folder)))
        if len(records) % 10 == 0:
            print(f"{len(records)}/{len(rows)}, {time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{options.data}, {len(records)} rows\n\n{report(records)}\n")
    save(options, rows=records)


if __name__ == "__main__":
    main()

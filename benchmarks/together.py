"""Questions one after the other and at once: throughput, seconds of each, and whether the answers are the same.

    python benchmarks/together.py --rows 8 --out RESULT.json

All rows' paragraphs are one bank. `--longest N` lets answers have N tokens; `--kind zero_shot` lets the backbone write
notes and answers as it is; `--reading` hands the gold paragraphs to the reasoner, so that what is measured is prompts
and decoding alone: where the gate takes most of a question, on a CPU, nothing else shows.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from memrecall_kv import Document, MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Recall, WorkingMemory
from rows import parser, sampled_rows, save, texts_of

Ask = Callable[[int], str]


def timed(ask: Ask, count: int, at_once: int) -> dict[str, Any]:
    """Return what asking all takes, each from the moment when all are asked, and the answers."""
    forwarding, clock = time.process_time(), time.perf_counter()

    def one(number: int) -> tuple[str, float]:
        return ask(number), time.perf_counter() - clock

    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(one, range(count)))
    took = sorted(seconds for _, seconds in found)
    return {
        "cpu_seconds": time.process_time() - forwarding,
        "seconds": took[-1],
        "p50": statistics.median(took),
        "p95": took[min(count - 1, count * 95 // 100)],
        "answers": [text for text, _ in found],
    }


def reading(memory: MemRecall, rows: Sequence[dict[str, Any]]) -> Ask:
    """Return what reads a row's gold paragraphs and answers."""

    def ask(number: int) -> str:
        row = rows[number]
        gold = [text for text, p in zip(texts_of(row), row["paragraphs"], strict=True) if p["supporting"]]
        chunks = [memory.chunk(Document(str(place), text))[0] for place, text in enumerate(gold)]
        evidence = [Recall(chunk, 0.9 - place / 10, place) for place, chunk in enumerate(chunks)]
        pieces = memory.parts.reasoner.answer(row["question"], WorkingMemory(), evidence, [], Tally())
        return "".join(memory.backbone.scheduler.each(pieces))

    return ask


def main() -> None:
    """Ask twice, print the ratio, and write what was found."""
    arguments = parser(__doc__, data="hotpotqa_dev", rows=8)
    arguments.add_argument("--at-once", type=int, default=8)
    arguments.add_argument("--longest", type=int, default=None)
    arguments.add_argument("--kind", choices=("tuned", "zero_shot"), default=None)
    arguments.add_argument("--reading", action="store_true")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    memory = MemRecall.from_pretrained(options.checkpoint)
    wanted = {"kind": options.kind, "max_answer_tokens": options.longest}
    reasoner = memory.config.reasoner.model_copy(update={key: value for key, value in wanted.items() if value})
    if reasoner != memory.config.reasoner:
        config = memory.config.model_copy(update={"reasoner": reasoner})
        memory = MemRecall.from_pretrained(options.checkpoint, config=config)
    rows = sampled_rows(options)
    with tempfile.TemporaryDirectory() as folder, memory.open_bank(Path(folder) / "bank") as bank:
        if options.reading:
            ask = reading(memory, rows)
        else:
            documents = [
                Document(f"{n}/{m}", text) for n, row in enumerate(rows) for m, text in enumerate(texts_of(row))
            ]
            memory.ingest(bank, documents)

            def ask(number: int) -> str:
                return memory.ask(bank, rows[number]["question"]).text

        timed(ask, min(2, len(rows)), 1)  # what is made once
        found = {name: timed(ask, len(rows), width) for name, width in (("sequence", 1), ("at once", options.at_once))}
    sequence, together = found["sequence"], found["at once"]
    for name, one in found.items():
        print(f"{name}: " + ", ".join(f"{key} {one[key]:.2f}" for key in ("seconds", "cpu_seconds", "p50", "p95")))
    same = sum(one == other for one, other in zip(sequence["answers"], together["answers"], strict=True))
    print(
        f"throughput {sequence['seconds'] / together['seconds']:.2f} times, in CPU seconds "
        f"{sequence['cpu_seconds'] / together['cpu_seconds']:.2f}; {same} of {len(rows)} answers are the same"
    )
    save(options, found=found, same=same)


if __name__ == "__main__":
    main()

"""What smaller blocks cost: answers, evidence, and answers read from blocks, the same questions for every form.

    python benchmarks/storage_forms.py --data hotpotqa_dev --rows 40 --threads 1 --native BANK --out RESULT.json
    python benchmarks/storage_forms.py --join PART.json PART.json --native BANK --out RESULT.json

Every row's paragraphs become a bank of their own. They are compressed once, into the bank `--native`, which holds what
was made and is kept; each form then stores the same blocks. The default pipeline, but for `--max-open` blocks instead
of six: HotpotQA has two gold paragraphs a question, and a look at all blocks costs most. The answer is read from text,
so that a form can only change what is opened. `read` is what the same reader answers from the gold paragraphs' blocks,
readback off, where a bank keeps the layers for it. `log-odds` is how far the gate's first look at a block is from that
at the 8-bit one. Intervals are paired bootstraps over questions against int8. `--join` counts the rows of runs that
took a part each.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from memrecall_kv import Document, MemRecall
from memrecall_kv.assemble import build
from memrecall_kv.bank import MemoryBank, segment
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.config import BankConfig, default_directory
from memrecall_kv.evaluate.measures.metrics import bootstrap_interval, f1_score, paired_interval, recall_at_k
from memrecall_kv.recall.gate import GlancingGate
from memrecall_kv.recall.reasoner import Reasoner, Tally
from memrecall_kv.types import Chunk, MemoryBlock, Recall, WorkingMemory
from rows import parser, sampled_rows, save, texts_of

EDGE = 2
"""Layers at either end that a form such as `k4v3, edges int8` keeps in more bits."""
SCORES = ("F1", "evidence recall@2", "gold opened", "read F1")


class FirstLook:
    """A gate that keeps what it first said of all candidates of a question."""

    def __init__(self, gate: GlancingGate) -> None:
        self._gate, self._question, self.said = gate, "", []

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return what the gate says."""
        return self._kept(question, self._gate.score(question, notes, blocks))

    def glance(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return what the gate says at a glance."""
        return self._kept(question, self._gate.glance(question, notes, blocks))

    def begin(self) -> None:
        """Forget the question."""
        self._question = ""

    def _kept(self, question: str, probabilities: list[float]) -> list[float]:
        if question != self._question:
            self._question, self.said = question, probabilities
        return probabilities


class Remembering:
    """A reasoner that reads the same texts for the same question once: blocks make no difference to it."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner, self._said = reasoner, {}
        self.update = reasoner.update

    def answer(
        self,
        question: str,
        notes: WorkingMemory,
        evidence: Sequence[Recall],
        blocks: Sequence[MemoryBlock],
        tally: Tally,
        among: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer in one piece."""
        nearest = sorted(evidence, key=lambda recall: (-recall.gate_probability, recall.step))
        key = (question, notes.text, *(recall.chunk.id for recall in nearest), *among)
        if key not in self._said:
            self._said[key] = "".join(self._reasoner.answer(question, notes, evidence, blocks, tally, among))
        yield self._said[key]


def stored(block: MemoryBlock, form: str) -> tuple[MemoryBlock, int]:
    """Return what a bank gives back of a block, and the bytes of its record."""
    name, _, edges = form.partition(", edges ")
    kept = quantize(block, name)
    read, size = dequantize(kept), len(segment.pack(bytes(16), kept, bytes(16)))
    if edges:
        whole = quantize(block, edges)
        better, bits = dequantize(whole), (len(segment.pack(bytes(16), whole, bytes(16))) - size)
        layers = [*range(EDGE), *range(len(block.keys) - EDGE, len(block.keys))]
        for tensor, other in ((read.keys, better.keys), (read.values, better.values)):
            tensor[layers] = other[layers]
        counts = block.counts if block.counts is not None else torch.ones(block.keys.shape[:2])
        size += round(bits * float(counts[layers].sum() / counts.sum()))
    return read, size


def read_gold(reader: Reasoner, question: str, chunks: Sequence[Chunk], blocks: Sequence[MemoryBlock]) -> str:
    """Return what a reader without readback answers from blocks."""
    evidence = [Recall(chunk, 1.0, place, {}) for place, chunk in enumerate(chunks)]
    return "".join(reader.answer(question, WorkingMemory(), evidence, blocks, Tally())).strip()


def ask(
    memory: MemRecall,
    blind: Reasoner | None,
    look: FirstLook,
    row: dict[str, Any],
    native: MemoryBank,
    forms: Sequence[str],
) -> dict[str, Any]:
    """Return what every form opens, answers and reads for a row's question."""
    documents = [Document(f"{row['id']}/{number}", text) for number, text in enumerate(texts_of(row))]
    chunks = {document.id: memory.chunk(document) for document in documents}
    gold = [documents[number].id for number, p in enumerate(row["paragraphs"]) if p["supporting"]]
    made = {chunk.id: block for own in chunks.values() for chunk, block in zip(own, native.blocks(own), strict=True)}
    record: dict[str, Any] = {
        "id": row["id"],
        "answers": row["answers"],
        "source_tokens": sum(c.num_tokens for own in chunks.values() for c in own),
    }
    for form in forms:
        kept = {chunk_id: stored(block, form) for chunk_id, block in made.items()}
        with (
            tempfile.TemporaryDirectory() as folder,
            MemoryBank.open(
                folder, fingerprint=memory.fingerprint, config=BankConfig(storage="native", segment_bytes=2**30)
            ) as bank,
        ):
            for document in documents:
                bank.put_blocks([(chunk, kept[chunk.id][0]) for chunk in chunks[document.id]])
                bank.put_document(document, chunks[document.id])
            look.begin()
            reply = memory.ask(bank, row["question"])
        opened = list(dict.fromkeys(recall.chunk.doc_id for recall in reply.evidence))
        judged: dict[str, float] = {}
        for step in reply.trace.steps:
            doc_id = step.chunk_id.rpartition("#")[0]
            judged[doc_id] = max(judged.get(doc_id, 0.0), step.gate_probability)
        ranked = list(dict.fromkeys([*opened, *sorted(judged, key=judged.__getitem__, reverse=True)]))
        gold_chunks = [chunk for doc_id in gold for chunk in chunks[doc_id]]
        read = [kept[chunk.id][0] for chunk in gold_chunks]
        said = read_gold(blind, row["question"], gold_chunks, read) if blind else ""
        text = reply.text if reply.found else ""
        record[form] = {
            "text": text,
            "opened": opened,
            "read": said,
            "first look": [round(p, 6) for p in look.said],
            "bytes": sum(size for _, size in kept.values()),
            "F1": f1_score(text, row["answers"]),
            "evidence recall@2": recall_at_k(ranked, gold, 2),
            "gold opened": len(set(opened) & set(gold)) / len(gold),
            **({"read F1": f1_score(said, row["answers"])} if blind else {}),
        }
    return record


def report(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means, paired intervals against int8 and bytes of every form."""
    found: dict[str, Any] = {}
    tokens = sum(record["source_tokens"] for record in records)
    for form in (form for form in records[0] if isinstance(records[0][form], dict)):
        line: dict[str, Any] = {"bytes a source token": sum(record[form]["bytes"] for record in records) / tokens}
        for name in (name for name in SCORES if name in records[0][form]):
            mine, base = ([record[other][name] for record in records] for other in (form, "int8"))
            line[name] = [100 * mean(mine), *(100 * end for end in bootstrap_interval(mine))]
            line[f"{name}, minus int8"] = [100 * number for number in paired_interval(mine, base)]
        line["log-odds"] = mean(
            abs(_odds(one) - _odds(other))
            for record in records
            for one, other in zip(record[form]["first look"], record["int8"]["first look"], strict=True)
        )
        line["same opened"] = mean(record[form]["opened"] == record["int8"]["opened"] for record in records)
        found[form] = line
    return found


def _odds(probability: float) -> float:
    held = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(held / (1 - held))


def main() -> None:
    """Ask, print the figures, and write them with every row's record."""
    arguments = parser(__doc__, data="hotpotqa_dev", rows=40)
    arguments.add_argument("--native", type=Path, required=True, help="a bank for what is compressed; kept")
    arguments.add_argument("--forms", nargs="+", default=["int8", "k4v4", "k4v3"], help="int8 first")
    arguments.add_argument("--max-open", type=int, default=2)
    arguments.add_argument("--join", nargs="+", type=Path, help="results whose rows are counted instead")
    options = arguments.parse_args()
    if options.join:
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in options.join]
        joined = [row for part in parts for row in part["rows"]]
        save(options, parts=[part["options"] for part in parts], figures=report(joined), rows=joined)
        print(json.dumps(report(joined), indent=1))
        return
    torch.set_num_threads(options.threads)
    parts = MemRecall.from_pretrained(options.checkpoint).parts
    folder, blind = options.checkpoint or default_directory(), None
    if parts.config.bank.layers == "all":
        off = parts.config.reasoner.model_copy(update={"readback": "off"})
        blind = build(parts.backbone, parts.config.model_copy(update={"reasoner": off}), folder).reasoner
    exact = parts.config.gate.model_copy(update={"batch_size": 5})  # ten paragraphs: no row of a batch is filled up
    look = FirstLook(build(parts.backbone, parts.config.model_copy(update={"gate": exact}), folder).gate)
    scan = parts.config.scan.model_copy(update={"max_open": options.max_open})
    config = parts.config.model_copy(update={"scan": scan})
    memory = MemRecall(replace(parts, gate=look, reasoner=Remembering(parts.reasoner), config=config))
    native = MemoryBank.open(options.native, fingerprint=memory.fingerprint, config=BankConfig(storage="native"))
    rows, records, started = sampled_rows(options), [], time.perf_counter()
    for row in rows:
        memory.ingest(native, [Document(f"{row['id']}/{n}", text) for n, text in enumerate(texts_of(row))])
        records.append(ask(memory, blind, look, row, native, options.forms))
        print(f"{len(records)}/{len(rows)}, {time.perf_counter() - started:.0f} s", flush=True)
        save(options, seconds=time.perf_counter() - started, figures=report(records), rows=records)
    print(json.dumps(report(records), indent=1))


if __name__ == "__main__":
    main()

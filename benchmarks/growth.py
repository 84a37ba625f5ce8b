"""What a bank costs as it grows: `python benchmarks/growth.py OUT.json 10000 200000`.

Banks of so many chunks are made of words with Zipf's distribution, written through the bank with blocks of a few
numbers, the index made at once; gate and reasoner are scripts, so that what is measured is all but the model. CPU
seconds are of this process; memory is what it takes more at its peak than after opening. Each size is built and
measured in processes of its own.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from memrecall_kv.bank import MemoryBank, derived, digest
from memrecall_kv.bank.metadata import to_json
from memrecall_kv.config import BankConfig, ChunkingConfig, GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.filters import And, Compare, Filter, Not, Operator, Or
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Chunk, Document, MemoryBlock

WORDS, PER_CHUNK, PER_DOCUMENT, CLEARED = 50_000, 20, 10, 10_000
QUESTIONS = ("what is w40 of w700 and w9000?", "w1 w2 w3 w25 w3000 w41000", "who is w160 w4000 w20000")


def memory() -> MemRecall:
    """Return a pipeline whose gate and reasoner cost nothing."""
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=256),
        scan=ScanConfig(top_k=4, candidates=32),
        gate=GateConfig(threshold=0.0, lexical_weight=1.0),
        bank=BankConfig(storage="native"),
    )
    gate = ScriptedGate(lambda *_: 0.5)
    return tiny_memory(config, gate=gate, reasoner=ScriptedReasoner({}, lambda *_: "an answer"))


def documents(count: int, seed: int, per_document: int = PER_DOCUMENT) -> Iterator[tuple[Document, list[Chunk]]]:
    """Yield documents and their chunks."""
    source = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, WORDS + 1))
    for number in range(count):
        drawn = np.searchsorted(shares, source.random((per_document, PER_CHUNK)) * shares[-1])
        parts = [" ".join(f"w{word}" for word in row) + ". " for row in drawn]
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        doc_id = f"doc-{seed}-{number}"
        metadata = {"page": number, "source": f"folder/{number % 100}.txt", "lang": ("en", "ja")[number % 2]}
        if number % 1000 == 0:
            metadata["rare"] = "x"
        chunks = [
            Chunk(doc_id, place, starts[place], starts[place + 1], text, PER_CHUNK + 1)
            for place, text in enumerate(parts)
        ]
        yield Document(doc_id, "".join(parts), metadata), chunks


def fill(bank: MemoryBank, made: Iterator[tuple[Document, list[Chunk]]]) -> None:
    """Store documents in one transaction, and make the index of all of them at its end."""
    block = MemoryBlock(
        *(torch.ones(2, 2, 2, 8) for _ in range(2)), torch.arange(2, dtype=torch.int32)[None, None], 8, 8
    )
    catalogue = bank._catalogue
    waiting: list[tuple[Document, list[Chunk]]] = []
    ((place,),) = catalogue._rows("SELECT coalesce(max(place), 0) FROM documents")
    while batch := list(islice(made, 500)):
        bank.put_blocks([(chunk, block) for _, chunks in batch for chunk in chunks])
        waiting += [(document, chunks) for document, chunks in batch]
        if len(waiting) >= 5000:
            place = enter(bank, waiting, place)
    enter(bank, waiting, place)
    with catalogue.transaction():
        derived.build(catalogue._database)


def enter(bank: MemoryBank, waiting: list[tuple[Document, list[Chunk]]], place: int) -> int:
    """Enter the rows that `put_document` would, without the index; return the last place."""
    database = bank._catalogue._database
    with bank._catalogue.transaction():
        for document, chunks in waiting:
            place += 1
            cuts = [(c.index, c.start, c.end, c.num_tokens, bank._block_id(c)) for c in chunks]
            metadata = to_json(document)
            proofs = (
                digest.of_head(place, document.id, metadata),
                digest.of_body(place, document.id, document.text, "", cuts),
            )
            row = (place, document.id, document.text, metadata, "", len(cuts), *proofs)
            database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            database.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)", [(place, *cut) for cut in cuts])
    waiting.clear()
    return place


class Times:
    """Measures calls, and keeps the figures."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def take(self, name: str, call: Callable[[], Any], times: int = 1) -> Any:
        """Call so often; keep milliseconds of one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            result = call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.figures[name] = {"cpu_ms": round(cpu / times * 1000, 2), "wall_ms": round(wall / times * 1000, 2)}
        print(f"  {name}: {self.figures[name]}", flush=True)
        return result


def filters(count: int) -> dict[str, Filter]:
    """Return a filter of each kind, for so many documents."""
    half, few = Compare("lang", Operator.EQ, "ja"), Compare("source", Operator.EQ, "folder/7.txt")
    late = Compare("page", Operator.GTE, count // 2)
    return {
        "half of all": half,
        "one in a hundred": few,
        "one number": Compare("page", Operator.EQ, 7),
        "one of two texts": Compare("source", Operator.IN, ["folder/7.txt", "folder/8.txt"]),
        "none of two texts": Compare("source", Operator.NIN, ["folder/7.txt", "folder/8.txt"]),
        "another text": Compare("lang", Operator.NE, "ja"),
        "a range of few": Compare("page", Operator.LT, 50),
        "a range of half": late,
        "a part of a text": Compare("source", Operator.TEXT, "/7"),
        "a part of a text in any case": Compare("source", Operator.TEXT_ANY_CASE, "FOLDER/7"),
        "both": And((half, few)),
        "either": Or((few, late)),
        "not half of all": Not(half),
        "a field that one in a thousand have": Compare("rare", Operator.EQ, "x"),
        "no such field": Compare("nothing", Operator.EMPTY),
    }


def measure(folder: Path, chunks: int) -> dict[str, Any]:
    """Return the figures of a bank that was built."""
    asked, times = memory(), Times()
    bank = times.take("open", lambda: asked.open_bank(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times.take("first question", lambda: asked.ask(bank, QUESTIONS[0]))
    for number, question in enumerate(QUESTIONS):
        times.take(f"question {number}", lambda question=question: asked.ask(bank, question), 5)
    few = Compare("source", Operator.EQ, "folder/7.txt")
    for name, where in filters(chunks // PER_DOCUMENT).items():
        times.take(f"filter, {name}", lambda where=where: bank.scope(where))  # asked again it is remembered
    times.take("question with a filter", lambda: asked.ask(bank, QUESTIONS[0], where=few), 3)
    times.take("stats", bank.stats, 3)
    memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times.figures["peak memory of the questions, MB more"] = round(memory_mb, 1)
    doomed = iter(range(chunks // PER_DOCUMENT))
    times.take("delete a document", lambda: bank.delete(f"doc-0-{next(doomed)}"), 20)
    ids = bank.ids(lambda doc_id, _: doc_id.startswith("doc-1-"))
    times.take(f"clear {len(ids)} texts", lambda: bank.delete_many(ids))
    bank.close()
    return times.figures


def build(folder: Path, chunks: int) -> dict[str, Any]:
    """Make a bank: documents of ten chunks, and texts of one for the clearing."""
    times = Times()
    with memory().open_bank(folder) as bank:
        texts = documents(min(CLEARED, chunks // 10), 1, per_document=1)
        times.take("build", lambda: fill(bank, chain(documents(chunks // PER_DOCUMENT, 0), texts)))
        bank._catalogue.empty_log()
    with sqlite3.connect(folder / "catalogue.sqlite") as database:
        query = "SELECT sum(length(entries)), sum(length(term)), count(*) FROM postings"
        entries, words, rows = database.execute(query).fetchone()
    database.close()
    sizes = {"catalogue": (folder / "catalogue.sqlite").stat().st_size, "postings": entries + words + 20 * rows}
    times.figures |= {f"bytes a chunk, {name}": round(size / chunks) for name, size in sizes.items()}
    return times.figures


def main(out: str, *sizes: str) -> None:
    """Measure banks of these numbers of chunks and write the figures."""
    results: dict[str, Any] = {"machine": platform.platform(), "sqlite": sqlite3.sqlite_version, "chunks": {}}
    for size in sizes:
        print(f"{size} chunks", flush=True)
        folder = Path(mkdtemp(prefix="growth-"))
        figures: dict[str, Any] = {}
        for step in ("build", "measure"):
            call = [sys.executable, __file__, step, str(folder / "bank"), size, str(folder / step)]
            subprocess.run(call, check=True)  # noqa: S603 - ourselves
            figures |= json.loads((folder / step).read_text())
        shutil.rmtree(folder)
        results["chunks"][size] = figures
        Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] in ("build", "measure"):
        step = {"build": build, "measure": measure}[sys.argv[1]]
        Path(sys.argv[4]).write_text(json.dumps(step(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(*sys.argv[1:])

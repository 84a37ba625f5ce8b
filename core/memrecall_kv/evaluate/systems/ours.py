"""The pipeline of this package as a system, and its variants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.systems.system import RANKED, Prepared, Reply, distinct
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.types import Document, MemoryBlock, WorkingMemory

_ALL = 1_000_000
"""More blocks than any bank here has."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "memrecall": {},
    "memrecall-deferred": {},
    "memrecall-no-gate": {
        "gate.threshold": 0.0,
        "gate.lexical_weight": 0.0,
        "scan.schedule": "sequential",
        "scan.top_k": None,
        "scan.max_open": _ALL,
        "scan.candidates": None,
    },
    "memrecall-one-pass": {"scan.schedule": "lookahead", "scan.top_k": None},
    "memrecall-rescan": {"scan.schedule": "rescan", "scan.top_k": None},
    "memrecall-best-first": {"scan.schedule": "best_first", "scan.top_k": None},
    "memrecall-all-judged": {"scan.candidates": None},
    "memrecall-no-words": {"gate.lexical_weight": 0.0, "scan.candidates": None},
    "memrecall-no-readback": {"reasoner.readback": "off", "bank.layers": "all"},
    "memrecall-paper": {
        "gate.lexical_weight": 0.0,
        "scan.schedule": "sequential",
        "scan.top_k": None,
        "scan.max_open": _ALL,
        "scan.candidates": None,
        "reasoner.readback": "off",
        "bank.layers": "all",
    },
}
"""Settings that differ from the pipeline's own; `memrecall-no-gate` also has `OpenGate`, `-deferred` a later ingest."""


def _digest(memory: MemRecall) -> str:
    config = memory.config
    settings = "\n".join(part.model_dump_json() for part in (config.chunking, config.compressor, config.bank))
    return hashlib.sha256(settings.encode()).hexdigest()[:12]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class OpenGate:
    """A gate that opens every block without looking at it."""

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return 1.0 for each block."""
        return [1.0] * len(blocks)


class MemRecallSystem:
    """A pipeline with a bank for the documents.

    Args:
        memory: The pipeline.
        gated: `False` opens every block.
        defer: Compress what questions come near, when they do.
    """

    def __init__(self, memory: MemRecall, *, gated: bool = True, defer: bool = False) -> None:
        self._memory = memory if gated else MemRecall(replace(memory.parts, gate=OpenGate()))
        self._gated, self._defer = gated, defer
        self._bank: MemoryBank | None = None
        self._prepared: set[str] = set()

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Compress the documents into a bank; see `System`.

        A folder that held other documents gives back the blocks of equal texts; documents of the same id are
        replaced in their place, and what else it holds is not recalled.

        Raises:
            BankError: If the folder holds a bank of another model or other settings.
        """
        self.close()
        self._prepared = set()
        # variants that compress alike share a bank
        path = folder / f"bank-{_digest(self._memory)}"
        before = _size(path)  # a bank that other contexts filled is larger than what these documents take
        self._bank = self._memory.open_bank(path)
        kept = self._bank.stats().blocks > 0  # two equal texts of one context are nothing of an earlier run
        report = self._memory.ingest(self._bank, self._noting(documents), defer=self._defer)
        known = report.documents_unchanged + report.chunks_reused > 0
        return Prepared(_size(path) - before, report.source_tokens, reused=kept and known)

    def _noting(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self._prepared.add(document.id)
            yield document

    def answer(self, question: str) -> Reply:
        """Ask the pipeline; see `System`.

        Raises:
            InputError: If nothing was prepared.
        """
        if self._bank is None:
            raise InputError("Expected documents before a question.", "Call prepare first.")
        answer = self._memory.ask(self._bank, question, where=lambda doc_id, _: doc_id in self._prepared)
        judged: dict[str, float] = {}
        for step in answer.trace.steps:
            doc_id = step.chunk_id.rpartition("#")[0]
            judged[doc_id] = max(judged.get(doc_id, 0.0), step.gate_probability)
        usage = answer.usage
        evidence = distinct(recall.chunk.doc_id for recall in answer.evidence)
        others = sorted((doc_id for doc_id, p in judged.items() if p > 0), key=lambda doc_id: -judged[doc_id])
        return Reply(
            answer.text,
            answer.found,
            evidence,
            distinct([*evidence, *others])[:RANKED],
            tuple(judged.items()) if self._gated else (),
            usage.prompt_tokens + usage.memory_tokens_read,
            usage.generated_tokens,
            usage.blocks_scored,
            tuple(quote.text for quote in answer.quotes if quote.text),
        )

    def close(self) -> None:
        """Close the bank."""
        if self._bank is not None:
            self._bank.close()
            self._bank = None

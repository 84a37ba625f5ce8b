"""The demo: a book that is in the package, a bank of it in the user's cache, and questions about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.config import home_directory
from memrecall_kv.types import Document, Event, IngestReport, Progress

if TYPE_CHECKING:  # both import torch, which takes seconds
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall

QUESTIONS = (
    "What did the White Rabbit take out of its waistcoat-pocket?",
    "What does the Caterpillar smoke?",
    "Which king signed the treaty of Versailles?",
)
"""The last one is not answered in the book."""


def book() -> Document:
    """Return Alice's Adventures in Wonderland by Lewis Carroll, 1865, in the public domain."""
    text = files("memrecall_kv").joinpath("data", "alice.txt").read_text(encoding="utf-8")
    return Document("alice.txt", text, {"title": "Alice's Adventures in Wonderland", "author": "Lewis Carroll"})


def bank_path(memory: MemRecall) -> Path:
    """Return where the demo's bank is kept: a directory for each model and setting, so that none meets another's."""
    key = json.dumps(dict(memory.fingerprint), sort_keys=True)
    return home_directory() / f"demo-{hashlib.sha256(key.encode()).hexdigest()[:12]}.bank"


def ingest_book(memory: MemRecall, bank: MemoryBank, progress: Progress | None = None) -> IngestReport:
    """Compress the book, or what is missing of it after an interruption; nothing if the bank holds it."""
    return memory.ingest(bank, [book()], progress=progress)


def ask_questions(memory: MemRecall, bank: MemoryBank) -> Iterator[tuple[str, Iterator[Event]]]:
    """Yield each question and the events of its answer."""
    for question in QUESTIONS:
        yield question, memory.stream(bank, question)

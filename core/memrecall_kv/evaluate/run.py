"""Asks every system every question and writes a row for each.

A folder holds one run: `rows.jsonl`, one row per system, task, length and question; `run.json`, its settings and the
machines it ran on. The same call goes on where it was interrupted; nothing is counted twice.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any, TypeAlias

import torch

from memrecall_kv.errors import ContextOverflowError, InputError, ReasonerOutputError
from memrecall_kv.evaluate.environment import environment, forget_peak, peak_memory, peak_on_gpu
from memrecall_kv.evaluate.ledger import ROWS, Ledger
from memrecall_kv.evaluate.question import Context, Question
from memrecall_kv.evaluate.rows import data_folder
from memrecall_kv.evaluate.scores import answer_scores, evidence_scores
from memrecall_kv.evaluate.settings import RunConfig, TaskConfig
from memrecall_kv.evaluate.systems.system import Interleaved, Reply, System
from memrecall_kv.evaluate.systems.systems import Open, build_system, parse_system
from memrecall_kv.evaluate.tasks.tasks import WITHOUT_DATA, find_task
from memrecall_kv.recall.follow_up import Turn, stand_alone
from memrecall_kv.types import Document

RUN = "run.json"

Report: TypeAlias = Callable[[str, int], None]
"""Called with what was measured and how many questions that were."""

_STEP = 32
"""Documents between two reports."""

_FAILURES = (ContextOverflowError, ReasonerOutputError, MemoryError, torch.OutOfMemoryError)
"""What counts as a wrong answer; any other error ends the run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One system on one task at one length."""

    system: str
    task: str
    documents: int
    order: str
    share: int
    concurrency: int

    def key(self, kind: str, name: str) -> str:
        """Return the key of a row."""
        parts = (kind, self.system, self.task, self.documents, self.order, self.share, self.concurrency, name)
        return "|".join(map(str, parts))

    def facts(self) -> dict[str, Any]:
        """Return what every row of the cell says."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def check(config: RunConfig, data: Path | None) -> None:
    """Refuse what cannot be run, before anything is loaded.

    Raises:
        InputError: If a task or system is unknown, or a task's data folder is missing.
    """
    for task in config.tasks:
        find_task(task)
        if task not in WITHOUT_DATA:
            data_folder(data)
    for system in config.systems:
        parse_system(system)


@dataclass(frozen=True, slots=True)
class _Started:
    """A question that waits for others to be answered with."""

    context: Context
    question: Question
    place: int
    steps: Generator[Any, str, Reply]


class Run:
    """One folder of measurements.

    Args:
        out: The folder.
        open: Loads the pipeline that is measured.
        data: The data folder.
        config: What is measured.
        banks: Where what was prepared is kept for other contexts and runs; a temporary folder for each context if
            `None`.
        report: Called after each answer or group of answers.

    Raises:
        InputError: If a task or system is unknown, or the folder holds a run with other settings.
    """

    def __init__(
        self,
        out: Path,
        open: Open,
        data: Path | None,
        config: RunConfig,
        *,
        banks: Path | None = None,
        report: Report | None = None,
    ) -> None:
        check(config, data)
        self._out, self._data, self._config = out, data, config
        self._open = cache(open)
        self._banks, self._report = banks, report or (lambda what, questions: None)
        self._systems: dict[str, System] = {}
        self._lengths: dict[tuple[str, int, str], int] = {}
        self._waiting: list[_Started] = []
        self._device = ""
        self._answered = 0
        out.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(out / ROWS)

    def run(self) -> Ledger:
        """Measure what is not measured yet and return all rows.

        Raises:
            InputError: If data are missing, or no question is left.
            BankError: If a kept bank was made by another model.
        """
        self._claim()
        cells = list(self._cells())
        if len(cells) == 1:  # a process that measures more has no peak that belongs to one of them
            self._measure_alone(*cells[0])
        else:
            for cell, settings in cells:
                self._measure(cell, settings)
        return self.ledger

    def _measure_alone(self, cell: Cell, settings: TaskConfig) -> None:
        """Measure the one cell of this process, and its memory beside that of loading the model."""
        self._system(cell.system)
        loading = peak_memory()
        loaded = forget_peak()
        self._measure(cell, settings)
        if self._answered:
            sizes: dict[str, int | None] = {
                "peak_bytes": peak_memory(),
                "peak_gpu_bytes": peak_on_gpu(),
                "loaded_bytes": loaded,
                "loading_peak_bytes": loading,
            }
            self._add("process", "", cell, sizes)

    def _cells(self) -> Iterator[tuple[Cell, TaskConfig]]:
        config = self._config
        for task, (documents, questions) in product(config.tasks, config.lengths):
            settings = TaskConfig(
                documents=documents, questions=questions, seed=config.seed, order=config.order, share=config.share
            )
            for system in config.systems:
                order = config.order or "own"
                yield Cell(system, task, documents, order, config.share, config.concurrency), settings

    def _claim(self) -> None:
        """Write down what the folder is for and what it is measured on.

        Raises:
            InputError: If it was something else.
        """
        memory, path = self._open(None), self._out / RUN
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machines": []}
        device, dtype = str(memory.backbone.device), str(memory.backbone.dtype).removeprefix("torch.")
        # a machine without bfloat16 arithmetic goes on in float32: its rows say so
        usual = record.get("fingerprint", {}).get("dtype", dtype)
        same = {
            "seed": self._config.seed,
            "kinds": list(self._config.kinds),
            "fingerprint": {**memory.fingerprint, "dtype": usual},
            "settings": memory.config.model_dump(mode="json"),
        }
        other = [name for name, value in same.items() if path.exists() and record.get(name) != value]
        if other:
            raise InputError(
                f"{self._out} holds a run with another {', '.join(other)}.", "Name another folder with --out."
            )
        self._device = device if dtype == usual else f"{device} {dtype}"
        record = {**same, "machines": [*record["machines"], {**environment(), "device": self._device}]}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _measure(self, cell: Cell, settings: TaskConfig) -> None:
        asked = 0
        system = self._system(cell.system)
        together = system if cell.concurrency > 1 and isinstance(system, Interleaved) else None
        if cell.concurrency > cell.share and together is None:
            raise InputError(
                f"{cell.system}: only questions that share a context can be asked at once, and share is {cell.share}.",
                "Let more questions share a context, or ask fewer at once.",
            )
        number, count = self._config.part
        for context in islice(find_task(cell.task)(self._data, settings), number - 1, None, count):
            questions = tuple(q for q in context.questions if not self._config.kinds or q.kind in self._config.kinds)
            asked += len(questions)
            done = [q for q in questions if cell.key("answer", q.id) in self.ledger]
            self._report(cell.system, len(done))
            open = tuple(q for q in questions if q not in done)
            if open:
                self._ask(cell, replace(context, questions=tuple(map(self._standing_alone, open))), system, together)
        if together and self._waiting:
            self._answer_waiting(cell, together)
        if not asked:
            kinds = f" of type {', '.join(self._config.kinds)}" if self._config.kinds else ""
            raise InputError(
                f"{cell.task} with {cell.documents} documents: expected questions, got none{kinds}.",
                "Ask for other types, or check the data folder.",
            )

    def _standing_alone(self, question: Question) -> Question:
        """Return a question in the words that systems are asked: of a follow-up those that the backbone gives it."""
        if not question.turns:
            return question
        turns = [Turn(*turn) for turn in question.turns]
        return replace(question, text=stand_alone(self._open(None).backbone, question.text, turns))

    def _ask(self, cell: Cell, context: Context, system: System, together: Interleaved | None) -> None:
        with self._folder() as folder:
            try:
                started = time.perf_counter()
                prepared = system.prepare(_Watched(context.documents, cell, self._report), folder)
                seconds = time.perf_counter() - started
                row = {
                    "context": context.id,
                    "seconds": seconds,
                    "source_tokens": self._count_tokens(cell, context),
                    "bytes_on_disk": prepared.bytes_on_disk,
                    "tokens_read": prepared.tokens_read,
                    "reused": prepared.reused,
                }
                self._add("prepare", context.id, cell, row)
                self._answers(cell, context, system, together)
            finally:
                system.close()

    def _system(self, spec: str) -> System:
        if spec not in self._systems:
            self._systems[spec] = build_system(spec, self._open)
        return self._systems[spec]

    def _answers(self, cell: Cell, context: Context, system: System, together: Interleaved | None) -> None:
        if cell.concurrency == 1:
            for place, question in enumerate(context.questions):
                self._note(cell, context, question, place, *_timed(system, question))
            return
        if together:
            for place, question in enumerate(context.questions):
                self._waiting.append(_Started(context, question, place, together.start(question.text)))
                if len(self._waiting) == cell.concurrency:
                    self._answer_waiting(cell, together)
            return
        started = time.perf_counter()
        with ThreadPoolExecutor(cell.concurrency) as pool:
            replies = list(pool.map(lambda question: _timed(system, question), context.questions))
        seconds = time.perf_counter() - started
        self._note_batch(cell, context, context.questions[0], len(replies), seconds)
        for place, (question, timed) in enumerate(zip(context.questions, replies, strict=True)):
            self._note(cell, context, question, place, *timed)

    def _answer_waiting(self, cell: Cell, together: Interleaved) -> None:
        """Answer what was started, of whatever contexts, in one go; an error ends the run, as it is nobody's own."""
        started = time.perf_counter()
        replies = together.answer_together([one.steps for one in self._waiting])
        seconds = time.perf_counter() - started
        first = self._waiting[0]
        self._note_batch(cell, first.context, first.question, len(replies), seconds)
        for one, reply in zip(self._waiting, replies, strict=True):
            self._note(cell, one.context, one.question, one.place, reply, seconds, "")
        self._waiting.clear()

    def _note_batch(self, cell: Cell, context: Context, first: Question, count: int, seconds: float) -> None:
        facts = {"context": context.id, "questions": count, "seconds": seconds}
        name = f"{context.id}:{first.id}"
        self._add("batch", name, cell, facts)

    def _note(
        self, cell: Cell, context: Context, question: Question, place: int, reply: Reply, seconds: float, failure: str
    ) -> None:
        row: dict[str, Any] = {
            "context": context.id,
            "question": question.id,
            "type": question.kind,
            **({"asked": question.text} if question.turns else {}),
            "answers": list(question.answers),
            "gold": len(question.gold),
            "reply": reply.text,
            "found": reply.found,
            "failure": failure,
            "scores": dict.fromkeys(answer_scores(question, reply), 0.0) if failure else answer_scores(question, reply),
            "evidence": evidence_scores(question, reply),
            # a probability of 0 is a block that was not looked at; a gold one still counts as missed
            "judged": [[round(p, 4), doc in question.gold] for doc, p in reply.judged if p > 0 or doc in question.gold],
            "tokens_read": reply.tokens_read,
            "tokens_written": reply.tokens_written,
            "blocks_scored": reply.blocks_scored,
            "first": place == 0,
            "seconds": seconds,
        }
        self._add("answer", question.id, cell, row)
        self._answered += 1
        self._report(cell.system, 1)

    def _add(self, kind: str, name: str, cell: Cell, facts: dict[str, Any]) -> None:
        self.ledger.add({"key": cell.key(kind, name), "kind": kind, **cell.facts(), "device": self._device, **facts})

    def _count_tokens(self, cell: Cell, context: Context) -> int:
        """Return the backbone's tokens of all documents; counted once for all systems."""
        name = (cell.task, cell.documents, context.id)
        if name not in self._lengths:
            encode = self._open(None).backbone.encode
            self._lengths[name] = sum(len(encode(document.text)) for document in context.documents)
        return self._lengths[name]

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self._banks is not None:
            self._banks.mkdir(parents=True, exist_ok=True)
            yield self._banks
            return
        with tempfile.TemporaryDirectory(prefix="memrecall-kv-") as folder:
            yield Path(folder)


@dataclass(frozen=True, slots=True)
class _Watched:
    """Documents that tell how far they were read, since that may take hours."""

    documents: Iterable[Document]
    cell: Cell
    report: Report

    def __iter__(self) -> Iterator[Document]:
        for number, document in enumerate(self.documents):
            if number % _STEP == 0:
                self.report(f"{self.cell.system}: {number:,} of {self.cell.documents:,} documents", 0)
            yield document


def _timed(system: System, question: Question) -> tuple[Reply, float, str]:
    """Return a reply with its seconds, and what went wrong, if something did."""
    started = time.perf_counter()
    failure = ""
    try:
        reply = system.answer(question.text)
    except _FAILURES as error:
        reply, failure = Reply("", found=False), f"{type(error).__name__}: {error}"
    return reply, time.perf_counter() - started, failure

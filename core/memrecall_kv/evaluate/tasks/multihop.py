"""Multi-hop questions in a haystack of paragraphs: HotpotQA, 2WikiMultihopQA, MuSiQue.

Source: RULER-HQA as MemAgent builds it, arXiv:2507.02259: the length is the number of documents, a question's own and
random others. Deviations:

1. Every question has a permutation of its own; the published one is the same for all.
2. Haystack paragraphs may not hold an answer or share 13 words in a row with the question's own (`haystack.py`).
3. A paragraph reads "title: text", as our parts were trained; the published one has the title on a line of its own.
4. `share` puts several questions into one context, so that a bank can be built once for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context, Question, Stream, document_id
from memrecall_kv.evaluate.rows import read_rows, sample, titled
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.tasks.haystack import Haystack, answer_finder, arrange

FILES = {
    "ruler-hqa": "qa/hotpotqa_dev.jsonl.gz",
    "2wiki": "qa/2wikimultihopqa_dev.jsonl.gz",
    "musique": "qa/musique_dev.jsonl.gz",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A question with its own paragraphs, the gold ones in hop order."""

    id: str
    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    others: tuple[str, ...]
    kind: str

    @property
    def own(self) -> tuple[str, ...]:
        return (*self.gold, *self.others)


def multihop(name: str, folder: Path | None, config: TaskConfig, *, answerable: bool = True) -> Iterator[Context]:
    """Yield the contexts of a multi-hop task.

    Args:
        name: A key of `FILES`.
        folder: The data folder.
        config: Length, sample, seed, order of the evidence, questions per context.
        answerable: `False` takes the gold paragraphs out, and every other that holds an answer.

    Raises:
        InputError: If data are missing, or a context is too short for a question's own paragraphs.
    """
    rows = sample([_row(row) for row in read_rows(folder, FILES[name])], config.questions, config.seed)
    if not answerable:
        rows = [_without_gold(row) for row in rows]
    haystack = Haystack.from_folder(folder)
    for group in _groups(rows, config.share):
        yield _context(group, haystack, config, answerable=answerable)


def _row(row: dict[str, Any]) -> _Row:
    texts = [titled(p.get("title", ""), p["text"]) for p in row["paragraphs"]]
    gold = _hops(row)
    others = [place for place in range(len(texts)) if place not in gold]
    return _Row(
        id=str(row["id"]),
        text=row["question"],
        answers=tuple(row["answers"]),
        gold=tuple(dict.fromkeys(texts[place] for place in gold)),
        others=tuple(dict.fromkeys(texts[place] for place in others)),
        kind=str(row.get("type", "")),
    )


def _hops(row: dict[str, Any]) -> list[int]:
    """Return the places of the gold paragraphs in the order in which they are needed, as far as the row tells.

    MuSiQue names the paragraph of every hop, 2Wiki the subject of every fact; elsewhere the one that holds an
    answer comes last.
    """
    paragraphs = row["paragraphs"]
    gold = [place for place, p in enumerate(paragraphs) if p["supporting"]]
    steps: list[Any] = [step.get("paragraph_support_idx") for step in row.get("decomposition") or ()]
    if set(steps) == set(gold):
        return list(dict.fromkeys(steps))
    subjects = [fact[0].lower() for fact in row.get("evidences") or ()]

    def first_fact(place: int) -> int:
        title = paragraphs[place].get("title", "").lower()
        return next((n for n, subject in enumerate(subjects) if title.startswith(subject)), len(subjects))

    holds = answer_finder(row["answers"])
    return sorted(gold, key=lambda place: (first_fact(place), holds(paragraphs[place]["text"]), place))


def _without_gold(row: _Row) -> _Row:
    holds = answer_finder(row.answers)
    others = tuple(text for text in row.others if not holds(text))
    return _Row(row.id, row.text, row.answers, (), others, row.kind)


def _groups(rows: Sequence[_Row], size: int) -> Iterator[list[_Row]]:
    """Put rows together whose gold paragraphs do not hold each other's answers."""
    waiting = list(rows)
    while waiting:
        group: list[_Row] = []
        left = []
        for row in waiting:
            if len(group) < size and all(_agree(row, other) and _agree(other, row) for other in group):
                group.append(row)
            else:
                left.append(row)
        yield group
        waiting = left


def _agree(row: _Row, other: _Row) -> bool:
    holds = answer_finder(row.answers)
    return not any(holds(text) for text in other.gold if text not in row.gold)


def _context(group: list[_Row], haystack: Haystack, config: TaskConfig, *, answerable: bool) -> Context:
    own = _own_texts(group)
    if len(own) > config.documents:
        raise InputError(
            f"Question {group[0].id}: expected at least {len(own)} documents for {len(group)} questions' own "
            f"paragraphs, got {config.documents}.",
            "Ask for more documents, or let fewer questions share a context.",
        )
    key = f"{config.seed}:{':'.join(row.id for row in group)}"
    answers = [answer for row in group for answer in row.answers]
    padding = haystack.pick(config.documents - len(own), beside=own, without=answers, key=key)
    # items 0 to len(own) - 1 are the questions' own paragraphs, the rest is padding
    hops = list(dict.fromkeys(own.index(text) for row in group for text in row.gold))
    order = arrange(config.documents, hops, config.order or "random", random.Random(key))  # noqa: S311
    place_of = {item: place for place, item in enumerate(order)}
    questions = tuple(
        Question(
            row.id,
            row.text,
            row.answers if answerable else (),
            tuple(document_id(place_of[own.index(text)]) for text in row.gold),
            kind=row.kind,
        )
        for row in group
    )

    def text_of(item: int) -> str:
        return own[item] if item < len(own) else haystack[padding[item - len(own)]]

    return Context(group[0].id, Stream(partial(map, text_of, order)), questions)


def _own_texts(group: list[_Row]) -> list[str]:
    """Return the paragraphs of some questions, each once, without those that hold another question's answer."""
    gold = {text for row in group for text in row.gold}
    kept: dict[str, None] = {}
    for row in group:
        rivals = [answer_finder(other.answers) for other in group if other is not row]
        for text in row.own:
            if text in gold or not any(holds(text) for holds in rivals):
                kept.setdefault(text)
    return list(kept)

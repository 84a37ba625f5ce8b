"""Facts of a bAbI story scattered in the text of books.

Source: BABILong, arXiv:2406.10149, over the bAbI tasks, arXiv:1502.05698. Deviations: the books are those of the data
folder; a passage takes at most one fact, at its end; the length is the number of passages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context, Question, Stream, document_id
from memrecall_kv.evaluate.rows import read_rows, sample
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.shelf import Shelf

STORIES = "stories/babi_en10k_test.jsonl.gz"
BOOKS = "text/gutenberg_nltk.jsonl.gz"
_TASKS = frozenset({1, 2, 3, 4, 5})
"""One to three supporting facts, two and three arguments: their answers are single words."""
_FACTS = 40
"""A question with more before it is left out at every length, so that the questions are the same at all."""
_PASSAGE = 400
"""Characters of a passage, before the paragraph that it is in ends."""


def babi_long(folder: Path | None, config: TaskConfig) -> Iterator[Context]:
    """Yield one context per question: its story's facts in their order, with book text between them.

    Raises:
        InputError: If data are missing, the context is too short for the facts, or longer than all books.
    """
    if config.order not in (None, "forward") or config.share > 1:
        raise InputError(
            "babi-long: expected facts in the order of the story and a context for each question.",
            "Leave --order and --share out.",
        )
    asked = [
        (row, number)
        for row in read_rows(folder, STORIES)
        if row["task"] in _TASKS
        for number, qa in enumerate(row["qas"])
        if qa["upto"] <= _FACTS
    ]
    passages = Shelf(_passages(folder))
    if config.documents > len(passages):
        raise InputError(
            f"babi-long: expected at most {len(passages)} documents, got {config.documents}.",
            "Ask for fewer documents.",
        )
    for row, number in sample(asked, config.questions, config.seed):
        yield _context(row, number, passages, config)


def _context(row: dict[str, Any], number: int, passages: Shelf, config: TaskConfig) -> Context:
    qa = row["qas"][number]
    one = f"{row['id']}:{number}"
    if qa["upto"] > config.documents:
        raise InputError(
            f"Question {one}: expected at least {qa['upto']} documents, one for each fact, got {config.documents}.",
            f"Ask for {_FACTS} documents or more.",
        )
    generator = random.Random(f"{config.seed}:{one}")  # noqa: S311  # a sample, not a secret
    start = generator.randrange(len(passages))
    places = sorted(generator.sample(range(config.documents), qa["upto"]))
    facts = dict(zip(places, row["lines"], strict=False))

    def texts() -> Iterator[str]:
        for place in range(config.documents):
            passage = passages[(start + place) % len(passages)]
            yield f"{passage} {facts[place]}" if place in facts else passage

    gold = tuple(document_id(places[line]) for line in sorted(qa["sup"]))
    question = Question(one, qa["q"], (qa["a"],), gold, kind=f"qa{row['task']}")
    return Context(one, Stream(texts), (question,))


def _passages(folder: Path | None) -> Iterator[str]:
    for book in read_rows(folder, BOOKS):
        passage = ""
        for paragraph in book["text"].split("\n\n"):
            passage = " ".join((passage, *paragraph.split())).strip()
            if len(passage) >= _PASSAGE:
                yield passage
                passage = ""

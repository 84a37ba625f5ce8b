"""Questions about whole stories, among other stories: FairytaleQA and SQuALITY.

Source: FairytaleQA, arXiv:2203.13947; SQuALITY, arXiv:2205.11465. Deviation: other stories stand before and after the
one that is asked about, until the context has as many documents as asked for. A document is a section of a fairy
tale, or a whole story of SQuALITY.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context, Question, Stream, document_id
from memrecall_kv.evaluate.rows import read_rows, sample
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.shelf import Shelf

FILES = {"fairytaleqa": "stories/fairytaleqa_dev.jsonl.gz", "squality": "stories/squality_dev.jsonl.gz"}


@dataclass(frozen=True, slots=True)
class _Story:
    """Questions with the numbers of the sections they rest on; the sections' places on the shelf."""

    id: str
    sections: tuple[int, ...]
    qas: tuple[tuple[str, tuple[str, ...], tuple[int, ...], str], ...]


def stories(name: str, folder: Path | None, config: TaskConfig) -> Iterator[Context]:
    """Yield one context per story that is asked about.

    Args:
        name: A key of `FILES`.
        folder: The data folder.
        config: Length, sample, seed; `share` is of no use, as a story's questions always share its context.

    Raises:
        InputError: If data are missing, or an order is asked for: a story has its own.
    """
    if config.order not in (None, "forward"):
        raise InputError(f"{name}: expected sections in the order of the story.", "Leave --order out.")
    shelf = Shelf()
    told = [_story(row, shelf) for row in read_rows(folder, FILES[name])]
    asked = sample(
        [(number, qa) for number, story in enumerate(told) for qa in range(len(story.qas))],
        config.questions,
        config.seed,
    )
    by_story: dict[int, list[int]] = {}
    for number, qa in asked:
        by_story.setdefault(number, []).append(qa)
    for number, chosen in by_story.items():
        yield _context(told, number, chosen, shelf, config)


def _story(row: dict[str, Any], shelf: Shelf) -> _Story:
    sections = row.get("sections") or [{"n": 1, "text": row["document"]}]
    first = len(shelf)
    for section in sections:
        shelf.add(section["text"])
    place_of = {section["n"]: place for place, section in enumerate(sections)}
    qas = tuple(
        (
            qa["q"],
            tuple(qa["a"]),
            tuple(place_of[n] for n in qa.get("sec", [1]) if n in place_of),
            str(qa.get("type", "")),
        )
        for qa in row["qas"]
        if qa["a"]
    )
    return _Story(str(row["id"]), tuple(range(first, len(shelf))), qas)


def _context(told: list[_Story], number: int, chosen: list[int], shelf: Shelf, config: TaskConfig) -> Context:
    story = told[number]
    generator = random.Random(f"{config.seed}:{story.id}")  # noqa: S311  # a sample, not a secret
    others = [other for other in told if other is not story]
    generator.shuffle(others)
    around = [place for other in others for place in other.sections][: max(0, config.documents - len(story.sections))]
    before = generator.randrange(len(around) + 1)
    order = [*around[:before], *story.sections, *around[before:]]
    questions = []
    for qa in chosen:
        text, answers, sections, kind = story.qas[qa]
        gold = tuple(document_id(before + section) for section in sections)
        questions.append(Question(f"{story.id}:{qa}", text, answers, gold, kind=kind))
    return Context(story.id, Stream(partial(map, shelf.__getitem__, order)), tuple(questions))

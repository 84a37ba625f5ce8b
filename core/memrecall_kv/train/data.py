"""Training rows: questions with the paragraphs they rest on, and plain text.

Files are JSON lines, plain or gzip, in the schemas of `docs/training.md`. A row is held out for validation
by its group (article, story or own id), so that no paragraph is on both sides.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.rows import read_lines, titled
from memrecall_kv.train.settings import DataConfig

_HELD_OUT_SHARE = 0.06
_SHORTEST_TEXT = 250
"""Characters below which a plain text holds too few spans."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One candidate text of a question.

    Attributes:
        text: With its title in front, if it has one.
        supporting: Whether the answer rests on it.
        sentences: The supporting sentences, word for word, if they are known.
    """

    text: str
    supporting: bool
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    Attributes:
        id: As in the source.
        group: Article, story or the id itself: examples of one group share paragraphs.
        question: The question.
        answers: Right answers, the main one first.
        paragraphs: Candidates, gold and others.
        dataset: Name of the source.
    """

    id: str
    group: str
    question: str
    answers: tuple[str, ...]
    paragraphs: tuple[Paragraph, ...]
    dataset: str


def read_examples(path: Path, *, drop_titles: bool = False) -> list[Example]:
    """Return the questions of a file.

    Args:
        path: JSON lines with `question`, `answers` and `paragraphs`, or stories with `sections` and `qas`.
        drop_titles: Leave titles out, for files in which a title gives the answer away.

    Raises:
        InputError: If a row lacks a field.
    """
    examples: list[Example] = []
    for row in read_lines(path):
        try:
            examples += _story(row) if "qas" in row else [_question(row, drop_titles)]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}: row {row.get('id', len(examples))!r} lacks {error}.",
                "Give rows with question, answers and paragraphs; see docs/training.md.",
            ) from error
    return examples


@dataclass(frozen=True, slots=True)
class Rows:
    """What a stage trains on and what it is validated on.

    Attributes:
        train: Questions.
        held_out: Questions of groups that do not train.
        texts: Plain texts.
    """

    train: list[Example]
    held_out: list[Example]
    texts: list[str]


def load_rows(config: DataConfig, root: Path) -> Rows:
    """Return the rows of a configuration.

    Args:
        config: Which files.
        root: The directory their paths are under.

    Raises:
        InputError: If a file cannot be read, or nothing is left to train on.
    """
    examples: dict[str, Example] = {}
    for file in config.questions:
        for example in read_examples(root / file.path, drop_titles=file.drop_titles):
            skipped = example.id in file.skip_ids or (file.skip_prefix and example.id.startswith(file.skip_prefix))
            if not skipped and example.answers:
                examples.setdefault(example.id, example)
    train = [example for example in examples.values() if not is_held_out(example.group)]
    held_out = [example for example in examples.values() if is_held_out(example.group)]
    if not train:
        raise InputError(f"{root} holds no question to train on.", "Name at least one file with questions.")
    random.Random(0).shuffle(held_out)  # noqa: S311  # a sample, not a secret
    texts = [text for path in config.texts for text in read_texts(root / path) if len(text) >= _SHORTEST_TEXT]
    return Rows(train, held_out[: config.validation_rows], texts)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a plain-text file, each with its title in front if it has one."""
    try:
        return [titled(row.get("title", ""), row["text"]) for row in read_lines(path)]
    except KeyError as error:
        raise InputError(f"{path}: a row lacks {error}.", "Give rows with text.") from error


def is_held_out(group: str) -> bool:
    """Return whether a group serves for validation: about one in seventeen, the same ones for ever."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < _HELD_OUT_SHARE


def _question(row: dict[str, Any], drop_titles: bool) -> Example:
    paragraphs = tuple(
        Paragraph(
            p["text"] if drop_titles else titled(p.get("title", ""), p["text"]),
            bool(p["supporting"]),
            tuple(p.get("sup", ())),
        )
        for p in row["paragraphs"]
    )
    # rows of one paragraph come many to an article
    group = row["paragraphs"][0]["title"] if len(paragraphs) == 1 else str(row["id"])
    return Example(
        str(row["id"]), group, row["question"], tuple(row["answers"]), paragraphs, row.get("dataset", "questions")
    )


def _story(row: dict[str, Any]) -> list[Example]:
    """Return the questions of a story that rest on one section, with that section as their paragraph."""
    texts = {section["n"]: section["text"] for section in row.get("sections", ())}
    return [
        Example(
            f"{row['id']}:{index}",
            str(row["id"]),
            qa["q"],
            tuple(qa["a"]),
            (Paragraph(texts[qa["sec"][0]], supporting=True),),
            row.get("dataset", "stories"),
        )
        for index, qa in enumerate(row["qas"])
        if len(qa.get("sec", ())) == 1 and qa["sec"][0] in texts and qa["a"]
    ]

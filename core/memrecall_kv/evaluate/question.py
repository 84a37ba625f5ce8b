"""What is asked, and of which documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from memrecall_kv.types import Document


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a task.

    Attributes:
        id: As in the source; the same at every length.
        text: What is asked.
        answers: Right answers, the main one first; none if the documents do not hold one.
        gold: Ids of the documents the answer rests on, in the order of the hops; none if nobody knows.
        wanted: Whether any one of the answers is right, or all are wanted.
        kind: The source's type of question.
        span: The part of a gold document that holds the answer, word for word; empty if nobody knows.
        turns: What was asked and answered before, the latest last: a follow-up is rewritten so that it stands alone
            before a system sees it.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...] = ()
    wanted: Literal["any", "all"] = "any"
    kind: str = ""
    span: str = ""
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Documents and the questions that are asked of them.

    Attributes:
        id: Names the context within its task, length and seed.
        documents: Can be walked through again and again, and is never in memory as a whole.
        questions: At least one.
    """

    id: str
    documents: Iterable[Document]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """Documents that are made anew each time they are walked through.

    Attributes:
        texts: Starts over; document ids say nothing but the place.
    """

    texts: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in order."""
        for place, text in enumerate(self.texts()):
            yield Document(document_id(place), text)


def document_id(place: int) -> str:
    """Return the id of the document at a place: no system can read from it where a text came from."""
    return f"d{place:06d}"

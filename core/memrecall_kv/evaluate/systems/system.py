"""What can be measured: something that is given documents once and then asked questions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from memrecall_kv.types import Document


@dataclass(frozen=True, slots=True)
class Prepared:
    """What making documents ready cost, beyond the seconds, which the runner measures.

    Attributes:
        bytes_on_disk: Of everything that is kept for the questions, text included.
        tokens_read: Tokens that went through a model.
        reused: Whether something was found that was made before, so that seconds and bytes say nothing.
    """

    bytes_on_disk: int = 0
    tokens_read: int = 0
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with what it rests on and what it cost.

    Attributes:
        text: The answer.
        found: Whether the system believes that the documents hold one.
        evidence: Ids of the documents it read, best or earliest first; `None` if it names none.
        ranked: Ids of these and of the next best ones, best first.
        judged: Ids of documents with the probability that they matter, if the system has a gate.
        tokens_read: Tokens that a language model read for this question, memory tokens included, the gate's not.
        tokens_written: Tokens it wrote.
        blocks_scored: Looks of the gate.
        cited: The passages that it says its answer rests on; `None` if it cites none by itself.
    """

    text: str
    found: bool
    evidence: tuple[str, ...] | None = None
    ranked: tuple[str, ...] = ()
    judged: tuple[tuple[str, float], ...] = ()
    tokens_read: int = 0
    tokens_written: int = 0
    blocks_scored: int = 0
    cited: tuple[str, ...] | None = None


class System(Protocol):
    """Answers questions about the documents it was given last. `answer` may be called from several threads."""

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Make documents ready for questions.

        Args:
            documents: May be walked through again as long as questions are asked.
            folder: Where files may be kept; what an earlier call left there may be used again.
        """
        ...

    def answer(self, question: str) -> Reply:
        """Return the answer to a question."""
        ...

    def close(self) -> None:
        """Give files back; `prepare` may be called again."""
        ...


@runtime_checkable
class Interleaved(System, Protocol):
    """A system that works on many questions side by side, each about the documents it was started with."""

    def start(self, question: str) -> Generator[Any, str, Reply]:
        """Begin a question about the documents that were prepared last."""
        ...

    def answer_together(self, started: Sequence[Generator[Any, str, Reply]]) -> list[Reply]:
        """Return the answers to questions that were started, whatever was prepared since."""
        ...


RANKED = 20
"""Documents that `Reply.ranked` names at most."""


def distinct(ids: Iterable[str]) -> tuple[str, ...]:
    """Return ids in order, each once: several chunks may be of one document."""
    return tuple(dict.fromkeys(ids))

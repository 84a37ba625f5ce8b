"""Which blocks of a bank the gate is to judge at all: a cheap first look that reads little of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.tokens import names
from memrecall_kv.filters import AmongIds, And, Not
from memrecall_kv.types import Chunk, Where, WorkingMemory


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that is proposed to the gate.

    Attributes:
        chunk: The chunk.
        words: BM25 score of its text for question and notes, as a share of the best one, in [0, 1].
    """

    chunk: Chunk
    words: float = 0.0


class Candidates(Protocol):
    """A source of candidates for one question to one bank."""

    @property
    def total(self) -> int:
        """Return how many chunks may be recalled."""
        ...

    def propose(
        self, question: str, notes: WorkingMemory, limit: int | None, without: Collection[str] = ()
    ) -> Sequence[Candidate]:
        """Return the most promising chunks, in the bank's order.

        Args:
            question: What is asked.
            notes: What was learned so far.
            limit: Most candidates, at least 1, and as many if there are; `None` for every chunk that may be recalled.
            without: Ids of documents that are passed over.
        """
        ...


class SharedWords:
    """Proposes the chunks that share most words with question and notes, as `MemoryBank.candidates` finds them.

    Of notes only names, numbers and such are looked for: what comes next is named there, and the other words are those
    of the text that was noted.

    Args:
        bank: Whose chunks.
        where: Which documents may be recalled; `None` for all.
        least_share: Beyond the first `sure`, only chunks whose words weigh at least this share of the best one's that
            nothing was noted of.
        sure: So many are proposed whatever they share.
    """

    def __init__(self, bank: MemoryBank, where: Where | None, *, least_share: float = 0.0, sure: int = 1) -> None:
        self._bank, self._where, self._scope = bank, where, bank.scope(where)
        self._least_share, self._sure = least_share, sure

    @property
    def total(self) -> int:
        """Return how many chunks may be recalled."""
        return self._scope.chunks

    def propose(
        self, question: str, notes: WorkingMemory, limit: int | None, without: Collection[str] = ()
    ) -> Sequence[Candidate]:
        """Return the chunks with the highest scores; see `Candidates`."""
        scope = self._bank.scope(self._others(without)) if without else self._scope
        found = self._bank.candidates(f"{question} {names(notes.text)}", limit, scope)
        proposed = [Candidate(chunk, share) for chunk, share in found]
        if limit is None:
            return proposed
        ranked = sorted(proposed, key=lambda candidate: candidate.words, reverse=True)
        # a chunk shares most with its own note: the others are compared with the best that nothing was noted of
        noted = {note.chunk_id for note in notes.notes}
        best = next((candidate.words for candidate in ranked if candidate.chunk.id not in noted), 0.0)
        sure = {candidate.chunk.id for candidate in ranked[: self._sure]}
        return [each for each in proposed if each.words >= self._least_share * best or each.chunk.id in sure]

    def _others(self, without: Collection[str]) -> Where:
        other = Not(AmongIds(frozenset(without)))
        return other if self._where is None else And((self._where, other))

"""Blocks as a gate reads them, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from weakref import WeakKeyDictionary

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.recall.gate import AtRest
from memrecall_kv.types import Chunk


@dataclass(frozen=True, slots=True)
class _Kept:
    chunk: Chunk
    block: AtRest
    nbytes: int
    used: int


@dataclass
class _OfBank:
    """What is kept of a bank by the text that it stands for, and the bank's revision then."""

    revision: object = None
    blocks: dict[str, _Kept] = field(default_factory=dict)


class ResidentBlocks:
    """Blocks that are kept from look to look and from question to question, while they fit.

    Those of a text that was deleted go at the next question to its bank, those of a bank with the bank's object. To be
    used in turns of the backbone's.

    Args:
        limit: Bytes that they may take together; what was used longest ago goes first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._banks: WeakKeyDictionary[MemoryBank, _OfBank] = WeakKeyDictionary()
        self._turns = count()

    @property
    def nbytes(self) -> int:
        """Return the bytes that are kept."""
        return sum(kept.nbytes for own in self._banks.values() for kept in own.blocks.values())

    def of(
        self, bank: MemoryBank, chunks: Sequence[Chunk], make: Callable[[Sequence[Chunk]], Sequence[AtRest]]
    ) -> list[AtRest]:
        """Return what is kept of chunks, and of the others what `make` makes, in order."""
        own, turn = self._up_to_date(bank), next(self._turns)
        missing = [chunk for chunk in chunks if chunk.judged_text not in own.blocks]
        found = {text: kept.block for text, kept in own.blocks.items()}
        found |= {chunk.judged_text: block for chunk, block in zip(missing, make(missing), strict=True)}
        for chunk in chunks:
            block = found[chunk.judged_text]
            own.blocks[chunk.judged_text] = _Kept(chunk, block, block.nbytes, turn)
        self._make_room()
        return [found[chunk.judged_text] for chunk in chunks]

    def _up_to_date(self, bank: MemoryBank) -> _OfBank:
        own, revision = self._banks.setdefault(bank, _OfBank()), bank.revision
        if own.revision != revision:
            own.blocks = {text: kept for text, kept in own.blocks.items() if bank.uses(kept.chunk)}
            own.revision = revision
        return own

    def _make_room(self) -> None:
        too_much = self.nbytes - self._limit
        if too_much <= 0:
            return
        everything = [(kept.used, text, own) for own in self._banks.values() for text, kept in own.blocks.items()]
        for _, text, own in sorted(everything, key=lambda each: each[0]):
            too_much -= own.blocks.pop(text).nbytes
            if too_much <= 0:
                return

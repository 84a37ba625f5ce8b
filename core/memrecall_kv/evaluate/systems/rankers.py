"""Ways to put chunks in an order for a question: by words, by vectors, by both, by likelihood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.config import GateConfig
from memrecall_kv.evaluate.encoder import shared_encoder
from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.evaluate.shelf import ChunkShelf
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.types import WorkingMemory

_RRF = 60


class Indexed(NamedTuple):
    """What taking in chunks cost, beyond the seconds.

    Attributes:
        tokens_read: Tokens that went through a model.
        reused: Whether some were known before, so that seconds say nothing.
    """

    tokens_read: int = 0
    reused: bool = False


class Ranker(Protocol):
    """What a retrieval system needs."""

    def index(self, chunks: ChunkShelf) -> Indexed:
        """Take in the chunks."""
        ...

    def rank(self, question: str, k: int) -> list[int]:
        """Return the numbers of the k best chunks, best first."""
        ...


class Bm25Ranker:
    """Words in common, as in "Lucene" of bm25s."""

    def __init__(self) -> None:
        self._words: LexicalIndex | None = None

    def index(self, chunks: ChunkShelf) -> Indexed:
        """Count the words; see `Ranker`."""
        self._words = LexicalIndex(list(chunks.texts()))
        return Indexed()

    def rank(self, question: str, k: int) -> list[int]:
        """Return the best chunks; see `Ranker`."""
        return [] if self._words is None else best(self._words.scores(question), k)


class DenseRanker:
    """Cosine of the vectors of question and chunks.

    Args:
        encoder: Directory or hub id of another encoder than all-MiniLM-L6-v2.

    Raises:
        MissingDependencyError: If there is no encoder.
    """

    def __init__(self, encoder: str | Path | None = None) -> None:
        self._encoder = shared_encoder(encoder)
        self._vectors: NDArray[np.float32] = np.zeros((0, 1), dtype=np.float32)

    def index(self, chunks: ChunkShelf) -> Indexed:
        """Embed the chunks; see `Ranker`."""
        fresh = [number for number, text in enumerate(chunks.texts()) if not self._encoder.knows(text)]
        tokens = sum(chunks[number].num_tokens for number in fresh)
        self._vectors = self._encoder.embed(chunks.texts())
        return Indexed(tokens, len(fresh) < len(chunks))

    def rank(self, question: str, k: int) -> list[int]:
        """Return the best chunks; see `Ranker`."""
        return best((self._vectors @ self._encoder.embed([question])[0]).tolist(), k)


class FusedRanker:
    """Reciprocal ranks of other rankers, added up with the usual constant of 60.

    Args:
        rankers: What is fused.
        depth: Ranks of each that count.
    """

    def __init__(self, rankers: Sequence[Ranker], depth: int) -> None:
        self._rankers, self._depth = rankers, depth

    def index(self, chunks: ChunkShelf) -> Indexed:
        """Let each take in the chunks; see `Ranker`."""
        parts = [ranker.index(chunks) for ranker in self._rankers]
        return Indexed(sum(part.tokens_read for part in parts), any(part.reused for part in parts))

    def rank(self, question: str, k: int) -> list[int]:
        """Return the best chunks; see `Ranker`."""
        scores: dict[int, float] = {}
        for ranker in self._rankers:
            for place, number in enumerate(ranker.rank(question, self._depth), start=1):
                scores[number] = scores.get(number, 0.0) + 1.0 / (_RRF + place)
        return sorted(scores, key=lambda number: (-scores[number], number))[:k]


class LikelihoodRanker:
    """The candidates of another ranker, by how likely each makes the question to the backbone.

    Source:
        UPR, arXiv:2204.07496, reading uncompressed chunks.

    Args:
        first: Proposes candidates.
        depth: How many.
        backbone: The model.
    """

    def __init__(self, first: Ranker, depth: int, backbone: Backbone) -> None:
        self._first, self._depth, self._backbone = first, depth, backbone
        self._backbone = backbone
        self._gate = LikelihoodGate(self._backbone, GateConfig())
        self._chunks: ChunkShelf | None = None

    def index(self, chunks: ChunkShelf) -> Indexed:
        """Let the first ranker take in the chunks; see `Ranker`."""
        self._chunks = chunks
        return self._first.index(chunks)

    def rank(self, question: str, k: int) -> list[int]:
        """Return the best chunks; see `Ranker`."""
        candidates = self._first.rank(question, self._depth)
        gains = dict(zip(candidates, self._gains(question, candidates), strict=True))
        # sorted keeps the first ranker's order among equals
        return sorted(candidates, key=lambda number: -gains[number])[:k]

    def _gains(self, question: str, candidates: list[int]) -> Iterator[float]:
        size = GateConfig().batch_size
        for start in range(0, len(candidates), size):
            texts = [self._chunks[number].text for number in candidates[start : start + size]] if self._chunks else []
            yield from self._backbone.scheduler.call(partial(self._score, question, texts))

    @torch.inference_mode()
    def _score(self, question: str, texts: list[str]) -> list[float]:
        rows = [self._backbone.encode(text) for text in texts]
        return self._gate.score(question, WorkingMemory(), whole_blocks(self._backbone.kv.prefill(rows), rows))


def best(scores: Iterable[float], k: int) -> list[int]:
    """Return the places of the k largest scores, the first of equals first."""
    listed = list(scores)
    return sorted(range(len(listed)), key=lambda place: (-listed[place], place))[:k]

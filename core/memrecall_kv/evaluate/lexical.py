"""Words that a question and texts share, as baselines and the mining of training rows find them.

Source: BM25 as in "Lucene" of bm25s, arXiv:2407.03618. Deviation: scores are given as a share of the best one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np


def _import_bm25s() -> ModuleType:
    """Return bm25s, imported without JAX: it would start JAX at once, which takes most of a GPU's memory."""
    hidden: dict[str, None] = {} if "jax" in sys.modules else {"jax": None}
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None makes an import fail
    modules.update(hidden)
    try:
        import bm25s  # type: ignore[import-untyped]  # ships no types
    finally:
        for name in hidden:
            del modules[name]
    # it switches its logger to DEBUG when it is imported, and every handler of the host would show it
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    found: ModuleType = bm25s
    return found


bm25s = _import_bm25s()


class LexicalIndex:
    """BM25 over texts.

    Args:
        texts: What is searched; at least one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        self._index = bm25s.BM25()
        tokens = [_words(text) for text in texts]
        # a vocabulary is needed even if no text holds a word
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def scores(self, query: str) -> list[float]:
        """Return the score of every text as a share of the best one, in [0, 1]; all 0.0 if no word occurs."""
        known = [] if self._empty else [word for word in _words(query) if word in self._index.vocab_dict]
        if not known:
            return [0.0] * self._size
        scores = np.asarray(self._index.get_scores(known), dtype=np.float64)
        best = scores.max()
        return [float(score) for score in (scores / best if best > 0 else scores * 0.0)]


def _words(text: str) -> list[str]:
    """Return the words of a text as bm25s cuts them: lower case, two letters or more, without English stop words."""
    found: list[str] = bm25s.tokenize(text, return_ids=False, show_progress=False)[0]
    return found

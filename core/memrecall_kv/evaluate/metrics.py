"""Strict measures: one-directional, all aliases, failures count.

Source: the normalisation of SQuAD, arXiv:1606.05250. Deviation from MemAgent's evaluation
(arXiv:2507.02259): an answer counts only by its words, never by a substring of characters in either direction.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> list[str]:
    """Return the words of an answer in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals one of the answers after normalisation, else 0.0."""
    return float(any(normalize_answer(prediction) == normalize_answer(answer) for answer in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 of words between the prediction and any of the answers, in [0, 1].

    Yes and no count only when the whole prediction is that word.
    """
    return max((_f1(normalize_answer(prediction), normalize_answer(answer)) for answer in answers), default=0.0)


def recall_at_k(ranked: Sequence[int], gold: Sequence[int], k: int) -> float:
    """Return the share of the gold items among the first k, in [0, 1]; 0.0 if there is no gold."""
    return len(set(ranked[:k]) & set(gold)) / len(set(gold)) if gold else 0.0


def bootstrap_interval(scores: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over questions by resampling them."""
    generator = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    size = len(scores)
    if size == 0:
        return 0.0, 0.0
    means = sorted(sum(generator.choices(scores, k=size)) / size for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    if prediction != answer and (answer in (["yes"], ["no"]) or prediction in (["yes"], ["no"])):
        return 0.0
    common = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * common / (len(prediction) + len(answer))

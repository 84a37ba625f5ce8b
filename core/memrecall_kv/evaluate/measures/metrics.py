"""Strict measures: one-directional, all aliases, failures count.

Source: the normalisation of SQuAD, arXiv:1606.05250. Deviation from MemAgent's evaluation
(arXiv:2507.02259): an answer counts only by its words, never by a substring of characters in either direction.
`loose_sub_em` is the published measure, for comparison.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_YES_NO = (["yes"], ["no"])
_DRAWN_AT_ONCE = 2**20
"""Scores that resampling holds at a time."""


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


def sub_em(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 if the words of one of the answers stand in the prediction, side by side and whole, else 0.0.

    Yes and no count only as the prediction's first word. An answer of articles alone must be the whole prediction.
    """
    said = normalize_answer(prediction)
    return float(any(_holds(said, prediction, answer) for answer in answers))


def loose_sub_em(prediction: str, answers: Sequence[str]) -> float:
    """Return the published measure: 1.0 if the first answer is part of the prediction or the prediction part of it.

    Parts are characters, not words: "no" is found in "unknown", and one letter of the answer is enough.

    Source:
        MemAgent, arXiv:2507.02259, released evaluation, without its rounding.
    """
    if not prediction or not answers:
        return 0.0
    said, answer = (" ".join(normalize_answer(text)) for text in (prediction, answers[0]))
    return float(answer in said or said in answer)


def recall_at_k(ranked: Sequence[int] | Sequence[str], gold: Sequence[int] | Sequence[str], k: int) -> float:
    """Return the share of the gold items among the first k, in [0, 1]; 0.0 if there is no gold."""
    return len(set(ranked[:k]) & set(gold)) / len(set(gold)) if gold else 0.0


def precision(opened: Sequence[str], gold: Sequence[str]) -> float:
    """Return the share of the opened items that are gold, in [0, 1]; 0.0 if none was opened."""
    return len(set(opened) & set(gold)) / len(set(opened)) if opened else 0.0


def hop_order(opened: Sequence[str], gold: Sequence[str]) -> float | None:
    """Return the share of pairs of gold items that were opened in the order of the hops; `None` for fewer than two."""
    places = [opened.index(item) for item in gold if item in opened]
    pairs = list(combinations(places, 2))
    return sum(first < second for first, second in pairs) / len(pairs) if pairs else None


def bootstrap_interval(scores: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over questions by resampling them."""
    values, size = np.asarray(scores, dtype=float), len(scores)
    if size == 0:
        return 0.0, 0.0
    # a seed in a list makes the draws of Python's own generator, with which figures were published
    generator, rows = np.random.RandomState([seed]), max(1, _DRAWN_AT_ONCE // size)
    counts = [rows] * (resamples // rows) + [resamples % rows]
    drawn = ((generator.random_sample((count, size)) * size).astype(int) for count in counts)
    means: list[float] = sorted((np.concatenate([values[places].sum(axis=1) for places in drawn]) / size).tolist())
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def paired_interval(
    scores: Sequence[float], others: Sequence[float], *, seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """Return the mean difference of two systems on the same questions and its 95 % interval.

    Args:
        scores: Of one system, a question each.
        others: Of the other, the same questions in the same order.
        seed: Of the resampling.
        resamples: How often questions are drawn.

    Raises:
        ValueError: If the lengths differ.
    """
    gaps = [one - other for one, other in zip(scores, others, strict=True)]
    return sum(gaps) / max(1, len(gaps)), *bootstrap_interval(gaps, seed=seed, resamples=resamples)


def _holds(said: list[str], prediction: str, answer: str) -> bool:
    wanted = normalize_answer(answer)
    if not wanted:
        return prediction.strip().lower() == answer.strip().lower()
    if wanted in _YES_NO:
        return said[:1] == wanted
    return any(said[start : start + len(wanted)] == wanted for start in range(len(said) - len(wanted) + 1))


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    if prediction != answer and (answer in _YES_NO or prediction in _YES_NO):
        return 0.0
    common = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * common / (len(prediction) + len(answer))

"""Whether the gate's probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Judged: TypeAlias = Sequence[tuple[float, bool]]
"""Probability that a block matters, and whether it does."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Blocks of about the same probability.

    Attributes:
        count: How many.
        probability: Their mean probability.
        share: The share of them that matters.
    """

    count: int
    probability: float
    share: float


def reliability(judged: Judged, *, bins: int = 10) -> list[Bin]:
    """Return the bins of equal width over [0, 1] that hold a block, in order."""
    groups: dict[int, list[tuple[float, bool]]] = {}
    for probability, matters in judged:
        groups.setdefault(min(int(probability * bins), bins - 1), []).append((probability, matters))
    return [
        Bin(len(group), sum(p for p, _ in group) / len(group), sum(matters for _, matters in group) / len(group))
        for _, group in sorted(groups.items())
    ]


def calibration_error(judged: Judged, *, bins: int = 10) -> float:
    """Return the expected calibration error, in [0, 1]: the mean gap of a bin, weighted by its blocks.

    Source:
        On Calibration of Modern Neural Networks, arXiv:1706.04599, for the positive class.
    """
    groups = reliability(judged, bins=bins)
    return sum(group.count * abs(group.probability - group.share) for group in groups) / max(1, len(judged))


def precision_recall(judged: Judged) -> list[tuple[float, float, float]]:
    """Return threshold, precision and recall of opening all blocks at or above it, from the highest threshold down."""
    total = sum(matters for _, matters in judged)
    ordered = sorted(judged, key=lambda pair: -pair[0])
    points = []
    found = 0
    for opened, (probability, matters) in enumerate(ordered, start=1):
        found += matters
        # equal probabilities open together
        if opened == len(ordered) or ordered[opened][0] != probability:
            points.append((probability, found / opened, found / total if total else 0.0))
    return points

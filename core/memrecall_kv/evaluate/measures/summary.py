"""From the rows of a run to its figures.

Every mean is over all questions that were asked, failures counting 0; only `loose_sub_em` leaves failures out, as the
published evaluation does, and says over how many it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from memrecall_kv.evaluate.measures.calibration import calibration_error, precision_recall, reliability
from memrecall_kv.evaluate.measures.metrics import bootstrap_interval, paired_interval

Row: TypeAlias = dict[str, Any]
CELL = ("system", "task", "documents", "order", "share", "concurrency")
AMORTISED = (1, 10, 100)
"""Questions over which the preparation of a context is spread."""
_FEWEST = 10
"""Questions below which an interval says nothing."""


@dataclass
class Measured:
    """The rows of one cell."""

    answers: list[Row] = field(default_factory=list)
    prepared: list[Row] = field(default_factory=list)
    batches: list[Row] = field(default_factory=list)
    process: Row = field(default_factory=dict)


def by_cell(rows: Iterable[Row]) -> dict[tuple[Any, ...], Measured]:
    """Return the rows of every cell, in the order in which cells were first measured."""
    cells: dict[tuple[Any, ...], Measured] = {}
    for row in rows:
        cell = cells.setdefault(tuple(row[name] for name in CELL), Measured())
        if row["kind"] == "process":
            cell.process = row
        else:
            {"answer": cell.answers, "prepare": cell.prepared, "batch": cell.batches}[row["kind"]].append(row)
    return {key: cell for key, cell in cells.items() if cell.answers}


def summarize(rows: Iterable[Row], *, against: str | None = None) -> dict[str, Any]:
    """Return all figures of a run; JSON values.

    Args:
        rows: Of a ledger.
        against: The system that the others are compared with; the first one if `None`.
    """
    cells = by_cell(rows)
    figures = {key: _figures(cell) for key, cell in cells.items()}
    names = list(dict.fromkeys(key[0] for key in cells))
    base = against if against in names else (names[0] if names else None)
    return {
        "against": base,
        "cells": [{**dict(zip(CELL, key, strict=True)), **figure} for key, figure in figures.items()],
        "pairs": list(_pairs(cells, figures, base)),
        "lengths": list(_lengths(cells)),
        "gates": list(_gates(cells)),
    }


def _figures(cell: Measured) -> Row:
    """Return the means of one cell with their 95 % intervals."""
    answers = cell.answers
    figures: Row = {"questions": len(answers), "failures": sum(bool(row["failure"]) for row in answers)}
    figures["tokens"] = _mean(row["source_tokens"] for row in cell.prepared)
    for name in ("em", "f1", "sub_em"):
        figures[name] = _interval([row["scores"][name] for row in answers])
    loose = [row["scores"]["loose_sub_em"] for row in answers if not row["failure"]]
    figures["loose_sub_em"] = {"mean": _mean(loose), "questions": len(loose)}
    names = dict.fromkeys(name for row in answers for name in row["evidence"])
    # a failure of a system that names its evidence found none
    missed = [0.0 for row in answers if row["failure"] and row["gold"]]
    evidence = {name: _known(row["evidence"].get(name) for row in answers if not row["failure"]) for name in names}
    evidence = {name: values if name == "hop_order" else values + missed for name, values in evidence.items()}
    figures["evidence"] = {name: _interval(values) for name, values in evidence.items() if values}
    figures["abstained"] = {
        kind: _mean(not row["found"] and not row["failure"] for row in answers if bool(row["answers"]) == answerable)
        for kind, answerable in (("answerable", True), ("unanswerable", False))
    }
    return figures | _cost(cell)


def _cost(cell: Measured) -> Row:
    """Return seconds, bytes and tokens per question or context.

    Cold is a context's preparation and its first question; warm is a question after the first, or any where every
    context has but one. Preparations that found something of an earlier run are left out. Where a cell was measured on
    several devices, seconds are the CPU's, or those of the first.
    """
    devices = dict.fromkeys(_device(row) for row in cell.answers)
    device = "cpu" if "cpu" in devices else next(iter(devices))
    fresh = [row for row in cell.prepared if not row["reused"] and _device(row) == device]
    answers = [row for row in cell.answers if _device(row) == device]
    later = [row for row in answers if not row["first"]] or answers
    warm, prepare = _mean(row["seconds"] for row in later), _mean(row["seconds"] for row in fresh)
    batches = [row for row in cell.batches if _device(row) == device]
    process = cell.process if _device(cell.process) == device else {}
    if batches:
        warm = sum(row["seconds"] for row in batches) / sum(row["questions"] for row in batches)
    first = _mean(row["seconds"] for row in answers if row["first"])
    cold = None if prepare is None or first is None else prepare + first
    amortised = {str(n): None if prepare is None or warm is None else prepare / n + warm for n in AMORTISED}
    size, tokens = (
        _mean(row["bytes_on_disk"] for row in fresh),
        _mean(row["source_tokens"] for row in fresh),
    )
    return {
        "devices": list(devices),
        "device": device,
        "prepare_seconds": prepare,
        "cold_seconds": cold,
        "warm_seconds": warm,
        "amortised_seconds": amortised,
        # after the model was loaded, the model included
        **{name: process.get(name) for name in ("peak_bytes", "peak_gpu_bytes", "loaded_bytes", "loading_peak_bytes")},
        "bytes_on_disk": size,
        "bytes_per_token": size / tokens if size is not None and tokens else None,
        **{
            name: _mean(row[name] for row in cell.answers)
            for name in ("tokens_read", "tokens_written", "blocks_scored")
        },
    }


def _pairs(
    cells: dict[tuple[Any, ...], Measured], figures: dict[tuple[Any, ...], Row], base: str | None
) -> Iterable[Row]:
    """Yield every other system beside the one compared with, on the questions both were asked."""
    for key, cell in cells.items():
        other = (base, *key[1:])
        if key[0] == base or other not in cells:
            continue
        mine, theirs = figures[key], figures[other]
        gap = _paired(cell.answers, cells[other].answers)
        verdict = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "even"
        if gap["questions"] < _FEWEST:
            verdict = "too few questions"
        if mine["device"] != theirs["device"]:  # two machines make no ratio
            theirs = dict.fromkeys(theirs)
        yield {
            **dict(zip(CELL, key, strict=True)),
            "against": base,
            "sub_em": gap,
            "verdict": verdict,
            "cold_speedup": _ratio(theirs["cold_seconds"], mine["cold_seconds"]),
            "warm_speedup": _ratio(theirs["warm_seconds"], mine["warm_seconds"]),
            "memory_share": _ratio(mine["peak_bytes"], theirs["peak_bytes"]),
            "break_even_questions": break_even(mine, theirs),
        }


def break_even(mine: Row, theirs: Row) -> int | None:
    """Return from how many questions on preparing more pays; 0 if it costs nothing more, `None` if it never does."""
    cost, others = mine["prepare_seconds"], theirs["prepare_seconds"]
    if None in (cost, others, mine["warm_seconds"], theirs["warm_seconds"]):
        return None
    saved = theirs["warm_seconds"] - mine["warm_seconds"]
    if cost <= others and saved >= 0:
        return 0
    return math.ceil((cost - others) / saved) if saved > 0 else None


def _lengths(cells: dict[tuple[Any, ...], Measured]) -> Iterable[Row]:
    """Yield what a system loses from the shortest length to each other, on the questions asked at both."""
    groups: dict[tuple[Any, ...], dict[int, Measured]] = {}
    for key, cell in cells.items():
        # a longer context may be shared by more questions: they are still the same questions
        groups.setdefault((key[0], key[1], key[3], key[5]), {}).setdefault(key[2], cell)
    for (system, task, order, _), by_length in groups.items():
        shortest = min(by_length)
        for documents in sorted(by_length)[1:]:
            long, short = by_length[documents], by_length[shortest]
            gap = _paired(long.answers, short.answers)
            alike = _device(long.process) == _device(short.process)
            yield {
                "system": system,
                "task": task,
                "order": order,
                "documents": documents,
                "shortest": shortest,
                "sub_em": gap,
                "memory_growth": _ratio(*(cell.process.get("peak_bytes") for cell in (long, short))) if alike else None,
            }


def _gates(cells: dict[tuple[Any, ...], Measured]) -> Iterable[Row]:
    """Yield how far the gate's probabilities can be believed, where there is one."""
    for key, cell in cells.items():
        judged = [(float(p), bool(gold)) for row in cell.answers for p, gold in row["judged"]]
        if judged:
            yield {
                **dict(zip(CELL, key, strict=True)),
                "blocks": len(judged),
                "calibration_error": calibration_error(judged),
                "reliability": [[group.count, group.probability, group.share] for group in reliability(judged)],
                "precision_recall": _thinned(precision_recall(judged)),
            }


def _device(row: Row) -> str:
    """Return where a row was measured; older rows do not tell, and are the CPU's."""
    return str(row.get("device", "cpu"))


def _paired(mine: Sequence[Row], theirs: Sequence[Row]) -> Row:
    scores = {row["question"]: row["scores"]["sub_em"] for row in theirs}
    both = [row for row in mine if row["question"] in scores]
    mean, low, high = paired_interval(
        [row["scores"]["sub_em"] for row in both], [scores[row["question"]] for row in both]
    )
    return {"mean": mean, "low": low, "high": high, "questions": len(both)}


def _interval(values: Sequence[float]) -> Row:
    low, high = bootstrap_interval(values)
    return {"mean": _mean(values), "low": low, "high": high}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _thinned(points: Sequence[tuple[float, float, float]], most: int = 200) -> list[tuple[float, float, float]]:
    """Return evenly chosen points, the last included."""
    step = max(1, len(points) // most)
    return [*points[:-1:step], *points[-1:]]

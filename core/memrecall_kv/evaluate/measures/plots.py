"""A summary as pictures; needs the extra `eval`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memrecall_kv.errors import MissingDependencyError

_SIZE = (9.0, 4.5)
_MARKERS = "os^Dv"
_MOST_LINES = 6
"""Of a picture: more cannot be told apart at a glance. The tables have all."""
_FEW = 16
"""Questions of a cell: fewer are left out of a picture that has others."""


def draw(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of a summary as PNG files and return their paths; one without data is left out.

    Args:
        summary: Of `summarize`.
        folder: Where they go.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figures: Any = _matplotlib()
    written = []
    for name, draw_one in _PICTURES.items():
        figure = figures.Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        draw_one(axes, summary)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside right upper", fontsize="small")
            axes.grid(visible=True, alpha=0.3)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=150)
            written.append(path)
    return written


def _accuracy(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells, style in _lines(summary["cells"], "sub_em"):
        x = [cell["tokens"] for cell in cells]
        axes.plot(x, [100 * cell["sub_em"]["mean"] for cell in cells], label=label, **style)
        low, high = ([100 * cell["sub_em"][end] for cell in cells] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.15, color=style["color"])
    axes.set(xscale="log", xlabel="source tokens", ylabel="sub-EM, %", ylim=(0, 100))


def _cost(axes: Any, summary: dict[str, Any]) -> None:
    times = (("cold_seconds", ":"), ("warm_seconds", "-"))
    for name, dash in times:
        for label, cells, style in _lines(summary["cells"], name, most=_MOST_LINES // len(times)):
            x, y = [cell["tokens"] for cell in cells], [cell[name] for cell in cells]
            axes.plot(x, y, dash, label=f"{label}, {name.partition('_')[0]}", **style)
    axes.set(xscale="log", yscale="log", xlabel="source tokens", ylabel="seconds per question")


def _memory(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells, style in _lines(summary["cells"], "peak_bytes"):
        y = [cell["peak_bytes"] / 1e6 for cell in cells]
        axes.plot([cell["tokens"] for cell in cells], y, label=label, **style)
    axes.set(xscale="log", xlabel="source tokens", ylabel="peak memory after loading the model, MB")


def _bytes(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells, style in _lines(summary["cells"], "bytes_per_token"):
        x = [max(cell["bytes_per_token"], 0.1) for cell in cells]  # a logarithm has no zero
        y = [100 * cell["sub_em"]["mean"] for cell in cells]
        axes.plot(x, y, linestyle="none", label=label, **style)
        for cell, place in zip(cells, zip(x, y, strict=True), strict=True):
            axes.annotate(f" {cell['documents']:,}", place, fontsize="x-small")
    axes.set(xscale="log", xlabel="stored bytes per source token (0.1: none)", ylabel="sub-EM, %", ylim=(0, 100))


def _gate(axes: Any, summary: dict[str, Any]) -> None:
    for gate in summary["gates"][:_MOST_LINES]:
        label = f"{gate['system']}, {gate['task']}, {gate['documents']:,} documents"
        points = gate["precision_recall"]
        axes.plot([recall for _, _, recall in points], [precision for _, precision, _ in points], label=label)
    axes.set(xlabel="recall of gold documents", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


_PICTURES: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "accuracy_by_length": _accuracy,
    "cost_by_length": _cost,
    "memory_by_length": _memory,
    "accuracy_by_bytes": _bytes,
    "gate_precision_recall": _gate,
}


def _lines(
    cells: Sequence[dict[str, Any]], wanted: str, most: int = _MOST_LINES
) -> list[tuple[str, list[dict[str, Any]], dict[str, str]]]:
    """Return label, cells and style of every line, the cells from short to long.

    A line has a system, a task, an order and a concurrency; it looks the same in every picture. Of too many lines those
    over most lengths are kept, the earlier of equals.
    """
    several = len({cell["task"] for cell in cells}) > 1
    least = _FEW if any(cell["questions"] >= _FEW for cell in cells) else 0
    lines: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["documents"]):
        order = "" if cell["order"] == "own" else f", {cell['order']}"
        many = f", {cell['concurrency']} at once" if cell["concurrency"] > 1 else ""
        task = f", {cell['task']}" if several else ""
        line = lines.setdefault(f"{cell['system']}{task}{order}{many}", [])
        if cell[wanted] is not None and cell["tokens"] and cell["questions"] >= least:
            line.append(cell)
    styles = ({"color": f"C{n % 10}", "marker": _MARKERS[n // 10 % len(_MARKERS)]} for n in range(len(lines)))
    drawn = [(label, line, style) for (label, line), style in zip(lines.items(), styles, strict=True) if line]
    kept = sorted(drawn, key=lambda each: -len(each[1]))[:most]
    return [each for each in drawn if each in kept]


def _matplotlib() -> Any:
    try:
        # the figure alone: no window system, no global state
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            "Pictures need matplotlib, which is not installed.", 'Run: pip install "memrecall-kv[eval]"'
        ) from error

"""A summary as pictures; needs the extra `eval`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memrecall_kv.errors import MissingDependencyError

_SIZE = (7.0, 4.5)


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
            axes.legend(fontsize="small")
            axes.grid(visible=True, alpha=0.3)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=150)
            written.append(path)
    return written


def _accuracy(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells in _lines(summary["cells"], "sub_em"):
        x = [cell["tokens"] for cell in cells]
        axes.plot(x, [100 * cell["sub_em"]["mean"] for cell in cells], marker="o", label=label)
        low, high = ([100 * cell["sub_em"][end] for cell in cells] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.15)
    axes.set(xscale="log", xlabel="source tokens", ylabel="sub-EM, %", ylim=(0, 100))


def _cost(axes: Any, summary: dict[str, Any]) -> None:
    for name, style in (("cold_seconds", ":"), ("warm_seconds", "-")):
        for label, cells in _lines(summary["cells"], name):
            x, y = [cell["tokens"] for cell in cells], [cell[name] for cell in cells]
            axes.plot(x, y, style, marker="o", label=f"{label}, {name.partition('_')[0]}")
    axes.set(xscale="log", yscale="log", xlabel="source tokens", ylabel="seconds per question")


def _memory(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells in _lines(summary["cells"], "peak_bytes"):
        axes.plot(
            [cell["tokens"] for cell in cells], [cell["peak_bytes"] / 1e6 for cell in cells], marker="o", label=label
        )
    axes.set(xscale="log", xlabel="source tokens", ylabel="peak memory of the process, MB")


def _bytes(axes: Any, summary: dict[str, Any]) -> None:
    for label, cells in _lines(summary["cells"], "bytes_per_token"):
        x = [max(cell["bytes_per_token"], 0.1) for cell in cells]  # a logarithm has no zero
        axes.scatter(x, [100 * cell["sub_em"]["mean"] for cell in cells], label=label)
    axes.set(xscale="log", xlabel="stored bytes per source token", ylabel="sub-EM, %", ylim=(0, 100))


def _gate(axes: Any, summary: dict[str, Any]) -> None:
    for gate in summary["gates"]:
        label = f"{gate['system']}, {gate['task']}, {gate['documents']:,} documents"
        points = gate["precision_recall"]
        axes.plot([recall for _, _, recall in points], [precision for _, precision, _ in points], label=label)
    axes.set(xlabel="recall of gold documents", ylabel="precision", xlim=(0, 1), ylim=(0, 1))


_PICTURES: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "accuracy_by_length": _accuracy,
    "cost_by_length": _cost,
    "memory_by_length": _memory,
    "accuracy_by_bytes": _bytes,
    "gate_precision_recall": _gate,
}


def _lines(cells: Sequence[dict[str, Any]], wanted: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return cells that have a figure, by system, task, order and concurrency, from short to long."""
    several = len({cell["task"] for cell in cells}) > 1
    lines: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["documents"]):
        if cell[wanted] is not None and cell["tokens"]:
            order = "" if cell["order"] == "own" else f", {cell['order']}"
            many = f", {cell['concurrency']} at once" if cell["concurrency"] > 1 else ""
            task = f", {cell['task']}" if several else ""
            lines.setdefault(f"{cell['system']}{task}{order}{many}", []).append(cell)
    return list(lines.items())


def _matplotlib() -> Any:
    try:
        # the figure alone: no window system, no global state
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            "Pictures need matplotlib, which is not installed.", 'Run: pip install "memrecall-kv[eval]"'
        ) from error

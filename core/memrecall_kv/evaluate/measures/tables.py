"""A summary as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(summary: dict[str, Any], record: dict[str, Any]) -> str:
    """Return the tables of a summary.

    Args:
        summary: Of `summarize`.
        record: Of `run.json`: seed, settings and machines.
    """
    cells = summary["cells"]
    parts = [_machine(record)]
    for task in dict.fromkeys(cell["task"] for cell in cells if cell["order"] == "own"):
        parts += [f"## {task}, sub-EM by length", overview(summary, task)]
    parts += ["## Answers", _answers(cells)]
    if any(cell["evidence"] for cell in cells):
        parts += ["## Evidence", _evidence(cells)]
    parts += ["## Cost", _cost(cells)]
    if summary["pairs"]:
        parts += [f"## Against {summary['against']}, on the same questions", _pairs(summary["pairs"])]
    if summary["lengths"]:
        parts += ["## Against the shortest length, on the same questions", _lengths(summary["lengths"])]
    if summary["gates"]:
        parts += ["## Gate", _gates(summary["gates"])]
    return "\n\n".join(parts) + "\n"


def overview(summary: dict[str, Any], task: str) -> str:
    """Return a table of sub-EM with a line for every system and a column for every length of a task.

    Args:
        summary: Of `summarize`.
        task: Which task's cells; those with the evidence in its own order.
    """
    cells = [cell for cell in summary["cells"] if (cell["task"], cell["order"]) == (task, "own")]
    # several runs at one length, as with contexts that are shared or questions side by side: the largest
    found = {(c["system"], c["documents"]): c for c in sorted(cells, key=lambda cell: cell["questions"])}
    lengths = sorted({length for _, length in found})
    tokens = {length: cell["tokens"] for (_, length), cell in found.items() if cell["tokens"]}
    head = [f"{length:,} documents ({tokens.get(length, 0) / 1000:,.0f}K tokens)" for length in lengths]
    lines = []
    for system in dict.fromkeys(cell["system"] for cell in cells):
        row = [found.get((system, length)) for length in lengths]
        lines.append([system, *(f"{_band(cell['sub_em'])}, n = {cell['questions']}" if cell else "" for cell in row)])
    return _table(["system", *head], lines)


def _machine(record: dict[str, Any]) -> str:
    machine = record["machines"][-1]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['device']}; Python "
        f"{machine['python']}, {packages}; revision {machine['revision']}, seed {record['seed']}, {machine['date']}. "
        "Intervals: 95 %, bootstrap over questions. A failure counts 0."
    )


def _answers(cells: Sequence[dict[str, Any]]) -> str:
    head = ["EM", "F1", "sub-EM", "published loose sub-EM", "refused: no answer there", "refused: answer there"]
    rows = []
    for cell in cells:
        loose, abstained = cell["loose_sub_em"], cell["abstained"]
        rows.append(
            [
                *_where(cell),
                f"{cell['questions']}" + (f" ({cell['failures']} failed)" if cell["failures"] else ""),
                *(_band(cell[name]) for name in ("em", "f1", "sub_em")),
                f"{_percent(loose['mean'])} of {loose['questions']}",
                _percent(abstained["unanswerable"]),
                _percent(abstained["answerable"]),
            ]
        )
    return _table([*_HEAD, "n", *head], rows)


def _evidence(cells: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for cell in cells for name in cell["evidence"]))
    rows = [
        [*_where(cell), *(_band(cell["evidence"].get(name)) for name in names)] for cell in cells if cell["evidence"]
    ]
    return _table([*_HEAD, *(name.replace("_", " ") for name in names)], rows)


def _cost(cells: Sequence[dict[str, Any]]) -> str:
    head = (
        "prepare s,cold s,warm s,100 questions s,peak memory MB,of it the loaded model MB,disk MB,bytes per token,"
        "read,written"
    )
    rows = []
    for cell in cells:
        spread = cell["amortised_seconds"]["100"]
        numbers = [cell["prepare_seconds"], cell["cold_seconds"], cell["warm_seconds"], spread]
        names = ("peak_bytes", "loaded_bytes", "bytes_on_disk")
        sizes = [None if cell[name] is None else cell[name] / 1e6 for name in names]
        others = [cell["bytes_per_token"], cell["tokens_read"], cell["tokens_written"]]
        rows.append([*_where(cell), cell["device"], *map(_number, [*numbers, *sizes, *others])])
    return _table([*_HEAD, "on", *head.split(",")], rows)


def _pairs(pairs: Sequence[dict[str, Any]]) -> str:
    head = ["sub-EM difference", "", "cold speed-up", "warm speed-up", "memory share", "pays from question"]
    names = ("cold_speedup", "warm_speedup", "memory_share", "break_even_questions")
    rows = [
        [*_where(pair), _band(pair["sub_em"]), pair["verdict"], *(_number(pair[n]) for n in names)] for pair in pairs
    ]
    return _table([*_HEAD, *head], rows)


def _lengths(lengths: Sequence[dict[str, Any]]) -> str:
    rows = []
    for row in lengths:
        gap = row["sub_em"]
        rows.append(
            [*_where(row), str(row["shortest"]), _band(gap), str(gap["questions"]), _number(row["memory_growth"])]
        )
    return _table([*_HEAD, "shortest", "sub-EM difference", "n", "memory, times"], rows)


def _gates(gates: Sequence[dict[str, Any]]) -> str:
    rows = [[*_where(gate), str(gate["blocks"]), _number(gate["calibration_error"])] for gate in gates]
    return _table([*_HEAD, "blocks judged", "calibration error"], rows)


_HEAD = ["system", "task", "documents"]


def _where(cell: dict[str, Any]) -> list[str]:
    task = cell["task"] + ("" if cell["order"] == "own" else f", {cell['order']}")
    many = f", {cell['concurrency']} at once" if cell.get("concurrency", 1) > 1 else ""
    shared = f", {cell['share']} share" if cell.get("share", 1) > 1 else ""
    return [cell["system"], f"{task}{shared}{many}", f"{cell['documents']:,}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _band(value: dict[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    return f"{100 * value['mean']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

"""Does a new checkpoint beat the one it would replace? Paired bootstrap over the same held-out questions.

    python benchmarks/retention.py --checkpoint OLD --data held_out_squad --out old.json     # and NEW
    python benchmarks/promote.py old.json new.json

Takes two files of `retention.py`, `multihop.py` or `refusals.py`; a part is promoted if the interval of the measure it
is meant to raise is above zero.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from memrecall_kv.evaluate.measures.metrics import exact_match, f1_score, recall_at_k
from rows import table


def measures(path: Path) -> dict[str, dict[str, float]]:
    """Return every measure of a result file as a score by question."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if "scores" in found:
        named = {f"{name}, {kind}": values for name, kinds in found["scores"].items() for kind, values in kinds.items()}
        return {name: dict(zip(found["ids"], values, strict=True)) for name, values in named.items()}
    scores: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        for name, value in _of_row(row, int(found["options"].get("k", 2))).items():
            scores.setdefault(name, {})[row["id"]] = value
    return scores


def _of_row(row: dict[str, Any], k: int) -> dict[str, float]:
    if "ranked" not in row:
        text = row["all"]["text"] if row["all"]["found"] else ""
        return {
            "F1": f1_score(text, row["answers"]),
            "EM": exact_match(text, row["answers"]),
            "found": float(row["all"]["found"]),
            "refused without gold": float(not row["without gold"]["found"]),
        }
    scores = {f"{name}, recall@{k}": recall_at_k(order, row["gold"], k) for name, order in row["ranked"].items()}
    answers = row.get("answers", {"replies": {}})
    return scores | {f"{name}, F1": f1_score(reply, answers["gold"]) for name, reply in answers["replies"].items()}


def main() -> None:
    """Print the mean difference of every measure that both files have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    old, new = measures(options.old), measures(options.new)
    differences = {
        f"new minus old: {name}": [new[name][key] - old[name][key] for key in old[name] if key in new[name]]
        for name in old
        if name in new
    }
    empty = not any(differences.values())
    if empty:
        raise SystemExit(f"{options.old} and {options.new} share no question and measure.")
    print(table({name: values for name, values in differences.items() if values}))


if __name__ == "__main__":
    main()

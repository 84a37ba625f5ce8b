"""Fit how much shared words count and what a gate's odds mean, and write both into a checkpoint.

    python benchmarks/multihop.py --checkpoint CK --data held_out --rows 99 --out ten.json
    python benchmarks/multihop.py --checkpoint CK --data held_out --rows 99 --pool 100 --out hundred.json
    python benchmarks/calibrate_gate.py --checkpoint CK ten.json hundred.json

Logistic regression of "this paragraph is gold" on the gate's log-odds and the share of the best BM25 score, over the
first look of every row; only train rows that no stage trained on. Scale and offset go into the gate's head, the weight
of words into the settings.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from memrecall_kv.evaluate.measures.calibration import calibration_error
from safetensors.torch import load_file, save_file


def samples(paths: list[Path]) -> list[tuple[float, float, float, float]]:
    """Return log-odds, share of words, label and weight of every judged paragraph; every row weighs the same."""
    found = []
    for path in paths:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            for number, (probability, share) in row["first"].items():
                bounded = min(max(probability, 1e-6), 1 - 1e-6)
                odds = math.log(bounded / (1 - bounded))
                found.append((odds, share, float(int(number) in row["gold"]), 1 / len(row["first"])))
    return found


def fit(data: list[tuple[float, float, float, float]], weight: float | None = None) -> tuple[float, float, float]:
    """Return scale, weight of words (not negative) and offset; a weight that is given goes with unscaled odds."""
    odds, shares, labels, weights = torch.tensor(data, dtype=torch.float64).T
    values = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        worth = values[1].clamp_min(0) if weight is None else values[0] * weight
        logits = values[0] * odds + worth * shares + values[2]
        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="sum")
        total.backward()
        return total

    optimizer.step(loss)
    scale, fitted, offset = values.tolist()
    return scale, max(0.0, fitted) if weight is None else scale * weight, offset


def rates(path: Path, values: tuple[float, float, float], threshold: float) -> dict[str, float]:
    """Return precision, recall, false-positive rate and calibration error of the first look at a threshold."""
    scale, weight, offset = values
    odds, shares, labels, _ = torch.tensor(samples([path]), dtype=torch.float64).T
    probabilities = torch.sigmoid(scale * odds + weight * shares + offset)
    judged = list(zip(probabilities.tolist(), labels.bool().tolist(), strict=True))
    right = sum(label and p > threshold for p, label in judged)
    opened = sum(p > threshold for p, _ in judged)
    others = sum(not label for _, label in judged)
    # a gold paragraph that was no candidate was missed too
    gold = sum(len(row["gold"]) for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
    return {
        "precision": right / max(1, opened),
        "recall": right / max(1, gold),
        "false-positive rate": (opened - right) / max(1, others),
        "calibration error": calibration_error(judged),
    }


def write(checkpoint: Path, values: tuple[float, float, float]) -> None:
    """Fold the fit into a checkpoint's head and settings."""
    scale, weight, offset = values
    path = checkpoint / "gate" / "gate_head.safetensors"
    head = load_file(path)
    save_file({"weight": head["weight"] * scale, "bias": head["bias"] * scale + offset}, path)
    config = checkpoint / "memrecall_config.json"
    record: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    record["settings"]["gate"]["lexical_weight"] = round(weight, 3)
    config.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Fit, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--weight", type=float, help="of words beside unscaled odds; fitted if left out")
    parser.add_argument("--values", type=float, nargs=3, help="scale, weight and offset, instead of a fit; not written")
    parser.add_argument("--dry-run", action="store_true", help="print the fit and write nothing")
    options = parser.parse_args()
    values = options.values or fit(samples(options.records), options.weight)
    print("scale {:.3f}, weight of words {:.3f}, offset {:.3f}".format(*values))
    for path in options.records:
        for threshold in (0.3, 0.5, 0.7):
            shown = ", ".join(f"{name} {value:.3f}" for name, value in rates(path, values, threshold).items())
            print(f"{path.name} at {threshold}: {shown}")
    if not (options.dry_run or options.values):
        write(options.checkpoint, values)


if __name__ == "__main__":
    main()

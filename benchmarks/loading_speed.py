"""Seconds to load the default backbone and what was trained for it, each time in a new process.

    python benchmarks/loading_speed.py --rounds 3

Prepared: the first load of all, which de-quantises the wheel's file into a folder of its own. Backbone: a later load.
Pipeline: what `MemRecall.from_pretrained` adds once the backbone is there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BACKBONE = """
import time
from memrecall_kv.backbone.loading import load_backbone
start = time.perf_counter()
load_backbone()
print(time.perf_counter() - start)
"""
PIPELINE = """
import time
from memrecall_kv import MemRecall
from memrecall_kv.backbone.loading import load_backbone
kept = load_backbone()
start = time.perf_counter()
MemRecall.from_pretrained()
print(time.perf_counter() - start)
"""


def seconds(code: str, **environment: str) -> float:
    """Return what a program prints, run in a process of its own."""
    done = subprocess.run(  # noqa: S603 - one of the programs above
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Print the seconds of each round and their median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        print(f"prepared: {seconds(BACKBONE, MEMRECALL_KV_HOME=home):.2f} s", flush=True)
        for name, code in (("backbone", BACKBONE), ("pipeline", PIPELINE)):
            rounds = [seconds(code, MEMRECALL_KV_HOME=home) for _ in range(options.rounds)]
            listed = ", ".join(f"{each:.2f}" for each in rounds)
            print(f"{name}: {listed} s; median {statistics.median(rounds):.2f} s", flush=True)


if __name__ == "__main__":
    main()

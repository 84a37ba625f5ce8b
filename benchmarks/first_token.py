"""Seconds from the start of a new process to the first token of an answer, and the process's memory.

    python benchmarks/first_token.py --rows 5 --threads 2 --out RESULT.json

The paragraphs of all rows are one bank, which is made first. Each round starts a process that imports the library,
loads the default pipeline, opens the bank and asks a row's question: all that a user waits for.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from memrecall_kv import Document, MemRecall
from rows import parser, sampled_rows, save, texts_of

ASK = """
import json, resource, sys, time
began = time.perf_counter()
import torch
from memrecall_kv import MemRecall
from memrecall_kv.types import Done, Token
torch.set_num_threads(int(sys.argv[3]))
imported = time.perf_counter()
memory = MemRecall.from_pretrained()
loaded = time.perf_counter()
with memory.open_bank(sys.argv[1], read_only=True) as bank:
    opened = time.perf_counter()
    # a refusal has no token: it is known at the end
    next(event for event in memory.stream(bank, sys.argv[2]) if isinstance(event, Token | Done))
    answered = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import": imported - began, "load": loaded - imported, "open": opened - loaded,
                  "question": answered - opened, "peak MB": peak}))
"""


def main() -> None:
    """Make the bank, ask, print the medians."""
    options = parser(__doc__, data="hotpotqa_dev", rows=5).parse_args()
    torch.set_num_threads(options.threads)
    rows = sampled_rows(options)
    memory, found = MemRecall.from_pretrained(), []
    with tempfile.TemporaryDirectory() as folder:
        with memory.open_bank(Path(folder) / "bank") as bank:
            texts = dict.fromkeys(text for row in rows for text in texts_of(row))
            memory.ingest(bank, [Document(str(number), text) for number, text in enumerate(texts)])
            tokens = bank.stats().source_tokens
        for row in rows:
            call = [sys.executable, "-c", ASK, str(Path(folder) / "bank"), row["question"], str(options.threads)]
            began = time.perf_counter()
            said = subprocess.run(call, check=True, capture_output=True, text=True).stdout  # noqa: S603 - ourselves
            whole = time.perf_counter() - began
            found.append({**json.loads(said.splitlines()[-1]), "whole process": whole})
            print(json.dumps({name: round(value, 2) for name, value in found[-1].items()}), flush=True)
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    print(f"{tokens} tokens, medians", json.dumps({name: round(value, 2) for name, value in medians.items()}))
    save(options, tokens=tokens, medians=medians, rounds=found)


if __name__ == "__main__":
    main()

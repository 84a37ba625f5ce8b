"""What is freed does not stay with the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from memrecall_kv.backbone import process_memory

FRAGMENTED = """
from pathlib import Path
from memrecall_kv.backbone import process_memory

def resident():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])

pieces = [b"%d" % number * 20_000 for number in range(1_000, 3_000)]  # written to: zeros would take no pages
kept = pieces[::20]
del pieces
held = resident()
process_memory.give_back()
print(held - resident())
"""


def test_what_lies_between_pieces_in_use_is_given_back() -> None:
    if not Path("/proc/self/status").exists() or process_memory._malloc_trim() is None:
        pytest.skip("only with Linux and glibc")
    # a process of its own: here other tests have left room between theirs that the pieces would fill
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000  # kB


def test_kernels_are_few_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = process_memory._CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")
    monkeypatch.delenv(second)
    process_memory.keep_few_kernels()
    assert (os.environ[first], os.environ[second]) == ("7", process_memory._KERNELS)

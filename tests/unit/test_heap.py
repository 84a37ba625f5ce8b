"""What is freed does not stay with the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from memrecall_kv import heap


def resident() -> int:
    status = Path("/proc/self/status")
    if not status.exists() or heap._malloc_trim() is None:
        pytest.skip("only with Linux and glibc")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_what_lies_between_pieces_in_use_is_given_back() -> None:
    before = resident()
    pieces = [b"%d" % number * 20_000 for number in range(1_000, 3_000)]  # written to: zeros would take no pages
    kept = pieces[::20]
    del pieces
    assert resident() - before > 100_000_000
    heap.give_back()
    assert resident() - before < 60_000_000
    assert len(kept) == 100


def test_kernels_are_few_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = heap._CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")
    monkeypatch.delenv(second)
    heap.keep_few_kernels()
    assert (os.environ[first], os.environ[second]) == ("7", heap._KERNELS)
